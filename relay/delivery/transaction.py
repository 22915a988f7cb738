"""One mail transaction (RFC 5321 section 3.3): MAIL, RCPT, DATA, content; each recipient judged alone.

With LMTP (RFC 2033 section 4.2) the end of the content has a reply for each recipient that was taken.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable
from dataclasses import dataclass, replace

from aiosmtplib.errors import SMTPException, SMTPResponseException, SMTPServerDisconnected

from relay.delivery import commands
from relay.delivery.commands import Offers
from relay.delivery.dialogue import Dialogue, Timeouts, mark_duplicate
from relay.delivery.protocol import NOT_SMTP, DotStuffer
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Message
from relay.mail.reply import Reply

BLOCK = 64 * 1024
"""Bytes of content that are gathered before they are written; less than that leaves with the final dot."""

_TOO_MANY_RECIPIENTS = {"", "5.5.3"}


@dataclass(frozen=True, slots=True)
class Content:
    """The content of one transfer, as this server gets it."""

    size: int
    """Bytes of all chunks."""
    chunks: AsyncIterable[bytes]
    """Header block, empty line and body with CRLF line ends, cut anywhere; read once, or not at all."""
    has_8bit_header: bool = False
    """Whether the header block has a byte above 127 (it then needs SMTPUTF8 if the client said so)."""


class Transaction:
    """The transfer of one message to the recipients of its envelope."""

    def __init__(
        self, dialogue: Dialogue, offers: Offers, timeouts: Timeouts, message: Message, content: Content
    ) -> None:
        self._dialogue = dialogue
        self._protocol = dialogue.protocol
        self._offers = offers
        self._is_pipelined = "PIPELINING" in offers
        self._is_lmtp = dialogue.next_hop.is_lmtp
        self._timeouts = timeouts
        self._message = message
        self._content = content
        self._recipients = message.envelope.recipients
        self.attempts: list[Attempt | None] = [None] * len(self._recipients)
        """What is known of each recipient by now."""
        self._accepted: list[int] = []
        """The recipients that the server took at RCPT, in their order."""
        self._has_others = False
        """Whether the server took a recipient that has a verdict already: it would get what is sent."""
        self._is_dot_sent = False
        self.has_begun = False
        """Whether the server replied to MAIL."""
        self.is_put_off = False
        """Whether it refused MAIL for now."""
        self.is_clean = True
        """Whether the server has no transaction open, so that the next may begin without RSET."""

    async def run(self, *, needs_reset: bool) -> list[Attempt]:
        """Return one attempt per recipient. Raises only what the content's chunks raise."""
        self.is_clean = not needs_reset
        lines = self._prepare()
        if lines:
            try:
                await self._send(lines, needs_reset=needs_reset)
            except SMTPException as error:
                self._fail(error)
        return [attempt for attempt in self.attempts if attempt is not None]

    def _prepare(self) -> dict[int, bytes]:
        """Return RCPT lines by index, of the recipients that the server can be given; refuse the others."""
        envelope, content = self._message.envelope, self._content
        offers, server = self._offers, self._dialogue.server
        refusal = commands.refuse_message(
            envelope, content.size, has_8bit_header=content.has_8bit_header, offers=offers, server=server
        )
        if refusal is not None:
            self._settle(self._dialogue.remark(refusal, Scope.MESSAGE))
            return {}
        lines = {}
        for index, recipient in enumerate(self._recipients):
            refusal = commands.refuse_recipient(recipient, offers=offers, server=server)
            if refusal is None:
                lines[index] = commands.rcpt_command(recipient, offers)
            else:
                self.attempts[index] = self._dialogue.remark(refusal, Scope.RECIPIENT)
        return lines

    async def _send(self, lines: dict[int, bytes], *, needs_reset: bool) -> None:
        self.is_clean = False
        mail = self._mail_command(lines)
        if self._is_pipelined:
            self._dialogue.enter("sending MAIL FROM", "MAIL FROM")
            reset = b"RSET\r\n" if needs_reset else b""
            self._dialogue.say(b"".join([reset, mail, *lines.values(), b"DATA\r\n"]))
        if needs_reset:
            await self._reset()
        if await self._is_sender_taken(mail) or self._is_pipelined:
            for index, line in lines.items():
                await self._offer_recipient(index, line)
            if self._accepted or self._is_pipelined:
                await self._transfer_content()

    def _mail_command(self, lines: dict[int, bytes]) -> bytes:
        envelope, content = self._message.envelope, self._content
        if len(lines) < len(self._recipients):
            envelope = replace(envelope, recipients=tuple(self._recipients[index] for index in lines))
        return commands.mail_command(
            envelope,
            content.size,
            is_8bit=envelope.is_8bitmime or self._message.body_is_8bit,
            has_8bit_header=content.has_8bit_header,
            offers=self._offers,
        )

    async def _ask(self, line: bytes, seconds: float) -> Reply:
        """Return the reply to a command, which has left already where commands are pipelined."""
        if not self._is_pipelined:
            self._dialogue.say(line)
        return await self._dialogue.read(seconds)

    async def _reset(self) -> None:
        self._dialogue.enter("sending RSET", "RSET")
        reply = await self._ask(b"RSET\r\n", self._timeouts.mail)
        if not reply.is_positive:
            raise SMTPServerDisconnected("RSET was refused")

    async def _is_sender_taken(self, line: bytes) -> bool:
        self._dialogue.enter("sending MAIL FROM", "MAIL FROM")
        reply = await self._ask(line, self._timeouts.mail)
        self.has_begun = True
        self.is_put_off = not (reply.is_positive or reply.is_permanent)
        if not reply.is_positive:
            self._settle(self._dialogue.answer(reply, Scope.MESSAGE))
        return reply.is_positive

    async def _offer_recipient(self, index: int, line: bytes) -> None:
        self._dialogue.enter("sending RCPT TO", "RCPT TO")
        reply = await self._ask(line, self._timeouts.rcpt)
        if self.attempts[index] is not None:
            self._has_others = self._has_others or reply.is_positive
            return
        if reply.is_positive:
            self._accepted.append(index)
            return
        if reply.code == 552 and self._accepted and reply.enhanced in _TOO_MANY_RECIPIENTS:
            # RFC 5321 section 4.5.3.1.10: the old code for too many recipients.
            reply = Reply(452, "4.5.3", reply.text)
        self.attempts[index] = self._dialogue.answer(reply, Scope.RECIPIENT)

    async def _transfer_content(self) -> None:
        self._dialogue.enter("sending DATA command", "DATA")
        reply = await self._ask(b"DATA\r\n", self._timeouts.data)
        self._require_step(reply)
        is_invited = 300 <= reply.code < 400
        if not self._accepted:
            if is_invited:
                await self._send_nothing()
        elif is_invited:
            await self._send_content()
            await self._finish()
        else:
            self._settle(self._dialogue.answer(reply, Scope.MESSAGE))

    def _require_step(self, reply: Reply) -> None:
        """Raise where this cannot be the reply to DATA: then those to RCPT may be to other commands too."""
        early = self._protocol.take_response() if reply.code >= 400 else None
        if reply.is_positive or (early is not None and early.code != 421):
            self.attempts = [known if known and not known.is_remote else None for known in self.attempts]
            raise SMTPResponseException(NOT_SMTP, str(reply))

    async def _send_nothing(self) -> None:
        """End an empty content: DATA was let through without a recipient (RFC 2920 section 3.1).

        An LMTP server that does so may reply to its end or not: hanging up is what both kinds understand. So
        does a server that refused MAIL and took recipients all the same: they would get an empty message.
        """
        if self._is_lmtp or self._has_others:
            self._protocol.abort()
            return
        self._protocol.write(b"\r\n.\r\n")
        await self._dialogue.read(self._timeouts.end_of_data)

    async def _send_content(self) -> None:
        self._dialogue.enter("sending message body", "DATA")
        stuffer = DotStuffer()
        blocks: list[bytes] = []
        size = 0
        try:
            async for chunk in self._content.chunks:
                if size >= BLOCK:
                    await self._write_block(b"".join(blocks))
                    blocks.clear()
                    size = 0
                blocks.append(stuffer.stuff(chunk))
                size += len(chunk)
            await self._require_silence()
            self._protocol.write(b"".join([*blocks, stuffer.end()]))
        except SMTPException:
            await self._require_silence()
            raise
        self._is_dot_sent = True

    async def _write_block(self, block: bytes) -> None:
        await self._require_silence()
        self._protocol.write(block)
        await self._protocol.drain(self._timeouts.block)

    async def _require_silence(self) -> None:
        """Raise where the server spoke before the end of the content: most say so why they hang up."""
        if self._protocol.has_unread:
            early = await self._protocol.read_response(self._timeouts.block)
            raise SMTPResponseException(early.code, early.message)

    async def _finish(self) -> None:
        """Judge the recipients by the reply to the content, with LMTP each by its own."""
        self._dialogue.enter("sending end of data", "end of DATA")
        if self._is_lmtp:
            replies = [await self._conclude(Scope.RECIPIENT, [index]) for index in self._accepted]
        else:
            replies = [await self._conclude(Scope.MESSAGE, self._accepted)]
        self.is_clean = all(reply.is_positive for reply in replies)

    async def _conclude(self, scope: Scope, indices: Iterable[int]) -> Reply:
        reply = await self._dialogue.read(self._timeouts.end_of_data)
        if 300 <= reply.code < 400:
            raise SMTPResponseException(reply.code, str(reply))
        self._settle(self._dialogue.answer(reply, scope), indices)
        return reply

    def _settle(self, attempt: Attempt, indices: Iterable[int] | None = None) -> None:
        """Give the attempt to those recipients, or all, that have none."""
        passes_dsn = attempt.reply.is_positive and "DSN" in self._offers
        for index in range(len(self._recipients)) if indices is None else indices:
            if self.attempts[index] is None:
                wants_report = self._recipients[index].notify != ""
                self.attempts[index] = replace(attempt, passes_dsn=passes_dsn and wants_report)

    def _fail(self, error: SMTPException) -> None:
        """Give up the connection; whoever has no verdict is deferred, or refused if the server said so."""
        self._protocol.abort()
        attempt = self._dialogue.explain(error, Scope.MESSAGE)
        if self._is_dot_sent and not attempt.is_remote:
            attempt = mark_duplicate(attempt)
        self._settle(attempt)
