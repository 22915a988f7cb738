"""The listening sockets, and the sessions that come from them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

from relay import events
from relay.config.model import Limits, Listen
from relay.reception.access import ClientLimits
from relay.reception.reverse import ReverseNames
from relay.reception.session import Roster, Session, SessionSettings
from relay.reception.upload import Intake

BACKLOG = 1000
"""Connections that may wait to be accepted."""
RETRY_SECONDS = 5.0
"""How often a listen address is tried that does not exist yet."""

_REASONS = {
    errno.EADDRINUSE: "another program uses this port already. Stop it (is it another mail server?), "
    "or set another port in [[listen]] of relay.toml",
    errno.EACCES: "ports below 1024 need special rights (CAP_NET_BIND_SERVICE). Grant them, "
    "or set a higher port, such as 2525, in [[listen]] of relay.toml",
}


class ListenError(Exception):
    """A listen address cannot be used; the message is a sentence for the owner."""


class Reception:
    """Listens for clients and gives each a session."""

    def __init__(
        self,
        intake: Intake,
        settings: SessionSettings,
        limits: Limits,
        names: ReverseNames,
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._intake = intake
        self._settings = settings
        self._limits = ClientLimits(limits)
        self._names = names
        self._retry_seconds = retry_seconds
        self._roster = Roster()
        self._servers: dict[Listen, asyncio.Server] = {}
        self._waiting: dict[Listen, asyncio.Task[None]] = {}

    @property
    def addresses(self) -> list[str]:
        """The addresses that are listened on, as ``host:port``; the real port where 0 was asked for."""
        names = [sock.getsockname() for server in self._servers.values() for sock in server.sockets]
        return [_format_address(host, port) for host, port, *_ in names]

    def configure(self, intake: Intake, settings: SessionSettings, limits: Limits) -> None:
        """Follow a changed configuration from the next command on, in open sessions too."""
        self._intake = intake
        self._settings = settings
        self._limits.limits = limits
        for session in self._roster.sessions:
            session.configure(intake, settings)

    async def open(self, listens: Sequence[Listen]) -> None:
        """Listen on these addresses, and no longer on others; sessions go on.

        An address that the machine does not have yet is waited for. Raises ListenError where another
        cannot be used; then nothing has changed.
        """
        wanted = set(listens)
        known = self._servers.keys() | self._waiting.keys()
        sockets = _bind_all([listen for listen in listens if listen not in known])
        for listen in known - wanted:
            self._stop_listening(listen)
        for listen, sock in sockets.items():
            if sock:
                await self._listen(listen, sock)
            else:
                self._waiting[listen] = asyncio.create_task(self._wait_for(listen))

    async def close(self, grace_seconds: float) -> None:
        """Stop listening and end all sessions.

        Idle clients are sent away at once. Those that are sending a message may go on for the grace;
        then their connections are broken. What is being stored or dropped is waited for.
        """
        self._roster.is_closing = True
        for listen in [*self._servers, *self._waiting]:
            self._stop_listening(listen)
        sessions = [*self._roster.sessions]
        for session in sessions:
            session.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                for session in sessions:
                    await session.wait_ended()
        for session in self._roster.sessions:
            session.abort()
        for session in sessions:
            await session.wait_ended()
        if self._roster.unfinished:
            await asyncio.wait(self._roster.unfinished)

    def _new_session(self) -> Session:
        return Session(self._intake, self._settings, self._limits, self._names, self._roster)

    async def _listen(self, listen: Listen, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._servers[listen] = await loop.create_server(self._new_session, sock=sock, backlog=BACKLOG)

    async def _wait_for(self, listen: Listen) -> None:
        sock = None
        while sock is None:
            await asyncio.sleep(self._retry_seconds)
            try:
                sock = _bind(listen)
            except OSError:
                continue
        del self._waiting[listen]
        await self._listen(listen, sock)
        events.listener_opened(_format_address(listen.host, listen.port))

    def _stop_listening(self, listen: Listen) -> None:
        if listen in self._servers:
            self._servers.pop(listen).close()
        else:
            self._waiting.pop(listen).cancel()


def _bind_all(listens: Sequence[Listen]) -> dict[Listen, socket.socket | None]:
    """Return a socket for each address, None where the machine does not have the address yet."""
    sockets: dict[Listen, socket.socket | None] = {}
    for listen in listens:
        address = _format_address(listen.host, listen.port)
        try:
            sockets[listen] = _bind(listen)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                events.listener_waits(address, "this machine does not have the address yet")
                sockets[listen] = None
                continue
            for sock in filter(None, sockets.values()):
                sock.close()
            reason = _REASONS.get(error.errno or 0, error.strerror)
            raise ListenError(f"cannot listen on {address}: {reason}") from error
    return sockets


def _bind(listen: Listen) -> socket.socket:
    is_ipv6 = ":" in listen.host
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((listen.host, listen.port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
