"""Whether mail would leave as the answers say: tried without mail, and then with one message if wanted."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from aiosmtplib.esmtp import parse_esmtp_extensions

from relay.config.house import destinations_of
from relay.config.model import Config
from relay.config.smarthosts import next_hop_of
from relay.delivery.client import ClientSettings, Content
from relay.delivery.dialogue import Timeouts
from relay.doctor import port25, smarthosts
from relay.doctor.finding import Finding, Severity
from relay.doctor.trial import TIMEOUTS, Open, opener
from relay.mail.address import quote_address
from relay.mail.attempt import Attempt
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from relay.mail.trace import missing_headers
from relay.oauth.tokens import Tokens
from relay.routing.myself import Myself
from relay.routing.resolver import Resolver
from relay.wiring import account_of, accounts_of, locate_by

DNS_SECONDS = 6.0
"""How long one question to DNS may take."""
_PATIENT = replace(TIMEOUTS, mail=60, rcpt=60, data=60, block=60, end_of_data=120)
_NUMBER = 1
"""Of the only message that there is."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial."""

    findings: tuple[Finding, ...]
    message_size: int | None = None
    """The largest message that the server takes, where that is less than the relay's limit."""

    @property
    def problem(self) -> Finding | None:
        """What keeps mail from leaving; None if nothing does."""
        return next((found for found in self.findings if found.severity is Severity.PROBLEM), None)


async def try_way(config: Config) -> Tried:
    """Return whether mail would leave, tried up to RCPT at the smarthost, or up to a session at port 25."""
    heard: list[Reply] = []
    open_trial = _opener(config, TIMEOUTS, heard.append)
    if not config.smarthost:
        return Tried(tuple(await port25.check_port25(open_trial, is_direct=True)))
    [(name, smarthost)] = config.smarthost.items()
    hop = next_hop_of(name, smarthost)
    findings = await smarthosts.check_smarthost(config, hop, open_trial, now=time.time())
    # The limit is the caller's to lower: nobody need be told.
    others = tuple(found for found in findings if found.name != smarthosts.SMALL.name)
    offers, _ = parse_esmtp_extensions(heard[-1].text if heard else "")
    return Tried(others, smarthosts.size_limit(offers.get("size", ""), config.limits.message_size))


async def send_test_message(config: Config, address: str) -> Attempt:
    """Send one message from an address to itself, over the way that its mail goes; return what came of it."""
    via = destinations_of(config).route(address, address).via
    assert isinstance(via, NextHop)
    opened = await _opener(config, _PATIENT, lambda _: None)(via)
    if isinstance(opened, Attempt):
        return opened
    content = _write_message(config.hostname, address, time.time())
    envelope = Envelope(address, (Recipient(address),), is_smtputf8=not address.isascii())
    header_size = content.index(b"\r\n\r\n") + 2
    message = Message(_NUMBER, envelope, len(content), header_size, body_is_8bit=False, received_at=0.0)
    try:
        [attempt] = await opened.transfer(
            message, Content(len(content), _chunks(content), not content.isascii())
        )
    finally:
        await opened.quit()
    return attempt


def _opener(config: Config, timeouts: Timeouts, note: Callable[[Reply], None]) -> Open:
    resolver = Resolver(
        Myself(config.hostname, config.listen).is_at, config.dns.nameservers, timeout=DNS_SECONDS
    )
    account = account_of(config, Tokens(accounts_of(config)))
    settings = ClientSettings(config.helo_name, config.hostname, timeouts, account)
    return opener(locate_by(resolver), settings, note)


def _write_message(hostname: str, address: str, now: float) -> bytes:
    others = missing_headers(frozenset(), address, hostname, f"init{_NUMBER}", now)
    text = (
        f"To: {quote_address(address)}\r\n"
        f"Subject: Test message of the relay on {hostname}\r\n"
        "\r\n"
        "This is the message that `relay init` offered to send. That you read it\r\n"
        "means that mail leaves the house by the way that relay.toml says.\r\n"
    )
    return b"".join(others) + text.encode()


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content
