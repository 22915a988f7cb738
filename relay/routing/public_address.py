"""The public address as name servers see it, and its reverse names (RFC 8601 section 2.7.3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from relay.config.model import PRIVATE_NETWORKS, Network
from relay.mail.public_address import read_public
from relay.routing.lookup import Ask, Lookup, RecordType, State, reverse_name

MIRRORS: tuple[tuple[str, str, RecordType], ...] = (
    ("resolver1.opendns.com", "myip.opendns.com", "A"),
    ("ns1.google.com", "o-o.myaddr.l.google.com", "TXT"),
)
"""Name servers that tell who asks them: server, question, type."""
MIRROR_SECONDS = 3.0
"""How long one of them may take."""

NOBODY = "192.0.2.1"
"""An address at which nobody is (RFC 5737): who answers there answers for everybody."""

INSIDE: tuple[Network, ...] = (
    *PRIVATE_NETWORKS,
    *map(ip_network, ("0.0.0.0/8", "100.64.0.0/10", "224.0.0.0/3", "::/128", "ff00::/8")),
)
"""Networks whose addresses the internet never sees."""

MOST_NAMES = 10
"""Reverse names of an address that are looked at."""

AskAt = Callable[[str], Ask]
"""Makes what asks the name server at an address."""

_FAMILIES: dict[RecordType, int] = {"A": 4, "AAAA": 6}


@dataclass(frozen=True, slots=True)
class Seen:
    """What name servers see."""

    addresses: tuple[str, ...] = ()
    """Public ones, at most one of each IP version, IPv4 first."""
    is_intercepted: bool = False
    """Whether something in between answers for all name servers; it is that whose address they would see."""


@dataclass(frozen=True, slots=True)
class Reverse:
    """The reverse names of an address."""

    names: tuple[str, ...] = ()
    confirmed: tuple[str, ...] = ()
    """Those that lead back to it."""
    failure: str = ""
    """Why it is not known whether one does."""


def ask_at(server: str) -> Ask:
    """Return what asks the name server at an address."""
    return Lookup([(server, 53)], timeout=MIRROR_SECONDS).ask


async def ask_mirrors(ask: Ask, ask_at: AskAt = ask_at, inside: Sequence[Network] = INSIDE) -> Seen:
    """Return what name servers see that tell who asks them."""
    found, anybody = await asyncio.gather(_ask_each(ask, ask_at, inside), ask_at(NOBODY)(MIRRORS[0][1], "A"))
    if found and anybody.state is not State.FAILED:
        return Seen(is_intercepted=True)
    return Seen(tuple(found[version] for version in sorted(found)))


async def _ask_each(ask: Ask, ask_at: AskAt, inside: Sequence[Network]) -> dict[int, str]:
    """Return the addresses by IP version."""
    found: dict[int, str] = {}
    for server, question, record_type in MIRRORS:
        for family in (family for family in _FAMILIES if _FAMILIES[family] not in found):
            kind = family if record_type == "A" else record_type
            for address in (await ask(server, family)).records[:1]:
                answer = await ask_at(address)(question, kind)
                for text in filter(None, (read_public(text, inside) for text in answer.records[:1])):
                    found.setdefault(ip_address(text).version, text)
    return found


async def find_reverse(address: str, ask: Ask) -> Reverse:
    """Return the reverse names of an address, and which of them lead back to it."""
    answer = await ask(reverse_name(address), "PTR")
    if answer.state is State.FAILED:
        return Reverse(failure=answer.reason)
    names = answer.records[:MOST_NAMES]
    forward = await asyncio.gather(*(ask(name, _family_of(address)) for name in names))
    confirmed = tuple(
        name for name, found in zip(names, forward, strict=True) if _has(address, found.records)
    )
    reasons = () if confirmed else (found.reason for found in forward if found.state is State.FAILED)
    return Reverse(names, confirmed, next(iter(reasons), ""))


async def leads_to(name: str, address: str, ask: Ask) -> bool:
    """Return whether a name has an address."""
    return _has(address, (await ask(name, _family_of(address))).records)


def _family_of(address: str) -> RecordType:
    return "AAAA" if ":" in address else "A"


def _has(address: str, records: Iterable[str]) -> bool:
    return ip_address(address) in map(ip_address, records)
