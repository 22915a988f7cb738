"""Lanes and their agents, over real connections to scripted servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.delivery import lane as lanes
from relay.delivery.agent import ContentError, Endpoint
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from tests.support.delivery import CONTENT
from tests.support.queue import NOW
from tests.support.rig import ServerAt, commands_at, messages_at, next_hop_of, settle, until
from tests.support.site import Site, unused_port
from tests.support.smtp_server import DROP, HANG, OK, Script, ScriptedServer, Wait

BOTH = [Endpoint("mx1.test", "127.0.0.1"), Endpoint("mx2.test", "127.0.0.2")]
TAKEN = b"250 2.0.0 taken\r\n"
BUSY = b"421 4.7.0 too many connections\r\n"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site.opened() as made:
        yield made


async def test_a_transfer_is_sent_and_each_recipient_reported(site: Site) -> None:
    async with ScriptedServer() as server:
        site.reopen(next_hop_of(server))
        site.submit("a@dest.test", "b@dest.test")
        await site.until_reported(2)
        assert messages_at(server) == [CONTENT]
        assert [attempt.next_hop for attempt in site.reports[0].values() if attempt] == [
            site.lane.next_hop.key
        ] * 2


async def test_a_connection_is_kept_for_the_next_transfer(site: Site) -> None:
    async with ScriptedServer() as server:
        site.reopen(next_hop_of(server))
        for count in (1, 2, 3):
            site.submit()
            await site.until_reported(count)
            await settle()
        assert [len(session.contents) for session in server.sessions] == [3]


async def test_an_unused_connection_is_left_in_order(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "IDLE_SECONDS", 0.01)
    async with ScriptedServer() as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        await until(lambda: site.lane.is_disposable(NOW))
        await server.wait_ended()
        assert server.sessions[0].commands[-1] == b"QUIT"


@pytest.mark.parametrize("farewell", [(), (b"421 4.4.2 idle for too long\r\n",)])
async def test_a_kept_connection_that_the_server_closed_is_replaced(
    site: Site, farewell: tuple[bytes, ...]
) -> None:
    async with ScriptedServer(Script().but(DOT=[(TAKEN, *farewell, DROP), TAKEN])) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        await server.wait_ended()
        site.submit()
        await site.until_reported(2)
        assert site.replies == ["250 2.0.0 taken"] * 2
        assert len(server.sessions) == 2


async def test_a_kept_connection_that_turns_out_dead_is_replaced(site: Site) -> None:
    async with ScriptedServer(Script().but(MAIL=[OK, BUSY, OK], DOT=TAKEN)) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        site.submit()
        await site.until_reported(2)
        assert site.replies == ["250 2.0.0 taken"] * 2
        assert len(server.sessions) == 2


async def test_a_transfer_does_not_wait_behind_a_slow_one(site: Site) -> None:
    release = asyncio.Event()
    async with ScriptedServer(Script().but(DOT=[TAKEN, (Wait(release), TAKEN), TAKEN])) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        site.submit("slow@dest.test")
        site.submit("fast@dest.test")
        await site.until_reported(2)
        assert [r.address for r in site.reports[1]] == ["fast@dest.test"]
        release.set()
        await site.until_reported(3)


async def test_connections_are_few_until_one_answers_and_never_too_many(site: Site) -> None:
    release = asyncio.Event()
    async with ScriptedServer(Script().but(greeting=(Wait(release), b"220 mx\r\n"), DOT=HANG)) as server:
        site.reopen(next_hop_of(server))
        for _ in range(20):
            site.submit()
        await until(lambda: len(server.sessions) == lanes.FIRST_CONNECTIONS)
        await settle()
        assert len(server.sessions) == lanes.FIRST_CONNECTIONS
        release.set()
        await until(lambda: len(commands_at(server, b"DATA")) == lanes.CONNECTIONS)
        await settle()
        assert len(server.sessions) == lanes.CONNECTIONS
        busy = 20 - lanes.CONNECTIONS
        assert site.lane.health == lanes.Health(site.lane.next_hop.key, busy, lanes.CONNECTIONS, 0.0, "")


async def test_connections_are_renewed_when_their_transfers_are_done(site: Site) -> None:
    release = asyncio.Event()
    async with ScriptedServer(Script().but(DOT=[(Wait(release), OK)])) as server:
        site.reopen(next_hop_of(server))
        site.submit("first@dest.test")
        await until(lambda: commands_at(server, b"DATA"))
        site.lane.renew()
        release.set()
        await site.until_reported(1)
        site.submit("second@dest.test")
        await site.until_reported(2)
        site.lane.renew()
        await until(lambda: [session.commands[-1] for session in server.sessions] == [b"QUIT"] * 2)
        assert site.lane.health.under_way == 0


# Health


async def test_no_session_blocks_the_lane_and_defers_what_waits(site: Site) -> None:
    site.reopen(NextHop("mx.test", unused_port(), tls="none"))
    for _ in range(4):
        site.submit()
    assert site.lane.room(NOW) == lanes.FIRST_BACKLOG - 4
    await site.until_reported(4)
    await settle()
    assert len(set(site.replies)) == 1
    assert "Connection refused" in site.replies[0]
    health = site.lane.health
    assert (health.waiting, health.under_way) == (0, 0)
    assert "Connection refused" in health.failure
    assert health.blocked_until == site.lane.blocked_until
    assert site.lane.blocked_until == NOW + 100, "two workers met one and the same failure"
    assert site.lane.is_blocked(NOW)
    assert site.lane.room(NOW) == 0
    assert not site.lane.is_disposable(NOW)
    assert site.changes == 1
    site.submit()
    assert site.replies[4] == site.replies[0], "while it is blocked nobody tries"
    assert site.lane.is_disposable(NOW + 100 + lanes.FORGET_SECONDS)


async def test_after_the_pause_one_probes_and_each_failure_makes_the_next_pause_longer(site: Site) -> None:
    async with ScriptedServer(Script(greeting=(BUSY, DROP))) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        await settle()
        site.now.time = NOW + 100
        assert site.lane.room(site.now()) == 1
        for _ in range(3):
            site.submit()
        assert site.lane.room(site.now()) == 0
        await site.until_reported(4)
        assert len(server.sessions) == 2, "one probed for all"
        assert site.lane.blocked_until == NOW + 300
        assert (
            site.replies
            == ["451 4.7.0 host mx.test[127.0.0.1] refused to talk to me: 421 4.7.0 too many connections"] * 4
        )


async def test_a_probe_that_gets_a_session_frees_the_lane(site: Site) -> None:
    async with ScriptedServer(Script(greeting=[(BUSY, DROP), b"220 mx.test\r\n"])) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        await settle()
        site.lane.probe_now()
        assert site.lane.room(NOW) == 1
        changes = site.changes
        for _ in range(3):
            site.submit()
        await site.until_reported(4)
        assert site.changes == changes + 1
        assert site.lane.room(NOW) == lanes.BACKLOG
        assert len(messages_at(server)) == 3


async def test_a_definite_answer_frees_the_lane_too(site: Site) -> None:
    site.endpoints = Attempt(Reply(451, "4.4.3", "no answer from DNS"), Scope.SITE)
    site.submit()
    await site.until_reported()
    site.lane.probe_now()
    site.endpoints = Attempt(Reply(550, "5.1.2", "no such domain"))
    site.submit()
    await site.until_reported(2)
    site.submit()
    await site.until_reported(3)
    assert site.replies == ["451 4.4.3 no answer from DNS", *["550 5.1.2 no such domain"] * 2]
    assert site.lane.room(NOW) == lanes.FIRST_BACKLOG


async def test_a_next_hop_without_servers_is_down(site: Site) -> None:
    site.endpoints = []
    site.submit()
    await site.until_reported()
    assert site.replies == ["451 4.4.4 there is no server to try"]
    assert site.lane.is_blocked(NOW)


async def test_a_next_hop_that_wants_fewer_connections_is_not_down(site: Site) -> None:
    release = asyncio.Event()
    greetings = Script(greeting=[b"220 mx.test\r\n", (BUSY, DROP)]).but(DOT=[(Wait(release), TAKEN), TAKEN])
    async with ScriptedServer(greetings) as server:
        site.reopen(next_hop_of(server))
        for _ in range(10):
            site.submit()
        await until(lambda: len(server.sessions) > 1 and all(s.ended.is_set() for s in server.sessions[1:]))
        await settle()
        tried = len(server.sessions)
        site.submit()
        await settle()
        assert len(server.sessions) == tried, "it is not asked for more connections"
        assert not site.lane.is_blocked(NOW)
        release.set()
        await site.until_reported(11)
        assert site.replies == ["250 2.0.0 taken"] * 11
        assert len(server.sessions[0].contents) == 11


async def test_a_transfer_that_was_put_back_wakes_the_connection_that_rests(site: Site) -> None:
    """While the one connection rests, a second is refused: the first takes the transfer."""
    greetings = Script(greeting=[b"220 mx.test\r\n", (BUSY, DROP)]).but(DOT=TAKEN)
    async with ScriptedServer(greetings) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        for _ in range(4):
            site.submit()
        await site.until_reported(5)
        assert len(server.sessions[0].contents) == 5


# Several servers


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ServerAt, ServerAt]]:
    port = unused_port()
    async with ServerAt("127.0.0.1", port) as first, ServerAt("127.0.0.2", port) as second:
        yield first, second


async def test_what_the_first_server_defers_goes_to_the_second_at_once(
    site: Site, pair: tuple[ServerAt, ServerAt]
) -> None:
    first, second = pair
    release = asyncio.Event()
    first.script = Script().but(RCPT=[OK, b"451 4.7.1 greylisted\r\n", b"550 5.1.1 unknown\r\n"], DOT=TAKEN)
    second.script = Script(greeting=(Wait(release), b"220 mx2\r\n")).but(DOT=TAKEN)
    site.endpoints = BOTH
    site.reopen(next_hop_of(first))
    site.submit("a@dest.test", "b@dest.test", "c@dest.test")
    await site.until_reported(2)
    assert site.replies == ["250 2.0.0 taken", "550 5.1.1 unknown"], "known before the second server spoke"
    release.set()
    await site.until_reported(3)
    assert [r.address for r in site.reports[1]] == ["b@dest.test"]
    assert commands_at(second, b"RCPT") == [b"RCPT TO:<b@dest.test> ORCPT=rfc822;b@dest.test"]
    assert first.sessions[0].commands[-1] == b"QUIT"
    assert site.replies[2] == "250 2.0.0 taken"


async def test_a_second_server_that_cannot_be_had_leaves_the_words_of_the_first(
    site: Site, pair: tuple[ServerAt, ServerAt]
) -> None:
    first, second = pair
    first.script = Script().but(DOT=b"451 4.3.0 later\r\n")
    second.script = Script(greeting=(BUSY, DROP))
    site.endpoints = BOTH
    site.reopen(next_hop_of(first))
    site.submit()
    await site.until_reported()
    assert site.replies == ["451 4.3.0 later"]
    assert not site.lane.is_blocked(NOW), "the first server did talk"


async def test_a_possible_duplicate_is_not_tried_elsewhere(
    site: Site, pair: tuple[ServerAt, ServerAt]
) -> None:
    first, second = pair
    first.script = Script().but(DOT=DROP)
    site.endpoints = BOTH
    site.reopen(next_hop_of(first))
    site.submit()
    await site.until_reported()
    assert "message may be sent more than once" in site.replies[0]
    assert not second.sessions


async def test_every_address_is_asked_for_a_session(site: Site, pair: tuple[ServerAt, ServerAt]) -> None:
    first, second = pair
    first.script = Script(greeting=(b"554 5.7.1 go away\r\n", DROP))
    second.script = Script().but(DOT=TAKEN)
    site.endpoints = [Endpoint("mx0.test", "127.0.0.3"), *BOTH]
    site.reopen(next_hop_of(first))
    site.submit()
    await site.until_reported()
    assert site.replies == ["250 2.0.0 taken"]
    assert not site.lane.is_blocked(NOW)


async def test_the_relay_does_not_look_for_a_way_round_itself(
    site: Site, pair: tuple[ServerAt, ServerAt]
) -> None:
    first, second = pair
    first.script = Script(greeting=b"220 relay.test\r\n").but(EHLO=b"250 relay.test\r\n")
    site.endpoints = BOTH
    site.reopen(next_hop_of(first))
    site.submit()
    await site.until_reported()
    assert site.replies == ["554 5.4.6 mail for mx.test loops back to myself"]
    assert not second.sessions


# Defects, and content that cannot be read


async def test_a_defect_defers_one_transfer_and_the_lane_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedServer(Script().but(DOT=TAKEN)) as server:
        site.reopen(next_hop_of(server))
        site.errors = [ZeroDivisionError("oops")]
        site.submit()
        site.submit()
        await site.until_reported(2)
        assert sorted(site.replies) == [
            "250 2.0.0 taken",
            "451 4.3.0 the relay met an internal error; it will try again",
        ]
        assert all(a.next_hop == site.lane.next_hop.key for r in site.reports for a in r.values() if a)
        assert "transfer of 1: ZeroDivisionError('oops')" in caplog.text
        assert not server.sessions[0].contents or not server.sessions[1].contents


async def test_content_that_cannot_be_read_is_no_defect(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    async with ScriptedServer() as server:
        site.reopen(next_hop_of(server))
        site.errors = [ContentError("it was deleted")]
        site.submit()
        await site.until_reported()
        assert site.replies == ["451 4.3.0 the message cannot be read: it was deleted"]
        assert "Error" not in caplog.text


# Room


async def test_a_lane_takes_none_while_half_its_backlog_waits_and_says_when_it_takes_some(site: Site) -> None:
    release = asyncio.Event()
    async with ScriptedServer(Script(greeting=(Wait(release), b"220 mx\r\n"))) as server:
        site.reopen(next_hop_of(server))
        half = lanes.FIRST_BACKLOG // 2
        for count in range(half):
            assert site.lane.room(NOW) == lanes.FIRST_BACKLOG - count
            site.submit()
        assert site.lane.room(NOW) == 0
        assert site.changes == 0
        release.set()
        await site.until_reported(half)
        assert site.changes == 1
        assert site.lane.room(NOW) == lanes.BACKLOG


async def test_far_too_many_transfers_are_turned_away(site: Site) -> None:
    async with ScriptedServer(Script(greeting=HANG)) as server:
        site.reopen(next_hop_of(server))
        for _ in range(2 * lanes.FIRST_BACKLOG):
            transfer = site.submit()
        assert not site.lane.submit(transfer)
        assert not site.reports


# Closing


async def test_closing_gives_up_what_waits_and_lets_finish_what_has_begun(site: Site) -> None:
    release = asyncio.Event()
    async with ScriptedServer(Script().but(DOT=(Wait(release), TAKEN))) as server:
        site.reopen(next_hop_of(server))
        for _ in range(lanes.CONNECTIONS + 2):
            site.submit()
        await until(lambda: len(commands_at(server, b"DATA")) == lanes.CONNECTIONS)
        closing = asyncio.create_task(site.lane.close(10))
        await site.until_reported(2)
        assert site.replies == ["given up"] * 2
        site.submit()
        assert site.replies == ["given up"] * 3
        release.set()
        await closing
        assert site.replies[3:] == ["250 2.0.0 taken"] * lanes.CONNECTIONS
        await server.wait_ended()
        assert {session.commands[-1] for session in server.sessions} == {b"QUIT"}


async def test_work_that_comes_as_a_rest_ends_wakes_once() -> None:
    alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lanes._set(alarm)
    lanes._set(alarm)
    assert alarm.done()


async def test_closing_ends_a_rest(site: Site) -> None:
    async with ScriptedServer() as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await site.until_reported()
        await settle()
        await site.lane.close(10)
        await server.wait_ended()
        assert server.sessions[0].commands[-1] == b"QUIT"


async def test_what_is_not_over_after_the_grace_is_broken_off(site: Site) -> None:
    async with ScriptedServer(Script().but(RCPT=HANG)) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        await server.wait_for("RCPT")
        await site.lane.close(0)
        assert site.replies == ["given up"]
        await server.wait_ended()
        assert not messages_at(server)


async def test_what_the_first_server_said_is_known_when_the_second_is_broken_off(
    site: Site, pair: tuple[ServerAt, ServerAt]
) -> None:
    first, second = pair
    first.script = Script().but(DOT=b"451 4.3.0 later\r\n")
    second.script = Script(greeting=HANG)
    site.endpoints = BOTH
    site.reopen(next_hop_of(first))
    site.submit()
    await second.wait_for("greeting")
    await site.lane.close(0)
    assert site.replies == ["451 4.3.0 later"]


async def test_no_transfer_is_put_back_into_a_lane_that_closes(site: Site) -> None:
    release, hang_up = asyncio.Event(), asyncio.Event()
    script = Script(greeting=[b"220 mx.test\r\n", (Wait(hang_up), BUSY, DROP)]).but(
        DOT=(Wait(release), TAKEN)
    )
    async with ScriptedServer(script) as server:
        site.reopen(next_hop_of(server))
        site.submit()
        site.submit()
        await server.wait_for("DOT")
        await until(lambda: len(server.sessions) == 2)
        closing = asyncio.create_task(site.lane.close(10))
        await settle()
        hang_up.set()
        await site.until_reported()
        assert "too many connections" in site.replies[0]
        release.set()
        await closing
        assert site.replies[1] == "250 2.0.0 taken"
