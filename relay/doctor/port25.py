"""Whether mail servers of others can be reached at port 25, which many providers close to households."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from relay.doctor.finding import Finding, Kind, Severity
from relay.doctor.nameservers import KNOWN_DOMAINS
from relay.doctor.trial import Open, Trial, is_unreachable
from relay.mail.attempt import Attempt
from relay.mail.route import NextHop

OPEN = Kind("port25.open", Severity.OK, "port 25 is open: {servers} answered")
BLOCKED = Kind(
    "port25.blocked",
    Severity.PROBLEM,
    "port 25 is closed: none of the mail servers of {domains} can be reached ({reason})",
    "Mail to the recipients' own servers goes over port 25; where that is closed, it all waits in the queue.",
    "Open it in the router, or in your account at the internet provider (some have a switch for it), or send"
    " over a smarthost: fallback or relayhost in relay.toml.",
)
REFUSED = Kind(
    "port25.refused",
    Severity.WARNING,
    "port 25 is open, but {domain} wants no session: {reply}",
    "Mail to its recipients waits in the queue.",
    "Its words tell the reason; the findings on reverse name and blocklists may tell how to mend it.",
)
INTERCEPTED = Kind(
    "port25.intercepted",
    Severity.PROBLEM,
    "the mail servers of {domains} all call themselves {name}: somebody else answers for them",
    "The internet provider, or a security program, takes all mail at port 25; what becomes of it, and whether"
    " it is encrypted, is up to them.",
    "Have the redirection of port 25 turned off, or send over a smarthost with TLS: relayhost in relay.toml.",
)
NO_TARGET = Kind(
    "port25.unknown",
    Severity.INFO,
    "whether port 25 is open could not be tried: {reason}",
    "Mail to the recipients' own servers goes over port 25.",
    "See the findings on DNS.",
)


async def check_port25(
    open_trial: Open, domains: Sequence[str] = KNOWN_DOMAINS, *, is_direct: bool, port: int = 25
) -> list[Finding]:
    """Open sessions with mail exchangers of large domains, and leave them again."""
    hops = [NextHop(domain, port, use_mx=True, tls="none") for domain in domains]
    visits = await asyncio.gather(*(_visit(hop, open_trial) for hop in hops))
    tried = dict(zip(domains, visits, strict=True))
    sessions = {domain: each for domain, each in tried.items() if isinstance(each, Trial)}
    failures = {domain: each for domain, each in tried.items() if isinstance(each, Attempt)}
    unreachable = {domain: each for domain, each in failures.items() if is_unreachable(each)}
    refused = {domain: each for domain, each in failures.items() if each.host}
    findings = [
        REFUSED.found(matters=is_direct, domain=domain, reply=attempt.explain())
        for domain, attempt in refused.items()
    ]
    if sessions:
        return [*findings, _judge_sessions(sessions, is_direct=is_direct)]
    if findings:
        return findings
    if not unreachable:
        return [NO_TARGET.found(reason=next(iter(failures.values())).explain())]
    reason = next(iter(unreachable.values())).explain()
    return [BLOCKED.found(matters=is_direct, domains=", ".join(unreachable), reason=reason)]


async def _visit(next_hop: NextHop, open_trial: Open) -> Trial | Attempt:
    """Return the session that was had, which is over, or why there was none."""
    opened = await open_trial(next_hop)
    if isinstance(opened, Trial):
        await opened.quit()
    return opened


def _judge_sessions(sessions: dict[str, Trial], *, is_direct: bool) -> Finding:
    names = {trial.hello.text.split()[0].lower() for trial in sessions.values() if trial.hello.text.strip()}
    if len(sessions) > 1 and len(names) == 1:
        name, domains = next(iter(names)), ", ".join(sessions)
        return INTERCEPTED.found(matters=is_direct, domains=domains, name=name)
    return OPEN.found(servers=", ".join(trial.label for trial in sessions.values()))
