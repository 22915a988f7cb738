"""Kills and stops under load: what was acknowledged reaches everybody, and repeats have their reason."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from relay.queue import log
from relay.queue.contents import Contents
from relay.queue.control import request
from tests.support.service import Service, find_flaw
from tests.torture.conftest import Figure
from tests.torture.kill_letters import SESSIONS, Load, Pair, digest
from tests.torture.kill_old import fill_old_queue, start_and_be_killed
from tests.torture.kill_power import CONTENTS, Disk, replay, strace
from tests.torture.kill_sink import TRACE, Mood, Sink, Transfer
from tests.torture.kill_stage import Stage, be_killed_at_a_call
from tests.torture.kill_steps import OFTEN, PLAYS

SEED = 20261124
LONGEST_START = 0.6
"""The same, from the start of the process, for those lives that end while it starts."""
DRAIN_SECONDS = 300.0
STOP_SECONDS = 8.0
RETRY = "1s"
HOPS = {"up": Mood.UP, "down": Mood.DOWN, "half": Mood.HALF}
ADDRESSES = [f"{user}@{hop}.test" for hop in HOPS for user in ("a", "b")]


@dataclass
class Trial:
    """One queue, its clients and its next hops; what happens to it, and the verdict."""

    relay: Service
    load: Load
    sinks: dict[str, Sink]
    chance: random.Random
    longest_life: float = 1.0
    """Seconds from the moment the relay answers to its end, at most."""
    life: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    """The life in which a message was logged as removed, which is after the commit of its last outcome."""
    ends: dict[int, float] = field(default_factory=dict)
    """When each life ended, on the monotonic clock."""
    _seen: int = 0

    async def live_and_be_killed(self) -> None:
        """Start the relay, let clients send, kill it at a random instant."""
        self._begin_life()
        if self.chance.random() < 0.15:
            await self._be_killed_at_the_start()
        else:
            await self._start()
            await asyncio.sleep(self.chance.uniform(0, self.longest_life))
            self.ends[self.life] = time.monotonic()
            await self.relay.kill()
        await self._end_life()

    async def live_and_be_stopped(self) -> float:
        """The same with SIGTERM; return how many seconds the end took."""
        self._begin_life()
        await self._start()
        async with self.relay.client() as silent:
            assert (await silent.ask(*self.load.begin())).startswith("354 ")
            silent.send(b"and then nothing\r\n")
            await asyncio.sleep(self.chance.uniform(0, self.longest_life))
            asked_at = time.monotonic()
            assert await self.relay.stop() == 0
            seconds = time.monotonic() - asked_at
        await self._end_life()
        return seconds

    async def drain(self) -> None:
        """Let the next hops be well, and wait until the queue is empty."""
        for sink in self.sinks.values():
            sink.mood = Mood.UP
        self._begin_life()
        await self.relay.start()
        request(self.relay.queue_path, {"command": "retry"})
        async with asyncio.timeout(DRAIN_SECONDS):
            while request(self.relay.queue_path, {"command": "list", "limit": 1})["messages"]:
                await asyncio.sleep(0.1)
        await self.relay.stop()
        await self._end_life()

    def transfers(self) -> dict[Pair, list[Transfer]]:
        """Return what the next hops took, by letter and recipient, in the order of time."""
        found = defaultdict(list)
        for sink in self.sinks.values():
            for transfer in sink.transfers:
                for recipient in transfer.recipients:
                    found[transfer.sender, recipient].append(transfer)
        return found

    async def _start(self) -> None:
        await self.relay.start()
        request(self.relay.queue_path, {"command": "retry"})
        self.load.press(self.relay)

    def _begin_life(self) -> None:
        self.life += 1
        self._seen = len(self.relay.log)
        for sink in self.sinks.values():
            sink.life = self.life

    async def _end_life(self) -> None:
        await self.load.ended()
        for sink in self.sinks.values():
            await sink.ended()
        assert not (flaw := find_flaw(self.relay.log[self._seen :])), flaw
        for queue_id in re.findall(r" ([0-9A-F]+): removed\n", self.relay.log[self._seen :]):
            assert self.removed.setdefault(queue_id, self.life) == self.life

    async def _be_killed_at_the_start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "serve", "--config", self.relay.config),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await asyncio.sleep(self.chance.uniform(0, LONGEST_START))
        self.ends[self.life] = time.monotonic()
        process.kill()
        assert await process.wait() == -signal.SIGKILL


@dataclass
class Verdict:
    """What the letters came to."""

    promised: int
    copies: int
    unsaid: int = 0
    """Repeats whose first reply was never written."""
    unseen: int = 0
    """Repeats whose first reply was written, and not seen to be read."""
    unrecorded: int = 0
    """Repeats whose first reply was seen to be read: the kill came before the outcome was committed."""
    longest_unrecorded: float = 0.0
    """Seconds between the sign that such a reply was read and the kill, at most."""


def judge(trial: Trial) -> Verdict:
    """Check that nothing is lost, nothing altered, and that every repeat has its reason."""
    found = trial.transfers()
    load = trial.load
    lost = load.promised - found.keys()
    assert not lost, f"{len(lost)} lost: {sorted(lost)[:5]}"
    verdict = Verdict(len(load.promised), sum(map(len, found.values())))
    for (sender, recipient), copies in found.items():
        assert {copy.digest for copy in copies} == {load.letters[sender].digest}, sender
        assert recipient in load.letters[sender].recipients
        for copy in copies:
            assert load.ids.setdefault(copy.queue_id, sender) == sender, "an id of two letters"
        for first, again in pairwise(copies):
            removed = trial.removed.get(first.queue_id)
            assert removed is None or again.life <= removed, f"sent again though recorded: {first} {again}"
            if not first.answered_at:
                verdict.unsaid += 1
                continue
            assert first.life < again.life, f"repeated without a crash: {first} {again}"
            if not first.read_at:
                verdict.unseen += 1
                continue
            assert first.life in trial.ends, f"repeated without a kill: {first} {again}"
            verdict.unrecorded += 1
            window = trial.ends[first.life] - first.read_at
            verdict.longest_unrecorded = max(verdict.longest_unrecorded, window)
    return verdict


class Rig(AsyncExitStack):
    """Makes trials."""

    async def trial(self, folder: Path, seed: int, hops: dict[str, Mood] = HOPS) -> Trial:
        chance = random.Random(seed)
        folder.mkdir()
        sinks = {name: await self.enter_async_context(Sink(chance, mood)) for name, mood in hops.items()}
        routes = [f'"{name}.test" = "[127.0.0.1]:{sink.port}"' for name, sink in sinks.items()]
        toml = "\n".join([f'queue = {{ retry = ["{RETRY}"] }}', "[transport]", *routes])
        addresses = [f"{user}@{name}.test" for name in hops for user in ("a", "b")]
        return Trial(Service(folder, toml), Load(chance, addresses), sinks, chance)


async def test_kills_at_random_instants(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    rounds, kills, longest = (10, 20, 1.2) if is_whole else (1, 8, 0.4)
    for number in range(rounds):
        async with Rig() as rig:
            trial = await rig.trial(tmp_path / str(number), SEED + number)
            trial.longest_life = longest
            for _ in range(kills):
                await trial.live_and_be_killed()
            await trial.drain()
        verdict = judge(trial)
        assert verdict.promised > kills
        figure("kill", "kills", kills)
        _keep(figure, "kills", verdict)


HANGING = {"up": Mood.UP, "half": Mood.HALF, "hang": Mood.HANG}


async def test_stops_at_random_instants(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    """SIGTERM while next hops hang, and a client in the middle of a message does."""
    async with Rig() as rig:
        trial = await rig.trial(tmp_path / "queue", SEED, HANGING)
        seconds = [await trial.live_and_be_stopped() for _ in range(20 if is_whole else 1)]
        await trial.drain()
    verdict = judge(trial)
    assert max(seconds) < STOP_SECONDS
    assert (verdict.unseen, verdict.unrecorded) == (0, 0), verdict
    figure("kill", "stops", len(seconds))
    figure("kill", "longest stop, seconds", round(max(seconds), 1))
    _keep(figure, "stops", verdict)


@pytest.mark.needs("strace")
async def test_what_is_acknowledged_survives_a_power_loss(
    tmp_path: Path, is_whole: bool, figure: Figure
) -> None:
    """The files as they were synced at each acknowledgement hold all that was acknowledged so far."""
    record, chance = tmp_path / "calls", random.Random(SEED)
    hold = "[[header_checks]]\npattern = '^Message-ID:'\naction = 'HOLD'"
    relay = Service(tmp_path, hold, under=strace(record))
    load = Load(chance, ADDRESSES, largest=900_000)
    await relay.start()
    count = 15 if is_whole else 1

    async def send() -> None:
        async with relay.client() as peer:
            await peer.ask("EHLO load")
            for _ in range(count):
                assert (await load.send(peer)).startswith("250 ")

    await asyncio.gather(*(send() for _ in range(SESSIONS)))
    with suppress(AssertionError):  # strace may end in a way of its own
        await relay.kill()
    disk, acknowledged, losses = Disk(), [], 0
    for queue_id in replay(record, disk):
        acknowledged.append(queue_id)
        for loss in (None, chance):
            losses += 1
            left = tmp_path / str(losses)
            disk.lose_power(left, loss)
            _check_left(left / relay.queue_path.name, acknowledged, load)
            shutil.rmtree(left)
    assert len(acknowledged) == len(load.ids) == SESSIONS * count
    figure("kill", "acknowledgements after which power was lost", losses)
    figure("kill", "syncs for them", disk.syncs)
    figure("kill", "of them with a file", sum(folder == CONTENTS for folder, _ in disk.files))


@pytest.mark.parametrize("name", PLAYS)
async def test_a_kill_at_each_step(tmp_path: Path, name: str, is_whole: bool) -> None:
    if not (is_whole or name in OFTEN):
        pytest.skip("part of the long form")
    chance = random.Random(SEED)
    async with Sink(chance, Mood.UP) as sink, Sink(chance, Mood.UP) as other:
        await PLAYS[name](Stage(tmp_path, sink, other))


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["pwrite64", "write", "fdatasync", "fsync", "unlink"])
async def test_a_kill_at_every_write(tmp_path: Path, call: str, is_whole: bool, figure: Figure) -> None:
    """A large letter for a next hop and a mailbox; killed at the first such call, the second, and so on."""
    if not is_whole:
        pytest.skip("part of the long form")
    count, at, survives = 0, 1, False
    while not survives:
        chance, folder = random.Random(SEED), tmp_path / str(at)
        folder.mkdir()
        async with Sink(chance, Mood.UP) as sink, Sink(chance, Mood.UP) as other:
            survives = await be_killed_at_a_call(Stage(folder, sink, other), call, at)
        count += 1
        at += max(1, at // 8)
    figure("kill", f"kills at {call}", count - 1)


@pytest.mark.needs("strace")
async def test_a_kill_at_every_write_of_the_first_start_on_old_tables(
    tmp_path: Path, is_whole: bool, figure: Figure
) -> None:
    if not is_whole:
        pytest.skip("part of the long form")
    count, survives = 0, False
    while not survives:
        count += 1
        folder = tmp_path / str(count)
        folder.mkdir()
        async with Sink(random.Random(SEED), Mood.UP) as sink:
            stage = Stage(folder, sink, sink)
            fill_old_queue(stage)
            survives = await start_and_be_killed(stage, "pwrite64", count)
            await stage.finish()
            assert stage.copies() == Counter(stage.load.promised)
    figure("kill", "kills while old tables are brought forward", count - 1)


def _check_left(path: Path, acknowledged: Sequence[str], load: Load) -> None:
    """Check that a queue holds these messages: the last of them to the byte, the others in their size."""
    log.check(path)
    contents, db = Contents(path), sqlite3.connect(path)
    sizes = dict(db.execute("SELECT number, CASE WHEN content IS NULL THEN size END FROM message"))
    for queue_id in acknowledged:
        size = sizes[int(queue_id, 16)]
        assert size is None or contents.path(int(queue_id, 16)).stat().st_size == size
    last = acknowledged[-1]
    ((content,),) = db.execute("SELECT content FROM message WHERE number = ?", (int(last, 16),))
    content = contents.path(int(last, 16)).read_bytes() if content is None else content
    trace = TRACE.match(content)
    assert trace, content[:300]
    assert digest(content[trace.end() :]) == load.letters[load.ids[last]].digest
    db.close()


def _keep(figure: Figure, trial: str, verdict: Verdict) -> None:
    for name, value in dataclasses.asdict(verdict).items():
        figure("kill", f"{trial}: {name}", value)
