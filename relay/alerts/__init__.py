"""Alerts: telling the owner what mail cannot tell."""
