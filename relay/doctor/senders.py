"""The domains that our mail comes from: whether they exist, and whether SPF allows our ways out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from relay.config.model import Config
from relay.doctor import spf
from relay.doctor.finding import Finding, Kind, Severity
from relay.doctor.spf import Result, Verdict
from relay.mail.address import fold, split_address
from relay.mail.route import NextHop
from relay.routing.lookup import Ask, State

EXISTS = Kind("sender.exists", Severity.OK, "{domain} (of {sender}) exists and takes mail")
MISSING = Kind(
    "sender.missing",
    Severity.PROBLEM,
    "mail may leave as {sender}, and the domain {domain} does not exist on the internet",
    "Mail servers refuse senders that nobody could answer.",
    "Rewrite it under [sender_canonical] of relay.toml to an address that exists, such as"
    ' "@{domain}" = "you@your-provider.example".',
)
NO_MAIL = Kind(
    "sender.no_mail",
    Severity.WARNING,
    "mail may leave as {sender}, but {domain} takes no mail: {fault}",
    "Replies and bounces can't come back, and some mail servers refuse such senders.",
    "Give {domain} an MX record, or rewrite the sender under [sender_canonical] of relay.toml.",
)
LOOKUP_FAILED = Kind(
    "sender.unknown",
    Severity.WARNING,
    "whether {domain} (of {sender}) exists could not be looked up: {reason}",
    "A mail server that can't look it up either defers mail from it.",
    "Try again; if only this domain fails, its name servers are broken.",
)
SPF_PASS = Kind("spf.pass", Severity.OK, "SPF of {domain} allows mail from {way}")
SPF_ACCOUNT = Kind(
    "spf.account",
    Severity.OK,
    "mail as {sender} goes over the account {username} of the same domain: its provider sees to SPF",
)
SPF_FAIL = Kind(
    "spf.fail",
    Severity.PROBLEM,
    "SPF of {domain} forbids mail from {way}: {record}",
    "Mail servers refuse what SPF forbids.",
    "Add {mechanism} to the SPF record of {domain} if it is yours; else send its mail over its own provider:"
    ' "@{domain}" = "NAME" under [sender_relayhost] of relay.toml.',
)
SPF_SOFTFAIL = Kind(
    "spf.softfail",
    Severity.WARNING,
    "SPF of {domain} calls mail from {way} suspect: {record}",
    "Such mail tends to end up as junk.",
    "Add {mechanism} to the SPF record of {domain} if it is yours; else send its mail over its own provider:"
    ' "@{domain}" = "NAME" under [sender_relayhost] of relay.toml.',
)
SPF_NEUTRAL = Kind(
    "spf.neutral",
    Severity.INFO,
    "SPF of {domain} says neither yes nor no to mail from {way}: {record}",
    "It is treated as if there were no SPF record.",
    "Add {mechanism} to the SPF record of {domain} if it is yours.",
)
SPF_NONE = Kind(
    "spf.none",
    Severity.WARNING,
    "{domain} has no SPF record",
    "Some large mail providers refuse or distrust mail whose domain has neither SPF nor DKIM.",
    'If the domain is yours, publish a TXT record such as "v=spf1 {mechanism} ~all".',
)
SPF_BROKEN = Kind(
    "spf.broken",
    Severity.PROBLEM,
    "the SPF record of {domain} is wrong: {reason} ({record})",
    "Mail servers take a wrong record for none, and some refuse the mail.",
    "Mend the record if the domain is yours.",
)
SPF_FAILED = Kind(
    "spf.unknown",
    Severity.WARNING,
    "the SPF record of {domain} could not be looked up: {reason}",
    "A mail server that can't look it up either may defer mail.",
    "Try again; if it stays, the name servers of a domain in the record are broken.",
)
SPF_UNSURE = Kind(
    "spf.unsure",
    Severity.INFO,
    "whether SPF of {domain} allows mail over {way} can't be told from here: {record}",
    "A provider sends from addresses that only it knows.",
    "See in its help which include: it wants in the record, and that it is there.",
)

_KINDS = {Result.FAIL: SPF_FAIL, Result.SOFTFAIL: SPF_SOFTFAIL, Result.NEUTRAL: SPF_NEUTRAL}


async def check_sender(
    sender: str, hop: NextHop | None, addresses: Sequence[str], config: Config, ask: Ask
) -> list[Finding]:
    """Look a sender's domain up, and its SPF record where the domain exists."""
    domain = fold(split_address(sender)[1])
    found = await check_domain(domain, sender, ask)
    is_missing = any(finding.name == MISSING.name for finding in found)
    return found if is_missing else [*found, *await check_spf(sender, hop, addresses, config, ask)]


async def check_domain(domain: str, sender: str, ask: Ask) -> list[Finding]:
    """Look a sender's domain up as mail servers do that verify it."""
    mx, ipv4, ipv6 = await asyncio.gather(ask(domain, "MX"), ask(domain, "A"), ask(domain, "AAAA"))
    if State.NO_NAME in {mx.state, ipv4.state}:
        return [MISSING.found(domain=domain, sender=sender)]
    if mx.records == (".",):
        return [NO_MAIL.found(domain=domain, sender=sender, fault="it has a null MX")]
    if any(answer.records for answer in (mx, ipv4, ipv6)):
        return [EXISTS.found(domain=domain, sender=sender)]
    if reason := mx.reason or ipv4.reason:
        return [LOOKUP_FAILED.found(domain=domain, sender=sender, reason=reason)]
    return [NO_MAIL.found(domain=domain, sender=sender, fault="it has neither MX nor address")]


async def check_spf(
    sender: str, hop: NextHop | None, addresses: Sequence[str], config: Config, ask: Ask
) -> list[Finding]:
    """Judge the SPF record of a sender's domain for the way that its mail takes.

    ``addresses`` are the public ones of this relay; they count where mail goes out directly (no ``hop``).
    """
    domain = fold(split_address(sender)[1])
    if hop is None:
        verdicts = [
            (await spf.check_host(ask, address, domain, sender, config.helo_name), f"this relay ({address})")
            for address in addresses
        ]
        mechanisms = [f"ip{'6' if ':' in address else '4'}:{address}" for address in addresses]
        return [
            _judge(verdict, domain, way, mechanism)
            for (verdict, way), mechanism in zip(verdicts, mechanisms, strict=True)
        ]
    smarthost = config.smarthost.get(hop.smarthost)
    if smarthost and fold(smarthost.username).endswith(f"@{domain}"):
        return [SPF_ACCOUNT.found(sender=sender, username=smarthost.username)]
    return [await _judge_hop(sender, domain, hop, config, ask)]


async def _judge_hop(sender: str, domain: str, hop: NextHop, config: Config, ask: Ask) -> Finding:
    """Judge a way over a server of somebody else, who may send on from other addresses than it has."""
    answers = await asyncio.gather(ask(hop.host, "A"), ask(hop.host, "AAAA"))
    # Where it has no address that is found, any will do to read the record.
    addresses = [record for answer in answers for record in answer.records] or ["192.0.2.1"]
    verdict = Verdict(Result.NONE)
    for address in addresses:
        verdict = await spf.check_host(ask, address, domain, sender, config.helo_name)
        if verdict.result is not Result.PASS:
            break
    way = hop.smarthost or hop.host
    if verdict.result in _KINDS:
        return SPF_UNSURE.found(domain=domain, way=way, record=verdict.record)
    return _judge(verdict, domain, way, "include:(what the provider wants)")


def _judge(verdict: Verdict, domain: str, way: str, mechanism: str) -> Finding:
    record, reason = verdict.record, verdict.reason
    match verdict.result:
        case Result.PASS:
            return SPF_PASS.found(domain=domain, way=way)
        case Result.NONE:
            return SPF_NONE.found(domain=domain, mechanism=mechanism)
        case Result.PERMERROR:
            return SPF_BROKEN.found(domain=domain, reason=reason, record=record)
        case Result.TEMPERROR:
            return SPF_FAILED.found(domain=domain, reason=reason)
    return _KINDS[verdict.result].found(domain=domain, way=way, record=record, mechanism=mechanism)
