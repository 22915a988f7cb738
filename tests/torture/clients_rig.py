"""What the trials of clients share: a relay before a next hop that records, and what a flood costs it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.reception import Peer
from tests.support.service import PATIENCE, Service
from tests.support.smtp_server import Script, ScriptedServer

AREA = "clients"
STRANGER = "127.0.0.2"
"""A client outside of the networks that may relay, where a trial sets ``networks`` to 127.0.0.1."""
PROMPT = 2.0
"""Seconds within which a normal client is served, whatever others do."""
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} [ -~\xa1-\U0010ffff]*")
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")


@asynccontextmanager
async def relaying(
    folder: Path, toml: str = "", script: Script | None = None
) -> AsyncIterator[tuple[Service, ScriptedServer]]:
    """Run a relay whose mail all goes to a next hop that keeps every byte."""
    async with (
        ScriptedServer(script) as next_hop,
        Service(folder, f'relayhost = "[127.0.0.1]:{next_hop.port}"\n{toml}') as relay,
    ):
        yield relay, next_hop
        check_bytes_that_left(next_hop)


def check_bytes_that_left(next_hop: ScriptedServer) -> None:
    """Check that no bare CR or LF has ever been sent."""
    for session in next_hop.sessions:
        bare = BARE.search(session.raw)
        assert not bare, session.raw[max(0, bare.start() - 200) : bare.end() + 200]


def check_log(relay: Service) -> None:
    """Check that each line is a line of the log, with nothing in it that moves a cursor."""
    for line in relay.log.splitlines():
        assert LOG_LINE.fullmatch(line), line


async def until_sent(relay: Service, next_hop: ScriptedServer, count: int) -> None:
    """Wait until the next hop has so many messages, and nothing is left in the queue."""
    async with asyncio.timeout(PATIENCE * 2):
        while sum(len(session.contents) for session in next_hop.sessions) < count:
            await asyncio.sleep(0.02)
    await relay.emptied()
    assert sum(len(session.contents) for session in next_hop.sessions) == count


@asynccontextmanager
async def connected(relay: Service, source: str = "127.0.0.1", *, port: int = 0) -> AsyncIterator[Peer]:
    """Connect from an address of the loopback network, and read the greeting."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port or relay.port, local_addr=(source, 0), limit=2**20
    )
    peer = Peer(reader, writer)
    try:
        assert (await peer.reply()).startswith("220 ")
        yield peer
    finally:
        await peer.close()


async def exchange(relay: Service, *parts: bytes, source: str = "127.0.0.1", pause: float = 0.001) -> bytes:
    """Send parts in packets of their own, then the end of the input; return all that comes back.

    The pause lets the relay read a part alone; where it doesn't, less is tried, and the outcome is the same.
    What the relay said last is lost where it hung up on what it had not read.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port, local_addr=(source, 0))
    answers = bytearray()

    async def read() -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                answers.extend(data)

    reading = asyncio.create_task(read())
    with suppress(OSError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write_eof()
    async with asyncio.timeout(PATIENCE * 2):
        await reading
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return bytes(answers)


async def in_parallel(count: int, works: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Do works, so many at a time, each when one before it is over."""
    left = iter(works)

    async def go_on() -> None:
        for work in left:
            await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(go_on())


class Cost:
    """What a relay spends from now on."""

    def __init__(self, relay: Service) -> None:
        self._process = Path(f"/proc/{relay.pid}")
        self._began_at = self._cpu()

    def _cpu(self) -> float:
        spent = 0.0
        for task in (self._process / "task").iterdir():
            with suppress(OSError):
                spent += _processor_seconds(task)
        return spent

    @property
    def cpu_seconds(self) -> float:
        """Seconds of processor time, of all its threads."""
        return self._cpu() - self._began_at

    @property
    def memory(self) -> float:
        """MiB of memory (PSS) now."""
        found = re.search(r"^Pss: +(\d+) kB", (self._process / "smaps_rollup").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    @property
    def files(self) -> int:
        """Open file descriptors now."""
        return len([*(self._process / "fd").iterdir()])


def _processor_seconds(task: Path) -> float:
    return int((task / "schedstat").read_text().split()[0]) / 1e9


class Bystander:
    """A client that asks for something little, over and over, while others misbehave."""

    def __init__(self, relay: Service) -> None:
        self.worst = 0.0
        """The longest that a reply took, seconds."""
        self.blocked = 0.0
        """The most that the relay's loop worked before a reply, seconds of processor time.

        A busy machine makes a reply late; it does not make the relay work more.
        """
        self.count = 0
        self._loop = Path(f"/proc/{relay.pid}/task/{relay.pid}")

    def forget(self) -> None:
        """Begin anew."""
        self.worst = self.blocked = 0.0

    async def ask(self, peer: Peer) -> None:
        """Ask once."""
        began_at, spent = time.monotonic(), _processor_seconds(self._loop)
        reply = await peer.ask("VRFY chris@free.fr")
        self.worst = max(self.worst, time.monotonic() - began_at)
        self.blocked = max(self.blocked, _processor_seconds(self._loop) - spent)
        self.count += 1
        assert reply.startswith("252 "), reply


@asynccontextmanager
async def bystander(relay: Service, source: str = "127.0.0.1") -> AsyncIterator[Bystander]:
    """Keep a bystander asking."""
    watch = Bystander(relay)
    is_over = asyncio.Event()

    async def go_on() -> None:
        while not is_over.is_set():
            async with connected(relay, source) as peer:
                for _ in range(90):  # more would be taken for a flood
                    await watch.ask(peer)
                    await asyncio.sleep(0.005)
                    if is_over.is_set():
                        break

    task = asyncio.create_task(go_on())
    try:
        yield watch
    finally:
        is_over.set()
        await task
    assert watch.count
