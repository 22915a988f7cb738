"""``relay explain``: what would become of a message, and which rules of relay.toml decide it."""
