"""The way of one message through the relay, without storing or sending it.

Nothing is decided here: reception takes the message in as it takes any, its queue is a variable, and what
delivery would make of the copies is asked of the rules that delivery has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from relay.mail.attempt import Attempt
from relay.mail.envelope import Client, Envelope, Message, Recipient
from relay.mail.header_checks import Decision, Inspection
from relay.mail.learned import NOTHING_LEARNED, Learned
from relay.mail.reply import Reply
from relay.mail.route import NextHop, Route
from relay.reception import replies
from relay.reception.connection import READ_SIZE
from relay.reception.intake import Intake, Outlets
from relay.reception.upload import Upload
from relay.routing.resolver import Host
from relay.wiring import Wiring

_NUMBER = 1
"""That of the message; no other is ever there."""

Servers = tuple[Host, ...] | Attempt
"""Those of a next hop, best first, or why there is none."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What one recipient is sent."""

    recipient: Recipient
    """As it is queued."""
    route: Route
    reverse_path: str
    """As the next hop is given it; so with the address."""
    address: str
    header: bytes
    """The header block."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What became of a message."""

    client: Client
    envelope: Envelope
    """As the client gives it."""
    content: bytes
    """As the client gives it."""
    refusals: Mapping[Recipient, Reply]
    """The replies to recipients that were refused."""
    sender_refusal: Reply | None
    """That of them which is about the sender."""
    reply: Reply
    """The last that the client hears: to the content, or to the last recipient where all are refused."""
    message: Message | None = None
    """As it is queued; None where it is refused or discarded."""
    is_held: bool = False
    kept_header: bytes = b""
    """The header block that is queued."""
    on_arrival: Sequence[Decision] = ()
    """What the header checks did."""
    outside_header: bytes = b""
    """The header block of copies for external recipients."""
    on_departure: Sequence[Decision] = ()
    copies: tuple[Copy, ...] = ()
    servers: Mapping[NextHop, Servers] = field(default_factory=dict)
    learned: Learned = field(default_factory=dict)
    """The learned routes that its copies may take."""

    @property
    def leaves_the_house(self) -> bool:
        """Whether some copy goes to other people's servers."""
        return any(isinstance(copy.route.via, NextHop) and not copy.route.internal for copy in self.copies)


class _Kept:
    """Keeps a message as the queue would."""

    def __init__(self) -> None:
        self.small_content: bytes | None = None
        self.message: Message | None = None
        self.is_held = False
        self.sender_refusal: Reply | None = None
        self._content = bytearray()

    @property
    def header(self) -> bytes:
        """The header block of the message."""
        return bytes(self._content[: self.message.header_size]) if self.message else b""

    async def write(self, chunk: bytes) -> None:
        self._content += chunk

    async def commit(self, message: Message, *, retry_at: float | None, is_held: bool = False) -> None:  # noqa: ARG002 - see intake.Incoming
        self.message, self.is_held = message, is_held

    async def abandon(self) -> None:
        self._content.clear()


async def follow(
    wiring: Wiring,
    client: Client,
    envelope: Envelope,
    content: bytes,
    learned: Learned = NOTHING_LEARNED,
) -> Passage:
    """Return what becomes of a message; its content has CRLF line ends.

    DNS is asked for servers and for the sender's domain, and a mailbox server that alone knows who has a
    mailbox is asked for that.
    """
    kept = _Kept()
    intake = Intake(wiring.arrival, wiring.arrival_checks, _outlets(wiring, kept))
    refusals: dict[Recipient, Reply] = {}
    for recipient in envelope.recipients:
        refusal = await intake.judge_sender(client, envelope.reverse_path)
        refusal = refusal or await intake.judge_recipient(client, envelope.reverse_path, recipient)
        if refusal:
            refusals[recipient] = refusal
    accepted = tuple(recipient for recipient in envelope.recipients if recipient not in refusals)
    if not accepted:
        last = refusals[envelope.recipients[-1]]
        return Passage(client, envelope, content, refusals, kept.sender_refusal, last)
    arrival = intake.begin(client, replace(envelope, recipients=accepted))
    upload = Upload(arrival, client, wiring.session.message_size)
    for start in range(0, len(content), READ_SIZE):
        await upload.write(content[start : start + READ_SIZE])
    reply = await upload.finish()
    passage = Passage(
        client, envelope, content, refusals, kept.sender_refusal, reply, on_arrival=tuple(arrival.decisions)
    )
    return passage if kept.message is None else await _depart(wiring, passage, kept.message, kept, learned)


def _outlets(wiring: Wiring, kept: _Kept) -> Outlets:
    """Return those of the service, but for the queue, and for delivery, which hears of nothing."""
    access, ways = wiring.access, wiring.ways

    async def verify_sender(reverse_path: str, recipient: str) -> Reply | None:
        kept.sender_refusal = await wiring.verify_sender(reverse_path, recipient)
        return kept.sender_refusal

    return Outlets(
        new_number=lambda _: _NUMBER,
        incoming=lambda _: kept,
        is_ours=access.is_ours,
        judge_access=access.judge,
        expand=ways.expand,
        identity=ways.identity,
        route=ways.route,
        verify=wiring.verify,
        verify_sender=verify_sender,
        has_room=lambda _: False,
        may_begin=lambda _: False,
        submit=lambda _: None,
        wake=lambda: None,
        retry_at=lambda _, now: now,
        explain_failure=lambda _: replies.FAILED,
        now=time.time,
    )


async def _depart(
    wiring: Wiring, passage: Passage, message: Message, kept: _Kept, learned: Learned
) -> Passage:
    """Return a passage with the copies of the message, as delivery makes them."""
    rules, inside = wiring.departure, message.envelope
    outside = rules.rewrite_envelope(inside)
    inspection = Inspection(rules.checks)
    outside_header = rules.edit_header(kept.header, inspection)
    copies = []
    for recipient, rewritten in zip(inside.recipients, outside.recipients, strict=True):
        route = wiring.route(recipient.address, inside.reverse_path, learned)
        if route.internal:
            copy = Copy(recipient, route, inside.reverse_path, recipient.address, kept.header)
        else:
            copy = Copy(recipient, route, outside.reverse_path, rewritten.address, outside_header)
        copies.append(copy)
    hops = {copy.route.via: None for copy in copies if isinstance(copy.route.via, NextHop)}
    found = await asyncio.gather(*map(wiring.resolver.hosts, hops))
    return replace(
        passage,
        message=message,
        is_held=kept.is_held,
        kept_header=kept.header,
        outside_header=outside_header,
        on_departure=tuple(inspection.decisions),
        copies=tuple(copies),
        servers=dict(zip(hops, found, strict=True)),
        learned=learned,
    )
