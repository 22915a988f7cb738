"""A message on its way into the queue."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from relay.mail.envelope import Message
from relay.queue import rows
from relay.queue.contents import ContentFile, Contents
from relay.queue.errors import DiskError, explain_os
from relay.queue.room import Room
from relay.queue.writer import Writer

SMALL_SIZE = 128 * 1024
"""Bytes of content up to which it stays in memory until the commit, and then stands in its message's row."""
BLOCK_SIZE = 256 * 1024
"""Bytes that larger content is written by."""
TIGHT_SIZE = 32 * 1024
"""Bytes of either while memory is short."""
MOST_MEMORY = 16 * 1024 * 1024
"""Bytes that all messages that are coming in may hold before memory is short."""


@dataclass(slots=True)
class Memory:
    """Bytes of content that all messages on their way in hold."""

    used: int = 0


class Incoming:
    """Takes the content of one message as it comes. It ends with commit or abandon."""

    def __init__(self, writer: Writer, room: Room, contents: Contents, memory: Memory, number: int) -> None:
        self.number = number
        self.small_content: bytes | None = None
        """The whole content, once committed, where it was small enough to stay in memory."""
        self._writer = writer
        self._room = room
        self._contents = contents
        self._memory = memory
        self._buffer = bytearray()
        self._file: ContentFile | None = None
        self._may_be_stored = False

    async def write(self, chunk: bytes) -> None:
        """Take some content; returns once it is in memory or, when that is full, in a file.

        Raises NoRoom and other QueueErrors.
        """
        self._buffer += chunk
        self._memory.used += len(chunk)
        if len(self._buffer) > self._most():
            await self._write_file()

    async def commit(self, message: Message, *, retry_at: float | None, is_held: bool = False) -> None:
        """Accept the message: it is on disk when this returns.

        With ``retry_at`` it counts as claimed, and is handed out again only then; without, it is due now.
        Raises NoRoom and other QueueErrors: then it is not accepted.
        """
        if self._file is not None:
            await self._write_file(is_last=True)
        with self._taken() as data:
            content = data if self._file is None else None

            def insert(db: sqlite3.Connection) -> None:
                self._room.check(db)
                rows.insert_message(db, message, content, retry_at, is_held)

            self._may_be_stored = True  # also when we are cancelled here: the writer goes on
            try:
                await self._writer.run(insert)
            except Exception as error:
                self._may_be_stored = isinstance(error, DiskError)
                raise
            self.small_content = content

    async def abandon(self) -> None:
        """Forget the message, unless it is in the queue, or may be soon as its commit was cancelled."""
        self._memory.used -= len(self._buffer)
        self._buffer.clear()
        if self._file is not None and not self._may_be_stored:
            with suppress(OSError):  # then the next start sweeps it
                await asyncio.to_thread(self._file.discard)

    def _most(self) -> int:
        """Return how much of the content may be in memory now."""
        if self._memory.used > MOST_MEMORY:
            return TIGHT_SIZE
        return SMALL_SIZE if self._file is None else BLOCK_SIZE

    @contextmanager
    def _taken(self) -> Iterator[bytes]:
        """Empty the buffer for work on what was in it; that counts as memory until the work is done."""
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            yield data
        finally:
            self._memory.used -= len(data)

    async def _write_file(self, *, is_last: bool = False) -> None:
        self._file = file = self._file or self._contents.create(self.number)
        with self._taken() as data:

            def write() -> None:
                self._room.check_files()
                file.write(data)
                if is_last:
                    file.finish()

            try:
                await asyncio.to_thread(write)
            except OSError as error:
                raise explain_os(error, self._contents.folder) from error
