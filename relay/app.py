"""The composition root: builds everything, runs it, and takes it down in order."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import ip_network

import relay
from relay import events
from relay.config.house import destinations_of
from relay.config.model import PRIVATE_NETWORKS, Config
from relay.delivery.agent import Connect, Endpoints
from relay.delivery.client import ClientSettings, Connection
from relay.delivery.departure import DepartureRules, Departures
from relay.delivery.lane import Endpoint, Tools
from relay.delivery.lmtp import verify_recipient
from relay.delivery.login import Account
from relay.delivery.maildir import Maildirs
from relay.delivery.manager import Clock, Manager
from relay.delivery.reports import Recorder
from relay.mail import lifecycle
from relay.mail.arrival import ArrivalRules
from relay.mail.attempt import Attempt
from relay.mail.destinations import Destinations
from relay.mail.dsn import ReportSettings
from relay.mail.envelope import Message
from relay.mail.header_checks import arrival_checks, external_checks
from relay.mail.reply import Reply
from relay.mail.rewrite import Canonical, Home, rewrite_address
from relay.mail.route import NextHop, Route
from relay.oauth.account import oauth_account
from relay.oauth.tokens import Tokens
from relay.queue.control import ControlServer
from relay.queue.errors import QueueError, refusal
from relay.queue.store import Store
from relay.reception.access import Access, default_gateway
from relay.reception.intake import Intake, Outlets
from relay.reception.logins import Logins
from relay.reception.maildrop import Maildrop
from relay.reception.reverse import ReverseNames
from relay.reception.server import ListenError, Reception
from relay.reception.shared import SessionSettings
from relay.routing.myself import Myself
from relay.routing.resolver import Resolver

GRACE_SECONDS = 5.0
"""How long clients in the middle of a message, and transfers that have begun, may go on after SIGTERM."""
SILENCE_SECONDS = 10.0
"""How long a mailbox server that did not answer is not asked again whether it knows somebody."""
MAINTENANCE_SECONDS = 3600.0
"""How often the queue is tidied up."""


MOST_REMEMBERED = 2000
"""Addresses of which it is remembered who gets their mail, and by which route."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What is asked of the destinations several times for each message, remembered."""

    expand: Callable[[str, str], tuple[str, ...]]
    route: Callable[[str, str], Route]
    identity: Callable[[str], str]

    @classmethod
    def of(cls, destinations: Destinations) -> Ways:
        """Return those of the destinations."""
        remember = lru_cache(maxsize=MOST_REMEMBERED)
        return cls(
            remember(destinations.expand), remember(destinations.route), remember(destinations.identity)
        )


def run(config: Config) -> int:
    """Run the relay until SIGTERM or SIGINT; return the exit status."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # a thousand clients need more
    with asyncio.Runner(loop_factory=_choose_loop()) as runner:
        return runner.run(_run(config))


def _choose_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:  # no wheel for this machine: asyncio's own loop does the same more slowly
        return None
    return uvloop.new_event_loop


async def _run(config: Config) -> int:
    stop = _stop_on_signals()
    try:
        async with _serving(config):
            await stop.wait()
            events.stopping("asked to")
    except (QueueError, ListenError) as error:
        sys.stderr.write(f"relay: {error}\n")
        return 1
    events.stopped()
    return 0


def _stop_on_signals() -> asyncio.Event:
    """Return the event that the first SIGTERM or SIGINT sets; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    loop.add_signal_handler(signal.SIGHUP, events.warned, "restart the relay to apply a changed relay.toml")
    return stop


@asynccontextmanager
async def _serving(config: Config) -> AsyncIterator[None]:
    """The relay at work: what is built first is taken down last."""
    destinations = destinations_of(config)
    ways = Ways.of(destinations)
    resolver = Resolver(Myself(config.hostname, config.listen).is_at, config.dns.nameservers)
    logins, tokens = Logins(config.users), _tokens(config)
    endpoints, connect = _endpoints(resolver), _connect(config, tokens)
    store = await Store.open(config.queue.path, retry=_retry(config))
    try:
        recorder = Recorder(
            store,
            ReportSettings(config.hostname, config.queue.lifetime, config.postmaster),
            config.queue.warn_after,
            _report_to(config, destinations.home, ways),
            ways.expand,
            time.time,
        )
        await recorder.report_leftovers()
        manager = _manager(config, store, destinations.home, ways, recorder, endpoints, connect)
        control = ControlServer(store, manager.retry_now, lambda: [*tokens.problems.values()])
        intake = _intake(
            config, store, destinations.home, ways, manager, _verify(destinations, endpoints, connect)
        )
        reception = Reception(
            intake,
            SessionSettings(config.hostname, config.limits.message_size, config.limits.recipients),
            config.limits,
            ReverseNames(resolver.ptr, resolver.addresses),
            logins,
        )
        maildrop = _maildrop(config, store, intake, recorder, manager)
        await control.start()
        await maildrop.open()
        background = [
            asyncio.create_task(manager.run(), name="delivery"),
            asyncio.create_task(maildrop.run(), name="maildrop"),
            asyncio.create_task(_maintain(store, config), name="maintenance"),
            asyncio.create_task(tokens.keep_alive(), name="tokens"),
        ]
        try:
            await reception.open(config.listen, config.tls)
            gc.freeze()  # what lives as long as the process need not be looked at again and again
            events.started(
                relay.__version__, ", ".join(reception.addresses) or "no address yet", str(config.queue.path)
            )
            yield
        finally:
            await asyncio.gather(reception.close(GRACE_SECONDS), manager.close(GRACE_SECONDS))
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            maildrop.close()
            await control.close()
    finally:
        logins.close()
        await store.close()


async def _maintain(store: Store, config: Config) -> None:
    """Drop old history."""
    while True:
        now = time.time()
        try:
            await store.purge(now - config.queue.history)
        except QueueError as error:
            events.warned(f"the queue is not tidied up: {error}")
        await asyncio.sleep(MAINTENANCE_SECONDS)


# Parts


def _retry(config: Config) -> Callable[[int, float, int], float]:
    return lambda attempt, now, number: lifecycle.next_attempt_at(config.queue.retry, attempt, now, number)


def _outside_table(config: Config) -> Canonical:
    """Return the sender table of copies that leave for the outside."""
    return config.sender_canonical if config.rewrite.scope == "external" else Canonical()


def _report_to(config: Config, home: Home, ways: Ways) -> Callable[[Message], str]:
    """Return who is told about a message: its sender as given if that is internal, else as rewritten."""
    table = _outside_table(config)

    def report_to(message: Message) -> str:
        given = message.envelope.given_reverse_path
        if given and any(ways.route(reached, "").internal for reached in ways.expand(given, "")):
            return given
        sender = rewrite_address(message.envelope.reverse_path, table, home)
        reached = ways.expand(sender, "")
        return reached[0] if len(reached) == 1 else sender

    return report_to


def _intake(
    config: Config,
    store: Store,
    home: Home,
    ways: Ways,
    manager: Manager,
    verify: Callable[[str], Awaitable[Reply | None]],
) -> Intake:
    rules = ArrivalRules(
        config.hostname,
        home,
        sender_canonical=config.sender_canonical if config.rewrite.scope == "all" else Canonical(),
        recipient_canonical=config.recipient_canonical,
    )
    retry, access = _retry(config), _access(config)
    outlets = Outlets(
        new_number=store.new_number,
        incoming=store.incoming,
        is_ours=access.is_ours,
        judge_access=access.judge,
        expand=ways.expand,
        identity=ways.identity,
        route=ways.route,
        verify=verify,
        has_room=manager.has_room,
        submit=manager.submit,
        wake=manager.wake,
        retry_at=lambda number, now: retry(1, now, number),
        explain_failure=_explain_failure,
        now=time.time,
    )
    return Intake(rules, arrival_checks(config.header_checks), outlets)


def _maildrop(config: Config, store: Store, intake: Intake, recorder: Recorder, manager: Manager) -> Maildrop:
    async def is_known(number: int) -> bool:
        return await store.show(number) is not None

    async def report(message: Message, original: bytes, reply: Reply) -> None:
        await recorder.refuse(message, original, reply)
        manager.wake()

    return Maildrop(
        config.queue.maildrop, intake, limit=config.limits.message_size, is_known=is_known, report=report
    )


def _access(config: Config) -> Access:
    if config.access.open_relay:
        return Access((ip_network("0.0.0.0/0"), ip_network("::/0")))
    # Behind a container's port forwarding, its default gateway stands for everybody.
    is_default = config.access.networks == PRIVATE_NETWORKS
    return Access(
        config.access.networks,
        default_gateway() if is_default else "",
        frozenset(config.local.domains) if config.local.accept == "anyone" else frozenset(),
    )


def _verify(
    destinations: Destinations, endpoints: Endpoints, connect: Connect
) -> Callable[[str], Awaitable[Reply | None]]:
    """Return what asks the mailbox server about an address, where nobody else knows."""

    silence: tuple[float, Reply | None] = (0.0, None)
    """Until when the server need not be asked again, and what is replied meanwhile."""

    async def verify(address: str) -> Reply | None:
        nonlocal silence
        if not destinations.mailboxes.is_open:
            return None
        via = destinations.route(address).via
        if not (isinstance(via, NextHop) and via.is_lmtp):
            return None
        if time.monotonic() < silence[0]:
            return silence[1]
        reply = await verify_recipient(address, via, endpoints, connect)
        if reply is not None and not reply.is_permanent:
            silence = (time.monotonic() + SILENCE_SECONDS, reply)
        return reply

    return verify


def _explain_failure(error: Exception) -> Reply:
    """Return what a client is told whose message could not be stored."""
    if isinstance(error, QueueError):
        events.warned(f"a message was refused: {error}")
    else:
        events.failed("a message was refused", error)
    return refusal(error)


def _manager(
    config: Config,
    store: Store,
    home: Home,
    ways: Ways,
    recorder: Recorder,
    endpoints: Endpoints,
    connect: Connect,
) -> Manager:
    rules = DepartureRules(
        home, _outside_table(config), external_checks(config.header_checks), config.postmaster
    )
    departures = Departures(rules, store.read)

    def route(address: str, reverse_path: str) -> Route:
        return ways.route(address, rewrite_address(reverse_path, rules.sender_canonical, home))

    return Manager(
        store,
        route,
        recorder.record,
        lambda pause, changed: Tools(endpoints, connect, departures.send, pause, time.time, changed),
        Clock(config.queue.retry, config.queue.lifetime, config.queue.warn_after),
        time.time,
        maildirs=lambda changed: Maildirs(config.hostname, store.read, changed),
        has_postmaster=bool(config.postmaster),
    )


def _endpoints(resolver: Resolver) -> Endpoints:
    async def endpoints(next_hop: NextHop) -> Sequence[Endpoint] | Attempt:
        found = await resolver.hosts(next_hop)
        if isinstance(found, Attempt):
            return found
        return [Endpoint(host.name, address) for host in found for address in host.addresses]

    return endpoints


def _connect(config: Config, tokens: Tokens) -> Connect:
    settings = ClientSettings(config.helo_name, config.hostname, account_of=_account_of(config, tokens))

    async def connect(endpoint: Endpoint, next_hop: NextHop) -> Connection | Attempt:
        return await Connection.open(endpoint.name, endpoint.address, next_hop, settings)

    return connect


def _tokens(config: Config) -> Tokens:
    accounts = {name: oauth_account(name, smarthost) for name, smarthost in config.smarthost.items()}
    return Tokens({name: account for name, account in accounts.items() if account is not None})


def _account_of(config: Config, tokens: Tokens) -> Callable[[NextHop], Account | None]:
    """Return what gives the account at a next hop, its secrets read anew at each login."""

    def account_of(next_hop: NextHop) -> Account | None:
        smarthost = config.smarthost.get(next_hop.smarthost)
        if smarthost is None or not smarthost.username:
            return None
        secret = smarthost.password
        return Account(
            smarthost.username,
            password=None if secret is None else partial(secret.read, os.environ),
            method=smarthost.auth,
            allows_clear=smarthost.clear_password,
            token=lambda is_refused: tokens.access_token(next_hop.smarthost, is_refused=is_refused),
        )

    return account_of
