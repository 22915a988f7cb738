"""Logging in at a server (RFC 4954): one mechanism, tried once, so that no account is locked by it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aiosmtplib.auth import auth_crammd5_verify, auth_login_encode, auth_plain_encode, auth_xoauth2_encode
from aiosmtplib.errors import SMTPException, SMTPResponseException

from relay.config.secrets import SecretError
from relay.delivery.dialogue import Dialogue
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply

MAX_COMMAND = 512
"""Bytes of a command line with its CRLF: a longer initial response waits for the server's 334."""

_PROTECTED_ORDER = ("PLAIN", "LOGIN", "CRAM-MD5")
_CLEAR_ORDER = ("CRAM-MD5", "PLAIN", "LOGIN")
_COMMAND = "AUTH"


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a smarthost.

    ``password`` returns the password as it is now; ``token`` an OAuth 2 access token, a new one where it is
    told that the last was refused. Both raise SecretError.
    """

    username: str
    password: Callable[[], str] | None = None
    method: Literal["auto", "plain", "login", "cram-md5", "xoauth2"] = "auto"
    allows_clear: bool = False
    """Whether the password may go to a server that did not prove its name, or in clear."""
    token: Callable[[bool], Awaitable[str]] | None = None


def is_login_failure(attempt: Attempt) -> bool:
    """Whether a session was not to be had for lack of a login: then nobody should try again soon."""
    return attempt.command == _COMMAND


async def log_in(
    dialogue: Dialogue, account: Account, offered: Sequence[str], *, is_protected: bool, seconds: float
) -> Attempt | None:
    """Log in with one of the mechanisms offered; return why there is no login: temporary, scope SITE.

    ``is_protected`` says that TLS hides the password from everybody but the verified server; ``seconds`` is
    the time for each reply.
    """
    dialogue.enter("logging in", _COMMAND)
    chosen = _choose(dialogue, account, offered, is_protected=is_protected)
    try:
        reply = chosen if isinstance(chosen, Reply) else await _Login(dialogue, account, seconds).run(chosen)
    except SecretError as error:
        reply = Reply(454, "4.7.0", f"no login at {dialogue.server}: {error}")
    except SMTPException as error:
        reply = dialogue.explain(error, Scope.SITE).reply
    if reply.is_positive:
        return None
    return replace(dialogue.remark(reply, Scope.SITE), command=_COMMAND)


def _choose(
    dialogue: Dialogue, account: Account, offered: Sequence[str], *, is_protected: bool
) -> str | Reply:
    """Return the mechanism to use, or why there is none."""
    section = _section(dialogue)
    if not (is_protected or account.allows_clear):
        text = f'no login at {dialogue.server} without verified TLS: set tls = "implicit" in {section}'
        return Reply(454, "4.7.11", text)
    order = _PROTECTED_ORDER if is_protected else _CLEAR_ORDER
    usable = order if account.method == "auto" else (account.method.upper(),)
    for mechanism in usable:
        if mechanism in offered:
            return mechanism
    words = f"it offers {' '.join(offered) or 'no login'}, not {' or '.join(usable)}; see auth of {section}"
    return Reply(454, "4.7.0", f"no login at {dialogue.server}: {words}")


class _Login:
    """One AUTH exchange. What the server says comes back without the secrets that it may repeat."""

    def __init__(self, dialogue: Dialogue, account: Account, seconds: float) -> None:
        self._dialogue = dialogue
        self._account = account
        self._seconds = seconds
        self._secrets: list[str] = []

    async def run(self, mechanism: str) -> Reply:
        """Return 2xx, or the temporary reply that tells of the failure."""
        match mechanism:
            case "PLAIN":
                reply = await self._plain()
            case "LOGIN":
                reply = await self._login()
            case "CRAM-MD5":
                reply = await self._cram_md5()
            case _:
                reply = await self._xoauth2()
        return reply if reply.is_positive else self._explain(reply)

    async def _plain(self) -> Reply:
        return await self._start("PLAIN", auth_plain_encode(self._account.username, self._password()))

    async def _login(self) -> Reply:
        username, password = auth_login_encode(self._account.username, self._password())
        reply = await self._ask(b"AUTH LOGIN")
        if reply.code == 334:
            reply = await self._ask(username)
        if reply.code == 334:
            reply = await self._respond(password)
        return reply

    async def _cram_md5(self) -> Reply:
        password = self._password()
        reply = await self._ask(b"AUTH CRAM-MD5")
        if reply.code != 334:
            return reply
        return await self._respond(auth_crammd5_verify(self._account.username, password, reply.text))

    async def _xoauth2(self) -> Reply:
        reply = await self._offer_token(is_refused=False)
        return await self._offer_token(is_refused=True) if reply.is_permanent else reply

    async def _offer_token(self, *, is_refused: bool) -> Reply:
        if self._account.token is None:
            raise SecretError(f"{_section(self._dialogue)} has no token")
        token = await self._account.token(is_refused)
        self._secrets.append(token)
        reply = await self._start("XOAUTH2", auth_xoauth2_encode(self._account.username, token))
        # A challenge holds the error; the refusal itself comes after an empty answer.
        return await self._ask(b"") if reply.code == 334 else reply

    def _password(self) -> str:
        if self._account.password is None:
            raise SecretError(f"{_section(self._dialogue)} has no password")
        password = self._account.password()
        self._secrets.append(password)
        return password

    async def _start(self, mechanism: str, response: bytes) -> Reply:
        """Begin with the response where it fits into the command, else send it when asked for it."""
        command = f"AUTH {mechanism}".encode()
        if len(command) + len(response) + len(b" \r\n") <= MAX_COMMAND:
            return await self._respond(response, command + b" ")
        reply = await self._ask(command)
        return await self._respond(response) if reply.code == 334 else reply

    async def _respond(self, response: bytes, command: bytes = b"") -> Reply:
        self._secrets.append(response.decode())
        return await self._ask(command + response)

    async def _ask(self, line: bytes) -> Reply:
        self._dialogue.say(line + b"\r\n")
        try:
            reply = await self._dialogue.read(self._seconds)
        except SMTPResponseException as error:
            raise SMTPResponseException(error.code, self._censor(error.message)) from None
        return replace(reply, text=self._censor(reply.text))

    def _censor(self, text: str) -> str:
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "***")
        return text

    def _explain(self, reply: Reply) -> Reply:
        if 300 <= reply.code < 400:
            raise SMTPResponseException(reply.code, str(reply))
        said = f"host {self._dialogue.server} said: {reply}"
        if not reply.is_permanent:
            return Reply(454, reply.dsn, f"no login for now; {said}")
        secret = "token" if self._account.method == "xoauth2" else "password"
        advice = f"login refused: check username and {secret} of {_section(self._dialogue)}"
        enhanced = f"4{reply.dsn[1:]}" if reply.enhanced else "4.7.8"
        return Reply(454, enhanced, f"{advice}; {said}")


def _section(dialogue: Dialogue) -> str:
    """Return the place in relay.toml that the owner has to look at."""
    return f"[smarthost.{dialogue.next_hop.smarthost}]"
