"""A scripted SMTP or LMTP server on a real socket: behaviour is data, what it received is kept to the byte.

A *step* says what the server does at one point of the dialogue: ``bytes`` are sent as they stand, ``DROP``,
``RESET``, ``HANG`` and ``LISTEN`` are what their names say, ``Wait(event)`` waits, ``Endless(line)`` never
stops talking, a tuple is several of these in a row, and a list holds one step for each time the point is
reached, the last one for all later times. A callable gets the command line and returns a step. A client that
says LHLO gets LMTP (RFC 2033).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType


class Do(Enum):
    """What a server does to its connection."""

    DROP = auto()
    """Close it in an orderly way, once the client has been sent all."""
    RESET = auto()
    """Close it with a TCP reset."""
    HANG = auto()
    """Say nothing more; read on until the client is gone."""
    TLS = auto()
    """Begin the TLS handshake."""
    LISTEN = auto()
    """Read what the client says next, and take no notice."""


DROP, RESET, HANG, TLS, LISTEN = Do.DROP, Do.RESET, Do.HANG, Do.TLS, Do.LISTEN


@dataclass(frozen=True)
class Wait:
    """Wait until the test sets the event."""

    event: asyncio.Event


@dataclass(frozen=True)
class Endless:
    """Send a line again and again until the client is gone."""

    line: bytes


# Steps nest, which mypy wants spelled out.
Step = bytes | Do | Wait | Endless | tuple["Step", ...] | list["Step"] | Callable[[bytes], "Step"]

EHLO = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n"
NO_PIPELINING = EHLO.replace(b"250-PIPELINING\r\n", b"")
PLAIN_EHLO = b"250 mx.test\r\n"
OK = b"250 2.1.5 Ok\r\n"


def offer(*keywords: str, name: str = "mx.test") -> bytes:
    """Return an EHLO reply with these keywords."""
    lines = [name, *keywords]
    return b"".join(
        f"250{' ' if i == len(lines) - 1 else '-'}{line}\r\n".encode() for i, line in enumerate(lines)
    )


@dataclass(frozen=True)
class Script:
    """How a server behaves; the default takes everything."""

    greeting: Step = b"220 mx.test ESMTP\r\n"
    steps: Mapping[str, Step] = field(default_factory=lambda: MappingProxyType({}))
    """By verb in upper case; ``BODY`` is reached after ``body_bytes`` of content, ``DOT`` after its end.

    With LMTP ``DOT`` is reached once for each recipient that was taken.
    """
    body_bytes: int = 0
    is_group_awaited: bool = False
    """Whether all replies from MAIL on are kept back until DATA was read: a test of pipelining."""

    def but(self, **steps: Step) -> Script:
        """Return the script with other steps; ``greeting`` is one of them."""
        greeting = steps.pop("greeting", self.greeting)
        return replace(self, greeting=greeting, steps={**self.steps, **steps})


DEFAULTS: Mapping[str, Step] = MappingProxyType(
    {
        "EHLO": EHLO,
        "HELO": b"250 mx.test\r\n",
        "LHLO": EHLO,
        "MAIL": b"250 2.1.0 Ok\r\n",
        "RCPT": OK,
        "DATA": b"354 Go ahead\r\n",
        "DOT": b"250 2.0.0 Ok: queued as SINK\r\n",
        "RSET": b"250 2.0.0 Ok\r\n",
        "STARTTLS": (b"220 2.0.0 Ready\r\n", TLS),
        "QUIT": (b"221 2.0.0 Bye\r\n", DROP),
    }
)


@dataclass
class Session:
    """What one client did."""

    commands: list[bytes] = field(default_factory=list)
    """The command lines without CRLF, content left out."""
    raw: bytearray = field(default_factory=bytearray)
    """Every byte that arrived, after decryption."""
    contents: list[bytes] = field(default_factory=list)
    """Whole contents as they came: dots stuffed, without the final dot line."""
    acknowledged: list[tuple[str, bytes]] = field(default_factory=list)
    """Each recipient whose content was replied to with 2xx, and that content as it came."""
    partial: bytes | None = None
    """The content that was cut short by the end of the session."""
    is_encrypted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def messages(self) -> list[bytes]:
        """The contents with their dots unstuffed."""
        return [unstuff(content) for content in self.contents]


def unstuff(content: bytes) -> bytes:
    """Undo dot-stuffing, line by line: slow and plain."""
    lines = content.split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


class _EndError(Exception):
    """The session is over."""


class ScriptedServer:
    """The server, at a port of an address or at a path; use it as an async context manager."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        path: Path | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """Port 0 takes one that is free."""
        self.script = script or Script()
        self.sessions: list[Session] = []
        self.port = port
        self._address = address
        self.reached: dict[str, asyncio.Event] = {}
        self._tls = tls
        self._path = path
        self._counts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> ScriptedServer:
        if self._path is not None:
            self._server = await asyncio.start_unix_server(self._start, self._path)
            return self
        self._server = await asyncio.start_server(self._start, self._address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def wait_for(self, point: str) -> None:
        """Wait until a point of the dialogue has been reached (a verb, ``BODY``, ``DOT``, ``greeting``)."""
        await self.reached.setdefault(point, asyncio.Event()).wait()

    def has_reached(self, point: str) -> bool:
        """Whether a point of the dialogue has been reached."""
        return point in self.reached and self.reached[point].is_set()

    async def wait_ended(self) -> None:
        """Wait until all sessions so far are over."""
        for session in self.sessions:
            await session.ended.wait()

    async def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        session = Session()
        self.sessions.append(session)
        try:
            await _Dialogue(self, session, reader, writer).run()
        except (_EndError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            session.ended.set()
            self._tasks.discard(task)

    def step(self, point: str) -> Step:
        """Return the step for a point of the dialogue that was just reached."""
        self.reached.setdefault(point, asyncio.Event()).set()
        step = self.script.greeting if point == "greeting" else self.script.steps.get(point)
        if step is None:
            step = DEFAULTS.get(point, b"500 5.5.2 What?\r\n")
        if isinstance(step, list):
            count = self._counts.get(point, 0)
            self._counts[point] = count + 1
            return step[min(count, len(step) - 1)]
        return step

    @property
    def tls(self) -> ssl.SSLContext:
        """The context of the handshake; another one may be set."""
        assert self._tls is not None
        return self._tls

    @tls.setter
    def tls(self, context: ssl.SSLContext) -> None:
        self._tls = context

    @property
    def acknowledged(self) -> list[tuple[str, bytes]]:
        """What all sessions acknowledged."""
        return [one for session in self.sessions for one in session.acknowledged]


class _Dialogue:
    def __init__(
        self,
        server: ScriptedServer,
        session: Session,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._server = server
        self._session = session
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._kept: list[bytes] | None = None
        self._said = bytearray()
        """What was sent at this point of the dialogue."""
        self._is_lmtp = False
        self._taken: list[str] = []
        """Recipients of the transaction."""

    async def run(self) -> None:
        await self._perform(self._server.step("greeting"), b"")
        while True:
            line = await self._read_line()
            self._session.commands.append(line)
            verb = line.split(b" ")[0].split(b":")[0].upper().decode("latin-1")
            if self._server.script.is_group_awaited and verb == "MAIL":
                self._kept = []
            self._is_lmtp = self._is_lmtp or verb == "LHLO"
            self._said.clear()
            await self._perform(self._server.step(verb), line)
            if verb in {"MAIL", "RSET"}:
                self._taken.clear()
            if verb == "RCPT" and self._replied(b"2"):
                self._taken.append(line.partition(b"<")[2].partition(b">")[0].decode("latin-1"))
            if verb == "DATA":
                await self._release()
                if self._replied(b"3"):
                    await self._read_content()

    async def _perform(self, step: Step, line: bytes) -> None:
        match step:
            case bytes():
                await self._say(step)
            case tuple():
                for part in step:
                    await self._perform(part, line)
            case Wait(event):
                await event.wait()
            case Endless(line=again):
                while True:
                    await self._say(again * 100)
            case Do():
                await self._do(step)
            case _:
                assert callable(step)
                await self._perform(step(line), line)

    async def _say(self, data: bytes) -> None:
        self._said += data
        if self._kept is not None:
            self._kept.append(data)
            return
        self._writer.write(data)
        await self._writer.drain()

    def _replied(self, digit: bytes) -> bool:
        """Whether the first reply that was sent at this point, whole or endless, has such a code."""
        lines = bytes(self._said).split(b"\n")[:-1]
        ends = [line for line in lines if line[:3].isdigit() and line[3:4] != b"-"]
        return (ends or lines or [b""])[0].startswith(digit)

    async def _release(self) -> None:
        if self._kept is not None:
            kept, self._kept = b"".join(self._kept), None
            self._writer.write(kept)
            await self._writer.drain()

    async def _do(self, action: Do) -> None:
        if action is TLS:
            await self._writer.start_tls(self._server.tls)
            self._session.is_encrypted = True
            return
        if action is LISTEN:
            await self._reader.read(65536)
            return
        if action is HANG:
            while data := await self._reader.read(65536):
                self._session.raw += data
            raise _EndError
        if action is RESET:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
            raise _EndError
        self._writer.close()
        await self._writer.wait_closed()
        raise _EndError

    async def _read_more(self) -> None:
        data = await self._reader.read(65536)
        if not data:
            raise _EndError
        self._buffer += data
        self._session.raw += data

    async def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._read_more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _read_content(self) -> None:
        has_reached_body = False
        try:
            while not (self._buffer.startswith(b".\r\n") or b"\r\n.\r\n" in self._buffer):
                if len(self._buffer) >= self._server.script.body_bytes and not has_reached_body:
                    has_reached_body = True
                    if "BODY" in self._server.script.steps:
                        await self._perform(self._server.step("BODY"), b"")
                await self._read_more()
        except BaseException:
            self._session.partial = bytes(self._buffer)
            raise
        end = 0 if self._buffer.startswith(b".\r\n") else self._buffer.find(b"\r\n.\r\n") + 2
        content = bytes(self._buffer[:end])
        self._session.contents.append(content)
        del self._buffer[: end + 3]
        for recipients in [[one] for one in self._taken] if self._is_lmtp else [self._taken]:
            self._said.clear()
            try:
                await self._perform(self._server.step("DOT"), b".")
            finally:
                if self._replied(b"2"):
                    self._session.acknowledged += [(recipient, content) for recipient in recipients]
