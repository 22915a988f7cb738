"""The relay command: one module per command group."""
