"""Damage to the write-ahead log that SQLite does not tell of: it takes what it cannot read for the log's end.

SQLite could tell how much it has read, but only by writing that back into the queue, and it deletes the log
when it is closed. So the log is read here, before that: 4 MiB of it, the usual most, in less than 0.1 s.

https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from pathlib import Path
from typing import BinaryIO

from relay.queue.errors import damaged_log

_HEADER, _FRAME_HEADER = 32, 24
_MAGIC = 0x377F0682


def check(path: Path) -> None:
    """Raise QueueError where acknowledged mail was in the log of a queue and SQLite would not see it.

    A log that was cut can't be told from one that never was longer, nor can damage to the last transaction
    from one that was not synced yet when the power was lost. Raises OSError too.
    """
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        return
    with log.open("rb") as file:
        header = file.read(_HEADER)
        if len(header) < _HEADER or not (any(header) or any(file.read())):
            return
        if not path.stat().st_size:
            raise damaged_log(path, "the queue beside it is empty")
        if not _is_header_right(header):
            raise damaged_log(path, "its header is wrong")
        if _is_wrong_in_the_middle(_frames(header, file)):
            raise damaged_log(path, "it is wrong in the middle")


def _is_header_right(header: bytes) -> bool:
    magic, _, _, _, _, _, *checksum = struct.unpack(">8I", header)
    return magic & ~1 == _MAGIC and [*_sum(header[:24], magic, (0, 0))] == checksum


class _Frame(Enum):
    PAGE = auto()
    COMMIT = auto()
    """A page too, the last of its transaction."""
    FOREIGN = auto()
    """What an earlier log had here, or damage."""


def _is_wrong_in_the_middle(frames: Iterable[tuple[_Frame, bool]]) -> bool:
    """Whether the disk has changed what it had, from the frames and whether each is right.

    What is wrong is all that comes after the first frame that is. A power loss leaves at most one commit
    there, as the one before is synced. There may be more where syncs failed, for then SQLite writes the next
    transaction over the one that was refused: what it leaves of that begins after a commit, and has no gap.
    """
    last_right, unseen = _Frame.COMMIT, list[_Frame]()
    for frame, is_right in frames:
        if is_right:
            last_right = frame
        else:
            unseen.append(frame)
    if unseen.count(_Frame.COMMIT) < 2:
        return False
    while unseen[-1] is not _Frame.COMMIT:
        unseen.pop()
    return last_right is not _Frame.COMMIT or _Frame.FOREIGN in unseen


def _frames(log_header: bytes, file: BinaryIO) -> Iterator[tuple[_Frame, bool]]:
    """Yield each frame of a log, and whether it is right; none is any more after one that is not."""
    magic, _, page_size, _, _, _, *running = struct.unpack(">8I", log_header)
    salts, is_right = log_header[16:24], True
    while len(data := file.read(_FRAME_HEADER + page_size)) == _FRAME_HEADER + page_size:
        if is_right:
            running = [*_sum(data[:8] + data[_FRAME_HEADER:], magic, (running[0], running[1]))]
            is_right = data[8:16] == salts and [*struct.unpack_from(">2I", data, 16)] == running
        if data[8:16] != salts:
            yield _Frame.FOREIGN, is_right
        else:
            yield _Frame.COMMIT if any(data[4:8]) else _Frame.PAGE, is_right


def _sum(data: bytes, magic: int, start: tuple[int, int]) -> tuple[int, int]:
    """Return the checksum of data that follows what has the checksum ``start``."""
    first, second = start
    words = iter(struct.unpack(f"{'>' if magic & 1 else '<'}{len(data) // 4}I", data))
    for word, next_word in zip(words, words, strict=True):
        first = (first + word + second) & 0xFFFFFFFF
        second = (second + next_word + first) & 0xFFFFFFFF
    return first, second
