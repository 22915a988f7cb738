"""The copy that leaves: external checks and rewriting, conversion for servers without 8BITMIME, signature."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TypeVar

from relay.delivery.agent import ContentError, Transfer
from relay.delivery.client import Connection, Content
from relay.mail.attempt import Attempt, Claim
from relay.mail.dkim import BodyHash, Signer, author_domain
from relay.mail.downgrade import Downgrader
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.header_checks import HeaderCheck, Inspection
from relay.mail.headers import QUICK_SIZE, split_content
from relay.mail.lines import LineBreaker
from relay.mail.rewrite import Canonical, Home, rewrite_address, rewrite_headers

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DepartureRules:
    """What is done to copies for external recipients."""

    home: Home
    sender_canonical: Canonical
    """Empty where senders are rewritten on arrival."""
    checks: tuple[HeaderCheck, ...]
    """The external header checks."""
    postmaster: str
    """The envelope sender of reports where the null one is refused; "" where there is none."""
    signers: Mapping[str, Signer] = field(default_factory=lambda: MappingProxyType({}))
    """By the domain of the author."""

    def rewrite_envelope(self, envelope: Envelope) -> Envelope:
        """Return the envelope of an external copy; each recipient keeps the address that it was given."""
        table, home = self.sender_canonical, self.home
        if not table.entries:
            return envelope
        recipients = tuple(
            replace(
                recipient,
                address=rewrite_address(recipient.address, table, home),
                original=recipient.original or recipient.address,
            )
            for recipient in envelope.recipients
        )
        return replace(
            envelope, reverse_path=rewrite_address(envelope.reverse_path, table, home), recipients=recipients
        )

    def edit_header(self, block: bytes, inspection: Inspection | None = None) -> bytes:
        """Return the header block of an external copy: checked, then rewritten.

        ``inspection`` is one of ``checks`` that tells afterwards what they did.
        """
        if not (self.checks or self.sender_canonical.entries):
            return block
        headers, _ = split_content(block)
        if self.checks:
            inspection = inspection or Inspection(self.checks)
            kept: list[bytes] = []
            for header in headers:
                inspected = inspection.inspect(header)
                kept += inspected.prepended
                if inspected.header is not None:
                    kept.append(inspected.header)
            headers = kept
        return b"".join(rewrite_headers(headers, self.sender_canonical, self.home))

    def find_signer(self, block: bytes) -> Signer | None:
        """Return what signs an external copy with this header block; None: it leaves unsigned."""
        return self.signers.get(author_domain(split_content(block)[0])) if self.signers else None


class Departures:
    """Sends transfers over connections, each as its next hop is to get it."""

    def __init__(
        self,
        rules: DepartureRules,
        read: Callable[[int], AsyncIterator[bytes]],
        now: Callable[[], float] = time.time,
    ) -> None:
        """``read`` yields the content of a queued message, and raises where it cannot."""
        self._rules = rules
        self._read = read
        self._now = now
        self._turn = asyncio.Lock()
        """Who works on a huge header block: in pieces it takes fifty times the memory."""

    def configure(self, rules: DepartureRules) -> None:
        """Follow a changed configuration from the next transfer on."""
        self._rules = rules

    async def send(self, connection: Connection, transfer: Transfer) -> list[Attempt]:
        """Return one attempt per recipient of the transfer. Raises ContentError.

        Where a server refuses the null reverse-path of a report, the report leaves with the postmaster's.
        """
        claim, is_internal = transfer.claim, transfer.internal
        envelope = _for_the_wire(claim.message, transfer.recipients)
        if not is_internal:
            envelope = self._rules.rewrite_envelope(envelope)
        if not (claim.message.is_report and self._rules.postmaster and not envelope.reverse_path):
            return await self._send(connection, claim, envelope, is_internal=is_internal)
        if connection.next_hop.takes_null_sender:
            attempts = await self._send(connection, claim, envelope, is_internal=is_internal)
            if not (connection.is_reusable and all(map(_is_sender_refused, attempts))):
                return attempts
        envelope = replace(envelope, reverse_path=self._rules.postmaster)
        return await self._send(connection, claim, envelope, is_internal=is_internal)

    async def _send(
        self, connection: Connection, claim: Claim, envelope: Envelope, *, is_internal: bool
    ) -> list[Attempt]:
        message, rules = claim.message, self._rules
        chunks = _start_with(message.header_size, self._read_content(claim))
        block = await anext(chunks)
        if not is_internal:
            block = await self._work_on(block, rules.edit_header)
        is_8bit = message.body_is_8bit or envelope.is_8bitmime
        downgrades = is_8bit and "8BITMIME" not in connection.offers
        converted = block if downgrades else None
        if converted is not None:
            downgrader = await self._work_on(converted, _begin_downgrade)
            block = b"".join(downgrader.headers)
            chunks = _downgrade(downgrader, chunks)
            envelope = replace(envelope, is_8bitmime=False)
        signer = None if is_internal else await self._work_on(block, rules.find_signer)
        if signer is not None:
            block = LineBreaker().feed(block)
            body_hash = await self._hash_body(claim, converted)
            sign = partial(signer.sign, body_hash=body_hash, now=self._now())
            block = await self._work_on(block, sign) + block
        content = Content(
            size=len(block) + message.size - message.header_size,
            chunks=_break_lines(block, chunks),
            has_8bit_header=not block.isascii(),
        )
        if envelope is not message.envelope or is_8bit:
            message = replace(message, envelope=envelope, body_is_8bit=is_8bit and not downgrades)
        return await connection.transfer(message, content)

    async def _work_on(self, block: bytes, work: Callable[[bytes], T]) -> T:
        """Return what comes of work on a header block; others are served meanwhile where it may take long."""
        if len(block) <= QUICK_SIZE:
            return work(block)
        async with self._turn:
            return await asyncio.to_thread(work, block)

    async def _hash_body(self, claim: Claim, converted: bytes | None) -> bytes:
        """Return the hash of the body as it is about to leave. Raises ContentError.

        ``converted`` is the header block before a conversion to 7 bits, where there is one. The content is
        read once for this and once to be sent, so that memory need not hold it.
        """
        chunks = _start_with(claim.message.header_size, self._read_content(claim))
        await anext(chunks)
        if converted is not None:
            chunks = _downgrade(await self._work_on(converted, _begin_downgrade), chunks)
        breaker, body = LineBreaker(), BodyHash()
        async for chunk in chunks:
            body.feed(breaker.feed(chunk))
        return body.digest()

    async def _read_content(self, claim: Claim) -> AsyncIterator[bytes]:
        if claim.content is not None:
            yield claim.content
            return
        try:
            async for chunk in self._read(claim.message.number):
                yield chunk
        except Exception as error:
            raise ContentError(str(error)) from error


def _is_sender_refused(attempt: Attempt) -> bool:
    return attempt.reply.is_permanent and attempt.command == "MAIL FROM"


def _for_the_wire(message: Message, recipients: tuple[Recipient, ...]) -> Envelope:
    """Return the envelope of a transfer; whether the loss of a report is told is nobody else's business."""
    if message.is_report:
        recipients = tuple(replace(recipient, notify="") for recipient in recipients)
    envelope = message.envelope
    return envelope if recipients == envelope.recipients else replace(envelope, recipients=recipients)


async def _start_with(size: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield first the ``size`` bytes of the header block, then the rest as it comes."""
    start = bytearray()
    async for chunk in chunks:
        start += chunk
        if len(start) >= size:
            break
    yield bytes(start[:size])
    yield bytes(start[size:])
    async for chunk in chunks:
        yield chunk


def _begin_downgrade(block: bytes) -> Downgrader:
    return Downgrader(split_content(block)[0])


async def _downgrade(downgrader: Downgrader, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        yield downgrader.feed(chunk)
    yield downgrader.finish()


async def _break_lines(block: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    breaker = LineBreaker()
    yield breaker.feed(block + await anext(chunks))
    async for chunk in chunks:
        yield breaker.feed(chunk)
