"""A conversation with one server: replies awaited, and failures put into words (Postfix, smtp_trouble.c)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aiosmtplib.errors import SMTPException, SMTPResponseException

from relay.delivery.protocol import NOT_SMTP, ReplyProtocol
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply, parse_text
from relay.mail.route import NextHop


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each step may take, in seconds (RFC 5321 section 4.5.3.2)."""

    connect: float = 30.0
    greeting: float = 300.0
    ehlo: float = 300.0
    starttls: float = 300.0
    """For the reply to STARTTLS, and once more for the handshake."""
    auth: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data: float = 120.0
    block: float = 180.0
    """Until the server takes more of the content."""
    end_of_data: float = 600.0
    quit: float = 5.0


class Dialogue:
    """One server, what it is being told, and what a failure at that point is called."""

    def __init__(self, host: str, address: str, next_hop: NextHop, protocol: ReplyProtocol) -> None:
        self.server = f"{host}[{address}]"
        self.label = f"{self.server}:{next_hop.port}" if next_hop.port else self.server
        self.next_hop = next_hop
        self.protocol = protocol
        self.phase = ""
        """What a failure interrupts, as Postfix words it: ``sending MAIL FROM``."""
        self.command = ""
        """The command of the phase, as ``Attempt.command`` has it."""

    def enter(self, phase: str, command: str = "") -> None:
        """Say what goes on from here."""
        self.phase = phase
        self.command = command

    def say(self, commands: bytes) -> None:
        """Write commands where nothing is outstanding. Raises SMTPException.

        Who spoke unasked would answer each command with the reply to another one. Only 421 may come at any
        time (RFC 5321 section 3.8).
        """
        if self.protocol.has_unread:
            early = self.protocol.take_response()
            if early is not None and early.code == 421:
                raise SMTPResponseException(early.code, early.message)
            raise _unasked()
        self.protocol.write(commands)

    def require_silence(self) -> None:
        """Raise where the server spoke unasked: after STARTTLS that is an attack (RFC 3207 section 6)."""
        if self.protocol.has_unread:
            raise _unasked()

    async def read(self, seconds: float) -> Reply:
        """Return the next reply. Raises SMTPException where it ends the session, or none comes."""
        response = await self.protocol.read_response(seconds)
        if response.code in {NOT_SMTP, 421}:
            raise SMTPResponseException(response.code, response.message)
        return parse_text(response.code, response.message)

    def answer(self, reply: Reply, scope: Scope = Scope.RECIPIENT) -> Attempt:
        """Return the attempt that the server's own reply decides."""
        return Attempt(reply, scope, self.label, self.command, is_remote=True, next_hop=self.next_hop.key)

    def remark(self, reply: Reply, scope: Scope) -> Attempt:
        """Return the attempt that our own words explain."""
        return Attempt(reply, scope, self.label, next_hop=self.next_hop.key)

    def refuse(self, reply: Reply) -> Attempt:
        """Return the attempt of a server that wants no session: temporary, whatever its code."""
        text = f"host {self.server} refused to talk to me: {reply}"
        attempt = self.remark(Reply(451, "4" + reply.dsn[1:], text), Scope.SITE)
        return replace(attempt, remote_reply=reply)

    def explain(self, error: SMTPException, scope: Scope) -> Attempt:
        """Return the attempt that a broken conversation comes to: temporary but for a 5xx reply."""
        if isinstance(error, SMTPResponseException):
            if 400 <= error.code < 600:
                reply = parse_text(error.code, error.message)
                return self.refuse(reply) if scope is Scope.SITE else self.answer(reply, scope)
            words = error.message[:200].replace("\n", " ")
            reply = Reply(451, "4.5.0", f"host {self.server} gave no valid reply while {self.phase}: {words}")
        elif isinstance(error, TimeoutError):
            reply = Reply(451, "4.4.2", f"conversation with {self.server} timed out while {self.phase}")
        else:
            reply = Reply(451, "4.4.2", f"lost connection with {self.server} while {self.phase}")
        return self.remark(reply, scope)


def _unasked() -> SMTPResponseException:
    return SMTPResponseException(NOT_SMTP, "it sent more than it was asked for")


def mark_duplicate(attempt: Attempt) -> Attempt:
    """Return the attempt with the warning that the server may have taken the message."""
    reply = replace(attempt.reply, text=f"{attempt.reply.text} -- message may be sent more than once")
    return replace(attempt, reply=reply, is_possible_duplicate=True)
