"""Sending to a scripted server: messages to send, connections to send them over, attempts to expect."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from relay.delivery.client import ClientSettings, Connection, Content, Timeouts
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply, parse_text
from relay.mail.route import NextHop
from tests.support.smtp_server import ScriptedServer

CONTENT = b"Subject: test\r\n\r\n.dot\r\nHello\r\n"
HOST = "mx.test[127.0.0.1]"


def message(*recipients: str | Recipient, **changes: object) -> Message:
    """Return a message to a and b, or these recipients, with other values in its envelope."""
    given = recipients or ("a@dest.test", "b@dest.test")
    named = tuple(
        replace(r if isinstance(r, Recipient) else Recipient(r), index=i) for i, r in enumerate(given)
    )
    envelope = Envelope("sender@client.test", named)
    return Message(
        number=1,
        envelope=replace(envelope, **changes),  # type: ignore[arg-type]  # what tests change is theirs to get right
        size=len(CONTENT),
        header_size=15,
        body_is_8bit=False,
        received_at=0.0,
    )


def content(*chunks: bytes, size: int | None = None, has_8bit_header: bool = False) -> Content:
    """Return these chunks, or ``CONTENT``, as the client wants them."""

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks or (CONTENT,):
            yield chunk

    return Content(len(b"".join(chunks or (CONTENT,))) if size is None else size, stream(), has_8bit_header)


def settings(timeouts: Timeouts | None = None, hostname: str = "relay.test") -> ClientSettings:
    """Return the settings of relay.test, which calls itself helo.test."""
    return ClientSettings("helo.test", hostname, timeouts or Timeouts())


async def connect(
    server: ScriptedServer,
    timeouts: Timeouts | None = None,
    *,
    tls: bool = False,
    hostname: str = "relay.test",
) -> Connection | Attempt:
    """Open a connection to the server as to mx.test."""
    next_hop = NextHop("mx.test", server.port, tls="opportunistic" if tls else "none")
    return await Connection.open("mx.test", "127.0.0.1", next_hop, settings(timeouts, hostname))


@contextlib.asynccontextmanager
async def connected(
    server: ScriptedServer, timeouts: Timeouts | None = None, *, tls: bool = False
) -> AsyncIterator[Connection]:
    """Open a connection that must succeed, and abort it in the end."""
    connection = await connect(server, timeouts, tls=tls)
    assert isinstance(connection, Connection), connection
    try:
        yield connection
    finally:
        connection.abort()


def at_port_25(attempts: Iterable[Attempt], port: int) -> list[Attempt]:
    """Return the attempts as they would be had the server listened on port 25."""
    here, there = f":{port}", ":25"
    return [
        replace(a, host=a.host.replace(here, there), next_hop=a.next_hop.replace(here, there))
        for a in attempts
    ]


def said(code: int, enhanced: str, text: str, command: str, scope: Scope = Scope.RECIPIENT) -> Attempt:
    """Return an attempt that the remote's words decide."""
    return Attempt(
        Reply(code, enhanced, text), scope, f"{HOST}:25", command, is_remote=True, next_hop="[mx.test]:25"
    )


def both(attempt: Attempt) -> list[Attempt]:
    """Return the attempt for each of two recipients."""
    return [attempt, attempt]


def ours(
    text: str,
    enhanced: str = "4.4.2",
    scope: Scope = Scope.MESSAGE,
    code: int = 451,
    *,
    duplicate: bool = False,
) -> Attempt:
    """Return an attempt in our own words."""
    text += " -- message may be sent more than once" if duplicate else ""
    return Attempt(
        Reply(code, enhanced, text),
        scope,
        f"{HOST}:25",
        is_possible_duplicate=duplicate,
        next_hop="[mx.test]:25",
    )


SENT = said(250, "2.0.0", "Ok: queued as SINK", "end of DATA", Scope.MESSAGE)


def cut(phase: str, *, duplicate: bool = False) -> list[Attempt]:
    """Return the attempts of a connection lost in a phase."""
    return both(ours(f"lost connection with {HOST} while {phase}", duplicate=duplicate))


def late(phase: str, *, duplicate: bool = False) -> list[Attempt]:
    """Return the attempts of a time-out in a phase."""
    return both(ours(f"conversation with {HOST} timed out while {phase}", duplicate=duplicate))


def invalid(phase: str, words: str, *, duplicate: bool = False) -> list[Attempt]:
    """Return the attempts of nonsense in a phase."""
    text = f"host {HOST} gave no valid reply while {phase}: {words}"
    return both(ours(text, "4.5.0", duplicate=duplicate))


MAIL, RCPT, DATA, BODY, END = (
    "sending MAIL FROM",
    "sending RCPT TO",
    "sending DATA command",
    "sending message body",
    "sending end of data",
)
MESSAGE = Scope.MESSAGE


def no_session(text: str, enhanced: str = "4.4.2") -> Attempt:
    """Return the attempt of a server that gave no session, in our own words."""
    return ours(text, enhanced, Scope.SITE)


def refused(words: str, enhanced: str) -> Attempt:
    """Return the attempt of a server that wanted no session."""
    shown = words.replace("\n", " ")
    attempt = no_session(f"host {HOST} refused to talk to me: {shown}", enhanced)
    return replace(attempt, remote_reply=parse_text(int(words[:3]), words[4:]))


def nonsense(phase: str, words: str) -> Attempt:
    """Return the attempt of a server that talked nonsense instead of opening a session."""
    return no_session(f"host {HOST} gave no valid reply while {phase}: {words}", "4.5.0")
