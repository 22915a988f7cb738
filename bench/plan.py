"""Which figures are taken of which servers, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.backlog import measure_backlog
from bench.durability import prove_durability
from bench.footprint import measure_connections, measure_idleness, measure_memory, measure_writing
from bench.isolation import RigError, mount_disk
from bench.latency import measure_latency
from bench.load import Load
from bench.machine import wait_quiet
from bench.rates import WORKLOADS, Record, run_workload
from bench.servers import Postfix, Relay, Server, TunedPostfix

DISK_SIZE = 2_000_000_000
"""Bytes of the file system on which writing is counted; the disk below gives what is written."""
DEPTHS = (0, 10_000, 100_000)
"""Messages that wait in the queue."""
SHORT_SCALE = 0.2

_ALL = (Relay, Postfix, TunedPostfix)
_BOTH = (Relay, TunedPostfix)


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement, of each of some servers in turn."""

    name: str
    servers: tuple[type[Server], ...]
    measure: Callable[[Server], Iterable[Record]]
    needs_disk: bool = False
    """Whether the queue is to lie on a file system of its own."""


def comparison(scale: float, *, short: bool, text: str = "") -> list[Step]:
    """Return the rates of all servers at each workload whose name has ``text``."""
    chosen = [w for w in WORKLOADS if text in w.name and (w.is_in_short or not short)]
    return [Step(w.name, _ALL, partial(_rates, w.name, _scaled(w.load, scale))) for w in chosen]


def targets(scale: float, depth: int) -> list[Step]:
    """Return all else; ``depth`` is the longest queue."""
    depths = [number for number in DEPTHS if number < depth] + [depth]
    passing = Load(10, 1000, max(20, round(2000 * scale)))
    rare = max(1, round(5 * scale))
    return [
        Step("durability", _BOTH, lambda server: [prove_durability(server)]),
        Step("latency", _BOTH, lambda server: measure_latency(server, max(20, round(400 * scale)), rare)),
        Step("memory", _BOTH, lambda server: measure_memory(server, scale)),
        Step("connections", (Relay,), lambda server: measure_connections(server, scale)),
        Step("idleness", _BOTH, lambda server: measure_idleness(server, scale), needs_disk=True),
        Step("writing", _BOTH, lambda server: measure_writing(server, scale), needs_disk=True),
        Step("backlog", _BOTH, lambda server: measure_backlog(server, depths, passing)),
    ]


def run(
    steps: Sequence[Step],
    rounds: int,
    servers: Sequence[str],
    folder: Path,
    group: Path,
    quiet: float,
    root: Path | None,
) -> Iterator[Record]:
    """Yield the results: in each round each step, of one server after the other.

    ``servers`` are the names of those to measure, ``quiet`` the seconds that the machine is waited for,
    ``root`` is the file system that the relay is taken from.
    """
    disk = folder / "disk"
    for number in range(rounds):
        for step in steps:
            for kind in step.servers:
                if kind.name not in servers:
                    continue
                head = {"round": number, "server": kind.name, "step": step.name}
                wait_quiet(group, quiet)
                try:
                    if step.needs_disk and not disk.exists():
                        mount_disk(disk, DISK_SIZE)
                    server = kind(folder, disk if step.needs_disk else folder, group, root)
                    for record in step.measure(server):
                        yield {**head, **record}
                except RigError as error:
                    yield {**head, "kind": "error", "error": str(error)}


def _rates(name: str, load: Load, server: Server) -> Iterator[Record]:
    yield {"kind": "rate", "workload": name, **run_workload(server, load)}


def _scaled(load: Load, scale: float) -> Load:
    return replace(load, messages=max(2 * load.sessions, round(load.messages * scale)))
