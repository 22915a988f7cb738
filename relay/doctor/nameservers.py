"""Whether DNS works, and says so where a name does not exist."""

from __future__ import annotations

import asyncio

from relay.doctor.finding import Finding, Kind, Severity
from relay.routing.lookup import Ask, State

KNOWN_DOMAINS = ("gmail.com", "outlook.com", "yahoo.com", "gmx.net", "orange.fr")
"""Large mail domains that will be there for a long time."""

WORKS = Kind("dns.works", Severity.OK, "the name server finds the mail exchangers of well-known domains")
DEAD = Kind(
    "dns.dead",
    Severity.PROBLEM,
    "the name server finds none of the mail exchangers of {domains}: {reason}",
    "Without DNS the relay finds no server to send to; mail waits in the queue.",
    "See that this machine is online, and set nameservers under [dns] of relay.toml, or mend /etc/resolv.conf"
    " (in Docker: the option --dns).",
)
PARTIAL = Kind(
    "dns.partial",
    Severity.WARNING,
    "the name server does not find the mail exchangers of {domains}: {reason}",
    "Mail for the domains that it does not find waits, or comes back.",
    "Set another name server under [dns] of relay.toml, such as the router's or one of your own.",
)
LIES = Kind(
    "dns.lies",
    Severity.PROBLEM,
    "the name server gives {address} for {name}, a name that does not exist",
    "Mail to a mistyped domain goes to a stranger's server instead of coming back at once, and blocklists"
    " seem to list everybody.",
    "Turn off the provider's search or navigation help, or set an honest name server under [dns] of"
    " relay.toml (one of your own, such as unbound, is best).",
)
HONEST = Kind("dns.honest", Severity.OK, "the name server says so where a name does not exist")


async def check_works(ask: Ask) -> list[Finding]:
    """Look well-known mail domains up."""
    answers = await asyncio.gather(*(ask(domain, "MX") for domain in KNOWN_DOMAINS))
    lacking = [
        (domain, answer)
        for domain, answer in zip(KNOWN_DOMAINS, answers, strict=True)
        if answer.state is not State.FOUND
    ]
    if not lacking:
        return [WORKS.found()]
    kind = DEAD if len(lacking) == len(KNOWN_DOMAINS) else PARTIAL
    first = lacking[0][1]
    domains = ", ".join(domain for domain, _ in lacking)
    return [kind.found(domains=domains, reason=first.reason or str(first.state))]


async def check_honesty(ask: Ask, token: str) -> list[Finding]:
    """Look names up that do not exist; ``token`` makes them new ones."""
    names = (f"relay-doctor-{token}.com", f"relay-doctor-{token}.invalid")
    answers = await asyncio.gather(*(ask(name, "A") for name in names))
    lies = [
        LIES.found(name=name, address=answer.records[0])
        for name, answer in zip(names, answers, strict=True)
        if answer.state is State.FOUND
    ]
    if lies:
        return lies[:1]
    return [HONEST.found()] if any(answer.state is State.NO_NAME for answer in answers) else []
