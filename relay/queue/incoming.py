"""A message on its way into the queue."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from relay.mail.envelope import Message
from relay.queue import rows
from relay.queue.errors import QueueError
from relay.queue.room import Room
from relay.queue.writer import Writer

SMALL_SIZE = 64 * 1024
"""Bytes of content up to which all of it stays in memory until the commit."""
CHUNK_SIZE = 256 * 1024
"""Bytes of a chunk of larger content, at most one write more: few enough fsyncs for a slow card."""


class Incoming:
    """Takes the content of one message as it comes. It ends with commit or abandon."""

    def __init__(self, writer: Writer, room: Room, number: int) -> None:
        self.number = number
        self.small_content: bytes | None = None
        """The whole content, once committed, where it was small enough to stay in memory."""
        self._writer = writer
        self._room = room
        self._buffer = bytearray()
        self._chunks = 0

    async def write(self, chunk: bytes) -> None:
        """Take some content; returns once it is in memory or, when that is full, on disk.

        Raises NoRoom and other QueueErrors.
        """
        self._buffer += chunk
        if len(self._buffer) > (CHUNK_SIZE if self._chunks else SMALL_SIZE):
            data, seq = bytes(self._buffer), self._chunks
            self._buffer.clear()
            self._chunks += 1

            def insert(db: sqlite3.Connection) -> None:
                self._room.check(db)
                rows.insert_chunk(db, self.number, seq, data)

            await self._writer.run(insert)

    async def commit(self, message: Message, *, retry_at: float | None, is_held: bool = False) -> None:
        """Accept the message: it is on disk when this returns.

        With ``retry_at`` it counts as claimed, and is handed out again only then; without, it is due now.
        Raises NoRoom and other QueueErrors: then it is not accepted.
        """
        data, seq = bytes(self._buffer), self._chunks

        def insert(db: sqlite3.Connection) -> None:
            self._room.check(db)
            rows.insert_message(db, message, data, seq, retry_at, is_held)

        await self._writer.run(insert)
        self._buffer.clear()
        if not self._chunks:
            self.small_content = data

    async def abandon(self) -> None:
        """Forget the message."""
        self._buffer.clear()
        if self._chunks:
            with suppress(QueueError):  # then the next start sweeps it
                await self._writer.run(lambda db: rows.delete_content(db, self.number), is_outcome=True)
