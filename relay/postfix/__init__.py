"""From the files of a Postfix to relay.toml: ``relay import-postfix``."""
