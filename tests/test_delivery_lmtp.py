"""LMTP: each recipient has a reply of its own; scripted servers, and a real Dovecot."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from relay.delivery import lmtp
from relay.delivery.client import Connection, Timeouts
from relay.delivery.lane import Endpoint
from relay.delivery.lmtp import verify_recipient
from relay.mail.attempt import Attempt, Scope, State
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from relay.mail.route import NextHop, Route
from tests.support import dovecot as real
from tests.support.delivery import (
    CONTENT,
    END,
    HOST,
    MESSAGE,
    RCPT,
    at_port_25,
    content,
    message,
    ours,
    said,
    settings,
)
from tests.support.dovecot import FULL, Dovecot
from tests.support.rig import Rig, messages_at, rigged, settle, until
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

THREE = ("a@home.test", "b@home.test", "c@home.test")
KEY = "lmtp:[mx.test]:25"


def mailbox_server(server: ScriptedServer) -> NextHop:
    return NextHop("mx.test", server.port, tls="none", is_lmtp=True)


def at_socket(path: Path) -> NextHop:
    return NextHop(str(path), 0, tls="none", is_lmtp=True)


async def connect(next_hop: NextHop, timeouts: Timeouts | None = None) -> Connection | Attempt:
    address = "127.0.0.1" if next_hop.port else next_hop.host
    return await Connection.open(next_hop.host, address, next_hop, settings(timeouts))


@contextlib.asynccontextmanager
async def connected(next_hop: NextHop, timeouts: Timeouts | None = None) -> AsyncIterator[Connection]:
    connection = await connect(next_hop, timeouts)
    assert isinstance(connection, Connection), connection
    try:
        yield connection
    finally:
        connection.abort()


def mailbox_said(
    code: int, enhanced: str, text: str, command: str = "end of DATA", scope: Scope = Scope.RECIPIENT
) -> Attempt:
    return replace(said(code, enhanced, text, command, scope), next_hop=KEY)


def deferred(text: str, enhanced: str = "4.4.2", *, duplicate: bool = True) -> Attempt:
    return replace(ours(text, enhanced, duplicate=duplicate), next_hop=KEY)


SAVED = mailbox_said(250, "2.1.5", "Ok")
LOST = f"lost connection with {HOST} while "
UNKNOWN = mailbox_said(550, "5.1.1", "unknown", "RCPT TO")


# What becomes of three recipients


@dataclass(frozen=True)
class Case:
    """Steps of the server, and what comes of the three recipients."""

    steps: dict[str, Step]
    expected: list[Attempt]
    contents: int = 1
    """How many contents the server got whole."""
    is_reusable: bool | None = False
    """Whether the connection may be kept; None where that depends on when its end is noticed."""
    timeouts: Timeouts = field(default_factory=Timeouts)


TRANSFERS: dict[str, Case] = {
    "all taken": Case({"DOT": OK}, [SAVED] * 3, is_reusable=True),
    "all replies at once": Case({"DOT": [OK * 3, b""]}, [SAVED] * 3, is_reusable=True),
    "each its own": Case(
        {"DOT": [b"452 4.2.2 full\r\n", OK, b"550 5.7.1 no\r\n"]},
        [mailbox_said(452, "4.2.2", "full"), SAVED, mailbox_said(550, "5.7.1", "no")],
        is_reusable=True,
    ),
    "one not taken at RCPT has no reply at the end": Case(
        {"RCPT": [OK, b"550 5.1.1 unknown\r\n", OK], "DOT": [OK, b"452 4.2.2 full\r\n", DROP]},
        [SAVED, UNKNOWN, mailbox_said(452, "4.2.2", "full")],
        is_reusable=True,
    ),
    "DATA refused": Case(
        {"DATA": b"451 4.3.0 later\r\n"},
        [mailbox_said(451, "4.3.0", "later", "DATA", MESSAGE)] * 3,
        contents=0,
        is_reusable=True,
    ),
    "nobody taken": Case(
        {"RCPT": b"550 5.1.1 unknown\r\n", "DATA": b"503 5.5.1 nobody to get it\r\n"},
        [UNKNOWN] * 3,
        contents=0,
        is_reusable=True,
    ),
    # Replies that do not all come
    "lost before the first reply": Case({"DOT": DROP}, [deferred(LOST + END)] * 3),
    "lost after the first reply": Case({"DOT": [OK, DROP]}, [SAVED] + [deferred(LOST + END)] * 2),
    "lost after the second reply": Case(
        {"DOT": [OK, b"550 5.7.1 no\r\n", DROP]},
        [SAVED, mailbox_said(550, "5.7.1", "no"), deferred(LOST + END)],
    ),
    "reset after the first reply": Case({"DOT": [OK, RESET]}, [SAVED] + [deferred(LOST + END)] * 2),
    "late after the first reply": Case(
        {"DOT": [OK, HANG]},
        [SAVED] + [deferred(f"conversation with {HOST} timed out while {END}")] * 2,
        timeouts=Timeouts(end_of_data=0.5),
    ),
    "garbage after the first reply": Case(
        {"DOT": [OK, b"what?\r\n"]},
        [SAVED] + [deferred(f"host {HOST} gave no valid reply while {END}: what?", "4.5.0")] * 2,
    ),
    "354 after the first reply": Case(
        {"DOT": [OK, b"354 more\r\n"]},
        [SAVED] + [deferred(f"host {HOST} gave no valid reply while {END}: 354 more", "4.5.0")] * 2,
    ),
    "421 after the first reply": Case(
        {"DOT": [OK, (b"421 4.3.2 bye\r\n", DROP)]},
        [SAVED] + [mailbox_said(421, "4.3.2", "bye", scope=MESSAGE)] * 2,
    ),
    "one reply more than recipients": Case({"DOT": [OK, OK, OK * 2]}, [SAVED] * 3, is_reusable=None),
}


@pytest.mark.parametrize("lhlo", [EHLO, NO_PIPELINING], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("name", TRANSFERS)
async def test_each_recipient_is_judged_by_its_own_reply(name: str, lhlo: bytes) -> None:
    case = TRANSFERS[name]
    async with ScriptedServer(Script().but(LHLO=lhlo, **case.steps)) as server:
        async with connected(mailbox_server(server), case.timeouts) as connection:
            attempts = await connection.transfer(message(*THREE), content())
            assert at_port_25(attempts, server.port) == case.expected
            assert case.is_reusable in {connection.is_reusable, None}
        await server.wait_ended()
        assert server.sessions[0].messages == [CONTENT] * case.contents


@pytest.mark.parametrize("lhlo", [EHLO, NO_PIPELINING], ids=["pipelined", "one by one"])
async def test_the_dialogue_is_that_of_rfc_2033(lhlo: bytes) -> None:
    script = Script(is_group_awaited=lhlo == EHLO).but(LHLO=lhlo)
    async with ScriptedServer(script) as server, connected(mailbox_server(server)) as connection:
        await connection.transfer(message("a@home.test", "b@home.test"), content())
        await connection.quit()
        assert [command.split(b" ")[0] for command in server.sessions[0].commands] == (
            [b"LHLO", b"MAIL", b"RCPT", b"RCPT", b"DATA", b"QUIT"]
        )
        assert server.sessions[0].commands[0] == b"LHLO helo.test"


async def test_without_anybody_taken_an_invitation_to_send_content_is_declined() -> None:
    """RFC 2033 section 4.2 wants 503 there; how many replies would follow the dot nobody knows."""
    async with ScriptedServer(Script().but(RCPT=b"550 5.1.1 unknown\r\n")) as server:
        async with connected(mailbox_server(server)) as connection:
            attempts = await connection.transfer(message(*THREE), content())
            assert at_port_25(attempts, server.port) == [UNKNOWN] * 3
            assert not connection.is_reusable
            assert not connection.was_stale
        await server.wait_ended()
        assert server.sessions[0].contents == []


async def test_a_server_that_offers_dsn_is_given_notify_and_reports_itself() -> None:
    to = (Recipient("a@home.test", notify="SUCCESS"), Recipient("b@home.test"))
    async with ScriptedServer() as server, connected(mailbox_server(server)) as connection:
        attempts = await connection.transfer(message(*to), content())
        assert [attempt.passes_dsn for attempt in attempts] == [True, False]
        assert b"RCPT TO:<a@home.test> ORCPT=rfc822;a@home.test NOTIFY=SUCCESS" in server.sessions[0].commands


async def test_what_the_server_cannot_take_is_refused_as_with_smtp() -> None:
    script = Script().but(LHLO=offer("SIZE 10"))
    async with ScriptedServer(script) as server, connected(mailbox_server(server)) as connection:
        (too_big,) = await connection.transfer(message("a@home.test"), content())
        assert str(too_big.reply).startswith("552 5.3.4 message size")
        (needs_utf8,) = await connection.transfer(message("é@home.test"), content(b"\r\n"))
        assert str(needs_utf8.reply).startswith("550 5.6.7 SMTPUTF8 is required")


# Sessions


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            {"LHLO": b"502 5.5.1 no LMTP here\r\n"},
            f"host {HOST} refused to talk to me: 502 5.5.1 no LMTP here",
        ),
        ({"LHLO": b"450 busy\r\n"}, f"host {HOST} refused to talk to me: 450 busy"),
        ({"LHLO": DROP}, LOST + "performing the LHLO handshake"),
        ({"greeting": b"554 5.3.2 closed\r\n"}, f"host {HOST} refused to talk to me: 554 5.3.2 closed"),
    ],
)
async def test_a_server_that_gives_no_session_defers_the_site(steps: dict[str, Step], text: str) -> None:
    async with ScriptedServer(Script().but(**steps)) as server:
        attempt = await connect(mailbox_server(server))
        assert isinstance(attempt, Attempt)
        assert (attempt.reply.code, attempt.reply.text, attempt.scope) == (451, text, Scope.SITE)
        await server.wait_ended()
        assert b"HELO helo.test" not in server.sessions[0].commands


async def test_a_server_on_this_machine_has_our_name_and_is_no_loop() -> None:
    script = Script(greeting=b"220 relay.test Dovecot ready\r\n").but(LHLO=offer(name="relay.test"))
    async with ScriptedServer(script) as server, connected(mailbox_server(server)):
        pass


async def test_a_socket_goes_by_the_name_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    async with ScriptedServer(path=path) as server, connected(at_socket(path)) as connection:
        assert connection.label == f"relay.test[{path}]"
        attempts = await connection.transfer(message(*THREE), content())
        assert [attempt.host for attempt in attempts] == [connection.label] * 3
        assert attempts[0].explain().startswith(f"host relay.test[{path}] said: 250")
        assert attempts[0].next_hop == f"lmtp:{path}"
        assert server.sessions[0].messages == [CONTENT]


@pytest.mark.parametrize(
    ("is_there", "reason"), [(False, "No such file or directory"), (True, "Connection refused")]
)
async def test_a_socket_that_nobody_listens_at_defers_the_site(
    tmp_path: Path, is_there: bool, reason: str
) -> None:
    path = tmp_path / "lmtp"
    if is_there:
        path.touch()
    attempt = await connect(at_socket(path))
    reply = Reply(451, "4.4.1", f"connect to relay.test[{path}]: {reason}")
    assert attempt == Attempt(reply, Scope.SITE, is_unreachable=True, next_hop=f"lmtp:{path}")


async def test_a_connection_carries_many_messages() -> None:
    async with ScriptedServer() as server, connected(mailbox_server(server)) as connection:
        for _ in range(3):
            attempts = await connection.transfer(message(*THREE), content())
            assert [attempt.reply.code for attempt in attempts] == [250] * 3
            assert connection.is_reusable
        assert server.sessions[0].messages == [CONTENT] * 3
        assert b"RSET" not in server.sessions[0].commands


@pytest.mark.parametrize("lhlo", [EHLO, NO_PIPELINING], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_after_a_refusal_the_next_message_begins_with_rset(point: str, lhlo: bytes) -> None:
    steps = ("MAIL", "RCPT", "DATA", "DOT")
    refusals: dict[str, Step] = dict.fromkeys(steps[steps.index(point) :], b"451 no\r\n")
    script = Script().but(LHLO=lhlo)
    async with (
        ScriptedServer(script.but(**refusals)) as server,
        connected(mailbox_server(server)) as connection,
    ):
        first = await connection.transfer(message(*THREE), content())
        assert [attempt.reply.code for attempt in first] == [451] * 3
        server.script = script
        second = await connection.transfer(message(*THREE), content())
        assert [attempt.reply.code for attempt in second] == [250] * 3
        assert server.sessions[0].commands.count(b"RSET") == 1


async def test_a_kept_connection_that_died_is_told_from_a_failure() -> None:
    script = Script().but(MAIL=[OK, DROP])
    async with ScriptedServer(script) as server, connected(mailbox_server(server)) as connection:
        await connection.transfer(message(*THREE), content())
        attempts = await connection.transfer(message(*THREE), content())
        assert connection.was_stale
        assert not any(attempt.is_possible_duplicate for attempt in attempts)


# From the queue


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(tmp_path / "queue.db") as made, made.running():
        yield made


def route_to(rig: Rig, path: Path) -> None:
    rig.routes["home.test"] = Route(at_socket(path), internal=True)
    rig.endpoints[str(path)] = [Endpoint(str(path), str(path))]


async def test_each_recipient_gets_its_own_state(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    route_to(rig, path)
    script = Script().but(DOT=[OK, b"552 5.2.2 full\r\n", DROP])
    async with ScriptedServer(script, path=path) as server:
        letter = await rig.arrive(*THREE, reverse_path="", is_fresh=True)
        await rig.until_states(letter, State.DELIVERED, State.BOUNCED, State.DEFERRED)
        assert len(server.sessions) == 1
        entry = await rig.store.show(letter.number)
    assert entry is not None
    last = entry.recipients[2].attempt
    assert last is not None
    assert last.is_possible_duplicate


async def test_without_the_server_mail_waits_and_is_delivered_when_it_is_there(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "lmtp"
    route_to(rig, path)
    first = await rig.arrive("a@home.test", is_fresh=True)
    await rig.until_states(first, State.DEFERRED)
    second = await rig.arrive("b@home.test", is_fresh=True)
    await rig.until_states(second, State.DEFERRED)
    async with ScriptedServer(path=path) as server:
        rig.now.time += 600
        rig.manager.wake()
        await rig.until_states(first, State.DELIVERED)
        await rig.until_states(second, State.DELIVERED)
        assert len(messages_at(server)) == 2


# Whom the server knows


async def test_at_the_end_a_recipient_who_had_a_reply_is_not_given_back(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "lmtp"
    route_to(rig, path)
    async with ScriptedServer(Script().but(DOT=[OK, HANG]), path=path) as server:
        letter = await rig.arrive(*THREE, is_fresh=True)
        await until(lambda: server._counts.get("DOT") == 2)
        await settle()
        await rig.manager.close(0)
        await rig.until_states(letter, State.DELIVERED, State.QUEUED, State.QUEUED)


async def verify(
    next_hop: NextHop,
    address: str = "chris@home.test",
    *,
    found: Sequence[Endpoint] | Attempt | None = None,
    timeouts: Timeouts | None = None,
) -> Reply | None:
    address_of_server = "127.0.0.1" if next_hop.port else next_hop.host

    async def endpoints(asked: NextHop) -> Sequence[Endpoint] | Attempt:
        assert asked == next_hop
        return [Endpoint(asked.host, address_of_server)] if found is None else found

    async def open_connection(
        endpoints: Sequence[Endpoint], asked: NextHop, tried: set[str]
    ) -> Connection | Attempt:
        addresses = [endpoint.address for endpoint in endpoints]
        return await Connection.open_one(endpoints[0].name, addresses, asked, settings(timeouts), tried)

    return await verify_recipient(address, next_hop, endpoints, open_connection)


def unknown(reason: str) -> Reply:
    text = f"the mailbox server cannot say now whether it takes mail for this address: {reason}"
    return Reply(451, "4.3.0", text)


async def test_an_address_that_the_server_takes_is_no_more_than_asked_for() -> None:
    async with ScriptedServer() as server:
        assert await verify(mailbox_server(server)) is None
        await server.wait_ended()
        assert server.sessions[0].commands == [
            b"LHLO helo.test",
            b"MAIL FROM:<> SIZE=0",
            b"RCPT TO:<chris@home.test> ORCPT=rfc822;chris@home.test",
            b"QUIT",
        ]


JUDGED: dict[str, tuple[dict[str, Step], Reply]] = {
    "unknown": ({"RCPT": b"550 5.1.1 who?\r\n"}, Reply(550, "5.1.1", "who?")),
    "not now": (
        {"RCPT": b"452 4.2.2 full\r\n"},
        unknown(f"host {HOST} said: 452 4.2.2 full (in reply to RCPT TO command)"),
    ),
    "421": (
        {"RCPT": b"421 4.3.2 bye\r\n"},
        unknown(f"host {HOST} said: 421 4.3.2 bye (in reply to RCPT TO command)"),
    ),
    "lost": ({"RCPT": DROP}, unknown(LOST + RCPT)),
    "the refusal of MAIL says nothing of the recipient": (
        {"MAIL": b"550 5.7.1 no\r\n"},
        unknown(f"host {HOST} said: 550 5.7.1 no (in reply to MAIL FROM command)"),
    ),
    "no session": (
        {"greeting": b"554 5.3.2 closed\r\n"},
        unknown(f"host {HOST} refused to talk to me: 554 5.3.2 closed"),
    ),
}


@pytest.mark.parametrize("name", JUDGED)
async def test_only_the_servers_no_to_the_recipient_is_final(name: str) -> None:
    steps, expected = JUDGED[name]
    async with ScriptedServer(Script().but(**steps)) as server:
        assert await verify(mailbox_server(server)) == expected
        await server.wait_ended()


async def test_an_address_that_cannot_be_given_to_the_server_is_refused() -> None:
    async with ScriptedServer(Script().but(LHLO=offer())) as server:
        reply = await verify(mailbox_server(server), "é@home.test")
    assert reply == Reply(550, "5.6.7", f"SMTPUTF8 is required, but was not offered by host {HOST}")


async def test_a_server_that_is_not_found_is_a_temporary_matter() -> None:
    failure = Attempt(Reply(451, "4.3.5", "lmtp configuration problem"), Scope.SITE)
    reply = await verify(NextHop("mx.test", 24, tls="none", is_lmtp=True), found=failure)
    assert reply == unknown("lmtp configuration problem")


async def test_every_address_of_the_server_is_asked() -> None:
    async with ScriptedServer() as server:
        found = [Endpoint("mx.test", "127.0.0.9"), Endpoint("mx.test", "127.0.0.1")]
        assert await verify(mailbox_server(server), found=found) is None


@pytest.mark.parametrize("point", ["greeting", "RCPT"])
async def test_a_slow_server_is_not_waited_for(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmtp, "SECONDS", 0.2)
    async with ScriptedServer(Script().but(**{point: HANG})) as server:
        assert await verify(mailbox_server(server)) == unknown("it did not answer in time")
        await server.wait_ended()


async def test_an_answer_counts_though_the_server_does_not_take_leave() -> None:
    async with ScriptedServer(Script().but(QUIT=HANG)) as server:
        assert await verify(mailbox_server(server), timeouts=Timeouts(quit=0.05)) is None
        await server.wait_ended()


# A real server


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with real.running() as running:
        yield running


def ways_to(dovecot: Dovecot) -> dict[str, NextHop]:
    return {
        "unix": at_socket(dovecot.socket),
        "tcp": NextHop("mailbox.test", dovecot.lmtp, tls="none", is_lmtp=True),
    }


@pytest.fixture(params=["unix", "tcp"])
def way(request: pytest.FixtureRequest, dovecot: Dovecot) -> NextHop:
    return ways_to(dovecot)[request.param]


@pytest.mark.needs("dovecot", "sievec")
class TestDovecot:
    """Each test has mail of its own, told by its subject."""

    async def send(self, way: NextHop, subject: str, *users: str) -> list[str]:
        """Send a message and return the codes that the users got."""
        async with connected(way) as connection:
            letter = message(*(f"{user}@any.test" for user in users))
            attempts = await connection.transfer(letter, content(self.letter(subject)))
            await connection.quit()
        return [f"{attempt.reply.code} {attempt.reply.enhanced} {attempt.command}" for attempt in attempts]

    @staticmethod
    def letter(subject: str) -> bytes:
        return f"Subject: {subject}\r\n\r\n.dot\r\nHello\r\n".encode()

    def kept(self, dovecot: Dovecot, subject: str, user: str, folder: str = "") -> int:
        """Return how many copies of a letter a folder has, whole."""
        return sum(kept.endswith(self.letter(subject)) for kept in dovecot.messages(user, folder))

    async def test_mail_lands_in_the_maildirs(self, dovecot: Dovecot, way: NextHop) -> None:
        subject = f"all {way.port}"
        assert await self.send(way, subject, "chris", "Marc") == ["250 2.0.0 end of DATA"] * 2
        assert self.kept(dovecot, subject, "chris") == 1
        assert self.kept(dovecot, subject, "marc") == 1
        (copy,) = (copy for copy in dovecot.messages("chris") if copy.endswith(self.letter(subject)))
        assert copy.startswith(b"Return-Path: <sender@client.test>\r\n")

    async def test_each_user_has_a_verdict(self, dovecot: Dovecot, way: NextHop) -> None:
        subject = f"mixed {way.port}"
        assert await self.send(way, subject, "nobody", "chris", FULL, "marc") == [
            "550 5.1.1 RCPT TO",
            "250 2.0.0 end of DATA",
            "552 5.2.2 end of DATA",
            "250 2.0.0 end of DATA",
        ]
        assert [self.kept(dovecot, subject, user) for user in ("chris", FULL, "marc")] == [1, 0, 1]

    async def test_where_nobody_is_known_nothing_is_sent(self, way: NextHop) -> None:
        async with connected(way) as connection:
            for _ in range(2):
                attempts = await connection.transfer(message("nobody@any.test"), content())
                assert [str(attempt.reply) for attempt in attempts] == [
                    "550 5.1.1 <nobody@any.test> User doesn't exist: nobody@any.test"
                ]
                assert connection.is_reusable

    async def test_a_connection_carries_many_messages(self, dovecot: Dovecot, way: NextHop) -> None:
        async with connected(way) as connection:
            for user in ("chris", FULL, "marc"):
                await connection.transfer(
                    message(f"{user}@any.test"), content(self.letter(f"row {way.port}"))
                )
                assert connection.is_reusable
        assert [self.kept(dovecot, f"row {way.port}", user) for user in ("chris", "marc")] == [1, 1]

    async def test_an_extension_names_a_folder(self, dovecot: Dovecot, way: NextHop) -> None:
        subject = f"tag {way.port}"
        assert await self.send(way, subject, "chris+lists") == ["250 2.0.0 end of DATA"]
        assert self.kept(dovecot, subject, "chris", "lists") == 1

    async def test_a_script_files_a_message(self, dovecot: Dovecot, way: NextHop) -> None:
        dovecot.filter_by(
            "marc",
            'require ["fileinto", "mailbox"];\n'
            'if header :contains "Subject" "invoice" { fileinto :create "Bills"; }\n',
        )
        subject = f"invoice {way.port}"
        await self.send(way, subject, "marc")
        assert self.kept(dovecot, subject, "marc", "Bills") == 1
        assert self.kept(dovecot, subject, "marc") == 0

    async def test_it_says_whom_it_knows(self, way: NextHop) -> None:
        assert await verify(way, "chris+tag@any.test") is None
        assert await verify(way, "nobody@any.test") == Reply(
            550, "5.1.1", "<nobody@any.test> User doesn't exist: nobody@any.test"
        )

    async def test_a_message_goes_through_the_queue(self, dovecot: Dovecot, rig: Rig) -> None:
        route_to(rig, dovecot.socket)
        letter = await rig.arrive("chris@home.test", content=self.letter("queued"), is_fresh=True)
        await rig.until_states(letter, State.DELIVERED)
        assert self.kept(dovecot, "queued", "chris") == 1

    async def test_users_fetch_their_mail(self, dovecot: Dovecot) -> None:
        import imaplib
        import poplib

        await self.send(ways_to(dovecot)["unix"], "fetched", "chris")
        (dovecot.maildir("chris") / "new" / "1.by-hand").write_bytes(self.letter("by hand"))
        dovecot.adopt()
        pop = poplib.POP3("127.0.0.1", dovecot.pop3, timeout=20)
        pop.user("chris@any.test")
        pop.pass_(real.PASSWORD)
        assert pop.stat()[0] == len(dovecot.messages("chris"))
        pop.quit()
        with imaplib.IMAP4("127.0.0.1", dovecot.imap, timeout=20) as imap:
            imap.login("Chris@other.test", real.PASSWORD)
            assert imap.select()[1] == [str(len(dovecot.messages("chris"))).encode()]
