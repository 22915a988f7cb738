"""The copy that leaves, as the next hop gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
import regex

from relay.delivery.agent import ContentError, Transfer
from relay.delivery.client import Connection
from relay.delivery.departure import DepartureRules, Departures
from relay.mail.attempt import Attempt, Claim
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.header_checks import Action, HeaderCheck
from relay.mail.rewrite import Canonical, Home
from relay.mail.route import NextHop
from tests.support.delivery import connected, settings
from tests.support.rig import commands_at, messages_at
from tests.support.smtp_server import NO_PIPELINING, OK, PLAIN_EHLO, Script, ScriptedServer

HEADER = b"Received: from chris\r\nFrom: Chris <chris@home.test>\r\nTo: ann@home.test\r\nSubject: hi\r\n"
CONTENT = HEADER + b"\r\nHello\r\n"
TABLE = Canonical(MappingProxyType({"@home.test": ("@isp.test", "")}))
POSTMASTER = "postmaster@isp.test"
NULL_REFUSED = b"550 5.7.1 null sender refused\r\n"


def check(pattern: str, action: Action, text: str = "") -> HeaderCheck:
    return HeaderCheck(regex.compile(pattern, regex.IGNORECASE), action, text, "external")


def departures(
    table: Canonical = TABLE,
    checks: tuple[HeaderCheck, ...] = (),
    postmaster: str = POSTMASTER,
    queued: bytes = b"",
    chunk_size: int = 7,
) -> Departures:
    async def read(_: int) -> AsyncIterator[bytes]:
        for start in range(0, len(queued), chunk_size):
            yield queued[start : start + chunk_size]

    return Departures(DepartureRules(Home("home.test"), table, checks, postmaster), read)


def transfer(
    content: bytes = CONTENT, *, internal: bool = False, in_memory: bool = True, **changes: object
) -> Transfer:
    header_size = content.index(b"\r\n\r\n") + 2 if b"\r\n\r\n" in content else len(content)
    envelope = Envelope("chris@home.test", (Recipient("bob@home.test"), Recipient("b@dest.test", index=1)))
    asked = Message(
        number=1,
        envelope=envelope,
        size=len(content),
        header_size=header_size,
        body_is_8bit=not content[header_size:].isascii(),
        received_at=0.0,
    )
    asked = replace(asked, **changes)  # type: ignore[arg-type]  # what tests change is theirs to get right
    claim = Claim(asked, content=content if in_memory else None)
    return Transfer(claim, asked.envelope.recipients, internal, report=lambda _: None)


async def send(
    departures: Departures, transfer: Transfer, script: Script | None = None
) -> tuple[ScriptedServer, list[Attempt]]:
    async with ScriptedServer(script) as server, connected(server) as connection:
        return server, await departures.send(connection, transfer)


async def test_an_external_copy_is_checked_and_rewritten_in_envelope_and_header() -> None:
    checks = (
        check("^Received:", Action.IGNORE),
        check("^Subject: (.*)", Action.REPLACE, "Subject: [$1]"),
        check("^To:", Action.PREPEND, "X-Seen: yes"),
    )
    server, attempts = await send(departures(checks=checks), transfer())
    assert [attempt.reply.code for attempt in attempts] == [250, 250]
    assert messages_at(server) == [
        b"From: Chris <chris@isp.test>\r\nX-Seen: yes\r\nTo: ann@isp.test\r\nSubject: [hi]\r\n\r\nHello\r\n"
    ]
    assert commands_at(server, b"MAIL")[0].startswith(b"MAIL FROM:<chris@isp.test>")
    assert commands_at(server, b"RCPT") == [
        b"RCPT TO:<bob@isp.test> ORCPT=rfc822;bob@home.test",
        b"RCPT TO:<b@dest.test> ORCPT=rfc822;b@dest.test",
    ]


async def test_checks_apply_without_a_table() -> None:
    server, _ = await send(departures(Canonical(), (check("^Received:", Action.IGNORE),)), transfer())
    assert messages_at(server) == [CONTENT.partition(b"\r\n")[2]]
    assert commands_at(server, b"MAIL")[0].startswith(b"MAIL FROM:<chris@home.test>")


async def test_an_internal_copy_stays_as_it_is() -> None:
    checks = (check("^Received:", Action.IGNORE),)
    server, _ = await send(departures(checks=checks), transfer(internal=True))
    assert messages_at(server) == [CONTENT]
    assert commands_at(server, b"MAIL")[0].startswith(b"MAIL FROM:<chris@home.test>")


@pytest.mark.parametrize(
    "content", [CONTENT, HEADER, HEADER + b"\r\n", b"\r\nno header\r\n", CONTENT + b"\x00.\r\n"]
)
@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
async def test_without_rules_content_leaves_byte_for_byte_however_it_is_cut(
    content: bytes, chunk_size: int
) -> None:
    sender = departures(Canonical(), queued=content, chunk_size=chunk_size)
    header_size = 0 if content.startswith(b"\r\n") else len(HEADER)
    server, _ = await send(sender, transfer(content, in_memory=False, header_size=header_size))
    assert messages_at(server) == [content]
    assert b"SIZE=%d" % len(content) in commands_at(server, b"MAIL")[0]


async def test_lines_that_are_too_long_are_broken() -> None:
    content = HEADER + b"\r\n" + b"x" * 1000 + b"\r\n"
    server, _ = await send(departures(Canonical()), transfer(content))
    assert messages_at(server) == [HEADER + b"\r\n" + b"x" * 998 + b"\r\n xx\r\n"]


async def test_8_bit_content_is_converted_for_a_server_that_cannot_take_it() -> None:
    header = (
        b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    )
    content = header + b"\r\n" + "caf\u00e9\r\n".encode()
    sender = departures(Canonical(), queued=content)
    given = transfer(content, in_memory=False)
    server, attempts = await send(sender, given)
    assert messages_at(server) == [content]
    assert commands_at(server, b"MAIL")[0].endswith(b"BODY=8BITMIME")
    server, attempts = await send(sender, given, Script().but(EHLO=PLAIN_EHLO))
    assert [attempt.reply.code for attempt in attempts] == [250, 250]
    assert messages_at(server) == [header.replace(b"8bit", b"quoted-printable") + b"\r\ncaf=C3=A9\r\n"]
    assert commands_at(server, b"MAIL") == [b"MAIL FROM:<chris@home.test>"]


def a_report(reverse_path: str = "", *, is_report: bool = True) -> Transfer:
    return transfer(envelope=Envelope(reverse_path, (Recipient("b@dest.test"),)), is_report=is_report)


async def test_a_report_whose_null_sender_is_refused_leaves_with_the_postmasters() -> None:
    refused = b"503 5.5.1 need MAIL\r\n"
    script = Script().but(MAIL=[NULL_REFUSED, OK], RCPT=[refused, OK], DATA=[refused, b"354 Go ahead\r\n"])
    server, attempts = await send(departures(), a_report(), script)
    assert [attempt.reply.code for attempt in attempts] == [250]
    assert [command.split()[1] for command in commands_at(server, b"MAIL")] == [
        b"FROM:<>",
        b"FROM:<postmaster@isp.test>",
    ]
    assert len(server.sessions) == 1


async def test_where_the_null_sender_is_known_to_be_refused_a_report_leaves_with_the_postmasters() -> None:
    async with ScriptedServer() as server:
        for postmaster, given in [(POSTMASTER, a_report()), (POSTMASTER, transfer()), ("", a_report())]:
            next_hop = NextHop("mx.test", server.port, tls="none", takes_null_sender=False)
            connection = await Connection.open("mx.test", "127.0.0.1", next_hop, settings())
            assert isinstance(connection, Connection)
            attempts = await departures(postmaster=postmaster).send(connection, given)
            assert {attempt.reply.code for attempt in attempts} == {250}
            connection.abort()
    assert [command.split()[1] for command in commands_at(server, b"MAIL")] == [
        b"FROM:<postmaster@isp.test>",
        b"FROM:<chris@isp.test>",
        b"FROM:<>",
    ]


@pytest.mark.parametrize(
    ("given", "script", "postmaster"),
    [
        pytest.param(a_report(is_report=False), {"MAIL": NULL_REFUSED}, POSTMASTER, id="not ours"),
        pytest.param(a_report("x@home.test"), {"MAIL": NULL_REFUSED}, POSTMASTER, id="not null"),
        pytest.param(a_report(), {"MAIL": NULL_REFUSED}, "", id="no postmaster"),
        pytest.param(a_report(), {"MAIL": b"451 4.3.0 later\r\n"}, POSTMASTER, id="deferred"),
        pytest.param(a_report(), {"RCPT": b"550 5.1.1 unknown\r\n"}, POSTMASTER, id="not the sender"),
        pytest.param(
            a_report(), {"MAIL": b"421 4.3.2 bye\r\n", "EHLO": NO_PIPELINING}, POSTMASTER, id="gone"
        ),
    ],
)
async def test_nothing_else_is_tried_with_the_postmasters_address(
    given: Transfer, script: Mapping[str, bytes], postmaster: str
) -> None:
    server, attempts = await send(departures(postmaster=postmaster), given, Script().but(**script))
    assert not attempts[0].reply.is_positive
    assert len(commands_at(server, b"MAIL")) == 1


async def test_content_that_cannot_be_read_ends_the_transfer_before_its_final_dot() -> None:
    async def read(_: int) -> AsyncIterator[bytes]:
        yield CONTENT[:-3]
        raise OSError("the disk failed")

    sender = Departures(DepartureRules(Home("home.test"), Canonical(), (), ""), read)
    async with ScriptedServer() as server, connected(server) as connection:
        with pytest.raises(ContentError, match="the disk failed"):
            await sender.send(connection, transfer(in_memory=False))
        await server.wait_ended()
        assert not messages_at(server)


async def test_whether_the_loss_of_a_report_is_told_stays_with_us() -> None:
    envelope = Envelope("", (Recipient("b@dest.test", notify="FAILURE"),))
    script = Script().but(EHLO=b"250-mx.test\r\n250 DSN\r\n")
    server, _ = await send(departures(), transfer(envelope=envelope, is_report=True), script)
    [command] = commands_at(server, b"RCPT")
    assert b"ORCPT=" in command
    assert b"NOTIFY" not in command
