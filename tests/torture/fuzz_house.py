"""A whole relay beside a next hop, for tests that are not asynchronous, as Hypothesis wants them."""

from __future__ import annotations

import asyncio
import threading
import time
from base64 import b64encode
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from hashlib import scrypt
from pathlib import Path
from typing import Any, Self, TypeVar

import trustme

from relay.queue.control import request
from tests.support.service import PATIENCE, Delivery, Service, deliveries
from tests.support.smtp_server import ScriptedServer

USER, PASSWORD = "scanner", "opensesame"
MOST_BYTES = 40_000
"""The largest message that the house takes."""
MOST_RECIPIENTS = 4

T = TypeVar("T")


def cheap_hash() -> str:
    """Return a hash of the password that costs next to nothing to check."""
    key = scrypt(PASSWORD.encode(), salt=b"salt" * 4, n=2, r=8, p=1, dklen=32)
    return f"$scrypt$ln=1,r=8,p=1${b64encode(b'salt' * 4).decode()}${b64encode(key).decode()}"


class House:
    """The relay as a process, and a server that takes all its mail; both are looked after by a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="house")
        self._stack = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._do(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @property
    def port(self) -> int:
        """Where the relay listens."""
        return self._relay.port

    @property
    def log(self) -> str:
        """What the relay wrote."""
        return self._relay.log

    def take_delivered(self) -> list[Delivery]:
        """Wait until the queue is empty; return what the next hop was given since the last time."""
        deadline = time.monotonic() + PATIENCE
        while waiting := request(self._relay.queue_path, {"command": "list", "limit": 100})["messages"]:
            assert time.monotonic() < deadline, waiting
            time.sleep(0.002)
        return self._do(self._harvest())

    async def _open(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.private_key_and_cert_chain_pem.write_to_path(str(self._folder / "both.pem"))
        self._sink = await self._stack.enter_async_context(ScriptedServer())
        self._relay = Service(
            self._folder,
            f"""
            relayhost = "[127.0.0.1]:{self._sink.port}"
            transport = {{"gone.test" = "error:5.1.2 nobody lives here"}}
            users = {{{USER} = "{cheap_hash()}"}}
            listen = [{{address = "127.0.0.1:0", tls = "starttls", auth = "optional"}}]
            tls = {{certificate = "both.pem", key = "both.pem"}}
            limits = {{message_size = "{MOST_BYTES // 1000}KB", recipients = {MOST_RECIPIENTS}}}
            """,
        )
        await self._stack.enter_async_context(self._relay)

    async def _harvest(self) -> list[Delivery]:
        taken = deliveries(self._sink)
        for session in self._sink.sessions:
            session.commands.clear()
            session.contents.clear()
            session.acknowledged.clear()
            session.raw.clear()
        return taken

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * PATIENCE)
