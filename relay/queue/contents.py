"""Large contents: each is a file of its own, in a folder beside the database.

It is written and synced before the transaction that accepts its message, and deleted after the one that
finishes it. So a crash leaves a file too many at most, and the next start deletes that.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from threading import Lock

from relay.files import sync_folder
from relay.mail.envelope import format_queue_id, parse_queue_id
from relay.queue.errors import damaged_content


class Contents:
    """The folder of a queue's large contents. Methods block and raise OSError, unless they say otherwise."""

    def __init__(self, queue_path: Path) -> None:
        self.folder = queue_path.with_name(f"{queue_path.name}.content")
        self._numbers: set[int] = set()

    def prepare(self) -> None:
        """Make the folder, and look at what is in it; what has other names than ours stays unseen."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        found = (_parse_name(path.name) for path in self.folder.iterdir())
        self._numbers = {number for number in found if number is not None}

    def sweep(self, is_wanted: Callable[[int], bool]) -> None:
        """Delete the files of messages that are not wanted any more.

        Where this fails, the next sweep does it.
        """
        for number in [number for number in self._numbers if not is_wanted(number)]:
            with suppress(OSError):
                self.delete(number)

    def has(self, number: int) -> bool:
        """Whether the whole content of a message is here; does not block."""
        return number in self._numbers

    def create(self, number: int) -> ContentFile:
        """Begin the file of a message; does not block."""
        return ContentFile(self, number)

    def add(self, number: int) -> None:
        """Take note of a file that is whole and synced."""
        sync_folder(self.folder)
        self._numbers.add(number)

    def open(self, number: int, size: int) -> ContentReader:
        """Begin to read the file of a message, which must have that size; does not block."""
        return ContentReader(self.path(number), size)

    def delete(self, number: int) -> None:
        """Delete the file of a message."""
        self.path(number).unlink(missing_ok=True)
        self._numbers.discard(number)

    def path(self, number: int) -> Path:
        """Return the file of a message."""
        return self.folder / format_queue_id(number)


class ContentFile:
    """The file of one content, as it is written. Methods block and raise OSError; any thread may call."""

    def __init__(self, contents: Contents, number: int) -> None:
        self._contents = contents
        self._number = number
        self._file: BufferedWriter | None = None
        self._is_discarded = False
        self._lock = Lock()

    def write(self, block: bytes) -> None:
        """Add some content; the first makes the file."""
        with self._lock:
            if self._is_discarded:
                return
            if self._file is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                self._file = os.fdopen(os.open(self._contents.path(self._number), flags, 0o600), "wb")
            self._file.write(block)

    def finish(self) -> None:
        """See to it that the content is on disk."""
        with self._lock:
            if self._is_discarded:
                return
            assert self._file is not None
            self._file.flush()
            os.fdatasync(self._file.fileno())
            self._file.close()
            self._contents.add(self._number)

    def discard(self) -> None:
        """Delete the file. What is still to be written goes nowhere."""
        with self._lock:
            self._is_discarded = True
            if self._file is not None:
                self._file.raw.close()  # what is in its buffer may not fit on the disk
                self._contents.delete(self._number)


class ContentReader:
    """The file of one content, as it is read. Methods block; any thread may call."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._file: BufferedReader | None = None
        self._is_closed = False
        self._lock = Lock()

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end; the first call opens the file.

        From then on it may be deleted: it can be read to its end all the same. Raises OSError, and
        QueueError where the file has not the size that it should have: nothing is sent cut short.
        """
        with self._lock:
            if self._is_closed:
                return b""
            if self._file is None:
                self._file = self._path.open("rb")
                self._compare(os.fstat(self._file.fileno()).st_size)
            block = self._file.read(size)
            if not block:
                self._compare(self._file.tell())
            return block

    def close(self) -> None:
        """Read no more."""
        with self._lock:
            self._is_closed = True
            if self._file is not None:
                self._file.close()

    def _compare(self, size: int) -> None:
        if size != self._size:
            raise damaged_content(self._path, size, self._size)


def _parse_name(name: str) -> int | None:
    """Return the message number that the name of a file stands for, None where we would not write it so."""
    number = parse_queue_id(name)
    return number if number and format_queue_id(number) == name else None
