"""How many messages a second a server accepts, and passes on, and what CPU and memory that takes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from bench.load import RECIPIENT, Load, Sink
from bench.machine import DiskUse, Others, PeakMemory, device_of, syncs_per_second
from bench.servers import NEXT_HOP, Server

Record = dict[str, Any]
"""One line of the results."""
_BIG = 1_000_000
"""Bytes above which no message is sent just to warm up."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is sent to a server in one run."""

    name: str
    load: Load
    is_in_short: bool = False
    """Whether the short form of the comparison has it."""


WORKLOADS = (
    Workload("1 KB, 1 session, kept", Load(1, 1000, 3000)),
    Workload("1 KB, 10 sessions, kept", Load(10, 1000, 5000), is_in_short=True),
    Workload("1 KB, 50 sessions, kept", Load(50, 1000, 5000)),
    Workload("1 KB, 1 session, fresh", Load(1, 1000, 2000, keeps=False)),
    Workload("1 KB, 10 sessions, fresh", Load(10, 1000, 4000, keeps=False), is_in_short=True),
    Workload("1 KB, 50 sessions, fresh", Load(50, 1000, 4000, keeps=False)),
    Workload("10 KB, 10 sessions, kept", Load(10, 10_000, 4000)),
    Workload("100 KB, 10 sessions, kept", Load(10, 100_000, 2000), is_in_short=True),
    Workload("10 MB, 4 sessions, kept", Load(4, 10_000_000, 40)),
)


def measure_rates(server: Server, load: Load) -> Record:
    """Send a load through a server that runs; return the figures."""
    device = device_of(server.spool)
    with Sink(NEXT_HOP) as sink:
        warm = 0 if load.size > _BIG else min(2 * load.sessions, load.messages)
        if warm:
            replace(load, messages=warm, recipient=RECIPIENT).send(server.port)
            sink.wait(warm)
            time.sleep(0.3)
        syncs = syncs_per_second(server.spool)
        others, cpu, disk = (
            Others.now(server.group.path.parent),
            server.group.cpu_seconds(),
            DiskUse.now(device),
        )
        with PeakMemory(server.group) as memory:
            began = time.monotonic()
            accept_seconds = load.send(server.port)
            sink.wait(warm + load.messages)
            seconds = time.monotonic() - began
            foreign = others.share()
            time.sleep(0.3)  # for what comes after delivery: the outcome, the log
        return {
            "messages": load.messages,
            "accept_per_s": load.messages / accept_seconds,
            "end_to_end_per_s": load.messages / seconds,
            "cpu_ms": 1000 * (server.group.cpu_seconds() - cpu) / load.messages,
            "peak_memory": memory.most,
            "flushes": (DiskUse.now(device).flushes - disk.flushes) / load.messages,
            "syncs_per_s": syncs,
            "others": foreign,
        }


def run_workload(server: Server, load: Load) -> Record:
    """Start a server with an empty queue, measure it under a load, and stop it."""
    server.set_up()
    start_seconds = server.start()
    try:
        time.sleep(1.0)
        return {"start_s": start_seconds, "idle_memory": server.group.memory(), **measure_rates(server, load)}
    finally:
        server.stop()
