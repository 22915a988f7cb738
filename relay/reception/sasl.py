"""What AUTH asks of a client: a user name and a password (RFC 4954), by PLAIN (RFC 4616) or LOGIN."""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from relay.mail.reply import Reply
from relay.reception import replies

KEYWORDS = ("AUTH PLAIN LOGIN", "AUTH=PLAIN LOGIN")
"""The second is for clients from before RFC 2554, such as Outlook Express 4."""

Ask = Callable[[Reply], Awaitable[bytes]]
"""Sends a challenge and returns the client's line."""
Take = Callable[[str], Awaitable[bytes]]
"""Returns what the client answers to a prompt."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client says it is; the ``repr`` does not show the password."""

    method: str
    user: str
    """In the form that upper and lower case are compared in."""
    password: bytes = field(repr=False)


class _RefusedError(Exception):
    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


async def read_credentials(argument: bytes, ask: Ask) -> Credentials | Reply:
    """Return what a client answers to AUTH with this argument, or the reply where that is wrong."""
    mechanism, *responses = argument.split() or [b""]
    if not mechanism or len(responses) > 1:
        return replies.NO_MECHANISM
    mechanism = mechanism.upper()
    read = _MECHANISMS.get(mechanism)
    if read is None:
        return replies.UNKNOWN_MECHANISM

    async def take(prompt: str) -> bytes:
        if responses:
            response = responses.pop()
            return b"" if response == b"=" else _decode(response)
        line = (await ask(Reply(334, "", b64encode(prompt.encode()).decode()))).strip()
        if line == b"*":
            raise _RefusedError(replies.LOGIN_CANCELLED)
        return _decode(line)

    try:
        user, password = await read(take)
    except _RefusedError as error:
        return error.reply
    return Credentials(mechanism.decode(), user.decode(errors="replace").casefold(), password)


def _decode(response: bytes) -> bytes:
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except ValueError:
        raise _RefusedError(replies.NOT_BASE64) from None


async def _read_plain(take: Take) -> tuple[bytes, bytes]:
    """Return user and password; on whose behalf the client wants to act does not matter here."""
    _, *pair = (await take("")).split(b"\0")
    if len(pair) != 2:
        raise _RefusedError(replies.NOT_PLAIN)
    user, password = pair
    return user, password


async def _read_login(take: Take) -> tuple[bytes, bytes]:
    return await take("Username:"), await take("Password:")


_MECHANISMS = {b"PLAIN": _read_plain, b"LOGIN": _read_login}
