"""``relay doctor``: looks at all that mail needs on its way out, says what is wrong and how to mend it."""
