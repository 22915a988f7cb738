"""Trials of the promises in docs/reliability.md: short ones for CI, whole ones by ``make torture``."""
