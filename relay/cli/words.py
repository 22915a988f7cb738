"""How commands word what they show of messages."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def describe_due(recipient: Mapping[str, Any], now: float) -> str:
    """Return what follows the state of a recipient: when it is tried again, "" where it is not."""
    due_at = recipient["next_attempt_at"]
    if due_at is None:
        return ""
    return ", due now" if due_at <= now else f", next attempt in {format_duration(due_at - now)}"


def format_duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def format_size(count: int) -> str:
    """Return a number of bytes in its largest unit."""
    for unit, length in (("MB", 1_000_000), ("kB", 1000)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def fail(sentence: str, status: int = 1) -> int:
    """Print what went wrong; return the status that a command then ends with."""
    print(f"relay: {sentence}", file=sys.stderr)
    return status
