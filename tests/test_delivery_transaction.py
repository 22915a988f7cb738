"""One mail transaction with a scripted server: for each behaviour the exact attempts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from relay.delivery.client import Timeouts
from relay.delivery.protocol import MAX_REPLY, MAX_TEXT
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Recipient
from tests.support.delivery import (
    BODY,
    CONTENT,
    DATA,
    END,
    HOST,
    MAIL,
    MESSAGE,
    RCPT,
    SENT,
    at_port_25,
    both,
    connected,
    content,
    cut,
    invalid,
    late,
    message,
    ours,
    said,
)
from tests.support.smtp_server import (
    DROP,
    EHLO,
    HANG,
    NO_PIPELINING,
    OK,
    PLAIN_EHLO,
    RESET,
    Script,
    ScriptedServer,
    Step,
    Wait,
    offer,
)


@dataclass(frozen=True)
class Case:
    """Steps of the server, and what comes of recipients a and b."""

    steps: dict[str, Step]
    expected: list[Attempt]
    delivered: int = 0
    """Contents that the server got whole."""
    is_reusable: bool | None = False
    """Whether the connection may be kept; None where that depends on when its end is noticed."""
    timeouts: Timeouts = field(default_factory=Timeouts)


LONG_REPLY = b"250 2.0.0 Ok " + b"x" * MAX_REPLY + b"\r\n"
LONG_TEXT = ("2.0.0 Ok " + "x" * MAX_TEXT)[:MAX_TEXT].removeprefix("2.0.0 ")

TRANSFERS: dict[str, Case] = {
    "all taken": Case({}, both(SENT), delivered=1, is_reusable=True),
    "251 to RCPT is a yes": Case({"RCPT": b"251 will forward\r\n"}, both(SENT), 1, is_reusable=True),
    # MAIL
    "MAIL 450": Case(
        {"MAIL": b"450 4.7.1 later\r\n", "RCPT": b"503 no\r\n", "DATA": b"503 no\r\n"},
        both(said(450, "4.7.1", "later", "MAIL FROM", MESSAGE)),
        is_reusable=True,
    ),
    "MAIL 550": Case(
        {"MAIL": b"550 5.7.1 no\r\n", "RCPT": b"503 no\r\n", "DATA": b"503 no\r\n"},
        both(said(550, "5.7.1", "no", "MAIL FROM", MESSAGE)),
        is_reusable=True,
    ),
    "MAIL 354": Case(
        {"MAIL": b"354 odd\r\n", "RCPT": b"503 no\r\n", "DATA": b"503 no\r\n"},
        both(said(354, "", "odd", "MAIL FROM", MESSAGE)),
        is_reusable=True,
    ),
    "MAIL 421": Case(
        {"MAIL": (b"421 4.3.2 bye\r\n", DROP)}, both(said(421, "4.3.2", "bye", "MAIL FROM", MESSAGE))
    ),
    "MAIL 421 and stays": Case({"MAIL": b"421 bye\r\n"}, both(said(421, "", "bye", "MAIL FROM", MESSAGE))),
    "MAIL drop": Case({"MAIL": DROP}, cut(MAIL)),
    "MAIL reset": Case({"MAIL": RESET}, cut(MAIL)),
    "MAIL hang": Case({"MAIL": HANG}, late(MAIL), timeouts=Timeouts(mail=0.05)),
    "MAIL drip": Case({"MAIL": (b"25", HANG)}, late(MAIL), timeouts=Timeouts(mail=0.05)),
    "MAIL garbage": Case({"MAIL": b"what?\r\n"}, invalid(MAIL, "what?")),
    "MAIL contradiction": Case({"MAIL": b"250-ok\r\n550 no\r\n"}, invalid(MAIL, "250-ok 550 no")),
    "MAIL endless": Case({"MAIL": (b"250-ok\r\n" * 20_000, HANG)}, cut(RCPT)),
    # RCPT
    "RCPT one 550": Case(
        {"RCPT": [b"550 5.1.1 unknown\r\n", OK]},
        [said(550, "5.1.1", "unknown", "RCPT TO"), SENT],
        1,
        is_reusable=True,
    ),
    "RCPT one 450": Case(
        {"RCPT": [OK, b"450 4.2.1 busy\r\n"]},
        [SENT, said(450, "4.2.1", "busy", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT enhanced code of another class": Case(
        {"RCPT": [OK, b"550 4.7.1 odd\r\n"]},
        [SENT, said(550, "4.7.1", "odd", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT of many lines": Case(
        {"RCPT": [OK, b"550-5.1.1 line one\r\n550-5.1.1 line two\r\n550 5.1.1 last line\r\n"]},
        [SENT, said(550, "5.1.1", "line one\nline two\nlast line", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT 452 after the first": Case(
        {"RCPT": [OK, b"452 4.5.3 too many recipients\r\n"]},
        [SENT, said(452, "4.5.3", "too many recipients", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT 552 after the first means 452": Case(
        {"RCPT": [OK, b"552 too many recipients\r\n"]},
        [SENT, said(452, "4.5.3", "too many recipients", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT 552 5.5.3 means 452": Case(
        {"RCPT": [OK, b"552 5.5.3 too many recipients\r\n"]},
        [SENT, said(452, "4.5.3", "too many recipients", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT 552 5.2.2 is a full mailbox": Case(
        {"RCPT": [OK, b"552 5.2.2 over quota\r\n"]},
        [SENT, said(552, "5.2.2", "over quota", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    "RCPT 552 to the first is what it says": Case(
        {"RCPT": [b"552 over quota\r\n", OK]},
        [said(552, "", "over quota", "RCPT TO"), SENT],
        1,
        is_reusable=True,
    ),
    "RCPT all refused": Case(
        {"RCPT": [b"550 5.1.1 no a\r\n", b"450 4.1.1 no b\r\n"], "DATA": b"503 5.5.1 whom?\r\n"},
        [said(550, "5.1.1", "no a", "RCPT TO"), said(450, "4.1.1", "no b", "RCPT TO")],
        is_reusable=True,
    ),
    "RCPT 421 in the middle": Case(
        {"RCPT": [OK, (b"421 4.3.2 bye\r\n", DROP)]},
        both(said(421, "4.3.2", "bye", "RCPT TO", MESSAGE)),
    ),
    "RCPT 421 after a refusal": Case(
        {"RCPT": [b"550 5.1.1 no\r\n", (b"421 4.3.2 bye\r\n", DROP)]},
        [said(550, "5.1.1", "no", "RCPT TO"), said(421, "4.3.2", "bye", "RCPT TO", MESSAGE)],
    ),
    "RCPT drop": Case({"RCPT": DROP}, cut(RCPT)),
    "RCPT reset at the second": Case(
        {"RCPT": [b"550 5.1.1 no\r\n", RESET]}, [said(550, "5.1.1", "no", "RCPT TO"), cut(RCPT)[1]]
    ),
    "RCPT hang": Case({"RCPT": [OK, HANG]}, late(RCPT), timeouts=Timeouts(rcpt=0.05)),
    "RCPT garbage": Case({"RCPT": [OK, b"\x00\xff\r\n"]}, invalid(RCPT, "?\ufffd")),
    "RCPT endless refusal": Case(
        {"RCPT": [OK, b"550-no\r\n" * 20_000]},
        [cut(DATA)[0], said(550, "", ("no\n" * MAX_TEXT)[:MAX_TEXT], "RCPT TO")],
    ),
    "RCPT 8-bit and NUL": Case(
        {"RCPT": [OK, "550 5.1.1 utilisateur inconnu \u00e9\x00\x1b[31m\r\n".encode()]},
        [SENT, said(550, "5.1.1", "utilisateur inconnu \u00e9??[31m", "RCPT TO")],
        1,
        is_reusable=True,
    ),
    # DATA
    "DATA 451": Case(
        {"DATA": b"451 4.3.0 later\r\n"},
        both(said(451, "4.3.0", "later", "DATA", MESSAGE)),
        is_reusable=True,
    ),
    "DATA 554": Case(
        {"DATA": b"554 5.7.1 no\r\n"}, both(said(554, "5.7.1", "no", "DATA", MESSAGE)), is_reusable=True
    ),
    "DATA 554 only for those that were accepted": Case(
        {"RCPT": [b"450 4.2.1 busy\r\n", OK], "DATA": b"554 5.7.1 no\r\n"},
        [said(450, "4.2.1", "busy", "RCPT TO"), said(554, "5.7.1", "no", "DATA", MESSAGE)],
        is_reusable=True,
    ),
    "DATA 250 instead of 354": Case({"DATA": b"250 ok\r\n"}, invalid(DATA, "250 ok")),
    "DATA 421": Case({"DATA": (b"421 bye\r\n", DROP)}, both(said(421, "", "bye", "DATA", MESSAGE))),
    "DATA drop": Case({"DATA": DROP}, cut(DATA)),
    "DATA hang": Case({"DATA": HANG}, late(DATA), timeouts=Timeouts(data=0.05)),
    "DATA garbage": Case({"DATA": b"go on\r\n"}, invalid(DATA, "go on")),
    "DATA 354 and an answer at once": Case({"DATA": b"354 go\r\n250 ok\r\n"}, invalid(BODY, "ok")),
    "DATA 354 and a refusal at once": Case(
        {"DATA": b"354 go\r\n552 5.3.4 too big\r\n"}, both(said(552, "5.3.4", "too big", "DATA", MESSAGE))
    ),
    "DATA 354 and a refusal in two pieces": Case(
        {"DATA": b"354 go\r\n55", "BODY": b"2 5.3.4 too big\r\n"},
        both(said(552, "5.3.4", "too big", "DATA", MESSAGE)),
    ),
    "DATA 354 then silence": Case(
        {"DATA": (b"354 go\r\n", HANG)}, late(END, duplicate=True), timeouts=Timeouts(end_of_data=0.05)
    ),
    # The final dot
    "final 450": Case(
        {"DOT": b"450 4.7.1 later\r\n"},
        both(said(450, "4.7.1", "later", "end of DATA", MESSAGE)),
        1,
        is_reusable=True,
    ),
    "final 554": Case(
        {"DOT": b"554 5.6.0 spam\r\n"},
        both(said(554, "5.6.0", "spam", "end of DATA", MESSAGE)),
        1,
        is_reusable=True,
    ),
    "final 421 is read, so no duplicate": Case(
        {"DOT": (b"421 4.3.2 bye\r\n", DROP)}, both(said(421, "4.3.2", "bye", "end of DATA", MESSAGE)), 1
    ),
    "final drop": Case({"DOT": DROP}, cut(END, duplicate=True), 1),
    "final reset": Case({"DOT": RESET}, cut(END, duplicate=True), 1),
    "final hang": Case({"DOT": HANG}, late(END, duplicate=True), 1, timeouts=Timeouts(end_of_data=0.05)),
    "final half a reply": Case({"DOT": (b"250 2.0.", DROP)}, cut(END, duplicate=True), 1),
    "final first line only": Case({"DOT": (b"250-2.0.0 Ok\r\n", DROP)}, cut(END, duplicate=True), 1),
    "final without a code": Case({"DOT": b"queued\r\n"}, invalid(END, "queued", duplicate=True), 1),
    "final 354": Case({"DOT": b"354 more\r\n"}, invalid(END, "354 more", duplicate=True), 1),
    "final contradiction": Case(
        {"DOT": b"250-ok\r\n554 no\r\n"}, invalid(END, "250-ok 554 no", duplicate=True), 1
    ),
    "final of 100 KB that begins with 250": Case(
        {"DOT": LONG_REPLY}, both(said(250, "2.0.0", LONG_TEXT, "end of DATA", MESSAGE)), 1
    ),
    "final endless 250": Case(
        {"DOT": b"250-ok\r\n" * 20_000},
        both(said(250, "", ("ok\n" * MAX_TEXT)[:MAX_TEXT], "end of DATA", MESSAGE)),
        1,
    ),
    "final folded by hand": Case(
        {"DOT": b"250-2.0.0 Ok\r\nqueued as 1\r\n250 2.0.0 done\r\n"},
        both(said(250, "2.0.0", "Ok\nqueued as 1\ndone", "end of DATA", MESSAGE)),
        1,
        is_reusable=True,
    ),
    "final code alone": Case(
        {"DOT": b"250\r\n"}, both(said(250, "", "", "end of DATA", MESSAGE)), 1, is_reusable=True
    ),
    "final 250 then drop": Case(
        {"DOT": (b"250 2.0.0 Ok: queued as SINK\r\n", DROP)}, both(SENT), 1, is_reusable=None
    ),
    "replies that end in LF alone": Case(
        {"MAIL": b"250 ok\n", "RCPT": b"250-ok\n250 ok\n", "DATA": b"354 go\n", "DOT": b"250 2.0.0 ok\n"},
        both(said(250, "2.0.0", "ok", "end of DATA", MESSAGE)),
        1,
        is_reusable=True,
    ),
}


@pytest.mark.parametrize("ehlo", [EHLO, NO_PIPELINING], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("name", TRANSFERS)
async def test_what_a_server_does_decides_each_recipient(name: str, ehlo: bytes) -> None:
    case = TRANSFERS[name]
    async with ScriptedServer(Script(steps={"EHLO": ehlo, **case.steps})) as server:
        async with connected(server, case.timeouts) as connection:
            attempts = await connection.transfer(message(), content())
            assert case.is_reusable in {connection.is_reusable, None}
            assert not connection.was_stale
        await server.wait_ended()
    assert at_port_25(attempts, server.port) == case.expected
    assert server.sessions[0].messages == [CONTENT] * case.delivered


REFUSED = b"550 5.1.1 unknown\r\n"
UNASKED: dict[str, dict[str, Step]] = {
    "behind MAIL, the first refused": {"MAIL": OK * 2, "RCPT": [REFUSED, OK]},
    "behind MAIL, the last refused": {"MAIL": OK * 2, "RCPT": [OK, REFUSED]},
    "behind RCPT": {"RCPT": [OK * 2, REFUSED]},
    "a refusal behind MAIL": {"MAIL": OK + REFUSED},
}


@pytest.mark.parametrize("name", UNASKED)
@pytest.mark.parametrize("is_pipelined", [True, False], ids=["pipelined", "one by one"])
async def test_replies_that_are_out_of_step_settle_no_recipient(name: str, *, is_pipelined: bool) -> None:
    steps = {"EHLO": EHLO if is_pipelined else NO_PIPELINING, **UNASKED[name]}
    async with (
        ScriptedServer(Script(steps=steps, is_group_awaited=is_pipelined)) as server,
        connected(server) as connection,
    ):
        attempts = await connection.transfer(message("a@dest.test", "b@dest.test"), content())
        assert [attempt.reply.dsn for attempt in attempts] == ["4.5.0", "4.5.0"]
        assert not connection.is_reusable
    assert not server.acknowledged


@pytest.mark.parametrize("ehlo", [EHLO, NO_PIPELINING], ids=["pipelined", "one by one"])
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (OK, invalid(MAIL, "it sent more than it was asked for")),
        (b"421 4.3.2 bye\r\n", both(said(421, "4.3.2", "bye", "MAIL FROM", MESSAGE))),
    ],
)
async def test_a_server_that_speaks_behind_ehlo_is_asked_nothing(
    more: bytes, expected: list[Attempt], ehlo: bytes
) -> None:
    script = Script().but(EHLO=ehlo + more, RCPT=[REFUSED, OK])
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message("a@dest.test", "b@dest.test"), content())
        assert at_port_25(attempts, server.port) == expected
        assert server.sessions[0].commands == [b"EHLO helo.test"]


async def test_a_server_may_close_behind_its_refusal_of_data() -> None:
    script = Script(is_group_awaited=True).but(RCPT=REFUSED, DATA=b"554 none\r\n421 bye\r\n")
    async with ScriptedServer(script) as server, connected(server) as connection:
        [attempt] = await connection.transfer(message("a@dest.test"), content())
        assert attempt.reply.dsn == "5.1.1"


@pytest.mark.parametrize("refusal", [b"502 5.5.1 what?\r\n", b"451 4.3.0 later\r\n"])
async def test_a_server_without_ehlo_gets_no_parameters(refusal: bytes) -> None:
    script = Script().but(EHLO=refusal)
    async with ScriptedServer(script) as server, connected(server) as connection:
        assert connection.offers == {}
        given = message(Recipient("a@dest.test", notify="FAILURE"), is_8bitmime=True, envid="x", ret="HDRS")
        attempts = await connection.transfer(given, content())
        assert at_port_25(attempts, server.port) == [SENT]
        assert server.sessions[0].commands == [
            b"EHLO helo.test",
            b"HELO helo.test",
            b"MAIL FROM:<sender@client.test>",
            b"RCPT TO:<a@dest.test>",
            b"DATA",
        ]


async def test_dsn_is_passed_only_where_it_is_offered_and_asked_for() -> None:
    given = message(Recipient("a@b.test", notify="SUCCESS"), Recipient("b@b.test"))
    for ehlo, expected in ((EHLO, [True, False]), (PLAIN_EHLO, [False, False])):
        async with ScriptedServer(Script().but(EHLO=ehlo)) as server, connected(server) as connection:
            assert [a.passes_dsn for a in await connection.transfer(given, content())] == expected


async def test_a_message_that_the_server_cannot_take_is_refused_without_asking_it() -> None:
    script = Script().but(EHLO=offer("PIPELINING", "SIZE 1000"))
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message(), content(size=1001))
        text = f"message size 1001 exceeds size limit 1000 of server {HOST}"
        assert at_port_25(attempts, server.port) == both(ours(text, "5.3.4", code=552))
        assert connection.is_reusable
        assert await connection.transfer(message(), content())
        commands = server.sessions[0].commands
        assert b"RSET" not in commands
        assert len([line for line in commands if line.startswith(b"MAIL")]) == 1


async def test_a_recipient_that_cannot_be_sent_does_not_hold_up_the_others() -> None:
    script = Script().but(EHLO=offer("PIPELINING"))
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message("\u00e9@b.test", "a@b.test", "x@b test"), content())
        assert [a.reply.dsn for a in attempts] == ["5.6.7", "2.0.0", "5.1.3"]
        assert [a.scope for a in attempts] == [Scope.RECIPIENT, MESSAGE, Scope.RECIPIENT]
        assert server.sessions[0].commands[1:] == [
            b"MAIL FROM:<sender@client.test>",
            b"RCPT TO:<a@b.test>",
            b"DATA",
        ]


async def test_nothing_is_asked_where_no_recipient_can_be_sent() -> None:
    async with ScriptedServer(Script().but(EHLO=PLAIN_EHLO)) as server, connected(server) as connection:
        attempts = await connection.transfer(message("\u00e9@b.test"), content())
        assert [a.reply.dsn for a in attempts] == ["5.6.7"]
        assert server.sessions[0].commands == [b"EHLO helo.test"]


# Pipelining


async def test_mail_all_recipients_and_data_leave_before_any_reply() -> None:
    async with ScriptedServer(Script(is_group_awaited=True)) as server, connected(server) as connection:
        await connection.transfer(message(), content())
        assert [line.split(b":")[0] for line in server.sessions[0].commands] == [
            b"EHLO helo.test",
            b"MAIL FROM",
            b"RCPT TO",
            b"RCPT TO",
            b"DATA",
        ]
        assert server.sessions[0].messages == [CONTENT]


async def test_without_pipelining_each_command_waits_for_its_reply() -> None:
    gate = asyncio.Event()
    script = Script().but(EHLO=NO_PIPELINING, MAIL=(Wait(gate), b"250 ok\r\n"))
    async with ScriptedServer(script) as server, connected(server) as connection:
        transfer = asyncio.create_task(connection.transfer(message(), content()))
        await server.wait_for("MAIL")
        raw = bytes(server.sessions[0].raw)
        gate.set()
        await transfer
    assert raw.count(b"\r\n") == 2


async def test_data_let_through_without_recipients_gets_a_lone_dot() -> None:
    script = Script().but(RCPT=b"550 5.1.1 unknown\r\n", DOT=b"554 5.5.1 no recipients\r\n")
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message(), content())
        assert [attempt.reply.code for attempt in attempts] == [550, 550]
        assert connection.is_reusable
        assert server.sessions[0].contents == [b"\r\n"]


async def test_a_lone_dot_that_is_not_answered_changes_no_verdict() -> None:
    script = Script().but(RCPT=b"550 5.1.1 unknown\r\n", DOT=DROP)
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message(), content())
        assert at_port_25(attempts, server.port) == both(said(550, "5.1.1", "unknown", "RCPT TO"))
        assert not connection.is_reusable


async def test_mail_refused_but_data_let_through_gets_a_lone_dot() -> None:
    script = Script().but(MAIL=b"550 5.7.1 no\r\n", RCPT=b"503 no\r\n")
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message(), content())
        assert [attempt.reply.code for attempt in attempts] == [550, 550]
        assert server.sessions[0].contents == [b"\r\n"]


async def test_a_server_that_answers_once_for_a_whole_group_gets_no_content() -> None:
    script = Script().but(MAIL=b"250 ok\r\n", RCPT=b"", DATA=b"354 go\r\n")
    async with ScriptedServer(script) as server:
        async with connected(server, Timeouts(rcpt=0.05, data=0.05)) as connection:
            attempts = await connection.transfer(message(), content())
        assert {attempt.reply.code // 100 for attempt in attempts} <= {3, 4}
        await server.wait_ended()
        assert server.sessions[0].contents == []
