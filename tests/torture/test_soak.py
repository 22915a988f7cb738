"""Hours of mixed traffic with faults: what the relay takes of the machine stays as it was at the start."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
import time
from dataclasses import dataclass, fields
from pathlib import Path

import trustme

from tests.support.authority import Authority
from tests.support.service import PATIENCE, Service, find_flaw
from tests.support.smtp_server import ScriptedServer
from tests.torture.conftest import Figure
from tests.torture.soak_load import UP, Traffic

SITE = Path(__file__).parent / "soak_site"
SEED = 19820801
FEW_ROUNDS, MANY_ROUNDS = 2, 8
"""Bursts of traffic; after each the relay comes to rest and is measured. The first one warms it up."""
SHORT, LONG = 8.0, 3600.0
"""Seconds of traffic."""
MOST_GROWTH = 24 * 1024
"""KiB by which memory may grow from the first rest to the last: arenas of malloc, caches of SQLite."""
MOST_WAITING = 64 * 1024 * 1024
"""Bytes of the content that may have waited at once: the file does not shrink, but is used again."""
MOST_WORKERS = (os.cpu_count() or 1) + 4
"""Threads that asyncio keeps for work with files, once it had use for them."""
HISTORY_BYTES = 4096
"""Bytes of the database that a finished message may take: its history, until queue.history is over."""


@dataclass(frozen=True)
class Use:
    """What a relay at rest takes of the machine."""

    memory_kib: int
    files: int
    threads: int
    tasks: int
    database_bytes: int
    wal_bytes: int
    content_files: int


async def measure(relay: Service, tasks: Path) -> Use:
    """Ask the system, and the relay itself for its tasks."""
    process = Path("/proc", str(relay.pid))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    tasks.unlink(missing_ok=True)
    os.kill(relay.pid, signal.SIGUSR2)
    async with asyncio.timeout(PATIENCE):
        while not tasks.exists():
            await asyncio.sleep(0.01)
    path = relay.queue_path
    return Use(
        memory_kib=int(status["VmRSS"].split()[0]),
        files=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        tasks=int(tasks.read_text()),
        database_bytes=path.stat().st_size,
        wal_bytes=path.with_name(f"{path.name}-wal").stat().st_size,
        content_files=len(list(path.with_name(f"{path.name}.content").iterdir())),
    )


async def come_to_rest(relay: Service, traffic: Traffic, tasks: Path, most: Use | None) -> Use:
    """Wait until the queue is empty and connections are closed; with ``most``, until no more is in use."""
    await relay.command("queue", "release", "--all")
    deadline = time.monotonic() + 4 * PATIENCE
    while await relay.queue():
        assert time.monotonic() < deadline, await relay.queue()
        await relay.command("queue", "retry", "--all")
        await asyncio.sleep(0.2)
    traffic.collect()
    while True:
        use = await measure(relay, tasks)
        if most is None or (use.files <= most.files and use.tasks <= most.tasks):
            return use
        assert time.monotonic() < deadline, f"never closed: {use}, at first {most}"
        await asyncio.sleep(0.2)


async def test_what_the_relay_takes_stays_as_it_was(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", LONG if is_whole else SHORT))
    rounds = MANY_ROUNDS if is_whole else FEW_ROUNDS
    tasks = tmp_path / "tasks"
    authority = Authority(trustme.CA(), tmp_path)
    chain, key = authority.files("localhost")
    trusting = ssl.create_default_context()
    authority.ca.configure_trust(trusting)
    async with ScriptedServer() as steady, ScriptedServer(UP) as shaky:
        toml = f"""
            queue = {{retry = ["1s", "2s"]}}
            listen = [{{address = "127.0.0.1:0", tls = "starttls"}}]
            tls = {{certificate = "{chain}", key = "{key}"}}
            [transport]
            "steady.test" = "[127.0.0.1]:{steady.port}"
            "shaky.test" = "[127.0.0.1]:{shaky.port}"
        """
        under = ("env", f"PYTHONPATH={SITE}", f"SOAK_TASKS={tasks}")
        async with Service(tmp_path, toml, under=under) as relay:
            traffic = Traffic(relay, steady, shaky, trusting, random.Random(SEED))
            at_start = await measure(relay, tasks)
            uses = []
            for _ in range(rounds):
                await traffic.run(seconds / rounds)
                uses.append(await come_to_rest(relay, traffic, tasks, at_start))
                assert not (flaw := find_flaw(relay.log)), flaw
                assert "never retrieved" not in relay.log
                relay.log = ""  # an hour of it is too long for a test
            assert await relay.stop() == 0
            assert "never retrieved" not in relay.log
    first, last = uses[0], uses[-1]
    for name in (field.name for field in fields(Use)):
        figure(
            "soak",
            f"{name}, at start and at each rest",
            str([getattr(use, name) for use in (at_start, *uses)]),
        )
    for what in ("messages", "duplicates", "encrypted", "vanished", "hangups"):
        figure("soak", what, getattr(traffic, what))
    assert last.memory_kib - first.memory_kib < MOST_GROWTH, uses
    assert last.threads <= at_start.threads + MOST_WORKERS, uses
    assert last.content_files == 0, uses
    assert last.database_bytes < MOST_WAITING + HISTORY_BYTES * traffic.messages, uses
    assert last.wal_bytes < 16 * 1024 * 1024, uses
