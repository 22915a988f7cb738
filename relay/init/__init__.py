"""What ``relay init`` makes of a few answers: a relay.toml, a trial of the login, a test message."""
