"""What the owner was told, kept beside the queue over a restart: else that would be told again.

A small JSON file, replaced whole; nothing is lost with it but that an alert may come twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

Told = dict[str, dict[str, str]]
"""By the way of telling: the sentence of each cause that was told and is not over."""


def read_told(path: Path) -> Told:
    """Return what a file holds; nothing where it is not there or damaged."""
    try:
        ways = json.loads(path.read_bytes())
        return {
            str(way): {str(cause): str(text) for cause, text in told.items()} for way, told in ways.items()
        }
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def write_told(path: Path, told: Mapping[str, Mapping[str, str]]) -> None:
    """Put it into the file. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)  # replies of servers name people
    new.write_text(json.dumps({way: dict(causes) for way, causes in told.items()}), encoding="ascii")
    new.replace(path)
