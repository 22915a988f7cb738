"""How fast the relay is and what it needs, beside Postfix on the same machine (bench/README.md)."""
