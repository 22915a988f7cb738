"""Damage to the files of a queue, and what the relay makes of it.

It may refuse to start, with a way out and the files as they were. Or it starts: then each letter arrives, or
the log says that the queue is damaged. Where neither is so, mail was lost unseen.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.support.service import PATIENCE, Service
from tests.torture.kill_letters import Load
from tests.torture.kill_sink import Mood, Sink

LETTERS = 12
PAGE = 4096
WAYS_OUT = (
    "all beside it whose name begins like its own",
    "name another file in queue.path",
    "see that this user may write",
)


class Fate(Enum):
    """What became of the queue."""

    REFUSED = "refused to start, and said the way out"
    WHOLE = "started, and all letters arrived"
    TOLD = "started, and the log told of the damage"
    ALTERED = "started, and a letter arrived with the damage in its content"
    LOST = "started, and letters were gone without a word"


@dataclass
class Damaged:
    """A queue whose letters were all acknowledged."""

    folder: Path
    load: Load

    @classmethod
    async def make(cls, folder: Path, *, killed: bool, sizes: tuple[int, int] = (1_000, 30_000)) -> Damaged:
        """Fill a queue; after a kill most of it is still in the log, after a stop all is in the file."""
        folder.mkdir()
        load = Load(random.Random(1), ["a@sink.test"], smallest=sizes[0], largest=sizes[1])
        async with Sink(random.Random(1), Mood.DOWN) as sink:
            relay = make_relay(folder, sink)
            async with relay:
                async with relay.client() as peer:
                    await peer.ask("EHLO load")
                    for _ in range(LETTERS):
                        assert (await load.send(peer)).startswith("250 ")
                await relay.logged("status=deferred", LETTERS)
                if killed:
                    await relay.kill()
        return cls(folder, load)

    @property
    def file(self) -> Path:
        """The queue."""
        return self.folder / "queue.db"

    @property
    def log(self) -> Path:
        """Its write-ahead log."""
        return self.folder / "queue.db-wal"

    def copy(self, folder: Path) -> Damaged:
        """Return a copy of it."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("*.sock", ".wake", "*.reserve"))
        return Damaged(folder, self.load)

    async def try_out(self) -> Fate:
        """Start the relay on it, with a next hop that takes all."""
        async with Sink(random.Random(1), Mood.UP) as sink:
            relay = make_relay(self.folder, sink)
            before = {path: path.read_bytes() for path in (self.file, self.log) if path.is_file()}
            try:
                await relay.start()
            except AssertionError:
                with suppress(AssertionError):
                    await relay.stop()
                refused = re.search(r"^relay: .*", relay.log, re.MULTILINE)
                assert refused, relay.log
                assert any(way in refused[0] for way in WAYS_OUT), refused[0]
                assert self.file.read_bytes() == before[self.file]
                return Fate.REFUSED
            try:
                return await self._watch(relay, sink)
            finally:
                await relay.stop()

    async def _watch(self, relay: Service, sink: Sink) -> Fate:
        """Wait until all letters are there, the log tells of the damage, or nothing is left to wait for."""
        wanted = set(self.load.letters)
        async with asyncio.timeout(PATIENCE):
            while not self._is_told(relay):
                came = {transfer.sender for transfer in sink.transfers}
                if wanted <= came:
                    is_right = all(t.digest == self.load.letters[t.sender].digest for t in sink.transfers)
                    return Fate.WHOLE if is_right else Fate.ALTERED
                listed = await relay.command("queue", "list", "--json")
                if (
                    listed.status == 0
                    and listed.out.strip() == "[]"
                    and not wanted <= {transfer.sender for transfer in sink.transfers}
                ):
                    return Fate.TOLD if self._is_told(relay) else Fate.LOST
                await relay.command("queue", "retry", "--all")
        return Fate.TOLD

    def _is_told(self, relay: Service) -> bool:
        return "is damaged" in relay.log


def make_relay(folder: Path, sink: Sink) -> Service:
    """Return a relay with its queue in the folder, whose only next hop is the sink."""
    return Service(folder, f'relayhost = "[127.0.0.1]:{sink.port}"')


@dataclass(frozen=True)
class Damage:
    """Something that befalls the files, and what must come of it."""

    do: Callable[[Damaged], object]
    fate: Fate
    is_in_log: bool = False
    """Whether the letters are in the write-ahead log, as after a kill."""


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _become_foreign(queue: Damaged) -> None:
    queue.file.unlink()
    db = sqlite3.connect(queue.file)
    db.executescript("CREATE TABLE photo (name TEXT); INSERT INTO photo VALUES ('a cat')")
    db.close()


def _half(queue: Damaged, pages: float) -> None:
    os.truncate(queue.file, int(pages * PAGE))


def _put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _put_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


GARBAGE = random.Random(2).randbytes(PAGE)
CONTENT_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda path: path.unlink(), r"is no longer in the queue"),
    "empty": (lambda path: os.truncate(path, 0), r"is damaged \(0 bytes, not \d+\)"),
    "short": (lambda path: os.truncate(path, path.stat().st_size - 1), r"is damaged \(\d+ bytes, not \d+\)"),
    "longer": (
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        r"is damaged \(\d+ bytes, not \d+\)",
    ),
    "a folder": (_put_folder, "Is a directory"),
    "a link to itself": (_put_loop, "symbolic links"),
}
"""What may befall the file of a large content, and what the log says of it. None of these is sent."""
DAMAGES = {
    "a header of garbage": Damage(lambda queue: _overwrite(queue.file, 0, GARBAGE[:100]), Fate.REFUSED),
    "a first page of garbage": Damage(lambda queue: _overwrite(queue.file, 0, GARBAGE), Fate.REFUSED),
    "a first page of garbage behind its header": Damage(
        lambda queue: _overwrite(queue.file, 100, GARBAGE[100:]), Fate.REFUSED
    ),
    "cut after half of it": Damage(lambda queue: _half(queue, 10), Fate.REFUSED),
    "cut within a page": Damage(lambda queue: _half(queue, 10.5), Fate.REFUSED),
    "cut after its first page": Damage(lambda queue: _half(queue, 1), Fate.REFUSED),
    "a text": Damage(lambda queue: queue.file.write_text("this is a shopping list\n" * 500), Fate.REFUSED),
    "the database of another program": Damage(_become_foreign, Fate.REFUSED),
    "a file of zeros": Damage(lambda queue: queue.file.write_bytes(bytes(20 * PAGE)), Fate.REFUSED),
    "all pages but the first of garbage": Damage(
        lambda queue: _overwrite(queue.file, PAGE, GARBAGE * 20), Fate.REFUSED
    ),
    "an empty file": Damage(lambda queue: os.truncate(queue.file, 0), Fate.LOST),
    "a log whose end is cut": Damage(
        lambda queue: os.truncate(queue.log, queue.log.stat().st_size // 2), Fate.LOST, is_in_log=True
    ),
    "a log with garbage behind its end": Damage(
        lambda queue: queue.log.write_bytes(queue.log.read_bytes() + GARBAGE), Fate.WHOLE, is_in_log=True
    ),
    "a log that was deleted": Damage(lambda queue: queue.log.unlink(), Fate.LOST, is_in_log=True),
}
"""What is LOST here nobody can notice: the files look as they would had the letters never come."""
IN_THE_LOG = {
    "an empty file beside a log": Damage(
        lambda queue: os.truncate(queue.file, 0), Fate.REFUSED, is_in_log=True
    ),
    "a log whose header is garbage": Damage(
        lambda queue: _overwrite(queue.log, 0, GARBAGE[:32]), Fate.REFUSED, is_in_log=True
    ),
    "a log with garbage in its middle": Damage(
        lambda queue: _overwrite(queue.log, queue.log.stat().st_size // 2, GARBAGE),
        Fate.REFUSED,
        is_in_log=True,
    ),
}
"""Damage that SQLite takes for the end of the log: it starts, without the mail behind that."""


OFTEN = (
    "a first page of garbage",
    "cut after half of it",
    "the database of another program",
    "a log with garbage behind its end",
)
"""Those of the short form."""


def damage_pages(queue: Damaged, folder: Path, every: int) -> Iterator[Damaged]:
    """Yield the queue again and again, each time with another page overwritten: by garbage, zeros, ones."""
    pages = queue.file.stat().st_size // PAGE
    for number, page in enumerate(range(1, pages, every)):
        copy = queue.copy(folder / f"page{page}")
        _overwrite(copy.file, page * PAGE, (GARBAGE, bytes(PAGE), b"\xff" * PAGE)[number % 3])
        yield copy
