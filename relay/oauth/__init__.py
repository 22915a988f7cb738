"""OAuth 2.0 for smarthosts: the protocol, and access tokens that stay valid."""
