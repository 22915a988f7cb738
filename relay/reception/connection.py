"""The connection under an SMTP session: lines and content in, replies out, and a deadline for silence.

aiosmtpd's class is kept for its place between transport and reader. Its command loop is replaced: this one
can pipeline and stream, and the deadline moves while bytes flow. So are its TLS, which knows only STARTTLS,
and its AUTH, which it does not offer where a connection was encrypted from the start.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import StreamReaderProtocol
from collections.abc import Iterable

from aiosmtpd.smtp import SMTP

from relay.mail.reply import Reply
from relay.reception import replies
from relay.reception.tls import explain_failure

READ_SIZE = 65536
"""Bytes that are read at once."""
LONGEST_LINE = 12288
"""Bytes of a command; AUTH needs the most (RFC 4954 section 4)."""


class ClientGoneError(Exception):
    """The client closed the connection, or it broke."""


class HandshakeError(Exception):
    """The connection could not be encrypted; the text says why."""


class Connection(SMTP):
    """Reads from a client and writes to it.

    A client that is silent for ``idle_seconds`` while it is waited for is told so and left.
    """

    line_length_limit = READ_SIZE  # here: how far asyncio reads ahead

    def __init__(self, hostname: str, idle_seconds: float) -> None:
        # The handler, in which aiosmtpd looks for hooks, is this: it names none.
        super().__init__(self, hostname=hostname, timeout=idle_seconds, loop=asyncio.get_running_loop())
        self._idle_seconds = idle_seconds
        self._input = bytearray()
        self._replies: list[bytes] = []
        self._active_at = 0.0
        self._is_waiting = False
        self._has_hung_up = False
        self._is_in_handshake = False
        self._is_encrypted = False

    def __dir__(self) -> Iterable[str]:
        """Name nothing: aiosmtpd looks through the names for each client, for its own loop's commands."""
        return ()

    def abort(self) -> None:
        """Break the connection; what is being stored is stored all the same."""
        if self._is_in_handshake:
            assert self._handler_coroutine
            self._handler_coroutine.cancel()  # asyncio would call the handshake a success
        self._writer.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the session (asyncio)."""
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        """End the session (asyncio)."""
        if self._is_in_handshake:
            self._reader.feed_eof()  # what becomes of the session is the handshake's to say
            return
        assert self._timeout_handle
        self._timeout_handle.cancel()
        # Not aiosmtpd's, which would cancel the session: it ends by itself when it reads, so that a message
        # which has come whole is stored even where its client does not wait (RFC 1047).
        # What has come is read to its end.
        StreamReaderProtocol.connection_lost(self, None)
        self._reader.feed_eof()  # behind STARTTLS it is not the one that asyncio knows

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client (asyncio)."""
        self._active_at = self.loop.time()
        self._reader.feed_data(data)

    def eof_received(self) -> bool:
        """Go on, where aiosmtpd would end: a client that has only stopped sending still gets its replies."""
        self._reader.feed_eof()
        return not self._is_encrypted  # TLS cannot go on in one direction

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        """Begin TLS. What the client sent in clear and was not answered is lost (RFC 3207 section 4.2)."""
        await self._flush()
        self._input.clear()
        self._reader = asyncio.StreamReader(self.line_length_limit, self.loop)
        assert self._timeout_handle
        self._timeout_handle.cancel()  # the handshake has a deadline; where it fails, none is needed any more
        self._is_in_handshake = self._is_encrypted = True
        try:
            await self._writer.start_tls(context, ssl_handshake_timeout=self._idle_seconds)
        except OSError as error:
            raise HandshakeError(explain_failure(error)) from error
        finally:
            self._is_in_handshake = False
        self._reader.set_transport(self._writer.transport)
        self._reset_timeout()

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
        if not data or self._has_hung_up:
            raise ClientGoneError
        return data

    def _say(self, reply: Reply) -> None:
        """Add a reply to those that leave next."""
        self._replies.append(reply.encode())

    async def _flush(self) -> None:
        """Send the replies that have gathered, in one piece."""
        self._active_at = self.loop.time()
        if self._writer.transport.is_closing():
            return  # nobody hears them
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
        """Say a last word and close the connection, where it is open; what comes now does not count."""
        self._has_hung_up = True
        if not self._writer.transport.is_closing():
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
