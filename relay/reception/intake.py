"""What becomes of mail that a session brings: envelope judged, header edited, content queued."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from relay import events
from relay.mail.address import complete, fold, quote_address
from relay.mail.arrival import ArrivalRules, arrange_headers
from relay.mail.attempt import Claim
from relay.mail.encoded_words import read_subject
from relay.mail.envelope import Client, Envelope, Message, Recipient, format_queue_id
from relay.mail.header_checks import Decision, HeaderCheck, Inspection, act_on_parts
from relay.mail.headers import QUICK_SIZE, HeaderReader, HeaderTooLongError, header_name, header_value
from relay.mail.lines import LINE_LENGTH_LIMIT
from relay.mail.mime import PartScanner
from relay.mail.reply import Reply
from relay.mail.route import Mailbox, NextHop, Refuse, Route
from relay.mail.trace import delivered_to, has_too_many_hops, received_header

QUICK_START = 8 * QUICK_SIZE
"""Bytes of content in which the end of a header block is found in no time."""
SLICE = 4096
"""Bytes of a body in which headers of parts are looked for at once."""
HEADER_LIMIT = 1024 * 1024
"""Bytes of a header block; mail with a longer one is refused."""

_TOO_MANY_HOPS = Reply(
    554,
    "5.4.0",
    "The message has passed so many servers that it must be going in circles: it was not sent on.",
)
_BACK_AGAIN = Reply(
    554,
    "5.4.6",
    "The message was in this mailbox before (it has its Delivered-To header): it is not put there again.",
)
_HEADER_TOO_LONG = Reply(
    552, "5.3.4", "The message has too long a header: send it to fewer people at once, or as a new message."
)


class Incoming(Protocol):
    """A message on its way into the queue."""

    small_content: bytes | None

    async def write(self, chunk: bytes) -> None: ...

    async def commit(self, message: Message, *, retry_at: float | None, is_held: bool = False) -> None: ...

    async def abandon(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Outlets:
    """What intake needs of the rest of the relay."""

    new_number: Callable[[float], int]
    incoming: Callable[[int], Incoming]
    is_ours: Callable[[Client], bool]
    """Whether the client may send to anywhere: then the headers of its mail are rewritten and completed."""
    judge_access: Callable[[Client, Recipient], Reply | None]
    """Why the client may not send to the recipient, None where it may."""
    expand: Callable[[str, str], tuple[str, ...]]
    """The addresses that mail goes to: (address after rewriting, address as given)."""
    identity: Callable[[str], str]
    """What two addresses have in common that get one copy."""
    route: Callable[[str, str], Route]
    """The way to an address for mail of a sender, a refusal where there is none."""
    verify: Callable[[str], Awaitable[Reply | None]]
    """Why the server that keeps the mailboxes refuses an address, None where it or nobody is to be asked."""
    verify_sender: Callable[[str, str], Awaitable[Reply | None]]
    """Why nobody outside could answer a reverse-path as given, None where that is not known."""
    has_room: Callable[[Envelope], bool]
    """Whether delivery takes one more message from memory."""
    may_begin: Callable[[Envelope], bool]
    """Whether delivery could begin with some recipient of a message that is in the queue."""
    submit: Callable[[Claim], None]
    """Hands a message to delivery, already claimed."""
    wake: Callable[[], None]
    """Tells delivery that the queue has something that is due."""
    retry_at: Callable[[int, float], float]
    """When a message that is claimed now is due again: (number, now)."""
    explain_failure: Callable[[Exception], Reply]
    """The reply to a client whose message could not be stored."""
    now: Callable[[], float]


class Intake:
    """Judges what sessions bring, and takes it into the queue."""

    def __init__(self, rules: ArrivalRules, checks: Sequence[HeaderCheck], outlets: Outlets) -> None:
        """``checks`` are those that act on arrival."""
        self.rules = rules
        self.checks = tuple(checks)
        self.outlets = outlets
        self.turn = asyncio.Lock()
        """Who edits a huge header block: in pieces it takes fifty times the memory."""

    async def judge_sender(self, client: Client, reverse_path: str) -> Reply | None:  # noqa: ARG002 - see upload.Intake
        """Return why mail from a reverse-path is refused: whoever may relay may write any sender."""
        return None

    async def judge_recipient(self, client: Client, reverse_path: str, recipient: Recipient) -> Reply | None:
        """Return why a recipient is refused, None where it is accepted.

        Whether the client may relay is asked first: others are not told which addresses there are. The sender
        is judged here, as anything goes for mail that stays in the house.
        """
        refusal = self.outlets.judge_access(client, recipient)
        if refusal:
            return refusal
        first: Reply | None = None
        addresses = [reached.address for reached in self.expand(recipient)]
        for address in addresses:
            reply = await self._refuse(client, address)
            if reply is None:
                return await self._refuse_sender(client, reverse_path, addresses)
            first = first or reply
        assert first is not None
        return replace(first, text=f"<{quote_address(recipient.address)}>: {first.text}")

    async def judge_envelope(self, client: Client, envelope: Envelope) -> Reply | None:
        """Return why a message is refused that comes whole: what is wrong with its recipients is reported."""
        addresses = [reached.address for given in envelope.recipients for reached in self.expand(given)]
        return await self._refuse_sender(client, envelope.reverse_path, addresses)

    def begin(self, client: Client, envelope: Envelope) -> Arrival:
        """Take in the content of a message."""
        return Arrival(self, client, envelope)

    def expand(self, recipient: Recipient) -> list[Recipient]:
        """Return a recipient as it is queued, or those that stand in its place: it is their ``original``."""
        given = recipient.address
        addresses = self.outlets.expand(self.rules.rewrite_recipient(given), given)
        return [
            recipient if address == given else replace(recipient, address=address, original=given)
            for address in addresses
        ]

    async def _refuse(self, client: Client, address: str) -> Reply | None:
        """Return why nobody gets mail for an address.

        A mailbox server that can't be asked now is no reason for a client of ours, which may be too simple to
        try again; anybody else has to, as a later report to a made-up sender would hit a bystander.
        """
        via = self.outlets.route(address, "").via
        if isinstance(via, Refuse):
            return via.reply
        reply = await self.outlets.verify(address)
        if reply is None or (not reply.is_permanent and self.outlets.is_ours(client)):
            return None
        return reply

    async def _refuse_sender(
        self, client: Client, reverse_path: str, addresses: Iterable[str]
    ) -> Reply | None:
        """Return why a sender is refused where mail for these addresses leaves the house."""
        if not (reverse_path and self.outlets.is_ours(client)):
            return None
        routes = ((address, self.outlets.route(address, "")) for address in addresses)
        outside = (a for a, route in routes if isinstance(route.via, NextHop) and not route.internal)
        recipient = next(outside, None)
        return None if recipient is None else await self.outlets.verify_sender(reverse_path, recipient)


class Arrival:
    """One message that arrives: its content streams to the queue behind its edited header block."""

    def __init__(self, intake: Intake, client: Client, envelope: Envelope) -> None:
        self._intake = intake
        self._outlets = intake.outlets
        self._client = client
        self._given = envelope
        self._reverse_path = intake.rules.rewrite_sender(envelope.reverse_path)
        self._received_at = self._outlets.now()
        self._number = self._outlets.new_number(self._received_at)
        self._queue_id = format_queue_id(self._number)
        self._incoming = self._outlets.incoming(self._number)
        self._reader: HeaderReader | None = HeaderReader(HEADER_LIMIT)
        """None once the header block is whole."""
        self._inspection = Inspection(intake.checks)
        self._scanner: PartScanner | None = None
        self._reply: Reply | None = None
        """The reply where it is settled; of the content nothing is kept then."""
        self._is_stored = False
        self._header_size = 0
        self._size = 0
        self._body_is_8bit = False
        self._message_id = self._subject = ""
        self._delivered_to: frozenset[str] = frozenset()
        """The folded addresses in whose mailboxes the message was before."""

    @property
    def queue_id(self) -> str:
        """The queue id that the message has, if it gets into the queue."""
        return self._queue_id

    @property
    def decisions(self) -> Sequence[Decision]:
        """What the header checks did so far."""
        return self._inspection.decisions

    def describe(self, *, size: int, header_size: int) -> Message:
        """Return the message as it is queued, of so many bytes."""
        return Message(
            self._number,
            self._make_envelope(),
            size=size,
            header_size=header_size,
            body_is_8bit=self._body_is_8bit,
            received_at=self._received_at,
            client=str(self._client),
            message_id=self._message_id[:LINE_LENGTH_LIMIT],
            subject=self._subject,
        )

    async def write(self, chunk: bytes) -> None:
        """Take some content, with CRLF line ends."""
        if self._reply is not None:
            return
        try:
            if self._reader is None:
                await self._take_body(chunk)
            elif self._reader.feed(chunk):
                await self._take_header(self._reader)
        except HeaderTooLongError:
            await self._settle(_HEADER_TOO_LONG)
        except Exception as error:
            await self._settle(self._outlets.explain_failure(error))

    async def finish(self) -> Reply:
        """Return the reply to the end of the content; a positive one says that the message is on disk."""
        try:
            if self._reply is None and self._reader is not None:
                await self._take_header(self._reader)
            if self._reply is None and self._scanner is not None:
                await self._inspect_parts(self._scanner.finish())
            for note in self._inspection.notes:
                events.checked(self._queue_id, self._client, self._given, note)
            if self._reply is None:
                await self._commit()
        except Exception as error:
            await self._settle(self._outlets.explain_failure(error))
        return self._reply or self._thanks()

    async def abort(self) -> None:
        """Forget the message, unless it is stored already."""
        if not self._is_stored:
            await self._incoming.abandon()

    async def _settle(self, reply: Reply) -> None:
        """Keep nothing, and reply this; of a message that is stored already the client must hear so."""
        if not self._is_stored:
            self._reply = reply
            await self._incoming.abandon()

    def _thanks(self) -> Reply:
        return Reply(250, "2.0.0", f"Ok: queued as {self._queue_id}")

    async def _take_header(self, reader: HeaderReader) -> None:
        """Edit the header block, which is whole now, and begin the queued content with it."""
        self._reader = None
        if reader.size > QUICK_START:
            async with self._intake.turn:
                await self._edit_header(*await asyncio.to_thread(_take_apart, reader))
        else:
            await self._edit_header(*_take_apart(reader))

    async def _edit_header(self, headers: list[bytes], rest: bytes, mailboxes: frozenset[str] | None) -> None:
        if mailboxes is None:
            await self._settle(_TOO_MANY_HOPS)
            return
        self._delivered_to = mailboxes
        if self._delivered_to and not self._find_recipients():
            await self._settle(_BACK_AGAIN)
            return
        # What may take long is done in a thread; header checks have a limit of their own.
        is_long = sum(map(len, headers)) > QUICK_SIZE
        block = await asyncio.to_thread(self._arrange, headers) if is_long else self._arrange(headers)
        await self._obey_checks()
        self._header_size = len(block)
        await self._store(block)
        await self._take_body(rest)

    def _arrange(self, headers: list[bytes]) -> bytes:
        """Return the header block as it is kept, and note what it tells."""
        rules, checks, recipients = self._intake.rules, self._intake.checks, self._given.recipients
        recipient = recipients[0].address if len(recipients) == 1 else None
        kept = arrange_headers(
            rules,
            received_header(self._client, rules.hostname, self._queue_id, self._received_at, recipient),
            headers,
            reverse_path=self._reverse_path,
            queue_id=self._queue_id,
            now=self._received_at,
            inspect=self._inspection.inspect if checks else None,
            is_ours=self._outlets.is_ours(self._client),
        )
        self._message_id = next((header_value(h) for h in kept if header_name(h) == "message-id"), "")
        if rules.keeps_subject:
            self._subject = next((read_subject(h) for h in kept if header_name(h) == "subject"), "")
        if act_on_parts(checks):
            self._scanner = PartScanner(headers)
        return b"".join(kept)

    async def _take_body(self, chunk: bytes) -> None:
        if self._scanner is not None:
            for start in range(0, len(chunk), SLICE):
                await self._inspect_parts(self._scanner.feed(chunk[start : start + SLICE]))
        self._body_is_8bit = self._body_is_8bit or not chunk.isascii()
        await self._store(chunk)

    async def _store(self, chunk: bytes) -> None:
        if self._reply is None:
            self._size += len(chunk)
            await self._incoming.write(chunk)

    async def _inspect_parts(self, headers: Sequence[bytes]) -> None:
        for header in headers:
            self._inspection.inspect_part(header)
        await self._obey_checks()
        if headers:
            await asyncio.sleep(0)  # a flood of them lets others have their turn

    async def _obey_checks(self) -> None:
        """Keep nothing more of a message that is rejected or discarded."""
        if self._inspection.refusal is not None:
            await self._settle(self._inspection.refusal)
        elif self._inspection.is_discarded:
            await self._settle(self._thanks())

    async def _commit(self) -> None:
        outlets = self._outlets
        message = self.describe(size=self._size, header_size=self._header_size)
        is_held = self._inspection.is_held
        is_claimed = not is_held and outlets.has_room(message.envelope)
        retry_at = outlets.retry_at(self._number, outlets.now()) if is_claimed else None
        await self._incoming.commit(message, retry_at=retry_at, is_held=is_held)
        self._is_stored = True
        events.accepted(message, self._client, self._message_id)
        if is_claimed:
            outlets.submit(Claim(message, content=self._incoming.small_content))
        elif not is_held and outlets.may_begin(message.envelope):
            outlets.wake()  # no room before the commit, but now

    def _make_envelope(self) -> Envelope:
        """Return the envelope that is queued, each recipient once."""
        unique: dict[str, Recipient] = {}
        for recipient in self._find_recipients():
            unique.setdefault(self._outlets.identity(recipient.address), recipient)
        return replace(
            self._given,
            reverse_path=self._reverse_path,
            given_reverse_path=complete(self._given.reverse_path, self._intake.rules.home.domain),
            recipients=tuple(
                replace(recipient, index=index) for index, recipient in enumerate(unique.values())
            ),
        )

    def _was_in_mailbox_of(self, address: str) -> bool:
        """Whether the message comes from a mailbox here, and would only go back there.

        It is not a failure that somebody is told of: the sender may be made up, and the mailbox has it.
        """
        is_again = fold(address) in self._delivered_to
        return is_again and isinstance(self._outlets.route(address, "").via, Mailbox)

    def _find_recipients(self) -> list[Recipient]:
        """Return the recipients after rewriting and the header checks (header_checks(5): BCC, REDIRECT)."""
        expand = self._intake.expand
        redirect_to = self._inspection.redirect_to
        if redirect_to is not None:
            first = self._given.recipients[0]
            addresses = self._outlets.expand(complete(redirect_to, self._intake.rules.home.domain), "")
            return [replace(first, address=address, original=first.address) for address in addresses]
        recipients = [
            reached
            for recipient in self._given.recipients
            for reached in expand(recipient)
            if not self._was_in_mailbox_of(reached.address)
        ]
        copies = [
            copy for address in self._inspection.bcc for copy in expand(Recipient(address, notify="NEVER"))
        ]
        return recipients + [replace(copy, original="") for copy in copies]


def _take_apart(reader: HeaderReader) -> tuple[list[bytes], bytes, frozenset[str] | None]:
    """Return headers, rest, and whose mailboxes the message was in, folded; None after too many hops."""
    headers, rest = reader.finish()
    return headers, rest, None if has_too_many_hops(headers) else frozenset(delivered_to(headers))
