"""relay.toml: from TOML text to frozen classes, all errors at once."""
