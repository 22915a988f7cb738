"""What takes webhooks: an HTTP server on the loopback interface that keeps what it is sent."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Self

from tests.support.service import PATIENCE


@dataclass(frozen=True)
class Hooked:
    """A request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The body as JSON."""
        fields: dict[str, Any] = json.loads(self.body)
        return fields


class HookServer:
    """The server; use it as a context manager. ``script`` has an answer for each request, then 200."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Hooked] = []
        self.script: deque[bytes | int] = deque()
        """Status codes, or raw bytes; empty ones: it says nothing until the end."""
        self.has_ended = Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.has_ended.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.server_address[1]
        return port

    def url(self, path: str = "/hook", account: str = "") -> str:
        """Return an address of it."""
        return f"http://{account}127.0.0.1:{self.port}{path}"

    async def received(self, count: int) -> list[Hooked]:
        """Wait for requests and return them all."""
        async with asyncio.timeout(PATIENCE):
            while len(self.requests) < count:
                await asyncio.sleep(0.02)
        return self.requests


def _handler(server: HookServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.requests.append(Hooked(self.path, dict(self.headers), body))
            answer = server.script.popleft() if server.script else 200
            if isinstance(answer, bytes):
                self.wfile.write(answer)
                if not answer:
                    server.has_ended.wait()
                return
            self.send_response(answer)
            self.send_header("Location", server.url("/elsewhere"))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
