"""A disk that fails, fills up or is slow, under a relay that runs; and what must hold all the same."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from relay.queue.control import request
from tests.support.service import PATIENCE, Service
from tests.torture.kill_letters import SESSIONS, Load, Pair
from tests.torture.kill_sink import Mood, Sink


class House:
    """A relay with its queue in a folder, clients, and a next hop."""

    def __init__(self, folder: Path, disk: Path, sink: Sink, retry: str) -> None:
        self.sink = sink
        self.load = Load(random.Random(str(folder.name)), ["a@sink.test", "b@sink.test"], largest=400_000)
        self.relay = Service(
            folder,
            f"""
            queue = {{ path = "{disk}/queue.db", retry = ["{retry}"] }}
            transport = {{ "sink.test" = "[127.0.0.1]:{sink.port}", "dead.test" = "[127.0.0.1]:1" }}
            """,
        )

    async def send(self, count: int = 1) -> Counter[str]:
        """Let twenty clients send so many letters each; return how often each reply code came."""

        async def send() -> list[str]:
            async with self.relay.client() as peer:
                await peer.ask("EHLO load")
                return [(await self.load.send(peer))[:3] for _ in range(count)]

        async with asyncio.timeout(PATIENCE):
            replies = await asyncio.gather(*(send() for _ in range(SESSIONS)))
        return Counter(code for codes in replies for code in codes)

    async def send_one(self, smallest: int) -> str:
        """Let a client send a letter of that size at least; return the last reply."""
        self.load.smallest, before = smallest, self.load.smallest
        async with asyncio.timeout(PATIENCE), self.relay.client() as peer:
            await peer.ask("EHLO load")
            reply = await self.load.send(peer)
        self.load.smallest = before
        return reply

    async def send_until_the_end(self) -> None:
        """Let twenty clients send until the relay is gone."""
        self.load.press(self.relay)
        await self.load.ended()

    async def send_until_refused(self) -> int:
        """Let one client send until a letter is refused for want of room; return how many were taken."""
        count = 0
        async with asyncio.timeout(PATIENCE), self.relay.client() as peer:
            await peer.ask("EHLO load")
            while (reply := await self.load.send(peer)).startswith("250 "):
                count += 1
            assert reply.startswith("452 4.3.1 "), reply
        return count

    async def serves(self) -> None:
        """Check that a client gets answers to all that does not touch the disk."""
        async with asyncio.timeout(PATIENCE), self.relay.client() as peer:
            reply = await peer.ask(
                "EHLO load", "NOOP", "MAIL FROM:<a@load.test>", "RCPT TO:<a@sink.test>", "RSET"
            )
            assert reply.startswith("250 ")

    async def taken(self, count: int = 1) -> None:
        """Wait until the next hop has so many letters before it."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sink.transfers) < count:
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Wait until all that is in the queue has been tried and deferred."""
        async with asyncio.timeout(PATIENCE):
            while any(
                recipient["state"] != "deferred"
                for message in await self.relay.queue()
                for recipient in message["recipients"]
            ):
                await asyncio.sleep(0.05)

    async def empty(self) -> None:
        """Wait until the queue is empty."""
        async with asyncio.timeout(PATIENCE):
            while (reply := self.ask("list", limit=1)) != {"ok": True, "messages": []}:
                assert reply["ok"], reply
                self.ask("retry")
                await asyncio.sleep(0.05)

    @property
    def contents(self) -> Path:
        """The folder of large contents."""
        return self.relay.queue_path.with_name("queue.db.content")

    def ask(self, command: str, **options: object) -> dict[str, object]:
        """Ask the relay's control socket."""
        return request(self.relay.queue_path, {"command": command, **options})

    def copies(self) -> Counter[Pair]:
        """Return how often each letter came to each recipient; it must be as it was sent."""
        counts: Counter[Pair] = Counter()
        for transfer in self.sink.transfers:
            assert transfer.digest == self.load.letters[transfer.sender].digest
            assert self.load.ids.setdefault(transfer.queue_id, transfer.sender) == transfer.sender
            counts.update((transfer.sender, recipient) for recipient in transfer.recipients)
        return counts

    def check(self) -> None:
        """Check that what was promised arrived, once, and nothing else did."""
        assert self.copies() == Counter(self.load.promised)


@asynccontextmanager
async def house(
    folder: Path, disk: Path | None = None, mood: Mood = Mood.UP, retry: str = "1m"
) -> AsyncIterator[House]:
    """Run a relay, its queue in a folder of its own or on a disk."""
    async with Sink(random.Random(1), mood) as sink:
        made = House(folder, disk or folder, sink, retry)
        async with made.relay:
            yield made


@asynccontextmanager
async def trouble(relay: Service, *injections: str, file: Path | None = None) -> AsyncIterator[Path]:
    """Let system calls fail or take long, by ``strace -e inject``; yield its record.

    It is calls on the queue's file and its log, or else on one file or folder.
    """
    record = relay.config.with_name("calls")
    calls = ",".join(injection.split(":")[0] for injection in injections)
    options = [option for injection in injections for option in ("-e", f"inject={injection}")]
    concerned = [file] if file else [relay.queue_path, f"{relay.queue_path}-wal"]
    files = [option for path in concerned for option in ("-P", path)]
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-p", str(relay.pid), "-o", record, "-e", f"trace={calls}"),
        *(*options, *files),
        stderr=PIPE,
    )
    try:
        assert tracer.stderr
        async with asyncio.timeout(PATIENCE):
            while b" attached" not in (line := await tracer.stderr.readline()):
                assert line.startswith(b"strace: Requested path"), line
        yield record
    finally:
        with suppress(ProcessLookupError):
            tracer.send_signal(signal.SIGINT)
        await tracer.communicate()


@contextmanager
def small_disk(folder: Path, size: str, name: str = "disk") -> Iterator[Path]:
    """Mount a file system of its own."""
    disk = folder / name
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, name: str, leave: int = 0) -> Path:
    """Fill a disk but for so many bytes; return the file that does it."""
    ballast = disk / name
    with ballast.open("wb") as file:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize) > leave:
            file.write(b"x" * max(1, free - leave))
            file.flush()
    return ballast
