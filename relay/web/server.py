"""The web server of the page: its routes, its socket, its templates.

The page has no state but sessions and the doctor's last words. Nothing runs while nobody looks: an open page
asks again every few seconds, and its script shows what has changed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler

from relay import events
from relay.config.model import Web as Settings
from relay.config.secrets import Secret
from relay.texts import join_port
from relay.web.checkup import Checkup
from relay.web.counts import Counts
from relay.web.door import Door
from relay.web.facts import Facts
from relay.web.pages import Pages, add_headers

MOST_CONNECTIONS = 100
"""Beyond them the oldest are closed: what connects and says nothing keeps nobody out."""
LARGEST_FORM = 64 * 1024
RETRY_SECONDS = 30.0
"""How often an address is tried that can't be used."""
REQUEST_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 15.0
_REASONS = {
    errno.EADDRINUSE: "another program uses this port already; stop it, or set another address under [web]",
    errno.EADDRNOTAVAIL: "this machine does not have that address (yet)",
    errno.EACCES: "ports below 1024 need special rights; set a higher port under [web]",
}


class Web:
    """The status page at its address."""

    def __init__(
        self,
        settings: Settings,
        facts: Facts,
        counts: Counts,
        *,
        names: Collection[str],
        doctor: Sequence[str],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``names`` are this machine's host names; ``doctor`` is the command that prints findings as JSON."""
        self._settings = settings
        self._checkup = Checkup(doctor, now)
        door = Door(names, None if settings.password is None else _reader(settings.password))
        pages = Pages(facts, counts, self._checkup, door, now)
        self._app = web.Application(
            client_max_size=LARGEST_FORM, middlewares=[_contain, door.guard, pages.excuse]
        )
        self._app.on_response_prepare.append(add_headers)
        self._app.add_routes(pages.routes())
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            logger=logging.Logger("aiohttp", logging.CRITICAL),  # it would log a traceback of what is no HTTP
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            shutdown_timeout=1.0,
        )
        self._listener: asyncio.Server | None = None
        self._retry: asyncio.Task[None] | None = None
        self.url = ""
        """Where the page is; "" while its address can't be used."""

    async def start(self) -> None:
        """Listen; where that can't be, warn, and try again until it can."""
        await self._runner.setup()
        try:
            await self._listen()
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
            events.warned(
                f"no status page at {join_port(self._settings.host, self._settings.port)}: {reason}"
            )
            self._retry = asyncio.create_task(self._keep_trying(), name="status page")

    async def close(self) -> None:
        """Listen no more, and break off what is under way."""
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.gather(self._retry, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        await self._checkup.close()
        for connection in self._server.connections:
            connection.force_close()
        await self._runner.cleanup()

    async def _keep_trying(self) -> None:
        while not self.url:
            await asyncio.sleep(RETRY_SECONDS)
            with suppress(OSError):
                await self._listen()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, self._settings.host, self._settings.port)
        host, port = self._listener.sockets[0].getsockname()[:2]
        self.url = f"http://{join_port(host, port)}/"
        events.page_opened(self.url)

    def _accept(self) -> asyncio.Protocol:
        connections = self._server.connections
        for oldest in connections[: max(0, len(connections) + 1 - MOST_CONNECTIONS)]:
            oldest.force_close()
        return self._server()

    @property
    def _server(self) -> web.Server:
        server = self._runner.server
        assert server is not None
        return server


def _reader(password: Secret) -> Callable[[], str]:
    return lambda: password.read(os.environ)


@web.middleware
async def _contain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let no request hang, and show no defect of ours to a browser."""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await handler(request)
    except TimeoutError:
        return web.Response(status=503, text="This took too long. Try again.\n")
    except web.HTTPException:
        raise
    except Exception as error:
        events.failed("status page", error)
        return web.Response(status=500, text="This is a defect of relay; its log tells more.\n")
