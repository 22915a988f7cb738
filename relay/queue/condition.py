"""How a queue is, for those who watch it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.queue import rows
from relay.queue.errors import QueueError

# One pass over the recipients that wait.
_WAITING = """
    SELECT next_hop, min(message) FROM recipient INDEXED BY due
    WHERE state IN ('queued', 'deferred') AND message > ? GROUP BY next_hop
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What waits, and the room on its disk in bytes."""

    oldest: Mapping[str, int]
    """The number of the oldest message that waits for each next hop (``NextHop.key``); for "", of one whose
    recipient was not tried yet."""
    free: int
    size: int


def examine(db: sqlite3.Connection, path: Path, after: int) -> Condition:
    """Return how a queue is; only messages with numbers above ``after`` count.

    Raises QueueError where its disk can't be written: nothing else tells, as long as there is nothing to
    write.
    """
    disk = os.statvfs(path.parent)
    if disk.f_flag & os.ST_RDONLY:
        raise QueueError(
            f"the queue {path} can't be written: its disk is mounted read-only; see the system's log, "
            f"check the disk"
        )
    oldest = {rows.unpack(next_hop): number for next_hop, number in db.execute(_WAITING, (after,))}
    return Condition(oldest, disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize)
