"""How a session learns who its client is: HELO and EHLO, STARTTLS, AUTH, and the reverse DNS name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import ClassVar

from relay import events
from relay.mail.commands import Mail
from relay.mail.envelope import UNKNOWN, Client
from relay.mail.reply import Reply
from relay.reception import replies, sasl
from relay.reception.connection import Connection
from relay.reception.shared import Listener, SessionSettings, Shared

LONGEST_NAME = 255
"""Characters of a HELO name that are kept: no domain is longer."""

_KEYWORDS = ("ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING")
_ODD_IN_NAME = re.compile(r"[\x00-\x20\x7f<>()\\\";@]")


class Introduction(Connection):
    """A connection whose client says who it is."""

    def __init__(self, settings: SessionSettings, listener: Listener, shared: Shared) -> None:
        super().__init__(settings.hostname, settings.idle_seconds)
        self._settings = settings
        self._listener = listener
        self._shared = shared
        self._client = Client("")
        self._is_logged_in = False
        self._mail: Mail | None = None
        """What MAIL said, while there is a transaction."""

    async def _reset(self) -> None:
        """Forget the transaction."""
        self._mail = None

    def _begin_recognition(self) -> None:
        """Start to look for the client's name in the DNS."""
        self._name = self._shared.names.begin(self._client.address)
        self._recognise()

    async def _end_recognition(self) -> None:
        """Return when the client's name was found, or not."""
        await asyncio.shield(self._name)
        self._recognise()

    def _recognise(self) -> None:
        """Call the client by its name from now on, if that has been found."""
        if self._client.name == UNKNOWN and self._name.done():
            self._client = replace(self._client, name=self._name.result())

    def _describe_client(self, *, is_smtputf8: bool) -> Client:
        """Return the client of a message, its protocol as RFC 3848 and RFC 6531 section 4.3 name it."""
        protocol = "UTF8SMTP" if is_smtputf8 else self._client.protocol
        if protocol != "SMTP":
            protocol += "S" * self._is_encrypted + "A" * bool(self._client.user)
        return self._client if protocol == self._client.protocol else replace(self._client, protocol=protocol)

    @property
    def _account(self) -> str:
        """Whose messages are counted: the user's, else the address's."""
        return self._client.user or self._client.address

    async def _answer_helo(self, argument: bytes) -> Reply:
        if not await self._greet(argument):
            return replies.NO_HOST_NAME
        return Reply(250, "", self._settings.hostname)

    async def _answer_ehlo(self, argument: bytes) -> Reply:
        if not await self._greet(argument):
            return replies.NO_HOST_NAME
        self._client = replace(self._client, protocol="ESMTP")
        return Reply(250, "", "\n".join((self._settings.hostname, *self._keywords())))

    def _keywords(self) -> Iterator[str]:
        yield from ("PIPELINING", f"SIZE {self._settings.message_size}")
        if self._listener.listen.tls == "starttls" and not self._is_encrypted:
            yield "STARTTLS"
        if self._listener.listen.auth != "none" and self._may_log_in:
            yield from sasl.KEYWORDS
        yield from _KEYWORDS

    async def _greet(self, argument: bytes) -> bool:
        name = argument.decode().split(maxsplit=1)[:1]
        if name:
            await self._reset()
            self._client = replace(self._client, helo=_ODD_IN_NAME.sub("?", name[0])[:LONGEST_NAME])
        return bool(name)

    async def _answer_starttls(self, argument: bytes) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        if self._is_encrypted:
            return replies.HAS_TLS
        return replies.START_TLS if self._listener.listen.tls == "starttls" else replies.NO_TLS

    async def _secure(self) -> None:
        """Encrypt the connection; what the client said before counts no more (RFC 3207 section 4.2)."""
        await self._reset()
        self._client = Client(self._client.address, self._client.name)
        self._is_logged_in = False
        await self._encrypt(self._listener.tls_context)
        self._log_tls()

    def _log_tls(self) -> None:
        tls = self._writer.get_extra_info("ssl_object")
        events.encrypted(self._client, tls.version(), tls.cipher()[0])

    async def _answer_auth(self, argument: bytes) -> Reply:
        refusal = self._refuse_login()
        if refusal:
            return refusal
        credentials = await sasl.read_credentials(argument, self._challenge)
        if isinstance(credentials, Reply):
            return credentials
        if self._listener.listen.auth != "any":
            refusal = await self._shared.logins.judge(self._client, credentials)
            if refusal:
                return refusal
            self._client = replace(self._client, user=credentials.user, sasl_method=credentials.method)
        self._is_logged_in = True
        return replies.LOGGED_IN

    def _refuse_login(self) -> Reply | None:
        if self._listener.listen.auth == "none":
            return replies.NO_LOGIN
        if not self._may_log_in:
            return replies.NO_CLEAR_LOGIN
        if self._mail:
            return replies.LOGIN_IN_MAIL
        return replies.HAS_LOGIN if self._is_logged_in else None

    @property
    def _may_log_in(self) -> bool:
        """Whether a password is safe here, or the owner does not mind."""
        return self._is_encrypted or self._listener.listen.clear_password

    async def _challenge(self, reply: Reply) -> bytes:
        self._say(reply)
        return await self._read_line()

    ANSWERS: ClassVar[dict[str, Callable[[Introduction, bytes], Awaitable[Reply]]]] = {
        "HELO": _answer_helo,
        "EHLO": _answer_ehlo,
        "STARTTLS": _answer_starttls,
        "AUTH": _answer_auth,
    }
