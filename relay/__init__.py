"""relay: the mail relay for a home gateway."""

__version__ = "0.1.0"
