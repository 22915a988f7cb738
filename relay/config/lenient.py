"""Where the queue is, as far as a relay.toml says that is broken, or that not everybody may read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from relay.config.model import Queue

_TABLE = re.compile(r"(?ms)^[ \t]*\[queue\][^\n]*\n(.*?)(?=^[ \t]*\[|\Z)")


def read_queue(file: Path) -> Queue:
    """Return the queue that a file names, whatever else is wrong with it; else the usual one."""
    try:
        path = _read_table(file.read_text(encoding="utf-8-sig"))["path"]
        return Queue(path=file.absolute().parent / path)
    except (OSError, ValueError, KeyError, TypeError):
        return Queue()


def _read_table(text: str) -> dict[str, str]:
    """Return the table [queue] of a file, the rest of which may be broken. Raises ValueError and KeyError."""
    try:
        table: dict[str, str] = tomllib.loads(text)["queue"]
    except tomllib.TOMLDecodeError:
        found = _TABLE.search(text)
        table = tomllib.loads(found[1]) if found else {}
    return table
