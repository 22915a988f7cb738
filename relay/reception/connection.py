"""The connection under an SMTP session: lines and content in, replies out, and a deadline for silence.

aiosmtpd's class is kept for its place between transport and reader, and for STARTTLS and AUTH. Its command
loop is replaced: this one can pipeline and stream, and the deadline moves while bytes flow.
"""

from __future__ import annotations

import asyncio

from aiosmtpd.smtp import SMTP

from relay.mail.reply import Reply
from relay.reception import replies

READ_SIZE = 65536
"""Bytes that are read at once."""
LONGEST_LINE = 12288
"""Bytes of a command; AUTH needs the most (RFC 4954 section 4)."""


class ClientGoneError(Exception):
    """The client closed the connection, or it broke."""


class Connection(SMTP):
    """Reads from a client and writes to it.

    A client that is silent for ``idle_seconds`` while it is waited for is told so and left.
    """

    line_length_limit = READ_SIZE  # here: how far asyncio reads ahead

    def __init__(self, hostname: str, idle_seconds: float) -> None:
        super().__init__(None, hostname=hostname, timeout=idle_seconds, loop=asyncio.get_running_loop())
        self._idle_seconds = idle_seconds
        self._input = bytearray()
        self._replies: list[bytes] = []
        self._active_at = 0.0
        self._is_waiting = False

    def abort(self) -> None:
        """Break the connection; what is being stored is stored all the same."""
        self._writer.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client (asyncio)."""
        self._active_at = self.loop.time()
        super().data_received(data)

    def eof_received(self) -> bool:
        """Go on, where aiosmtpd would end: a client that has only stopped sending still gets its replies."""
        asyncio.StreamReaderProtocol.eof_received(self)
        return self._tls_protocol is None

    async def _read_line(self) -> bytes:
        """Return the next command without its LF; of one that is too long just enough to see that."""
        while (end := self._input.find(b"\n")) < 0:
            del self._input[LONGEST_LINE + 1 :]
            self._input += await self._read()
        line = bytes(self._input[:end])
        del self._input[: end + 1]
        return line

    async def _read_content(self, most: int = READ_SIZE) -> bytes:
        """Return the next bytes that are not a command."""
        data = bytes(self._input) or await self._read()
        self._input[:] = data[most:]
        return data[:most]

    async def _read(self) -> bytes:
        await self._flush()
        self._is_waiting = True
        try:
            data = await self._reader.read(READ_SIZE)
        except OSError as error:
            raise ClientGoneError from error
        self._is_waiting = False
        if not data or self._writer.transport.is_closing():
            raise ClientGoneError
        return data

    def _say(self, reply: Reply) -> None:
        """Add a reply to those that leave next."""
        self._replies.append(reply.encode())

    async def _flush(self) -> None:
        """Send the replies that have gathered, in one piece."""
        self._active_at = self.loop.time()
        if self._replies:
            self._writer.write(b"".join(self._replies))
            self._replies.clear()
        if self._writer.transport.get_write_buffer_size():
            self._is_waiting = True
            try:
                await self._writer.drain()
            except OSError as error:
                raise ClientGoneError from error
            self._is_waiting = False

    def _hang_up(self, reply: Reply) -> None:
        """Say a last word and close the connection."""
        self._writer.write(reply.encode())
        self._writer.close()

    def _timeout_cb(self) -> None:
        silent_seconds = self.loop.time() - self._active_at
        if self._writer.transport.is_closing():
            self.abort()  # the client does not take the last word
        elif not self._is_waiting:
            self._reset_timeout()
        elif silent_seconds < self._idle_seconds:
            self._reset_timeout(self._idle_seconds - silent_seconds)
        else:
            self._hang_up(replies.TIMED_OUT)
            self._reset_timeout()
