"""Whether each server that the configuration names takes our mail: tried up to RCPT, nothing is sent."""

from __future__ import annotations

import ssl
import time

from relay.config.model import Config
from relay.config.values import format_size
from relay.delivery.login import is_login_failure
from relay.doctor.finding import Finding, Kind, Severity
from relay.doctor.trial import Open, Trial, is_unreachable
from relay.doctor.ways import recipient_for, sender_for
from relay.mail.attempt import Attempt
from relay.mail.route import NextHop

EXPIRY_DAYS = 2
"""How long before its certificate expires a server is told of; some are renewed every few days."""

TLS_FAILURES = frozenset({"4.7.4", "4.7.5"})
"""Status codes of a connection that was not safe enough to go on."""
MEGABYTE = 1_000_000

_WAITS = "All mail that goes this way waits in the queue until it is mended."

READY = Kind(
    "smarthost.ready",
    Severity.OK,
    "{server} would take mail from {sender} for {recipient} ({tls}, {login}); nothing was sent",
)
UNKNOWN = Kind(
    "smarthost.unknown",
    Severity.PROBLEM,
    "there is no server to connect to: {reply}",
    _WAITS,
    "Check host in {section} of relay.toml; see the findings on DNS.",
)
CLOSED = Kind(
    "smarthost.unreachable",
    Severity.PROBLEM,
    "no connection: {reply}",
    _WAITS,
    "Check host and port in {section} of relay.toml, and whether a firewall of the router or the provider"
    " closes that port; most providers take 465 and 587.",
)
NO_TLS = Kind(
    "smarthost.tls",
    Severity.PROBLEM,
    "no safe connection: {reply}",
    "The relay gives password and mail to no server that does not prove its name. " + _WAITS,
    "Check host, port and tls in {section} of relay.toml. If they are right: is the clock right, and does a"
    " security program stand in between?",
)
NO_LOGIN = Kind(
    "smarthost.login",
    Severity.PROBLEM,
    "no login: {reply}",
    _WAITS,
    "Check username, password (an app password?) and auth in {section} of relay.toml.",
)
NO_TOKEN_LOGIN = Kind(
    "smarthost.token",
    Severity.PROBLEM,
    "no login by OAuth: {reply}",
    _WAITS,
    "Log in again: `relay login {name}`. If that does not help, check username and client_id in {section} of"
    " relay.toml (docs/oauth.md).",
)
NO_SESSION = Kind(
    "smarthost.refused",
    Severity.PROBLEM,
    "it wants no session: {reply}",
    _WAITS,
    "Its words tell the reason. If what answers is no mail server, check host, port and tls in {section} of"
    " relay.toml.",
)
BROKEN = Kind(
    "smarthost.broken",
    Severity.PROBLEM,
    "the conversation broke off: {reply}",
    _WAITS,
    "Try again; if it stays, ask the server's owner, and see what stands between: a security program?",
)
NO_SENDER = Kind(
    "smarthost.sender",
    Severity.PROBLEM,
    "it does not take {sender} as a sender: {reply}",
    "Mail with this sender comes back, or waits.",
    "Rewrite senders in [sender_canonical] of relay.toml to an address that the account may use, or allow"
    " {sender} at the provider.",
)
NO_RECIPIENT = Kind(
    "smarthost.recipient",
    Severity.PROBLEM,
    "it takes {sender} as a sender, but not {recipient} as a recipient: {reply}",
    "A server that relays for nobody it does not know may want a login; else only this address is refused.",
    "Give {section} in relay.toml a username and password, or set postmaster to an address that gets mail.",
)
SMALL = Kind(
    "smarthost.size",
    Severity.WARNING,
    "it takes messages up to {size}, the relay takes {ours}",
    "A larger message is taken from the client and then comes back as a bounce.",
    'Set message_size = "{size}" under [limits] of relay.toml.',
)
EXPIRES = Kind(
    "smarthost.certificate",
    Severity.WARNING,
    "its certificate expires on {day}",
    "From then on the relay does not trust the server, and mail waits. Most likely the server's owner renews"
    " it in time.",
    "If the server is yours: renew its certificate. Else wait; is the clock right here?",
)


async def check_smarthost(
    config: Config, next_hop: NextHop, open_trial: Open, *, now: float
) -> list[Finding]:
    """Connect, log in, name a sender and a recipient, take it all back."""
    opened = await open_trial(next_hop)
    if isinstance(opened, Attempt):
        return [_explain_failure(config, next_hop, opened)]
    sender = sender_for(config, next_hop)
    recipient = recipient_for(config, next_hop, sender)
    try:
        attempt = await opened.rehearse(sender, recipient)
        findings = [_judge(config, opened, attempt, sender, recipient)]
        findings += _judge_size(config, opened) + _judge_certificate(opened, now)
    finally:
        await opened.quit()
    return findings


def _explain_failure(config: Config, next_hop: NextHop, attempt: Attempt) -> Finding:
    reply = attempt.explain()
    section, name = _section(config, next_hop), next_hop.smarthost
    if is_login_failure(attempt):
        is_oauth = name in config.smarthost and config.smarthost[name].auth == "xoauth2"
        return (NO_TOKEN_LOGIN if is_oauth else NO_LOGIN).found(reply=reply, section=section, name=name)
    if not attempt.host:
        kind = CLOSED if is_unreachable(attempt) else UNKNOWN
    else:
        kind = NO_TLS if attempt.reply.enhanced in TLS_FAILURES else NO_SESSION
    return kind.found(reply=reply, section=section)


def _section(config: Config, next_hop: NextHop) -> str:
    """Return the place in relay.toml that names a server."""
    if next_hop.smarthost:
        return f"[smarthost.{next_hop.smarthost}]"
    if next_hop == config.relayhost:
        return "relayhost"
    if next_hop == config.fallback:
        return "fallback"
    is_of_sender = next_hop in config.sender_relayhost.values()
    return "[sender_relayhost]" if is_of_sender else "[transport]"


def _judge(config: Config, trial: Trial, attempt: Attempt, sender: str, recipient: str) -> Finding:
    section = _section(config, trial.next_hop)
    if attempt.reply.is_positive:
        smarthost = config.smarthost.get(trial.next_hop.smarthost)
        username = smarthost.username if smarthost else ""
        return READY.found(
            server=trial.label,
            sender=sender,
            recipient=recipient,
            tls=trial.tls_version or "no TLS",
            login=f"logged in as {username}" if username else "no login",
        )
    reply = attempt.explain()
    if not (attempt.is_remote or attempt.reply.is_permanent):
        return BROKEN.found(reply=reply)
    if attempt.command == "RCPT TO":
        return NO_RECIPIENT.found(sender=sender, recipient=recipient, reply=reply, section=section)
    return NO_SENDER.found(sender=sender, reply=reply)


def _judge_size(config: Config, trial: Trial) -> list[Finding]:
    ours = config.limits.message_size
    theirs = size_limit(trial.offers.get("SIZE", ""), ours)
    return [SMALL.found(size=format_size(theirs), ours=format_size(ours))] if theirs else []


def size_limit(offered: str, ours: int) -> int | None:
    """Return the largest message of a server by its SIZE parameter, None unless that is less than ours."""
    if not (offered.isdecimal() and 0 < int(offered) < ours):
        return None
    # Whole megabytes are what an owner writes.
    return int(offered) if int(offered) < MEGABYTE else int(offered) // MEGABYTE * MEGABYTE


def _judge_certificate(trial: Trial, now: float) -> list[Finding]:
    end = trial.certificate.get("notAfter")
    if end is None or ssl.cert_time_to_seconds(end) > now + EXPIRY_DAYS * 86400:
        return []
    day = time.strftime("%Y-%m-%d", time.gmtime(ssl.cert_time_to_seconds(end)))
    return [EXPIRES.found(day=day)]
