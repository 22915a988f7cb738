"""Words and decisions: types and pure functions; no I/O, no clock, no logger."""
