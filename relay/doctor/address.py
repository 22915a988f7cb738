"""The public address, and whether its reverse name and our EHLO name fit to it (RFC 8601 section 2.7.3)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from ipaddress import ip_address

from relay.doctor.finding import Finding, Kind, Severity
from relay.routing.lookup import Ask
from relay.routing.public_address import Reverse, Seen, find_reverse, leads_to

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
    " fallback or relayhost in relay.toml.",
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
    "Ask the internet provider for a name of your own, or send over a smarthost: fallback or relayhost in"
    " relay.toml.",
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


def judge_addresses(seen: Seen, heard: Iterable[str]) -> tuple[list[str], list[Finding]]:
    """Return the public addresses, IPv4 first, and what there is to say.

    ``seen`` is what name servers see, ``heard`` are the addresses that mail servers showed. Mail servers are
    believed more: it is them that mail goes to.
    """
    doubts = [INTERCEPTED.found()] if seen.is_intercepted else []
    by_dns = {ip_address(address).version: address for address in seen.addresses}
    by_mail = {ip_address(address).version: address for address in heard}
    addresses = [address for _, address in sorted((by_dns | by_mail).items())]
    if not addresses:
        return [], [*doubts, UNKNOWN.found()]
    source = "seen by a mail server" if by_mail else "seen by a name server"
    findings = [*doubts, KNOWN.found(addresses=" and ".join(addresses), source=source)]
    findings += [
        DIFFERS.found(heard=by_mail[version], asked=by_dns[version])
        for version in by_dns.keys() & by_mail.keys()
        if ip_address(by_dns[version]) != ip_address(by_mail[version])
    ]
    return addresses, findings


async def check_reverse(address: str, helo_name: str, ask: Ask, *, is_direct: bool) -> list[Finding]:
    """Look at the reverse name of a public address, and at the EHLO name."""
    reverse = await find_reverse(address, ask)
    if reverse.failure:
        return [REVERSE_FAILED.found(matters=is_direct, address=address, reason=reverse.failure)]
    confirmed = reverse.confirmed
    findings = [_judge_names(address, reverse, is_direct=is_direct)]
    is_ours = helo_name.lower() in (name.lower() for name in confirmed)
    if is_ours or not (fault := await _find_fault(helo_name, address, ask)):
        return [*findings, HELO_FITS.found(name=helo_name, address=address)]
    better = f'"{confirmed[0]}"' if confirmed else f"a name that leads to {address}"
    wrong = HELO_WRONG.found(matters=is_direct, name=helo_name, fault=fault, better=better)
    return [*findings, wrong]


async def _find_fault(helo_name: str, address: str, ask: Ask) -> str:
    """Return why mail servers will not like a name, "" where they will."""
    if helo_name.startswith("["):
        return "is an address, as no name leads to it"
    if await leads_to(helo_name, address, ask):
        return ""
    answers = await asyncio.gather(ask(helo_name, "A"), ask(helo_name, "AAAA"))
    exists = any(answer.records for answer in answers)
    return f"does not lead to {address}" if exists else "does not exist in DNS"


def _judge_names(address: str, reverse: Reverse, *, is_direct: bool) -> Finding:
    if not reverse.names:
        return NO_REVERSE.found(matters=is_direct, address=address)
    if not reverse.confirmed:
        shown, name = ", ".join(reverse.names), reverse.names[0]
        return UNCONFIRMED.found(matters=is_direct, address=address, names=shown, name=name)
    if _looks_generic(reverse.confirmed[0], address):
        return GENERIC.found(matters=is_direct, address=address, name=reverse.confirmed[0])
    return CONFIRMED.found(address=address, name=reverse.confirmed[0])


def _looks_generic(name: str, address: str) -> bool:
    """Whether a name has at least three of the four numbers of an IPv4 address in it."""
    numbers = {number.lstrip("0") for number in re.findall(r"\d+", name)}
    octets = {octet.lstrip("0") for octet in address.split(".")}
    return ":" not in address and len(octets & numbers) >= min(3, len(octets))
