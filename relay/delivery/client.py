"""An SMTP or LMTP client connection to one server, from the greeting to QUIT (RFC 5321, RFC 3207, RFC 2033).

Whatever a server or the network does comes back as an ``Attempt``, never as an exception. Where TLS must be
verified, nothing goes on without it; where opportunistic TLS does not work, the mail goes in plain.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from aiosmtplib.errors import SMTPException, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.esmtp import parse_esmtp_extensions

from relay.delivery import commands, tls
from relay.delivery.dialogue import Dialogue, Timeouts
from relay.delivery.login import Account, log_in
from relay.delivery.protocol import ReplyProtocol
from relay.delivery.race import race
from relay.delivery.tls import TlsError
from relay.delivery.transaction import Content, Transaction
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply
from relay.mail.route import NextHop, Tls

__all__ = ["ClientSettings", "Connection", "Content", "Timeouts"]


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a connection needs to know about this relay."""

    helo_name: str
    hostname: str
    """The name that the relay greets its own clients with.

    An SMTP server of that name is the relay itself; a server behind a socket goes by that name.
    """
    timeouts: Timeouts = field(default_factory=Timeouts)
    account_of: Callable[[NextHop], Account | None] = lambda _: None
    """Returns the account to log in with; None: no login."""
    on_hello: Callable[[str, Reply], None] = lambda *_: None
    """Is told of each reply to EHLO or HELO, after the address of its server."""


class Connection:
    """A session with one server; carries one message at a time, and many in a row."""

    def __init__(self, host: str, address: str, next_hop: NextHop, settings: ClientSettings) -> None:
        self.address = address
        self.offers: dict[str, str] = {}
        """The EHLO or LHLO keywords in upper case with their parameters; none after HELO."""
        self.was_stale = False
        """Whether the last transfer found a kept connection dead, or of no more use: no reply counts."""
        self._host = host
        self._settings = settings
        self._protocol = ReplyProtocol()
        name = host if next_hop.port else settings.hostname
        self._dialogue = Dialogue(name, address, next_hop, self._protocol)
        self._name = ""
        self._is_used = False
        self._has_delivered = False
        self._needs_reset = False
        self._under_way: Transaction | None = None

    @classmethod
    async def open(
        cls, host: str, address: str, next_hop: NextHop, settings: ClientSettings
    ) -> Connection | Attempt:
        """Connect to an IP address or a socket and open a session; where there is none to be had, say why.

        That attempt's scope is SITE and it is temporary, unless the server is this relay itself.
        """
        return await cls.open_one(host, (address,), next_hop, settings, set())

    @classmethod
    async def open_one(
        cls,
        host: str,
        addresses: Sequence[str],
        next_hop: NextHop,
        settings: ClientSettings,
        tried: set[str],
    ) -> Connection | Attempt:
        """Do as ``open`` does at the address of a host that answers first; add to ``tried`` what was tried.

        An address that is slower than another has not been tried.
        """
        rivals = [cls(host, address, next_hop, settings) for address in addresses]
        connection, failed = await race(rivals)
        tried.update(rival.address for rival, _ in failed)
        if connection is None:
            return failed[-1][1]
        tried.add(connection.address)
        try:
            failure = await connection.start(next_hop.tls)
        except TlsError:
            connection = cls(host, connection.address, next_hop, settings)
            failure = await connection.connect()
            # It was reached a moment ago.
            failure = replace(failure, is_unreachable=False) if failure else await connection.start("none")
        return connection if failure is None else failure

    async def start(self, mode: Tls) -> Attempt | None:
        """Open the session, when connected; return why there is none.

        Raises TlsError where opportunistic TLS does not work: try again without.
        """
        try:
            failure = await self._open_session(mode)
        except TlsError as error:
            self.abort()
            if mode == "opportunistic":
                raise
            return self._refuse_tls("4.7.5", f"TLS with {self._dialogue.server} failed: {error}")
        except SMTPException as error:
            failure = self._dialogue.explain(error, Scope.SITE)
        except BaseException:
            self.abort()
            raise
        if failure is not None:
            self.abort()
        return failure

    @property
    def next_hop(self) -> NextHop:
        """The next hop that the server belongs to."""
        return self._dialogue.next_hop

    @property
    def label(self) -> str:
        """The server as ``name[address]:port``, or ``name[/path]``."""
        return self._dialogue.label

    @property
    def is_reusable(self) -> bool:
        """Whether another message may be sent, as far as can be seen from here."""
        return self._protocol.is_connected and not self._protocol.has_unread

    async def transfer(self, message: Message, content: Content) -> list[Attempt]:
        """Send a message to the recipients of its envelope and return one attempt for each, in their order.

        Raises only what ``content.chunks`` raises; the connection is aborted then, and on cancellation.
        """
        transaction = Transaction(self._dialogue, self.offers, self._settings.timeouts, message, content)
        self._under_way = transaction
        try:
            attempts = await transaction.run(needs_reset=self._needs_reset)
        except BaseException:
            self.abort()
            raise
        self._under_way = None
        is_tired = self._has_delivered and transaction.is_put_off  # many servers take only so many messages
        if is_tired:
            self.abort()
        self._has_delivered = self._has_delivered or any(attempt.reply.is_positive for attempt in attempts)
        is_dead = not (transaction.has_begun or self._protocol.is_connected)
        self.was_stale = is_tired or (self._is_used and is_dead)
        self._is_used = True
        self._needs_reset = not transaction.is_clean
        return attempts

    @property
    def settled(self) -> Sequence[Attempt | None]:
        """What is known of the recipients of a transfer that was cut short, in their order."""
        return () if self._under_way is None else self._under_way.attempts

    async def verify(self, recipient: Recipient) -> Attempt:
        """Return what the server replies to a recipient of a report, or to MAIL where it refuses that.

        The transaction is left open: QUIT ends it.
        """
        dialogue, offers, timeouts = self._dialogue, self.offers, self._settings.timeouts
        refusal = commands.refuse_recipient(recipient, offers=offers, server=dialogue.server)
        if refusal is not None:
            return dialogue.remark(refusal, Scope.RECIPIENT)
        envelope = Envelope("", (recipient,))
        mail = commands.mail_command(envelope, 0, is_8bit=False, has_8bit_header=False, offers=offers)
        rcpt = commands.rcpt_command(recipient, offers)
        try:
            for command, line in (("MAIL FROM", mail), ("RCPT TO", rcpt)):
                dialogue.enter(f"sending {command}", command)
                dialogue.say(line)
                reply = await dialogue.read(timeouts.rcpt)
                if not reply.is_positive:
                    break
        except SMTPException as error:
            return dialogue.explain(error, Scope.RECIPIENT)
        return dialogue.answer(reply)

    async def quit(self) -> None:
        """Take leave and close, within a few seconds."""
        try:
            async with asyncio.timeout(self._settings.timeouts.quit):
                await self._protocol.execute_command(b"QUIT")
                await self._protocol.close()
        except (SMTPException, TimeoutError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once; what was written and has not left is thrown away."""
        self._protocol.abort()

    async def connect(self) -> Attempt | None:
        """Connect to the server; return why that failed."""
        loop, port = asyncio.get_running_loop(), self.next_hop.port
        try:
            async with asyncio.timeout(self._settings.timeouts.connect):
                if port:
                    await loop.create_connection(lambda: self._protocol, self.address, port)
                else:
                    await loop.create_unix_connection(lambda: self._protocol, self.address)
        except TimeoutError:
            reason = "Connection timed out"
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
        else:
            return None
        reply = Reply(451, "4.4.1", f"connect to {self.label}: {reason}")
        return Attempt(reply, Scope.SITE, next_hop=self.next_hop.key, is_unreachable=True)

    async def _open_session(self, mode: Tls) -> Attempt | None:
        if mode == "implicit":
            await self._secure(tls.verified())
        self._dialogue.enter("receiving the initial server greeting")
        greeting = await self._dialogue.read(self._settings.timeouts.greeting)
        if not greeting.is_positive:
            return self._dialogue.refuse(greeting)
        failure = await self._say_hello()
        if failure is None and mode == "starttls":
            failure = await self._require_tls()
        elif failure is None and mode == "opportunistic":
            failure = await self._prefer_tls()
        return failure or self._refuse_myself(greeting) or await self._log_in(mode)

    def _refuse_myself(self, greeting: Reply) -> Attempt | None:
        """Return why mail must not go on to the relay itself, which speaks no LMTP."""
        is_namesake = _first_word(greeting) == self._name == self._settings.hostname.lower()
        if is_namesake and not self.next_hop.is_lmtp:
            text = f"mail for {self.next_hop.host} loops back to myself"
            return self._dialogue.remark(Reply(554, "5.4.6", text), Scope.MESSAGE)
        return None

    async def _log_in(self, mode: Tls) -> Attempt | None:
        account = self._settings.account_of(self.next_hop)
        if account is None:
            return None
        return await log_in(
            self._dialogue,
            account,
            self.offers.get("AUTH", "").split(),
            is_protected=mode in {"implicit", "starttls"},
            seconds=self._settings.timeouts.auth,
        )

    async def _say_hello(self) -> Attempt | None:
        verb = "LHLO" if self.next_hop.is_lmtp else "EHLO"
        self._dialogue.enter(f"performing the {verb} handshake")
        reply = await self._introduce(verb)
        extensions, mechanisms = parse_esmtp_extensions(reply.text)
        needs_ehlo = bool(self.next_hop.smarthost) or self.next_hop.tls == "starttls"
        if verb == "EHLO" and (reply.is_permanent or not (reply.is_positive or needs_ehlo)):
            # As Postfix does. HELO, without STARTTLS and AUTH, is of no use where these are just put off.
            self._dialogue.enter("performing the HELO handshake")
            reply = await self._introduce("HELO")
            extensions, mechanisms = {}, []
        if not reply.is_positive:
            return self._dialogue.refuse(reply)
        if not self._protocol.is_connected:
            raise SMTPServerDisconnected("connection lost")
        self._name = _first_word(reply)
        self._settings.on_hello(self.address, reply)
        self.offers = {keyword.upper(): value for keyword, value in extensions.items()}
        if mechanisms:  # of "AUTH LOGIN" and of the old "AUTH=LOGIN"
            self.offers["AUTH"] = " ".join(dict.fromkeys(mechanisms)).upper()
        return None

    async def _introduce(self, verb: str) -> Reply:
        self._dialogue.say(f"{verb} {self._settings.helo_name}\r\n".encode())
        return await self._dialogue.read(self._settings.timeouts.ehlo)

    # TLS

    async def _require_tls(self) -> Attempt | None:
        server = self._dialogue.server
        if "STARTTLS" not in self.offers:
            text = f"TLS is required, but was not offered by host {server}; was STARTTLS stripped on the way?"
            return self._refuse_tls("4.7.4", text)
        refusal = await self._start_tls(tls.verified())
        if refusal is not None:
            text = f"TLS is required, but host {server} refused to start TLS: {refusal}"
            return replace(self._refuse_tls("4.7.4", text), remote_reply=refusal)
        return await self._say_hello()

    async def _prefer_tls(self) -> Attempt | None:
        """Upgrade to TLS where that works; a server that refuses STARTTLS is spoken to in plain."""
        if "STARTTLS" not in self.offers:
            return None
        try:
            refusal = await self._start_tls(tls.opportunistic())
        except SMTPException as error:
            self._dialogue.require_silence()
            raise TlsError from error
        if refusal is not None:
            return None
        try:
            return await self._say_hello()
        except SMTPResponseException:
            raise
        except SMTPException as error:
            raise TlsError from error

    async def _start_tls(self, context: ssl.SSLContext) -> Reply | None:
        """Upgrade to TLS; return the reply of a server that refuses. Raises TlsError and SMTPException."""
        self._dialogue.enter("performing the TLS handshake")
        self._dialogue.say(b"STARTTLS\r\n")
        reply = await self._dialogue.read(self._settings.timeouts.starttls)
        if 400 <= reply.code < 600:
            return reply
        if reply.code != 220:
            raise SMTPResponseException(reply.code, str(reply))
        self._dialogue.require_silence()
        await self._secure(context)
        return None

    async def _secure(self, context: ssl.SSLContext) -> None:
        if self._protocol.has_unread:
            raise TlsError(tls.NOT_TLS)
        try:
            await self._protocol.secure(context, self._host, self._settings.timeouts.starttls)
        except (OSError, ValueError) as error:
            raise TlsError(tls.explain(error)) from error

    def _refuse_tls(self, enhanced: str, text: str) -> Attempt:
        return self._dialogue.remark(Reply(451, enhanced, text), Scope.SITE)


def _first_word(reply: Reply) -> str:
    return reply.text.split(maxsplit=1)[0].lower() if reply.text.strip() else ""
