"""Rates: a provider's limit is never overstepped, and those who wait are in nobody's way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery import lane as lanes
from relay.delivery.pace import Pace
from relay.mail.attempt import State
from relay.mail.route import NextHop, Rate, Route
from tests.support.queue import NOW
from tests.support.rig import messages_at, next_hop_of, rigged, settle, until
from tests.support.site import Site
from tests.support.smtp_server import Script, ScriptedServer

TAKEN = b"250 2.0.0 taken\r\n"
SENT = State.DELIVERED


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site.opened() as made:
        yield made


def limited(server: ScriptedServer, messages: int = 2, seconds: float = 60.0) -> NextHop:
    return replace(next_hop_of(server), rate=Rate(messages, seconds))


# The rate itself


def test_without_a_rate_all_may_leave() -> None:
    pace = Pace(None)
    for _ in range(1000):
        pace.note(NOW)
    assert pace.allowance(NOW) > 1000
    assert pace.delay(NOW) == 0
    assert pace.is_at_rest(NOW)


def test_a_burst_may_leave_and_then_each_as_its_place_becomes_free() -> None:
    pace = Pace(Rate(2, 60))
    assert pace.is_at_rest(NOW)
    pace.note(NOW)
    pace.note(NOW + 10)
    assert (pace.allowance(NOW + 20), pace.delay(NOW + 20)) == (0, 40)
    assert not pace.is_at_rest(NOW + 60)
    assert (pace.allowance(NOW + 60), pace.delay(NOW + 60)) == (1, 0)
    assert (pace.allowance(NOW + 70), pace.delay(NOW + 70)) == (2, 0)
    assert pace.is_at_rest(NOW + 70)


def test_a_clock_that_is_set_back_strands_nobody() -> None:
    pace = Pace(Rate(1, 60))
    pace.note(NOW)
    assert pace.delay(NOW - 86400) == 0


@given(
    rate=st.builds(Rate, st.integers(1, 5), st.integers(1, 20).map(float)),
    steps=st.lists(st.integers(0, 10).map(float), max_size=60),
)
def test_no_span_of_time_sees_more_messages_than_the_rate_says(rate: Rate, steps: list[float]) -> None:
    pace, now = Pace(rate), NOW
    left: list[float] = []
    for step in steps:
        now += step
        assert (pace.delay(now) == 0) == (pace.allowance(now) > 0)
        assert pace.delay(now) <= rate.seconds
        while pace.allowance(now):
            pace.note(now)
            left.append(now)
    for start in left:
        assert len([moment for moment in left if start <= moment < start + rate.seconds]) <= rate.messages


# A lane with a rate


async def test_transfers_wait_for_their_turn_and_are_not_deferred(site: Site) -> None:
    async with ScriptedServer(Script().but(DOT=TAKEN)) as server:
        site.reopen(limited(server))
        for _ in range(5):
            site.submit()
        await site.until_reported(2)
        site.now.time += 59
        site.submit()
        await settle()
        assert len(site.replies) == 2
        site.now.time += 1
        site.submit()
        await site.until_reported(4)
        await settle()
        assert site.replies == ["250 2.0.0 taken"] * 4
        assert len(messages_at(server)) == 4
        assert not site.lane.is_blocked(site.now())


async def test_one_timer_lets_the_next_leave(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "IDLE_SECONDS", 0.001)
    async with ScriptedServer(Script().but(DOT=TAKEN)) as server:
        site.reopen(limited(server, 1, 0.03))
        for count in (1, 2, 3):
            site.submit()
            site.submit()
            await site.until_reported(count)
            await until(lambda: all(session.ended.is_set() for session in server.sessions))
            assert server.sessions[-1].commands[-1] == b"QUIT", "no connection is kept for a distant turn"
            assert site.lane._alarm is not None
            site.now.time += 0.03
        assert len(server.sessions) == 3


async def test_without_waiting_transfers_there_is_no_timer(site: Site) -> None:
    async with ScriptedServer() as server:
        site.reopen(limited(server, 1))
        site.submit()
        await site.until_reported()
        await settle()
        assert site.lane._alarm is None


async def test_a_turn_that_comes_while_a_connection_is_kept_uses_it(site: Site) -> None:
    async with ScriptedServer(Script().but(DOT=TAKEN)) as server:
        site.reopen(limited(server, 1, 0.01))
        site.submit()
        site.submit()
        await site.until_reported()
        site.now.time += 0.01
        await site.until_reported(2)
        assert len(server.sessions) == 1


async def test_a_lane_with_a_rate_takes_few_and_remembers_what_left(site: Site) -> None:
    async with ScriptedServer() as server:
        site.reopen(limited(server))
        site.submit()
        await site.until_reported()
        await site.lane.close(10)
        assert site.lane.room(NOW) == lanes.FIRST_BACKLOG
        site.now.time = NOW + 59
        assert not site.lane.is_disposable(NOW + 59)
        site.now.time = NOW + 60
        assert site.lane.is_disposable(NOW + 60)


async def test_closing_gives_up_who_waits_for_a_turn(site: Site) -> None:
    async with ScriptedServer(Script().but(DOT=TAKEN)) as server:
        site.reopen(limited(server, 1))
        site.submit()
        site.submit()
        await site.until_reported()
        await settle()
        await site.lane.close(10)
        assert site.replies == ["250 2.0.0 taken", "given up"]
        await server.wait_ended()
        assert server.sessions[0].commands[-1] == b"QUIT"


async def test_who_waits_for_a_turn_holds_up_no_other_next_hop(tmp_path: Path) -> None:
    async with (
        rigged(tmp_path / "queue.db") as rig,
        ScriptedServer() as slow,
        ScriptedServer() as fast,
    ):
        rig.routes["slow.test"] = Route(limited(slow, 1))
        rig.route_to(fast)
        await rig.arrive_many(5 * lanes.FIRST_BACKLOG, "a@slow.test")
        async with rig.running() as manager:
            await until(lambda: len(messages_at(slow)) == 1)
            last = await rig.arrive()
            manager.wake()
            await rig.until_states(last, SENT)
            assert len(manager._passes) <= 2 * lanes.FIRST_BACKLOG
        assert len(messages_at(slow)) == 1


async def test_two_routes_to_one_smarthost_share_its_rate(tmp_path: Path) -> None:
    async with rigged(tmp_path / "queue.db") as rig, ScriptedServer() as server:
        for domain in ("one.test", "two.test"):
            rig.routes[domain] = Route(replace(limited(server, 1), smarthost="isp"))
        await rig.arrive("a@one.test")
        await rig.arrive("b@two.test")
        async with rig.running() as manager:
            await until(lambda: len(messages_at(server)) == 1)
            await until(lambda: len(manager._passes) == 1)
            await settle()
            assert len(manager._lanes._lanes) == 1
            assert len(messages_at(server)) == 1
