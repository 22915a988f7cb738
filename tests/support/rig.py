"""The delivery half of the relay, as the app wires it: real queue, real connections, scripted servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.delivery.client import ClientSettings, Connection, Timeouts
from relay.delivery.departure import DepartureRules, Departures
from relay.delivery.fallback import Fallback, reaches
from relay.delivery.lane import Endpoint, Tools
from relay.delivery.maildir import Maildirs
from relay.delivery.manager import Clock, Manager
from relay.delivery.reports import Recorder, Reporting
from relay.mail import lifecycle
from relay.mail.attempt import Attempt, Claim, State
from relay.mail.dsn import ReportSettings
from relay.mail.envelope import Message, Recipient
from relay.mail.learned import detour
from relay.mail.rewrite import Canonical, Home
from relay.mail.route import NextHop, Route
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import NOW, accept
from tests.support.smtp_server import Script, ScriptedServer

POSTMASTER = "postmaster@home.test"
SETTINGS = ClientSettings("helo.test", "relay.test", Timeouts(quit=1.0))


class ServerAt(ScriptedServer):
    """A scripted server at one address of the loopback network, and at a given port; 0 takes a free one."""

    def __init__(self, address: str, port: int, script: Script | None = None) -> None:
        super().__init__(script)
        self._address = address
        self.port = port

    async def __aenter__(self) -> ServerAt:
        self._server = await asyncio.start_server(self._start, self._address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self


def next_hop_of(server: ScriptedServer, host: str = "mx.test", *, is_relayhost: bool = False) -> NextHop:
    return NextHop(host, server.port, tls="none", is_relayhost=is_relayhost)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the time-out is for tests that fail."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def settle() -> None:
    """Let all that can go on without waiting for anybody go on."""
    for _ in range(50):
        await asyncio.sleep(0)


async def connect(endpoints: Sequence[Endpoint], next_hop: NextHop, tried: set[str]) -> Connection | Attempt:
    addresses = [endpoint.address for endpoint in endpoints]
    return await Connection.open_one(endpoints[0].name, addresses, next_hop, SETTINGS, tried)


@dataclass
class Now:
    """A clock that goes when it is told to."""

    time: float = NOW

    def __call__(self) -> float:
        return self.time


class CountingStore(Store):
    """The queue; it counts the questions that cost something, and fails as often as it is told to."""

    claims = 0
    faults = 0
    """How many of the next claims and records fail."""

    async def claim(self, *arguments: Any, **options: Any) -> list[Claim]:
        self.claims += 1
        self._fail()
        return await super().claim(*arguments, **options)

    async def record(self, *arguments: Any, **options: Any) -> Sequence[int]:
        self._fail()
        return await super().record(*arguments, **options)

    def _fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise OSError("the disk is on fire")


@dataclass
class Rig:
    """A relay without reception; ``routes`` is by domain of the recipient."""

    store: CountingStore
    now: Now
    clock: Clock
    routes: dict[str, Route] = field(default_factory=dict)
    endpoints: dict[str, list[Endpoint] | Attempt] = field(default_factory=dict)
    """By host of the next hop; 127.0.0.1 where a host is not there."""
    postmaster: str = POSTMASTER
    fallback: NextHop | None = None

    def __post_init__(self) -> None:
        reporting = Reporting(
            ReportSettings("relay.test", self.clock.lifetime, self.postmaster),
            self.clock.warn_after,
            lambda message: message.envelope.reverse_path,
            lambda address, _given: (address,),
        )
        self.recorder = Recorder(self.store, reporting, self.now)
        rules = DepartureRules(Home("home.test"), Canonical(), (), self.postmaster)
        departures = Departures(rules, self.store.read)
        self.manager = Manager(
            self.store,
            self._route,
            self.recorder.record,
            lambda pause, changed: Tools(self._find, connect, departures.send, pause, self.now, changed),
            self.clock,
            self.now,
            maildirs=lambda changed: Maildirs("relay.test", self.store.read, changed),
            fallback=Fallback(lambda: self.fallback, self.store, self._reaches, self.now),
            has_postmaster=bool(self.postmaster),
        )

    def route_to(self, server: ScriptedServer, domain: str = "dest.test") -> NextHop:
        """Send a domain's mail to a server."""
        next_hop = next_hop_of(server, f"mx.{domain}")
        self.routes[domain] = Route(next_hop)
        return next_hop

    async def arrive(self, *recipients: str | Recipient, is_fresh: bool = False, **options: Any) -> Message:
        """Take a message in, into the queue or, if it is fresh, by the short way through memory."""
        given = [r if isinstance(r, Recipient) else Recipient(r) for r in recipients or ("a@dest.test",)]
        named = [Recipient(r.address, r.original, r.orcpt, r.notify, i) for i, r in enumerate(given)]
        retry_at = self.now() + self.clock.retry[0] if is_fresh else None
        options.setdefault("now", self.now())
        message = await accept(self.store, named, retry_at=retry_at, **options)
        if is_fresh:
            self.manager.submit(Claim(message, content=options.get("content")))
        return message

    async def arrive_many(self, count: int, recipient: str = "a@dest.test") -> None:
        await asyncio.gather(*(self.arrive(recipient) for _ in range(count)))

    def _route(self, address: str, _reverse_path: str) -> Route:
        return detour(self.routes[address.rpartition("@")[2]], self.fallback, self.store.learned)

    async def _reaches(self, next_hop: NextHop) -> bool:
        return await reaches(next_hop, self._find)

    async def _find(self, next_hop: NextHop) -> Sequence[Endpoint] | Attempt:
        return self.endpoints.get(next_hop.host, [Endpoint(next_hop.host, "127.0.0.1")])

    async def states(self, message: Message) -> list[State]:
        entry = await self.store.show(message.number)
        return [] if entry is None else [recipient.state for recipient in entry.recipients]

    async def until_states(self, message: Message, *states: State) -> None:
        """Wait until the recipients of a message are in these states."""
        async with asyncio.timeout(20):
            while await self.states(message) != list(states):
                await asyncio.sleep(0.002)

    async def until_empty(self) -> None:
        """Wait until nothing is left to do in the queue."""
        async with asyncio.timeout(20):
            while await self.store.list_messages(0, 1, Selection()):
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Manager]:
        task = asyncio.create_task(self.manager.run())
        try:
            yield self.manager
        finally:
            await self.manager.close(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def rigged(
    path: Path,
    *,
    retry: tuple[float, ...] = (300.0, 600.0),
    lifetime: float = 86400.0,
    warn_after: float = 0.0,
    **options: Any,
) -> AsyncIterator[Rig]:
    store = await CountingStore.open(
        path, retry=lambda attempt, now, number: lifecycle.next_attempt_at(retry, attempt, now, number)
    )
    assert isinstance(store, CountingStore)
    try:
        yield Rig(store, Now(), Clock(retry, lifetime, warn_after), **options)
    finally:
        await store.close()


def messages_at(*servers: ScriptedServer) -> list[bytes]:
    """Return the contents that servers took, by session."""
    return [content for server in servers for session in server.sessions for content in session.messages]


def commands_at(server: ScriptedServer, verb: bytes) -> list[bytes]:
    return [c for session in server.sessions for c in session.commands if c.upper().startswith(verb)]
