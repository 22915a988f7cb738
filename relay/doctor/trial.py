"""A session with a mail server that ends before any mail: what it says of itself, and whom it would take."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiosmtplib.errors import SMTPException

from relay.delivery import commands
from relay.delivery.agent import Endpoint
from relay.delivery.client import ClientSettings, Connection
from relay.delivery.dialogue import Timeouts
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.route import NextHop

TIMEOUTS = Timeouts(
    connect=8,
    greeting=15,
    ehlo=15,
    starttls=15,
    auth=15,
    mail=15,
    rcpt=15,
    data=1,
    block=1,
    end_of_data=1,
    quit=3,
)
"""Seconds; a server that is slower would do no good to mail either. Nothing is sent beyond RCPT."""
ADDRESSES = 4
"""Addresses of one next hop that are tried."""


class Trial(Connection):
    """A connection that rehearses a transaction and never gets to DATA."""

    hello: Reply = Reply(0, "", "")
    """What the server said to the last EHLO."""

    async def _introduce(self, verb: str) -> Reply:
        self.hello = await super()._introduce(verb)
        return self.hello

    @property
    def certificate(self) -> Mapping[str, Any]:
        """The verified certificate as ``getpeercert`` has it; empty where none was verified."""
        transport = self._protocol.transport
        return (transport.get_extra_info("peercert") if transport else None) or {}

    @property
    def tls_version(self) -> str:
        """The TLS version in use, "" where there is none."""
        transport = self._protocol.transport
        cipher = transport.get_extra_info("ssl_object") if transport else None
        return (cipher.version() if cipher else None) or ""

    async def rehearse(self, sender: str, recipient: str) -> Attempt:
        """Return the reply to RCPT, or to MAIL where that is refused; a transaction is taken back."""
        dialogue, offers = self._dialogue, self.offers
        to = Recipient(recipient)
        envelope = Envelope(sender, (to,))
        server = dialogue.server
        refusal = commands.refuse_message(envelope, 0, has_8bit_header=False, offers=offers, server=server)
        refusal = refusal or commands.refuse_recipient(to, offers=offers, server=server)
        if refusal is not None:
            return dialogue.remark(refusal, Scope.RECIPIENT)
        mail = commands.mail_command(envelope, 0, is_8bit=False, has_8bit_header=False, offers=offers)
        try:
            for command, line in (("MAIL FROM", mail), ("RCPT TO", commands.rcpt_command(to, offers))):
                dialogue.enter(f"sending {command}", command)
                self._protocol.write(line)
                reply = await dialogue.read(TIMEOUTS.rcpt)
                if not reply.is_positive:
                    return dialogue.answer(reply)  # some hang up now: QUIT is enough
            attempt = dialogue.answer(reply)
            dialogue.enter("sending RSET")
            self._protocol.write(b"RSET\r\n")
            await dialogue.read(TIMEOUTS.rcpt)
        except SMTPException as error:
            return dialogue.explain(error, Scope.RECIPIENT)
        return attempt


Open = Callable[[NextHop], Awaitable[Trial | Attempt]]
"""Opens a session with a next hop, or says why there is none."""
Locate = Callable[[NextHop], Awaitable[Sequence[Endpoint] | Attempt]]
"""Looks up the servers of a next hop."""


def opener(locate: Locate, settings: ClientSettings, note: Callable[[Reply], None] = lambda _: None) -> Open:
    """Return what opens sessions; ``note`` is given what each server says to EHLO."""

    async def open_trial(next_hop: NextHop) -> Trial | Attempt:
        found = await locate(next_hop)
        if isinstance(found, Attempt):
            return found
        failure: Attempt | None = None
        for endpoint in choose_endpoints(found):
            opened = await Trial.open(endpoint.name, endpoint.address, next_hop, settings)
            if isinstance(opened, Trial):
                note(opened.hello)
                return opened
            assert isinstance(opened, Attempt)
            if not is_unreachable(opened):
                return opened
            failure = failure or opened
        return failure or Attempt(Reply(451, "4.4.4", "it has no address"), Scope.SITE)

    return open_trial


def is_unreachable(attempt: Attempt) -> bool:
    """Whether no connection was to be had, as against a server that gave no session."""
    return not attempt.host and attempt.reply.enhanced == "4.4.1"


def choose_endpoints(found: Sequence[Endpoint]) -> Sequence[Endpoint]:
    """Return some of the servers, IPv4 and IPv6 in turn: one of them may not work here at all."""
    by_version: tuple[list[Endpoint], list[Endpoint]] = ([], [])
    for endpoint in found:
        by_version[":" in endpoint.address].append(endpoint)
    mixed = [endpoint for pair in zip(*by_version, strict=False) for endpoint in pair]
    rest = [endpoint for endpoint in found if endpoint not in mixed]
    return (*mixed, *rest)[:ADDRESSES]
