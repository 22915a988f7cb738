"""The name of a client: its reverse DNS name, where a forward look-up confirms it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from relay.mail.envelope import UNKNOWN

DEADLINE_SECONDS = 1.0
"""A name that takes longer to find is unknown."""
MEMORY_SECONDS = 300.0
MOST_NAMES = 1000
"""Clients whose names are remembered."""

_LOOPBACK = {"127.0.0.1": "localhost", "::1": "localhost"}

LookUp = Callable[[str], Awaitable[list[str]]]


class ReverseNames:
    """Finds the names of clients and remembers them for some minutes, ``unknown`` too.

    ``ptr`` gives the names of an address, ``addresses`` the addresses of a name; both may fail.
    """

    def __init__(self, ptr: LookUp, addresses: LookUp) -> None:
        self._ptr = ptr
        self._addresses = addresses
        self._found: dict[str, tuple[float, asyncio.Future[str]]] = {}

    def begin(self, address: str) -> asyncio.Future[str]:
        """Start finding the name of a client. The future is done in a second at most and never fails.

        It is shared between sessions: await it through ``asyncio.shield``.
        """
        loop = asyncio.get_running_loop()
        expires_at, name = self._found.get(address, (0.0, None))
        if name is None or expires_at < loop.time():
            name = self._start(address, loop)
            self._found.pop(address, None)
            self._found[address] = loop.time() + MEMORY_SECONDS, name
            if len(self._found) > MOST_NAMES:
                del self._found[next(iter(self._found))]
        return name

    def _start(self, address: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[str]:
        if address not in _LOOPBACK:
            return loop.create_task(self._find(address), name=f"reverse name of {address}")
        known = loop.create_future()
        known.set_result(_LOOPBACK[address])
        return known

    async def _find(self, address: str) -> str:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                for name in await self._ptr(address):
                    if await self._confirm(name, address):
                        return name.rstrip(".")
        except Exception:  # noqa: S110 - a name is for show: no failure of DNS may cost a message
            pass
        return UNKNOWN

    async def _confirm(self, name: str, address: str) -> bool:
        addresses = await self._addresses(name)
        return ip_address(address) in {ip_address(found) for found in addresses}
