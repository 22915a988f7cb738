"""SMTP out: claims what is due, one limit per next hop, transfers, outcomes."""
