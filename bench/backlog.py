"""A server in whose queue many messages wait: what new mail costs, memory, start, listing, and the drain."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence

from bench.isolation import RigError
from bench.load import Load, Sink
from bench.machine import PeakMemory
from bench.rates import Record, measure_rates
from bench.servers import LATER, LATER_HOP, Server

_SIZE = 1000
_PASSING = Load(10, _SIZE, 2000)
"""What goes through beside the messages that wait."""


def measure_backlog(server: Server, depths: Sequence[int], passing: Load = _PASSING) -> Iterator[Record]:
    """Yield the figures at each number of waiting messages, which rise, and at the end those of the drain."""
    server.set_up()
    server.start()
    try:
        waiting = 0
        for depth in depths:
            figures = _fill(server, depth - waiting) if depth > waiting else {}
            waiting = depth
            yield {"kind": "backlog", "depth": depth, **figures, **_look(server, passing)}
        if waiting:
            yield {"kind": "drain", "depth": waiting, **_drain(server, waiting)}
    finally:
        server.stop()


def _fill(server: Server, count: int) -> Record:
    """Have messages deferred whose next hop does not answer."""
    cpu = server.group.cpu_seconds()
    with PeakMemory(server.group) as memory:
        seconds = Load(50, _SIZE, count, recipient=LATER).send(server.port)
        server.group.settle()
    return {
        "fill_per_s": count / seconds,
        "fill_cpu_ms": 1000 * (server.group.cpu_seconds() - cpu) / count,
        "fill_peak_memory": memory.most,
    }


def _look(server: Server, passing: Load) -> Record:
    rates = measure_rates(server, passing)
    server.group.settle()
    idle_memory = server.group.memory()
    server.stop()
    start_seconds = server.start()
    server.group.settle()
    return {
        **rates,
        "idle_memory": idle_memory,
        "start_s": start_seconds,
        "started_memory": server.group.memory(),
        "first_page_s": _first_page_seconds(server),
    }


def _first_page_seconds(server: Server) -> float:
    """Return how long the list of the queue takes to show its first line."""
    began = time.monotonic()
    with subprocess.Popen(
        server.list_command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.monotonic() - began
        process.kill()
    return seconds


def _drain(server: Server, count: int) -> Record:
    cpu = server.group.cpu_seconds()
    with Sink(LATER_HOP) as sink, PeakMemory(server.group) as memory:
        began = time.monotonic()
        told = subprocess.run(server.flush_command(), capture_output=True, text=True, check=False)
        if told.returncode:
            raise RigError(f"{server.name} was not to be told to deliver: {told.stderr}")
        sink.wait(count)
        seconds = time.monotonic() - began
    server.group.settle()
    return {
        "drain_per_s": count / seconds,
        "cpu_ms": 1000 * (server.group.cpu_seconds() - cpu) / count,
        "peak_memory": memory.most,
    }
