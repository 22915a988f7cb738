"""An SMTP client connection to one server, from the greeting to QUIT (RFC 5321, RFC 3207).

Whatever a server or the network does comes back as an ``Attempt``, never as an exception. Opportunistic TLS
(RFC 7435) hides mail from onlookers where the server lets it: certificates prove nothing here and are not
looked at, and where TLS does not work the mail goes in plain.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass, field
from functools import cache

from aiosmtplib.errors import SMTPException, SMTPResponseException, SMTPServerDisconnected
from aiosmtplib.esmtp import parse_esmtp_extensions

from relay.delivery.commands import Offers
from relay.delivery.dialogue import Dialogue, Timeouts
from relay.delivery.protocol import NOT_SMTP, ReplyProtocol
from relay.delivery.transaction import Content, Transaction
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Message
from relay.mail.reply import Reply
from relay.mail.route import NextHop

__all__ = ["ClientSettings", "Connection", "Content", "Timeouts"]


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a connection needs to know about this relay."""

    helo_name: str
    hostname: str
    """The name that the relay greets its own clients with: a server of that name is the relay itself."""
    timeouts: Timeouts = field(default_factory=Timeouts)


class TlsError(Exception):
    """The server offers TLS and it does not work."""


class Connection:
    """A session with one server; carries one message at a time, and many in a row."""

    def __init__(self, host: str, address: str, next_hop: NextHop, settings: ClientSettings) -> None:
        self.address = address
        self.offers: Offers = {}
        """The EHLO keywords in upper case with their parameters; none after HELO."""
        self.was_stale = False
        """Whether the last transfer found a kept connection dead: none of it was sent, no reply counts."""
        self._host = host
        self._settings = settings
        self._protocol = ReplyProtocol()
        self._dialogue = Dialogue(host, address, next_hop, self._protocol)
        self._name = ""
        self._is_used = False
        self._needs_reset = False

    @classmethod
    async def open(
        cls, host: str, address: str, next_hop: NextHop, settings: ClientSettings
    ) -> Connection | Attempt:
        """Connect to an IP address and open a session; where there is none to be had, say why.

        That attempt's scope is SITE and it is temporary, unless the server is this relay itself.
        """
        connection = cls(host, address, next_hop, settings)
        try:
            failure = await connection.start(uses_tls=next_hop.tls != "none")
        except TlsError:
            connection = cls(host, address, next_hop, settings)
            failure = await connection.start(uses_tls=False)
        return connection if failure is None else failure

    async def start(self, *, uses_tls: bool) -> Attempt | None:
        """Connect and open the session; return why there is none. Raises TlsError: try again without."""
        try:
            failure = await self._connect() or await self._greet(uses_tls=uses_tls)
        except SMTPException as error:
            failure = self._dialogue.explain(error, Scope.SITE)
        except BaseException:
            self.abort()
            raise
        if failure is not None:
            self.abort()
        return failure

    @property
    def label(self) -> str:
        """The server as ``name[address]:port``."""
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
        try:
            attempts = await transaction.run(needs_reset=self._needs_reset)
        except BaseException:
            self.abort()
            raise
        self.was_stale = self._is_used and not transaction.has_begun and not self._protocol.is_connected
        self._is_used = True
        self._needs_reset = not transaction.is_clean
        return attempts

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

    async def _connect(self) -> Attempt | None:
        port = self._dialogue.next_hop.port
        try:
            async with asyncio.timeout(self._settings.timeouts.connect):
                await asyncio.get_running_loop().create_connection(lambda: self._protocol, self.address, port)
        except TimeoutError:
            reason = "Connection timed out"
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
        else:
            return None
        reply = Reply(451, "4.4.1", f"connect to {self.label}: {reason}")
        return Attempt(reply, Scope.SITE, next_hop=self._dialogue.next_hop.key)

    async def _greet(self, *, uses_tls: bool) -> Attempt | None:
        self._dialogue.enter("receiving the initial server greeting")
        greeting = await self._dialogue.read(self._settings.timeouts.greeting)
        if not greeting.is_positive:
            return self._dialogue.refuse(greeting)
        failure = await self._say_hello()
        if failure is None and uses_tls and "STARTTLS" in self.offers:
            failure = await self._start_tls()
        own_name = self._settings.hostname.lower()
        if failure is None and _first_word(greeting) == self._name == own_name:
            text = f"mail for {self._dialogue.next_hop.host} loops back to myself"
            return self._dialogue.remark(Reply(554, "5.4.6", text), Scope.MESSAGE)
        return failure

    async def _say_hello(self) -> Attempt | None:
        self._require_silence()
        self._dialogue.enter("performing the EHLO handshake")
        reply = await self._introduce("EHLO")
        extensions, _ = parse_esmtp_extensions(reply.text)
        if reply.is_permanent:
            self._dialogue.enter("performing the HELO handshake")
            reply = await self._introduce("HELO")
            extensions = {}
        if not reply.is_positive:
            return self._dialogue.refuse(reply)
        if not self._protocol.is_connected:
            raise SMTPServerDisconnected("connection lost")
        self._name = _first_word(reply)
        self.offers = {keyword.upper(): value for keyword, value in extensions.items()}
        return None

    async def _introduce(self, verb: str) -> Reply:
        self._protocol.write(f"{verb} {self._settings.helo_name}\r\n".encode())
        return await self._dialogue.read(self._settings.timeouts.ehlo)

    async def _start_tls(self) -> Attempt | None:
        """Upgrade to TLS and say hello again; a server that refuses STARTTLS is spoken to in plain."""
        self._dialogue.enter("performing the TLS handshake")
        try:
            await self._protocol.start_tls(
                _opportunistic_tls(), server_hostname=self._host, timeout=self._settings.timeouts.starttls
            )
        except (SMTPException, OSError, ValueError) as error:
            self._require_silence()
            if isinstance(error, SMTPResponseException) and error.code >= 400 and error.code != 421:
                return None
            raise TlsError from error
        try:
            return await self._say_hello()
        except SMTPResponseException:
            raise
        except SMTPException as error:
            raise TlsError from error

    def _require_silence(self) -> None:
        """Raise where the server spoke unasked: after STARTTLS that is an attack (RFC 3207 section 6)."""
        if self._protocol.has_unread:
            raise SMTPResponseException(NOT_SMTP, "it sent more than it was asked for")


@cache
def _opportunistic_tls() -> ssl.SSLContext:
    """Return TLS for servers whose certificates nobody checks.

    Every version and cipher that OpenSSL still speaks is allowed: the alternative is no TLS at all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def _first_word(reply: Reply) -> str:
    return reply.text.split(maxsplit=1)[0].lower() if reply.text.strip() else ""
