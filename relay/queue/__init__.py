"""The durable queue: one SQLite file, one writer thread, states and the retry clock."""
