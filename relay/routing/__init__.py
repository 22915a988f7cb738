"""Where a recipient goes: transport table, relayhost, MX and address look-ups."""
