"""Whether blocklists know the public address; and whether they tell us, or only pretend to (RFC 5782)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from relay.doctor.finding import Finding, Kind, Severity
from relay.routing.lookup import Answer, Ask, State, reverse_name


@dataclass(frozen=True, slots=True)
class Blocklist:
    """A blocklist that many mail servers ask."""

    name: str
    zone: str
    page: str
    """Where one sees why, and asks to be taken off."""


BLOCKLISTS = (
    Blocklist("Spamhaus", "zen.spamhaus.org", "https://check.spamhaus.org/"),
    Blocklist("SpamCop", "bl.spamcop.net", "https://www.spamcop.net/bl.shtml"),
    Blocklist("PSBL", "psbl.surriel.com", "https://psbl.org/"),
)
LISTED_TEST, CLEAN_TEST = "127.0.0.2", "127.0.0.1"
"""Addresses that every list has, and has not (RFC 5782 section 5)."""
HOME_CODES = frozenset({"127.0.0.10", "127.0.0.11"})
"""Spamhaus PBL: an address that is not supposed to send mail itself, as those of most households."""
REFUSALS = {
    "127.255.255.252": "it takes the question for mistyped",
    "127.255.255.254": "it answers no public or nameless name servers, and this relay asks one",
    "127.255.255.255": "it was asked too often by this name server",
}
_CODES = ip_network("127.0.0.0/8")
_REFUSALS = ip_network("127.255.255.0/24")

CLEAN = Kind("blocklist.clean", Severity.OK, "{list} does not list {address}")
LISTED = Kind(
    "blocklist.listed",
    Severity.PROBLEM,
    "{list} lists {address} ({codes})",
    "Mail servers that ask this list refuse mail from here. Perhaps something in the house sends junk.",
    "See {page} for the reason, look for an infected device in the house, then ask there to be taken off."
    " Until then send over a smarthost.",
)
HOME = Kind(
    "blocklist.home",
    Severity.PROBLEM,
    "{list} lists {address} as the address of a household (PBL, {codes})",
    "That is usual and no reproach, but many mail servers refuse all mail that comes directly from such an"
    " address.",
    "Send over a smarthost: fallback or relayhost in relay.toml. If the address is yours for good, you may"
    " take it off the list at {page}.",
)
UNUSABLE = Kind(
    "blocklist.unusable",
    Severity.INFO,
    "{list} does not tell: {reason}",
    "Whether {address} is listed there is unknown: it is neither clean nor listed.",
    "Ask by hand at {page}, or set a name server of your own under [dns] of relay.toml.",
)


async def check_blocklist(blocklist: Blocklist, address: str, ask: Ask, *, is_direct: bool) -> list[Finding]:
    """Ask one list about one address, after asking for what every list has and has not."""
    listed, clean, answer = await asyncio.gather(
        *(
            ask(reverse_name(asked, blocklist.zone), "A")
            for asked in (LISTED_TEST, CLEAN_TEST, str(ip_address(address)))
        )
    )
    name, page = blocklist.name, blocklist.page
    if reason := next(_faults(listed, clean, answer), ""):
        return [UNUSABLE.found(list=name, address=address, page=page, reason=reason)]
    if answer.state is not State.FOUND:
        return [CLEAN.found(list=name, address=address)]
    codes = ", ".join(sorted(answer.records, key=ip_address))
    is_home = blocklist.zone == "zen.spamhaus.org" and HOME_CODES.issuperset(answer.records)
    kind = HOME if is_home else LISTED
    return [kind.found(matters=is_direct, list=name, address=address, page=page, codes=codes)]


def _faults(listed: Answer, clean: Answer, answer: Answer) -> Iterator[str]:
    """Yield why an answer of a list means nothing."""
    codes = [ip_address(record) for each in (listed, clean, answer) for record in each.records]
    for code in codes:
        if code in _REFUSALS:
            yield REFUSALS.get(str(code), f"it refuses to answer ({code})")
        elif code not in _CODES:
            yield f"what comes back, {code}, is none of its answers"
    for each in (listed, clean, answer):
        if each.state is State.FAILED:
            yield each.reason
    if listed.state is not State.FOUND:
        yield f"it does not list {LISTED_TEST}, as every list does"
    if clean.state is State.FOUND:
        yield f"it lists {CLEAN_TEST}, as no list does"
