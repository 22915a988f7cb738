"""The wire of one SMTP client connection: bytes to replies, content to dot-stuffed bytes.

aiosmtplib's protocol connects, writes under flow control and guards commands against injection; all that is
used as it is. Its reader is not: it keeps one reply at a time and drops whatever comes with it, so it cannot
pipeline (RFC 2920), and it takes nonsense and long replies for errors. The reader here gives the replies one
by one, in the order in which they came. Nothing here knows what a reply is about.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from typing import cast

from aiosmtplib.errors import SMTPReadTimeoutError, SMTPServerDisconnected
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

MAX_REPLY = 100 * 1024
"""Bytes of one reply; what is longer counts by the code it began with, and ends the session."""
MAX_TEXT = 4096
"""Bytes of a reply's text that are kept; nobody reads more."""
MAX_UNREAD = 1024 * 1024
"""Bytes that a server may send unasked before it is cut off."""
NOT_SMTP = -1
"""The code of what is no SMTP reply: no code at its start, or lines that contradict each other."""

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_LONG_LINE = re.compile(rb"([2-5][0-9]{2})[ -]")
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class ReplyParser:
    """Takes bytes as they come and gives whole replies (RFC 5321 section 4.2), whatever a server sends.

    Lines may end in LF alone. A line without a code within a multi-line reply is taken as text. Text is
    decoded as UTF-8; what is not printable becomes "?".
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._lines: list[bytes] = []
        self._code = 0
        self._size = 0
        self.is_overrun = False
        """Whether a reply was too long: it was given by ``take``, nothing follows it."""

    def feed(self, data: bytes) -> None:
        """Add bytes that arrived."""
        if not self.is_overrun:
            self._buffer += data

    @property
    def unread(self) -> int:
        """The number of bytes that arrived and belong to no reply taken so far."""
        return self._size + len(self._buffer)

    def take(self) -> SMTPResponse | None:
        """Return the next reply, or None while it is incomplete; its code is ``NOT_SMTP`` for nonsense."""
        while (end := self._buffer.find(b"\n", self._searched)) >= 0:
            if self._size + end >= MAX_REPLY:
                return self._cut()
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            self._size += end + 1
            self._lines.append(line)
            if self._is_last(line):
                return self._finish()
        self._searched = len(self._buffer)
        return self._cut() if self.unread > MAX_REPLY else None

    def _is_last(self, line: bytes) -> bool:
        match = _LINE.fullmatch(line)
        if match is None:
            self._code = self._code or NOT_SMTP
            return len(self._lines) == 1
        code = int(match[1])
        is_contradiction = self._code != 0 and code // 100 != self._code // 100
        self._code = NOT_SMTP if is_contradiction else code
        return match[2] != b"-"

    def _cut(self) -> SMTPResponse:
        self.is_overrun = True
        if not self._lines:
            start = _LONG_LINE.match(self._buffer)
            self._code = int(start[1]) if start else NOT_SMTP
            self._lines.append(bytes(self._buffer[: MAX_TEXT + 4]))
        self._buffer.clear()
        return self._finish()

    def _finish(self) -> SMTPResponse:
        code, lines = self._code, self._lines
        self._lines, self._code, self._size = [], 0, 0
        if code != NOT_SMTP:
            lines = [line[4:] if _LINE.fullmatch(line) else line for line in lines]
        text = b"\n".join(lines)[:MAX_TEXT].decode("utf-8", "replace")
        return SMTPResponse(code, _UNPRINTABLE.sub("?", text))


class ReplyProtocol(SMTPProtocol):
    """aiosmtplib's protocol with a reader that pipelines.

    Write as many commands as may be outstanding, then await ``read_response`` once for each.
    """

    def __init__(self) -> None:
        super().__init__()
        self._replies = ReplyParser()
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = math.inf
        self._alarm: asyncio.TimerHandle | None = None
        """Rings at the deadline or before: it is not set anew for each reply."""

    @property
    def has_unread(self) -> bool:
        """Whether the server sent something that was not read."""
        return self._replies.unread > 0

    def data_received(self, data: bytes) -> None:
        """Keep what arrived for ``read_response``."""
        self._replies.feed(data)
        if self._replies.unread > MAX_UNREAD:
            self.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever reads or writes."""
        super().connection_lost(exc)
        if self._alarm is not None:
            self._alarm.cancel()
        self._wake()

    def take_response(self) -> SMTPResponse | None:
        """Return the next reply if it is there already."""
        reply = self._replies.take()
        if self._replies.is_overrun:
            self.abort()
        return reply

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:  # noqa: ASYNC109 - overrides
        """Return the next reply. Raises SMTPServerDisconnected or SMTPReadTimeoutError where none comes."""
        deadline = math.inf if timeout is None else self._loop.time() + timeout
        while (reply := self.take_response()) is None:
            if self._connection_lost:
                raise SMTPServerDisconnected("connection lost")
            await self._next_event(deadline)
        return reply

    async def drain(self, seconds: float) -> None:
        """Wait until more may be written. Raises as ``read_response`` does."""
        try:
            async with asyncio.timeout(seconds):
                await self._drain_helper()
        except TimeoutError as error:
            raise SMTPReadTimeoutError("nothing was taken in time") from error
        except OSError as error:
            raise SMTPServerDisconnected("connection lost") from error

    async def secure(self, context: ssl.SSLContext, server_name: str, seconds: float) -> None:
        """Put TLS between here and the server. Raises OSError, or ValueError for an impossible name."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("connection lost")
        self.transport = await self._loop.start_tls(
            cast(asyncio.WriteTransport, transport),
            self,
            context,
            server_hostname=server_name,
            ssl_handshake_timeout=seconds,
        )

    async def close(self) -> None:
        """Close the connection and wait until it is closed."""
        if self.transport is not None:
            self.transport.close()
        while not self._connection_lost:
            await self._next_event()

    def abort(self) -> None:
        """Close the connection at once; what was written and has not left is thrown away."""
        if self.transport is not None:
            cast(asyncio.WriteTransport, self.transport).abort()

    async def _next_event(self, deadline: float = math.inf) -> None:
        """Wait until something arrives or the connection is lost. Raises SMTPReadTimeoutError."""
        self._waiter = self._loop.create_future()
        self._deadline = deadline
        self._set_alarm()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_alarm(self) -> None:
        if self._alarm is not None and self._alarm.when() > self._deadline:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None and self._deadline < math.inf:
            self._alarm = self._loop.call_at(self._deadline, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._deadline:
            self._set_alarm()
        else:
            self._waiter.set_exception(SMTPReadTimeoutError("no reply in time"))


class DotStuffer:
    """Makes content transparent for DATA (RFC 5321 section 4.5.2), in chunks cut anywhere.

    Lines must end in CRLF, as all content of this program does.
    """

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def stuff(self, chunk: bytes) -> bytes:
        """Return the chunk with a dot more at the start of each line that begins with one."""
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        if chunk[:1] == b"." and self._tail == b"\r\n":
            stuffed = b"." + stuffed
        elif chunk[:2] == b"\n." and self._tail.endswith(b"\r"):
            stuffed = b"\n." + stuffed[1:]
        self._tail = (self._tail + chunk[-2:])[-2:]
        return stuffed

    def end(self) -> bytes:
        """Return what ends the content: the lone dot, after the CRLF that a last line may lack."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
