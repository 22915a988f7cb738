"""What one relay.toml decides, put together for the rooms: made anew when the file changes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from ipaddress import ip_network

from relay.config.house import destinations_of
from relay.config.model import AUTO, PRIVATE_NETWORKS, Config
from relay.config.smarthosts import next_hop_of
from relay.delivery.agent import Connect, Endpoint, Endpoints
from relay.delivery.client import ClientSettings, Connection
from relay.delivery.departure import DepartureRules
from relay.delivery.lmtp import verify_recipient
from relay.delivery.login import Account
from relay.delivery.manager import Clock
from relay.delivery.reports import Reporting
from relay.mail import lifecycle
from relay.mail.address import split_address
from relay.mail.arrival import ArrivalRules
from relay.mail.attempt import Attempt, Scope
from relay.mail.destinations import Destinations
from relay.mail.dkim import Signer
from relay.mail.dsn import ReportSettings
from relay.mail.envelope import Message
from relay.mail.header_checks import HeaderCheck, arrival_checks, external_checks
from relay.mail.learned import NOTHING_LEARNED, Learned, detour, name_way
from relay.mail.reply import Reply
from relay.mail.rewrite import Canonical, Home, rewrite_address
from relay.mail.route import NextHop, Route
from relay.mail.sender import SenderRules
from relay.oauth.account import OAuthAccount, oauth_account
from relay.oauth.tokens import Tokens
from relay.reception.access import Access, default_gateway
from relay.reception.shared import SessionSettings
from relay.routing.myself import Myself
from relay.routing.public_name import PublicName
from relay.routing.resolver import Resolver

MOST_REMEMBERED = 2000
"""Addresses of which it is remembered who gets their mail, and by which route."""
SILENCE_SECONDS = 10.0
"""How long a mailbox server, or DNS about a domain, that did not answer is not asked again."""
LOOKUP_SECONDS = 3.0
"""How long a client waits for DNS to tell whether the domain of its sender exists."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What is asked of the destinations several times for each message, remembered."""

    expand: Callable[[str, str], tuple[str, ...]]
    """The addresses that mail goes to: (address, as given)."""
    route: Callable[[str, str], Route]
    """The way to an expanded address, for mail of a rewritten sender."""
    identity: Callable[[str], str]

    @classmethod
    def of(cls, destinations: Destinations) -> Ways:
        """Return those of the destinations."""
        remember = lru_cache(maxsize=MOST_REMEMBERED)
        return cls(
            remember(destinations.expand), remember(destinations.route), remember(destinations.identity)
        )


@dataclass(frozen=True, slots=True)
class Wiring:
    """All that follows from a configuration alone."""

    config: Config
    destinations: Destinations
    ways: Ways
    access: Access
    session: SessionSettings
    arrival: ArrivalRules
    arrival_checks: tuple[HeaderCheck, ...]
    departure: DepartureRules
    reporting: Reporting
    clock: Clock
    resolver: Resolver
    endpoints: Endpoints
    connect: Connect
    verify: Callable[[str], Awaitable[Reply | None]]
    """Asks the mailbox server about an address, where nobody else knows."""
    verify_sender: Callable[[str, str], Awaitable[Reply | None]]
    """Asks DNS whether anybody outside could answer a sender."""

    @classmethod
    def of(cls, config: Config, tokens: Tokens, public_name: PublicName | None = None) -> Wiring:
        """Put together what a configuration decides.

        ``tokens`` are those of its accounts; ``public_name`` is needed where mail is to leave.
        """
        destinations = destinations_of(config)
        home, ways = destinations.home, Ways.of(destinations)
        myself = Myself(config.hostname, config.listen)
        resolver = Resolver(myself.is_at, config.dns.nameservers, prefer=config.prefer)
        endpoints, connect = _locate_current(config, resolver), connect_as(config, tokens, public_name)
        queue, outside = config.queue, _outside_table(config)
        inside = config.sender_canonical if config.rewrite.scope == "all" else Canonical()
        signers = {domain: Signer(domain, dkim.selector, dkim.key) for domain, dkim in config.dkim.items()}
        return cls(
            config,
            destinations,
            ways,
            _access(config),
            SessionSettings(config.hostname, config.limits.message_size, config.limits.recipients),
            ArrivalRules(
                config.hostname,
                home,
                sender_canonical=inside,
                recipient_canonical=config.recipient_canonical,
                keeps_subject=queue.history_subjects,
            ),
            arrival_checks(config.header_checks),
            DepartureRules(home, outside, external_checks(config.header_checks), config.postmaster, signers),
            Reporting(
                ReportSettings(config.hostname, queue.lifetime, config.postmaster),
                queue.warn_after,
                _report_to(outside, home, ways),
                ways.expand,
            ),
            Clock(queue.retry, queue.lifetime, queue.warn_after),
            resolver,
            endpoints,
            connect,
            _verify(destinations, endpoints, connect),
            _verify_sender(SenderRules(home, inside, outside), resolver),
        )

    def route(self, address: str, reverse_path: str, learned: Learned = NOTHING_LEARNED) -> Route:
        """Return the way to an expanded address, for mail of a reverse-path as it is queued."""
        table, home = self.departure.sender_canonical, self.departure.home
        route = self.ways.route(address, rewrite_address(reverse_path, table, home))
        return detour(route, self.config.fallback, learned)

    @property
    def fallbacks(self) -> frozenset[str]:
        """The names (``name_way``) of what routes may have been learned over."""
        fallback = self.config.fallback
        return frozenset(self.config.smarthost) | ({name_way(fallback.key)} if fallback else set())

    def retry_at(self, attempt: int, now: float, number: int) -> float:
        """Return when message NUMBER is due again after an attempt."""
        return lifecycle.next_attempt_at(self.clock.retry, attempt, now, number)


def accounts_of(config: Config) -> dict[str, OAuthAccount]:
    """Return the OAuth accounts by the names of their smarthosts."""
    accounts = {name: oauth_account(name, smarthost) for name, smarthost in config.smarthost.items()}
    return {name: account for name, account in accounts.items() if account is not None}


def locate_by(resolver: Resolver) -> Endpoints:
    """Return what looks up the servers of a next hop."""

    async def endpoints(next_hop: NextHop) -> Sequence[Endpoint] | Attempt:
        found = await resolver.hosts(next_hop)
        if isinstance(found, Attempt):
            return found
        return [Endpoint(host.name, address) for host in found for address in host.addresses]

    return endpoints


def _locate_current(config: Config, resolver: Resolver) -> Endpoints:
    """Return what looks up the servers of next hops, but of no smarthost that is another one now.

    Mail that waited for it in memory when relay.toml changed must not go there without an account, nor with
    that of the other: it goes back to the queue, and takes its new way.
    """
    locate = locate_by(resolver)
    current = {next_hop_of(name, smarthost).key for name, smarthost in config.smarthost.items()}

    async def endpoints(next_hop: NextHop) -> Sequence[Endpoint] | Attempt:
        if next_hop.smarthost and next_hop.key not in current:
            text = f"[smarthost.{next_hop.smarthost}] in relay.toml is another one now"
            return Attempt(Reply(451, "4.3.5", text), Scope.SITE, next_hop=next_hop.key)
        return await locate(next_hop)

    return endpoints


def connect_as(config: Config, tokens: Tokens, public_name: PublicName | None = None) -> Connect:
    """Return what opens sessions with next hops under the name of this relay."""
    follows = config.helo_name == AUTO
    private = ClientSettings(
        config.hostname if follows else config.helo_name,
        config.hostname,
        account_of=account_of(config, tokens),
    )

    async def connect(
        endpoints: Sequence[Endpoint], next_hop: NextHop, tried: set[str]
    ) -> Connection | Attempt:
        settings = private
        if follows and public_name and not next_hop.is_lmtp:
            settings = replace(private, helo_name=await public_name.get(), on_hello=public_name.hear)
        addresses = [endpoint.address for endpoint in endpoints]
        return await Connection.open_one(endpoints[0].name, addresses, next_hop, settings, tried)

    return connect


def account_of(config: Config, tokens: Tokens) -> Callable[[NextHop], Account | None]:
    """Return what gives the account at a next hop, its secrets read anew at each login."""

    def find_account(next_hop: NextHop) -> Account | None:
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

    return find_account


def _outside_table(config: Config) -> Canonical:
    """Return the sender table of copies that leave for the outside."""
    return config.sender_canonical if config.rewrite.scope == "external" else Canonical()


def _report_to(table: Canonical, home: Home, ways: Ways) -> Callable[[Message], str]:
    """Return who is told about a message: its sender as given if that is internal, else as rewritten."""

    def report_to(message: Message) -> str:
        given = message.envelope.given_reverse_path
        if given and any(ways.route(reached, "").internal for reached in ways.expand(given, "")):
            return given
        sender = rewrite_address(message.envelope.reverse_path, table, home)
        reached = ways.expand(sender, "")
        return reached[0] if len(reached) == 1 else sender

    return report_to


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


def _verify_sender(rules: SenderRules, resolver: Resolver) -> Callable[[str, str], Awaitable[Reply | None]]:
    leave = lru_cache(maxsize=MOST_REMEMBERED)(rules.leave)
    silent: dict[str, float] = {}
    """Until when each domain is not asked about of which DNS said nothing; where two are here, none is."""

    async def verify_sender(reverse_path: str, recipient: str) -> Reply | None:
        domain = split_address(leave(reverse_path))[1].lower()
        if not domain or domain.startswith("["):
            return None
        for name in [name for name, until in silent.items() if time.monotonic() >= until]:
            del silent[name]
        if domain in silent or len(silent) > 1:
            return None
        try:
            async with asyncio.timeout(LOOKUP_SECONDS):
                exists = await resolver.exists(domain)
                if exists is False and not await resolver.knows_the_world(split_address(recipient)[1]):
                    exists = None
        except TimeoutError:
            exists = None
        if exists is None:
            silent[domain] = time.monotonic() + SILENCE_SECONDS
        return rules.refuse(reverse_path) if exists is False else None

    return verify_sender
