"""The public address, and whether its reverse name and our EHLO name fit to it (RFC 8601 section 2.7.3)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network

from relay.config.model import PRIVATE_NETWORKS
from relay.doctor.finding import Finding, Kind, Severity
from relay.doctor.lookup import Ask, RecordType, State, reverse_name

MIRRORS: tuple[tuple[str, str, RecordType], ...] = (
    ("resolver1.opendns.com", "myip.opendns.com", "A"),
    ("ns1.google.com", "o-o.myaddr.l.google.com", "TXT"),
)
"""Name servers that tell who asks them: server, question, type."""

NOBODY = "192.0.2.1"
"""An address at which nobody is (RFC 5737): who answers there answers for everybody."""

_ECHO = re.compile(r"[\[( ](?:IPv6:)?([0-9A-Fa-f:.]{3,39})(?=[\]) ,]|$)")
_INSIDE = (*PRIVATE_NETWORKS, *map(ip_network, ("0.0.0.0/8", "100.64.0.0/10", "224.0.0.0/4", "::/128")))

KNOWN = Kind("address.known", Severity.OK, "the world sees this relay as {addresses} ({source})")
UNKNOWN = Kind(
    "address.unknown",
    Severity.WARNING,
    "the public address could not be found out",
    "Reverse name, blocklists and SPF could not be looked at: all are about that address.",
    "Let this machine ask name servers on the internet (UDP port 53), or add a smarthost whose EHLO reply"
    " shows the address.",
)
DIFFERS = Kind(
    "address.differs",
    Severity.INFO,
    "mail servers see {heard}, name servers see {asked}",
    "The line has several ways out, or something answers DNS questions in the place of others. The findings"
    " below are about {heard}.",
    "Nothing, where the line has two providers; else see whether the router redirects DNS.",
)
INTERCEPTED = Kind(
    "address.intercepted",
    Severity.WARNING,
    "something answers DNS questions in the place of the name servers that are asked",
    "Name servers can't tell the public address then, and blocklists see a name server that is not yours.",
    "See whether the router or the internet provider redirects DNS, and have that turned off.",
)
NO_REVERSE = Kind(
    "reverse.none",
    Severity.PROBLEM,
    "{address} has no reverse name",
    "Most mail servers refuse mail from an address without one.",
    "Ask the internet provider to give {address} a name (only the provider can), or send over a smarthost:"
    " relayhost in relay.toml.",
)
REVERSE_FAILED = Kind(
    "reverse.failed",
    Severity.WARNING,
    "the reverse name of {address} could not be looked up: {reason}",
    "If others can't look it up either, they refuse mail from here for now.",
    "Try again; if it stays, tell the internet provider.",
)
UNCONFIRMED = Kind(
    "reverse.unconfirmed",
    Severity.PROBLEM,
    "{address} has the reverse name {names}, which does not lead back to it",
    "Anybody can claim any name; mail servers believe, and take mail from, those that lead back.",
    "Give the name {name} an A (AAAA) record with {address}, or have the provider set a name that has one.",
)
GENERIC = Kind(
    "reverse.generic",
    Severity.WARNING,
    "{address} has the reverse name {name}, which looks like that of any household",
    "Many mail servers refuse names that have the address in them, whatever is sent.",
    "Ask the internet provider for a name of your own, or send over a smarthost: relayhost in relay.toml.",
)
CONFIRMED = Kind("reverse.confirmed", Severity.OK, "{address} has the reverse name {name}, which leads back")
HELO_FITS = Kind("helo.fits", Severity.OK, "the EHLO name {name} leads to {address}")
HELO_WRONG = Kind(
    "helo.wrong",
    Severity.WARNING,
    "the EHLO name {name} {fault}",
    "Mail servers compare it with the address that it comes from, and distrust or refuse what does not fit.",
    "Set helo_name in relay.toml to {better}.",
)


def parse_echo(text: str) -> str:
    """Return the client address that an EHLO reply shows, "" where there is none that is public."""
    addresses = _ECHO.findall(text.partition("\n")[0])
    return next(filter(_is_public, reversed(addresses)), "")


def _is_public(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not any(address in network for network in _INSIDE)


async def ask_mirrors(ask: Ask, ask_at: Callable[[str], Ask]) -> tuple[list[str], list[Finding]]:
    """Return the public addresses that name servers see, one of each IP version, and why to doubt them.

    ``ask_at`` makes what asks the name server at an address. Where something in between answers for all name
    servers, it is that whose address they see.
    """
    found: dict[int, str] = {}
    for server, question, record_type in MIRRORS:
        for family in (family for family in _FAMILIES if _FAMILIES[family] not in found):
            kind = family if record_type == "A" else record_type
            for address in (await ask(server, family)).records[:1]:
                answer = await ask_at(address)(question, kind)
                for text in filter(_is_public, answer.records[:1]):
                    found.setdefault(ip_address(text).version, text)
    if found and (await ask_at(NOBODY)(MIRRORS[0][1], "A")).state is not State.FAILED:
        return [], [INTERCEPTED.found()]
    return [found[version] for version in sorted(found)], []


_FAMILIES: dict[RecordType, int] = {"A": 4, "AAAA": 6}


def judge_addresses(asked: Iterable[str], heard: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """Return the public addresses, and what there is to say; ``heard`` are those that mail servers showed.

    Mail servers are believed more than name servers: it is them that mail goes to.
    """
    by_dns = {ip_address(address).version: address for address in asked}
    by_mail = {ip_address(address).version: address for address in heard}
    addresses = list((by_dns | by_mail).values())
    if not addresses:
        return [], [UNKNOWN.found()]
    source = "seen by a mail server" if by_mail else "seen by a name server"
    findings = [KNOWN.found(addresses=" and ".join(addresses), source=source)]
    findings += [
        DIFFERS.found(heard=by_mail[version], asked=by_dns[version])
        for version in by_dns.keys() & by_mail.keys()
        if ip_address(by_dns[version]) != ip_address(by_mail[version])
    ]
    return addresses, findings


async def check_reverse(address: str, helo_name: str, ask: Ask, *, is_direct: bool) -> list[Finding]:
    """Look at the reverse name of a public address, and at the EHLO name."""
    answer = await ask(reverse_name(address), "PTR")
    if answer.state is State.FAILED:
        return [REVERSE_FAILED.found(matters=is_direct, address=address, reason=answer.reason)]
    names = answer.records[:10]
    leads_back = await asyncio.gather(*(_leads_to(name, address, ask) for name in names))
    confirmed = [name for name, leads in zip(names, leads_back, strict=True) if leads]
    findings = [_judge_names(address, list(names), confirmed, is_direct=is_direct)]
    is_ours = helo_name.lower() in (name.lower() for name in confirmed)
    if is_ours or await _leads_to(helo_name, address, ask):
        return [*findings, HELO_FITS.found(name=helo_name, address=address)]
    answers = await asyncio.gather(*(ask(helo_name, family) for family in _FAMILIES))
    exists = any(answer.records for answer in answers)
    fault = f"does not lead to {address}" if exists else "does not exist in DNS"
    better = f'"{confirmed[0]}"' if confirmed else f"a name that leads to {address}"
    wrong = HELO_WRONG.found(matters=is_direct, name=helo_name, fault=fault, better=better)
    return [*findings, wrong]


def _judge_names(address: str, names: list[str], confirmed: list[str], *, is_direct: bool) -> Finding:
    if not names:
        return NO_REVERSE.found(matters=is_direct, address=address)
    if not confirmed:
        shown = ", ".join(names)
        return UNCONFIRMED.found(matters=is_direct, address=address, names=shown, name=names[0])
    if _looks_generic(confirmed[0], address):
        return GENERIC.found(matters=is_direct, address=address, name=confirmed[0])
    return CONFIRMED.found(address=address, name=confirmed[0])


def _looks_generic(name: str, address: str) -> bool:
    """Whether a name has at least three of the four numbers of an IPv4 address in it."""
    numbers = {number.lstrip("0") for number in re.findall(r"\d+", name)}
    octets = {octet.lstrip("0") for octet in address.split(".")}
    return ":" not in address and len(octets & numbers) >= min(3, len(octets))


async def _leads_to(name: str, address: str, ask: Ask) -> bool:
    wanted = ip_address(address)
    answer = await ask(name, "A" if wanted.version == 4 else "AAAA")
    return any(ip_address(record) == wanted for record in answer.records)
