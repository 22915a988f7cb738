"""The place of a queue: the margin below which no message is taken in, the reserve that outcomes may use up.

Nor is a message taken in where the queue's files were taken away: SQLite goes on with them, and what it is
given then is lost when the relay ends.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from relay.queue.errors import NoRoom, QueueError

_LARGEST_MARGIN = 8 * 2**20


class Room:
    """The file system under a queue. Used by one thread, but for ``check_files``."""

    def __init__(self, queue_path: Path) -> None:
        self._queue_path = queue_path
        self._reserve = queue_path.with_name(f"{queue_path.name}.reserve")
        self._files = (queue_path, queue_path.with_name(f"{queue_path.name}-wal"))
        self._numbers: list[int] = []
        self._has_reserve = self._reserve.exists()
        statistics = os.statvfs(queue_path.parent)
        self.margin = min(_LARGEST_MARGIN, statistics.f_blocks * statistics.f_frsize // 16)
        """Bytes that must be free; also the size of the reserve.

        The write-ahead log is kept to half of it, so that the reserve has room for moving it into the file.
        """
        self._keep_reserve(self._free())

    def note_files(self) -> None:
        """Take note of the files of the database, which is open."""
        self._numbers = self._inodes()

    def check(self, db: sqlite3.Connection) -> None:
        """Raise NoRoom where a message would not leave the margin free, QueueError where files are gone."""
        self._require_files()
        free = self._free()
        if free < self.margin:
            self._require_margin(free + _free_inside(db))
        self._keep_reserve(free)

    def check_files(self) -> None:
        """Raise NoRoom where the margin is not free for what goes into files."""
        self._require_margin(self._free())

    def give_up_reserve(self) -> bool:
        """Delete the reserve; False where there is none left."""
        if not self._has_reserve:
            return False
        self._reserve.unlink(missing_ok=True)
        self._has_reserve = False
        return True

    def _require_files(self) -> None:
        with suppress(OSError):
            if self._inodes() == self._numbers:
                return
        raise QueueError(
            f"the queue {self._queue_path} or its -wal file was moved, deleted or replaced: put the same "
            f"files back, or restart the relay when the mail in it has left"
        )

    def _inodes(self) -> list[int]:
        return [path.stat().st_ino for path in self._files]

    def _require_margin(self, free: int) -> None:
        if free < self.margin:
            raise NoRoom(f"no room on the disk for the queue {self._queue_path}: free some space there")

    def _free(self) -> int:
        statistics = os.statvfs(self._queue_path.parent)
        return statistics.f_bavail * statistics.f_frsize

    def _keep_reserve(self, free: int) -> None:
        if self._has_reserve or free < 2 * self.margin:
            return
        with suppress(OSError):  # tried again at the next message
            descriptor = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self.margin)
            finally:
                os.close(descriptor)
            self._has_reserve = True


def _free_inside(db: sqlite3.Connection) -> int:
    (pages,) = db.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = db.execute("PRAGMA page_size").fetchone()
    return int(pages * page_size)
