"""A next hop that notes of each transfer what it took, whether its reply left, and whether that was read.

A transfer counts as taken from its final dot on. That the relay has read the reply shows in what it sends
next on that connection, be it MAIL, RSET or QUIT.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass
from enum import Enum, auto

from tests.torture.kill_letters import digest

TRACE = re.compile(
    rb"Received: (?:from [^\r]*\r\n\tby \S+ \(relay\) with \S+ |by \S+ \(relay, from userid \d+\)\r\n\t)"
    rb"id ([0-9A-F]+)[^\r]*\r\n(?:[\t ][^\r]*\r\n)*"
)
LONGEST = 16_000_000


class Mood(Enum):
    """How a next hop is."""

    UP = auto()
    DOWN = auto()
    """It has a greeting of 421 for everybody."""
    HALF = auto()
    """Each session and each transfer ends well only half of the time."""
    HANG = auto()
    """It says nothing after the final dot."""
    GATE = auto()
    """It takes all, and replies to final dots when the gate is opened."""
    MUTE = auto()
    """It has no greeting."""


class Trouble(Enum):
    """What befalls a transfer."""

    NONE = auto()
    BUSY = auto()
    """A recipient is deferred."""
    HANG_AT_DATA = auto()
    RESET_IN_CONTENT = auto()
    DEFERRED = auto()
    """The reply to the final dot is 451: nothing is taken."""
    TAKEN_UNSAID = auto()
    """It is taken, and the connection reset before the reply."""
    LATE = auto()
    """The reply takes its time."""
    SILENT = auto()
    """It is taken, and there is never a reply."""


@dataclass
class Transfer:
    """A message that was taken."""

    life: int
    """The life of the relay in which it was."""
    sender: str
    recipients: tuple[str, ...]
    digest: str
    """Of the content without the relay's own trace header."""
    queue_id: str
    answered_at: float = 0.0
    """When the final reply was written, on the monotonic clock; 0 if never."""
    read_at: float = 0.0
    """When the relay was seen to have read it; 0 if never."""


class _EndError(Exception):
    """The session is over."""


class Sink:
    """The server; use it as an async context manager."""

    def __init__(self, chance: random.Random, mood: Mood) -> None:
        self.mood = mood
        self.life = 0
        self.port = 0
        self.transfers: list[Transfer] = []
        self.gate = asyncio.Event()
        self._chance = chance
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Sink:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LONGEST)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def ended(self) -> None:
        """Wait until all sessions are over; the relay must be gone."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Session(self, self._chance, reader, writer).run()
        except (_EndError, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


class _Session:
    def __init__(
        self, sink: Sink, chance: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._sink = sink
        self._chance = chance
        self._reader = reader
        self._writer = writer
        self._last: Transfer | None = None
        self._trouble = Trouble.NONE
        self._sender = ""
        self._recipients: list[str] = []

    async def run(self) -> None:
        mood = self._sink.mood
        if mood is Mood.DOWN or (mood is Mood.HALF and self._chance.random() < 0.3):
            await self._say(b"421 4.3.2 closed for repairs")
            raise _EndError
        if mood is Mood.MUTE:
            await self._hang()
        await self._say(b"220 sink.test ESMTP")
        while True:
            line = (await self._reader.readuntil(b"\r\n"))[:-2]
            if self._last is not None and self._last.answered_at and not self._last.read_at:
                self._last.read_at = time.monotonic()
            await self._obey(line, line.partition(b" ")[0].upper())

    async def _obey(self, line: bytes, verb: bytes) -> None:
        path = re.fullmatch(rb"(?:MAIL FROM|RCPT TO):<([^>]*)>.*", line)
        match verb:
            case b"EHLO":
                await self._say(b"250-sink.test\r\n250-PIPELINING\r\n250-SIZE 0\r\n250 8BITMIME")
            case b"MAIL":
                assert path
                self._trouble = self._choose_trouble()
                self._sender, self._recipients = path[1].decode(), []
                await self._say(b"250 2.1.0 Ok")
            case b"RCPT":
                assert path
                if path[1].startswith(b"gone@"):
                    await self._say(b"550 5.1.1 nobody here has that name")
                    return
                is_busy = self._trouble is Trouble.BUSY and self._chance.random() < 0.5
                if not is_busy:
                    self._recipients.append(path[1].decode())
                await self._say(b"450 4.2.1 busy" if is_busy else b"250 2.1.5 Ok")
            case b"DATA":
                await self._take()
            case b"QUIT":
                await self._say(b"221 2.0.0 Bye")
                raise _EndError
            case _:
                await self._say(b"250 2.0.0 Ok")

    def _choose_trouble(self) -> Trouble:
        if self._sink.mood is Mood.HANG:
            return Trouble.SILENT
        if self._sink.mood is Mood.HALF and self._chance.random() < 0.5:
            troubles: list[Trouble] = [*Trouble]
            return self._chance.choice(troubles)
        return Trouble.NONE

    async def _take(self) -> None:
        if not self._recipients:
            await self._say(b"554 5.5.1 no valid recipients")
            return
        if self._trouble is Trouble.HANG_AT_DATA:
            await self._hang()
        await self._say(b"354 go ahead")
        if self._trouble is Trouble.RESET_IN_CONTENT:
            await self._reader.read(100)
            raise _EndError
        wire = b"\r\n" + await self._reader.readuntil(b"\r\n.\r\n")
        content = wire[:-3].replace(b"\r\n.", b"\r\n")[2:]
        if self._trouble is Trouble.DEFERRED:
            await self._say(b"451 4.3.0 not now")
            return
        transfer = self._note(content)
        if self._trouble is Trouble.TAKEN_UNSAID:
            raise _EndError
        if self._trouble is Trouble.SILENT:
            await self._hang()
        if self._sink.mood is Mood.GATE:
            await self._sink.gate.wait()
        if self._trouble is Trouble.LATE:
            await asyncio.sleep(self._chance.uniform(0, 0.3))
        await self._say(b"250 2.0.0 Ok: queued as SINK")
        transfer.answered_at = time.monotonic()
        self._last = transfer

    def _note(self, content: bytes) -> Transfer:
        trace = TRACE.match(content)
        assert trace or not self._sender, content[:300]  # a report has none
        transfer = Transfer(
            self._sink.life,
            self._sender,
            tuple(self._recipients),
            digest(content[trace.end() :] if trace else content),
            trace[1].decode() if trace else "",
        )
        self._sink.transfers.append(transfer)
        return transfer

    async def _hang(self) -> None:
        while await self._reader.read(65536):
            pass
        raise _EndError

    async def _say(self, line: bytes) -> None:
        self._writer.write(line + b"\r\n")
        await self._writer.drain()
