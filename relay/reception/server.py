"""The listening sockets, and the sessions that come from them."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from relay import events
from relay.config.model import Limits, Listen, ListenerTls
from relay.reception.access import ClientLimits
from relay.reception.logins import Logins
from relay.reception.reverse import ReverseNames
from relay.reception.session import Session
from relay.reception.shared import Listener, SessionSettings, Shared
from relay.reception.tls import Certificate, CertificateError
from relay.reception.tls_server import TlsServer
from relay.reception.upload import Intake
from relay.texts import join_port

BACKLOG = 1000
"""Connections that may wait to be accepted."""
RETRY_SECONDS = 5.0
"""How often a listen address is tried that does not exist yet."""

_REASONS = {
    errno.EADDRINUSE: "another program uses this port already. Stop it (is it another mail server?), "
    "or set another port in [[listen]] of relay.toml",
    errno.EACCES: "ports below 1024 need special rights. Grant them (CAP_NET_BIND_SERVICE, or the system's "
    "net.ipv4.ip_unprivileged_port_start=25), or set a higher port, such as 2525, in [[listen]] of "
    "relay.toml",
}


Address = tuple[str, int]
"""Host and port."""


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
        logins: Logins,
        *,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._intake = intake
        self._settings = settings
        self._shared = Shared(ClientLimits(limits), names, logins)
        self._retry_seconds = retry_seconds
        self._listeners: dict[Address, Listener] = {}
        self._sockets: dict[Address, socket.socket] = {}
        self._servers: dict[Address, asyncio.Server | TlsServer] = {}
        self._waiting: dict[Address, asyncio.Task[None]] = {}

    @property
    def addresses(self) -> list[str]:
        """The addresses that are listened on, as ``host:port``; the real port where 0 was asked for."""
        names = [sock.getsockname() for sock in self._sockets.values()]
        return [join_port(host, port) for host, port, *_ in names]

    def configure(self, intake: Intake, settings: SessionSettings, limits: Limits) -> None:
        """Follow a changed configuration from the next command on, in open sessions too."""
        self._intake = intake
        self._settings = settings
        self._shared.limits.limits = limits
        for session in self._shared.sessions:
            session.configure(intake, settings)

    async def open(self, listens: Sequence[Listen], tls: ListenerTls) -> None:
        """Listen on these addresses, and no longer on others; sessions go on as they began.

        An address that the machine does not have yet is waited for. Raises ListenError where another
        cannot be used, or the certificate; then nothing has changed.
        """
        try:
            certificate = Certificate(tls, {listen.tls_minimum for listen in listens if listen.tls != "none"})
        except CertificateError as error:
            raise ListenError(str(error)) from error
        wanted = {(listen.host, listen.port): Listener(listen, certificate) for listen in listens}
        known = self._sockets.keys() | self._waiting.keys()
        sockets = _bind_all([address for address in wanted if address not in known])
        for address in known - wanted.keys():
            self._stop_listening(address)
        self._listeners = wanted
        for address, sock in sockets.items():
            if sock:
                self._sockets[address] = sock
            else:
                self._waiting[address] = asyncio.create_task(self._wait_for(address))
        for address in self._sockets:
            await self._listen(address)

    async def close(self, grace_seconds: float) -> None:
        """Stop listening and end all sessions.

        Idle clients are sent away at once. Those that are sending a message may go on for the grace;
        then their connections are broken. What is being stored or dropped is waited for.
        """
        self._shared.is_closing = True
        for address in [*self._sockets, *self._waiting]:
            self._stop_listening(address)
        for handshake in self._shared.handshakes:
            handshake.cancel()
        sessions = [*self._shared.sessions]
        for session in sessions:
            session.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                for session in sessions:
                    await session.wait_ended()
        for session in self._shared.sessions:
            session.abort()
        for session in sessions:
            await session.wait_ended()
        if self._shared.handshakes:
            await asyncio.wait(self._shared.handshakes)

    async def _listen(self, address: Address) -> None:
        """Serve who connects from now on as the address's listener says; the socket stays the same."""
        if address in self._servers:
            self._servers[address].close()
        sock, listener = self._sockets[address].dup(), self._listeners[address]
        new_session = partial(self._new_session, listener)
        if listener.listen.tls == "implicit":
            sock.listen(BACKLOG)
            seconds = self._settings.idle_seconds
            self._servers[address] = TlsServer(sock, listener, self._shared, new_session, seconds)
        else:
            loop = asyncio.get_running_loop()
            self._servers[address] = await loop.create_server(new_session, sock=sock, backlog=BACKLOG)

    def _new_session(self, listener: Listener) -> Session:
        return Session(self._intake, self._settings, listener, self._shared)

    async def _wait_for(self, address: Address) -> None:
        sock = None
        while sock is None:
            await asyncio.sleep(self._retry_seconds)
            try:
                sock = _bind(*address)
            except OSError:
                continue
        del self._waiting[address]
        self._sockets[address] = sock
        await self._listen(address)
        events.listener_opened(join_port(*address))

    def _stop_listening(self, address: Address) -> None:
        if address in self._waiting:
            self._waiting.pop(address).cancel()
        else:
            self._servers.pop(address).close()
            self._sockets.pop(address).close()


def _bind_all(addresses: Sequence[Address]) -> dict[Address, socket.socket | None]:
    """Return a socket for each address, None where the machine does not have the address yet."""
    sockets: dict[Address, socket.socket | None] = {}
    for address in addresses:
        name = join_port(*address)
        try:
            sockets[address] = _bind(*address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                events.listener_waits(name, "this machine does not have the address yet")
                sockets[address] = None
                continue
            for sock in filter(None, sockets.values()):
                sock.close()
            reason = _REASONS.get(error.errno or 0, error.strerror)
            raise ListenError(f"cannot listen on {name}: {reason}") from error
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    is_ipv6 = ":" in host
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
