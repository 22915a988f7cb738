"""How long a lone message takes: from its final dot to the reply, and to its delivery."""

from __future__ import annotations

import queue
import socketserver
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Any

from bench.load import Client
from bench.rates import Record
from bench.servers import NEXT_HOP, Server

_SIZE = 1000
_PAUSE = 0.05
"""Seconds between a delivery and the next message: the server is idle by then."""
_SILENCE = 6.0
"""Seconds after which no server keeps its connection to the next hop."""
_PATIENCE = 60.0


class _Receiver(socketserver.StreamRequestHandler):
    """A next hop that notes when the final dot of each message was read."""

    disable_nagle_algorithm = True
    server: _NextHop

    def handle(self) -> None:
        self.wfile.write(b"220 next-hop.example.net ESMTP\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper().strip()
            if verb == b"EHLO":
                self.wfile.write(b"250-next-hop.example.net\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
            elif verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                self.server.delivered.put(time.monotonic())
                self.wfile.write(b"250 2.0.0 ok\r\n")
            else:
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 2.0.0 ok\r\n")
                if verb == b"QUIT":
                    return


class _NextHop(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", NEXT_HOP), _Receiver)
        self.delivered: queue.SimpleQueue[float] = queue.SimpleQueue()


def measure_latency(server: Server, count: int, rare: int) -> list[Record]:
    """Measure ``count`` messages in quick succession, and ``rare`` ones with a long silence before each."""
    server.set_up()
    server.start()
    next_hop = _NextHop()
    threading.Thread(target=next_hop.serve_forever, daemon=True).start()
    try:
        _send(server, next_hop, 5, _PAUSE)
        series = {"one after the other": (count, _PAUSE), "after a silence": (rare, _SILENCE)}
        return [
            {"kind": "latency", "series": name, **_send(server, next_hop, number, pause)}
            for name, (number, pause) in series.items()
            if number
        ]
    finally:
        next_hop.shutdown()
        next_hop.server_close()
        server.stop()


def _send(server: Server, next_hop: _NextHop, count: int, pause: float) -> Record:
    replied: list[float] = []
    delivered: list[float] = []
    with Client(server.port) as client:
        for _ in range(count):
            time.sleep(pause)
            left, reply = client.send(_SIZE)
            replied.append(1000 * (reply - left))
            delivered.append(1000 * (next_hop.delivered.get(timeout=_PATIENCE) - left))
    return {"count": count, **_quantiles("reply", replied), **_quantiles("delivery", delivered)}


def _quantiles(name: str, milliseconds: Sequence[float]) -> dict[str, Any]:
    figures = {f"{name}_p50_ms": statistics.median(milliseconds)}
    if len(milliseconds) >= 100:
        figures[f"{name}_p99_ms"] = statistics.quantiles(milliseconds, n=100)[98]
    return figures
