"""A connection from its greeting to its end: sessions refused, opened, kept and lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest

from relay.delivery.client import Connection, Timeouts
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from tests.conftest import SEARCH_PATH
from tests.support.delivery import (
    CONTENT,
    HOST,
    RCPT,
    SENT,
    at_port_25,
    connect,
    connected,
    content,
    cut,
    message,
    no_session,
    nonsense,
    ours,
    refused,
    settings,
)
from tests.support.smtp_server import (
    DROP,
    EHLO,
    HANG,
    NO_PIPELINING,
    OK,
    RESET,
    Script,
    ScriptedServer,
    Step,
    offer,
)

# No session


def lost(phase: str) -> Attempt:
    return no_session(f"lost connection with {HOST} while {phase}", "4.4.2")


def timed_out(phase: str) -> Attempt:
    return no_session(f"conversation with {HOST} timed out while {phase}", "4.4.2")


GREETING = "receiving the initial server greeting"
HELLO = "performing the EHLO handshake"
UNASKED = "it sent more than it was asked for"
SHORT = Timeouts(connect=0.05, greeting=0.05, ehlo=0.05, starttls=0.05, quit=0.05)

NO_SESSION: dict[str, tuple[Script, Attempt]] = {
    "greeting 421": (
        Script(greeting=b"421 4.3.2 busy\r\n"),
        refused("421 4.3.2 busy", "4.3.2"),
    ),
    "greeting 450 without enhanced code": (Script(greeting=b"450 busy\r\n"), refused("450 busy", "4.0.0")),
    "greeting 554 is temporary": (
        Script(greeting=b"554 5.7.1 go away\r\n"),
        refused("554 5.7.1 go away", "4.7.1"),
    ),
    "greeting of two lines refuses": (
        Script(greeting=b"554-no\r\n554 service\r\n"),
        refused("554 no\nservice", "4.0.0"),
    ),
    "greeting is HTTP": (
        Script(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        nonsense(GREETING, "HTTP/1.1 400 Bad Request"),
    ),
    "greeting has no code": (Script(greeting=b"hello\r\n"), nonsense(GREETING, "hello")),
    "greeting has a NUL in its code": (Script(greeting=b"2\x0020 hi\r\n"), nonsense(GREETING, "2?20 hi")),
    "greeting contradicts itself": (
        Script(greeting=b"220-hi\r\n554 no\r\n"),
        nonsense(GREETING, "220-hi 554 no"),
    ),
    "greeting is an empty line": (Script(greeting=b"\r\n"), nonsense(GREETING, "")),
    "greeting of a code of another world": (Script(greeting=b"600 hi\r\n"), nonsense(GREETING, "600 hi")),
    "greeting of four digits": (Script(greeting=b"2200 hi\r\n"), nonsense(GREETING, "2200 hi")),
    "greeting 354": (Script(greeting=b"354 go on\r\n"), refused("354 go on", "4.0.0")),
    "greeting absent": (Script(greeting=HANG), timed_out(GREETING)),
    "greeting cut short": (Script(greeting=(b"220-mx.te", DROP)), lost(GREETING)),
    "greeting endless": (Script(greeting=b"220-mx.test\r\n" * 20_000), lost(HELLO)),
    "greeting endless without a line end": (
        Script(greeting=b"x" * 2_000_000),
        nonsense(GREETING, "x" * 200),
    ),
    "greeting drop": (Script(greeting=DROP), lost(GREETING)),
    "greeting reset": (Script(greeting=RESET), lost(GREETING)),
    "greeting twice": (
        Script(greeting=b"220 mx.test\r\n220 mx.test\r\n"),
        nonsense(HELLO, UNASKED),
    ),
    "EHLO 421": (Script().but(EHLO=b"421 4.7.0 bye\r\n"), refused("421 4.7.0 bye", "4.7.0")),
    "EHLO and HELO 451": (
        Script().but(EHLO=b"451 4.7.1 greylisted\r\n", HELO=b"451 4.7.1 still\r\n"),
        refused("451 4.7.1 still", "4.7.1"),
    ),
    "EHLO and HELO refused": (
        Script().but(EHLO=b"502 no\r\n", HELO=b"550 5.7.1 bad name\r\n"),
        refused("550 5.7.1 bad name", "4.7.1"),
    ),
    "EHLO drop": (Script().but(EHLO=DROP), lost(HELLO)),
    "EHLO reset": (Script().but(EHLO=RESET), lost(HELLO)),
    "EHLO hang": (Script().but(EHLO=HANG), timed_out(HELLO)),
    "EHLO half an answer": (Script().but(EHLO=(b"250-mx.test\r\n250-SIZE\r\n", HANG)), timed_out(HELLO)),
    "EHLO garbage": (Script().but(EHLO=b"\xff\xfe\x00\r\n"), nonsense(HELLO, "\ufffd\ufffd?")),
    "EHLO endless": (Script().but(EHLO=b"250-mx.test\r\n" * 20_000), lost(HELLO)),
    "EHLO refused twice": (
        Script().but(EHLO=b"500 what\r\n500 what\r\n"),
        nonsense("performing the HELO handshake", UNASKED),
    ),
    "HELO drop": (
        Script().but(EHLO=b"500 what\r\n", HELO=DROP),
        lost("performing the HELO handshake"),
    ),
}


@pytest.mark.parametrize("name", NO_SESSION)
async def test_a_server_that_gives_no_session_defers_the_site(name: str) -> None:
    script, expected = NO_SESSION[name]
    async with ScriptedServer(script) as server:
        attempt = await connect(server, SHORT if "timed out" in expected.reply.text else None)
        assert isinstance(attempt, Attempt)
        assert at_port_25([attempt], server.port) == [expected]
        assert not attempt.reply.is_permanent
        await server.wait_ended()


async def test_a_smarthost_that_is_just_busy_is_not_asked_without_tls_and_login() -> None:
    async with ScriptedServer(Script().but(EHLO=b"451 4.3.2 busy\r\n")) as server:
        next_hop = NextHop("mx.test", server.port, tls="none", smarthost="isp")
        attempt = await Connection.open("mx.test", "127.0.0.1", next_hop, settings())
        assert isinstance(attempt, Attempt)
        assert attempt.remote_reply == Reply(451, "4.3.2", "busy")
        assert server.sessions[0].commands == [b"EHLO helo.test"]


async def test_a_refused_connection_names_address_port_and_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        attempt = await Connection.open("mx.test", "127.0.0.1", NextHop("mx.test", port), settings())
    text = f"connect to {HOST}:{port}: Connection refused"
    reply = Reply(451, "4.4.1", text)
    assert attempt == Attempt(reply, Scope.SITE, is_unreachable=True, next_hop=f"[mx.test]:{port}")


async def test_a_connection_that_nobody_answers_times_out() -> None:
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        for _ in range(2):
            blocker = stack.enter_context(socket.socket())
            blocker.setblocking(False)
            blocker.connect_ex(address)
        attempt = await Connection.open(
            "mx.test", "127.0.0.1", NextHop("mx.test", address[1]), settings(SHORT)
        )
    assert isinstance(attempt, Attempt)
    assert attempt.reply.text == f"connect to {HOST}:{address[1]}: Connection timed out"


async def test_a_failure_without_a_number_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError("no way")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    attempt = await Connection.open("mx.test", "127.0.0.1", NextHop("mx.test"), settings())
    assert isinstance(attempt, Attempt)
    assert attempt.reply.text == f"connect to {HOST}:25: no way"


async def test_a_server_of_our_own_name_is_a_loop() -> None:
    script = Script(greeting=b"220 Relay.test ESMTP\r\n").but(EHLO=offer("SIZE", name="relay.TEST"))
    async with ScriptedServer(script) as server:
        attempt = await connect(server)
        assert isinstance(attempt, Attempt)
        expected = ours("mail for mx.test loops back to myself", "5.4.6", code=554)
        assert at_port_25([attempt], server.port) == [expected]


@pytest.mark.parametrize(
    ("greeting", "ehlo"),
    [(b"220 relay.test\r\n", offer(name="mx.test")), (b"220 mx.test\r\n", offer(name="relay.test"))],
)
async def test_half_a_resemblance_is_no_loop(greeting: bytes, ehlo: bytes) -> None:
    async with ScriptedServer(Script(greeting=greeting).but(EHLO=ehlo)) as server, connected(server):
        pass


async def test_a_nameless_server_is_no_loop() -> None:
    async with ScriptedServer(Script(greeting=b"220\r\n").but(EHLO=b"250\r\n")) as server, connected(server):
        pass


@pytest.mark.parametrize("point", ["greeting", "EHLO", "STARTTLS"])
async def test_cancellation_while_the_session_opens_closes_it(point: str) -> None:
    script = Script().but(EHLO=offer("STARTTLS"))
    async with ScriptedServer(script.but(**{point: HANG})) as server:
        opening = asyncio.create_task(connect(server, tls=True))
        await server.wait_for(point)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await server.wait_ended()


# Reuse

OUT_OF_ORDER = b"503 5.5.1 need MAIL\r\n"


async def test_a_connection_carries_many_messages_without_reset() -> None:
    async with ScriptedServer() as server, connected(server) as connection:
        for _ in range(3):
            attempts = await connection.transfer(message(), content())
            assert at_port_25(attempts, server.port) == [SENT, SENT]
            assert connection.is_reusable
        session = server.sessions[0]
        assert len(server.sessions) == 1
        assert session.messages == [CONTENT] * 3
        assert b"RSET" not in session.commands


@pytest.mark.parametrize("ehlo", [EHLO, NO_PIPELINING], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_after_a_refusal_the_next_message_begins_with_rset(point: str, ehlo: bytes) -> None:
    script = Script().but(EHLO=ehlo)
    later: dict[str, Step] = {"RCPT": OUT_OF_ORDER, "DATA": OUT_OF_ORDER} if point == "MAIL" else {}
    async with (
        ScriptedServer(script.but(**later, **{point: b"451 no\r\n"})) as server,
        connected(server) as connection,
    ):
        first = await connection.transfer(message(), content())
        assert [attempt.reply.code for attempt in first] == [451, 451]
        assert connection.is_reusable
        server.script = script
        second = await connection.transfer(message(), content())
        assert at_port_25(second, server.port) == [SENT, SENT]
        assert server.sessions[0].commands.count(b"RSET") == 1
        assert server.sessions[0].messages[-1] == CONTENT


CLOSED_BETWEEN: dict[str, Step] = {
    "drop": DROP,
    "reset": RESET,
    "421 and drop": (b"421 4.4.2 idle\r\n", DROP),
    "421": b"421 4.4.2 too many messages\r\n",
    "452": b"452 4.5.3 too many messages\r\n",
    "garbage": b"%&!\r\n",
}


@pytest.mark.parametrize("name", CLOSED_BETWEEN)
async def test_a_kept_connection_that_died_is_told_from_a_failure(name: str) -> None:
    async with ScriptedServer(Script().but(MAIL=[OK, CLOSED_BETWEEN[name]])) as server:
        async with connected(server) as connection:
            await connection.transfer(message(), content())
            before = connection.was_stale
            attempts = await connection.transfer(message(), content())
            assert (before, connection.was_stale) == (False, True)
            assert not connection.is_reusable
            assert not any(a.reply.is_positive or a.reply.is_permanent for a in attempts)
            assert not any(a.is_possible_duplicate for a in attempts)
        await server.wait_ended()
        assert server.sessions[0].messages == [CONTENT]


async def test_a_connection_closed_while_idle_is_not_reusable_and_stale_when_used() -> None:
    script = Script().but(DOT=(b"250 ok\r\n", b"421 4.4.2 idle\r\n", DROP))
    async with ScriptedServer(script) as server, connected(server) as connection:
        await connection.transfer(message(), content())
        await server.wait_ended()
        await connection.transfer(message(), content())
        assert connection.was_stale
        assert not connection.is_reusable


async def test_a_refused_rset_makes_the_connection_stale() -> None:
    script = Script().but(DOT=b"451 4.3.0 later\r\n", RSET=b"500 what?\r\n")
    async with ScriptedServer(script) as server, connected(server) as connection:
        await connection.transfer(message(), content())
        await connection.transfer(message(), content())
        assert connection.was_stale
        assert not connection.is_reusable


async def test_a_failure_after_mail_was_answered_is_a_real_one() -> None:
    async with ScriptedServer(Script().but(RCPT=[OK, OK, DROP])) as server, connected(server) as connection:
        await connection.transfer(message(), content())
        attempts = await connection.transfer(message(), content())
        assert not connection.was_stale
        assert at_port_25(attempts, server.port) == cut(RCPT)


async def test_a_message_that_is_not_even_offered_leaves_the_connection_as_it_was() -> None:
    async with (
        ScriptedServer(Script().but(EHLO=offer("SIZE 1000"))) as server,
        connected(server) as connection,
    ):
        await connection.transfer(message(), content())
        attempts = await connection.transfer(message(), content(size=1001))
        assert [attempt.reply.code for attempt in attempts] == [552, 552]
        assert not connection.was_stale
        assert connection.is_reusable
        await connection.transfer(message(), content())
        assert server.sessions[0].messages == [CONTENT] * 2


async def test_quit_takes_leave() -> None:
    async with ScriptedServer() as server:
        async with connected(server) as connection:
            assert connection.label == f"mx.test[127.0.0.1]:{server.port}"
            assert connection.address == "127.0.0.1"
            await connection.quit()
            assert not connection.is_reusable
        await server.wait_ended()
        assert server.sessions[0].commands[-1] == b"QUIT"


@pytest.mark.parametrize("step", [DROP, RESET, HANG, b"", b"what?\r\n"], ids=str)
async def test_quit_never_waits_long_nor_fails(step: Step) -> None:
    async with ScriptedServer(Script().but(QUIT=step)) as server:
        async with connected(server, Timeouts(quit=0.05)) as connection:
            await connection.quit()
            assert not connection.is_reusable
            await connection.quit()
        await server.wait_ended()


# Flow of unasked words


async def test_a_server_that_floods_is_cut_off() -> None:
    script = Script().but(EHLO=(EHLO, b"x" * 3_000_000, HANG))
    async with ScriptedServer(script) as server, connected(server) as connection:
        await server.wait_ended()
        assert not connection.is_reusable


# A real server


@pytest.mark.needs("smtp-sink")
async def test_postfix_smtp_sink_takes_messages(tmp_path: Path) -> None:
    sink = shutil.which("smtp-sink", path=SEARCH_PATH)
    assert sink is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        sink, *arguments, f"127.0.0.1:{port}", "10", stderr=sys.stderr
    )
    try:
        connection = None
        while not isinstance(connection, Connection):
            assert process.returncode is None
            await asyncio.sleep(0.01)
            connection = await Connection.open("mx.test", "127.0.0.1", NextHop("mx.test", port), settings())
        assert "PIPELINING" in connection.offers
        for _ in range(20):
            attempts = await connection.transfer(message(), content())
            assert [a.reply.code for a in attempts] == [250, 250]
            assert connection.is_reusable
        await connection.quit()
    finally:
        process.terminate()
        await process.wait()
