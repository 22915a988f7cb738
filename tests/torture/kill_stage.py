"""One queue with a next hop, and a relay that is killed at a moment or a system call."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from relay.queue.control import request
from tests.support.service import PATIENCE, Service
from tests.torture.kill_at import SAID
from tests.torture.kill_letters import SMALLEST, Load, Pair, digest
from tests.torture.kill_sink import Mood, Sink

At = tuple[str, str]
"""A moment and a pattern: see kill_at.py."""
NEVER: At = ("never", "")


class Stage:
    """One queue with a next hop, and a relay that is killed at a moment."""

    def __init__(self, folder: Path, sink: Sink, other: Sink) -> None:
        """``other`` is the next hop of gone.test, and always well; nobody is there."""
        self.folder = folder
        self.sink = sink
        self.load = Load(random.Random(folder.name), ["a@sink.test", "b@sink.test"])
        self.settings = f'''
            [transport]
            "sink.test" = "[127.0.0.1]:{sink.port}"
            "load.test" = "[127.0.0.1]:{sink.port}"
            "gone.test" = "[127.0.0.1]:{other.port}"
            [local]
            domains = ["house.test"]
            users = ["anne"]
            maildir = "{folder}/mail/{{user}}"
        '''
        self.relay = self.prepare(NEVER)

    def prepare(self, at: At) -> Service:
        """Return a relay that ends at a moment."""
        under = (sys.executable, Path(__file__).with_name("kill_at.py"), *at)
        self.relay = Service(self.folder, self.settings, under=() if at == NEVER else under)
        return self.relay

    def prepare_for_call(self, call: str, at: int) -> Service:
        """Return a relay that is killed at a system call, the so-manieth of a thread."""
        inject = f"inject={call}:signal=KILL:when={at}"
        under = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        self.relay = Service(self.folder, self.settings, under=under)
        return self.relay

    async def ended(self) -> None:
        """See to it that the relay is gone, however far it came."""
        lock = self.folder / "queue.db.lock"
        if not (lock.exists() and lock.read_text()):
            self.relay._under = ()  # it has no number, and strace is all there is to end
        with suppress(AssertionError):
            await self.relay.kill()

    async def send(self, recipients: Sequence[str], *, size: int = 0) -> bool:
        """Send a letter; return whether it was promised."""
        self.load.smallest, self.load.largest = (size // 2, size) if size else (SMALLEST, 2_000)
        sender, content = self.load.write(recipients)
        reply = ""
        with suppress(ConnectionError):
            reply = await self.relay.send(content.replace(b"\r\n.", b"\r\n.."), *recipients, sender=sender)
        if reply.startswith("250 "):
            self.load.note(sender, reply)
        return reply.startswith("250 ")

    async def died(self) -> None:
        """Wait until the relay has killed itself."""
        await self.relay.logged(SAID)
        await self.relay.kill()

    async def finish(self) -> None:
        """Let a whole life of the relay empty the queue."""
        self.sink.mood = Mood.UP
        async with self.prepare(NEVER) as relay:
            await self.empty(relay)
        assert not self.files()

    def files(self) -> list[str]:
        """Return the names of the files of large contents."""
        return [path.name for path in (self.folder / "queue.db.content").iterdir()]

    async def empty(self, relay: Service) -> None:
        """Wait until queue and maildrop are empty."""
        maildrop = self.folder / "maildrop"
        async with asyncio.timeout(PATIENCE):
            while [path for path in maildrop.iterdir() if not path.name.startswith(".")] or request(
                relay.queue_path, {"command": "list", "limit": 1}
            )["messages"]:
                request(relay.queue_path, {"command": "retry"})
                await asyncio.sleep(0.05)

    def copies(self) -> Counter[Pair]:
        """Return how often each letter reached each recipient, by the next hop or into a mailbox."""
        counts: Counter[Pair] = Counter()
        for transfer in self.sink.transfers:
            if transfer.sender:
                assert transfer.digest == self.load.letters[transfer.sender].digest
            counts.update((transfer.sender, recipient) for recipient in transfer.recipients)
        for path in [*self.folder.glob("mail/anne/new/*"), *self.folder.glob("mail/anne/cur/*")]:
            content = path.read_bytes().replace(b"\n", b"\r\n").partition(b"\r\nMessage-ID:")[2]
            found = [
                sender
                for sender, letter in self.load.letters.items()
                if letter.digest == digest(b"Message-ID:" + content)
            ]
            counts.update((sender, "anne@house.test") for sender in found)
        return counts


async def be_killed_at_a_call(stage: Stage, call: str, at: int) -> bool:
    """Let the relay be killed at a system call, the so-manieth of a thread; return whether it was not."""
    relay = stage.prepare_for_call(call, at)
    is_promised = survives = False
    with suppress(AssertionError):  # it may die before it answers
        await relay.start()
        is_promised = await stage.send(["a@sink.test", "anne@house.test"], size=300_000)
        await relay.logged(": removed")
        survives = True
    await stage.ended()
    await stage.finish()
    copies = stage.copies()
    assert max(copies.values(), default=0) <= 2
    assert copies["m0@load.test", "anne@house.test"] <= 1
    if is_promised:
        assert set(copies) == {("m0@load.test", "a@sink.test"), ("m0@load.test", "anne@house.test")}
    return survives
