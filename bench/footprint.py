"""What a server needs: memory, wake-ups, bytes written to disk."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bench.load import Client, Load, Sink
from bench.machine import DiskUse, PeakMemory, device_of
from bench.rates import Record
from bench.servers import LATER, NEXT_HOP, Server

HEALTH_SECONDS = 30.0
"""How often Docker asks for the health (Dockerfile, HEALTHCHECK)."""


def measure_memory(server: Server, scale: float) -> Iterator[Record]:
    """Yield the memory when idle, under large messages, and with many idle connections."""
    server.set_up()
    server.start()
    try:
        time.sleep(2.0)
        yield _figure("idle_memory", server.group.memory())
        clients = Load(20, round(25_000_000 * min(1.0, scale)), 20)
        with Sink(NEXT_HOP) as sink, PeakMemory(server.group) as memory:
            clients.send(server.port)
            sink.wait(clients.messages)
        yield _figure("large_messages_memory", memory.most)
        server.group.settle()
        yield _figure("memory_after_large_messages", server.group.memory())
    finally:
        server.stop()


def measure_connections(server: Server, scale: float) -> Iterator[Record]:
    """Yield the memory with many connections that say nothing; Postfix has a process for each."""
    server.set_up()
    server.start()
    try:
        with ExitStack() as stack:
            for _ in range(round(1000 * min(1.0, scale))):
                stack.enter_context(Client(server.port))
            server.group.settle()
            yield _figure("idle_connections_memory", server.group.memory())
    finally:
        server.stop()


def measure_idleness(server: Server, scale: float) -> Iterator[Record]:
    """Yield how often a server wakes up and what it writes while 1,000 deferred messages wait.

    ``server.spool`` must be on a disk that nobody else writes to.
    """
    server.set_up()
    server.start()
    try:
        Load(10, 1000, round(1000 * min(1.0, scale)), recipient=LATER).send(server.port)
        server.group.settle()
        time.sleep(8.0)  # until connections are given up that are kept for a while
        _ask_health(server)  # the first time on a day marks the socket as used (mount(8), relatime)
        device = device_of(server.spool)
        os.sync()
        wakeups, disk, began = server.group.wakeups(), DiskUse.now(device), time.monotonic()
        for _ in range(2):
            time.sleep(HEALTH_SECONDS * min(1.0, scale))
            _ask_health(server)
        seconds = time.monotonic() - began
        os.sync()
        yield _figure("wakeups_per_s", (server.group.wakeups() - wakeups) / seconds)
        yield _figure("idle_written", DiskUse.now(device).written - disk.written)
    finally:
        server.stop()


def measure_writing(server: Server, scale: float) -> Iterator[Record]:
    """Yield the bytes that reach the disk for a lone message, and for each byte of larger content.

    ``server.spool`` must be on a disk that nobody else writes to.
    """
    count = max(20, round(400 * scale))
    yield _figure("lone_written", _written(server, lambda: _send_one_by_one(server, count)) / count)
    for name, load in (
        ("written_per_byte_100_kb", Load(10, 100_000, max(20, round(400 * scale)))),
        ("written_per_byte_10_mb", Load(4, 10_000_000, max(4, round(20 * scale)))),
    ):
        written = _written(server, lambda load=load: _send_all(server, load))  # type: ignore[misc]
        yield _figure(name, written / (load.messages * load.size))


def _written(server: Server, send: Callable[[], None]) -> int:
    """Return the bytes written from the first message to the end of the service, when all is in its place."""
    device = device_of(server.spool)
    server.set_up()
    server.start()
    try:
        os.sync()
        before = DiskUse.now(device)
        send()
        server.group.settle()
    finally:
        server.stop()
    os.sync()
    return DiskUse.now(device).written - before.written


def _send_one_by_one(server: Server, count: int) -> None:
    with Sink(NEXT_HOP) as sink, Client(server.port) as client:
        for number in range(1, count + 1):
            client.send(1000)
            sink.wait(number)
            time.sleep(0.02)  # for the outcome to be recorded


def _send_all(server: Server, load: Load) -> None:
    with Sink(NEXT_HOP) as sink:
        load.send(server.port)
        sink.wait(load.messages)


def _ask_health(server: Server) -> None:
    if command := server.health_command():
        subprocess.run(command, check=True, capture_output=True)


def _figure(name: str, value: float) -> Record:
    return {"kind": "footprint", "figure": name, "value": value}
