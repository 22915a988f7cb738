"""The fallback: who takes it, who never does, and what is learned from it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from relay.delivery.lane import Lane, Transfer
from relay.mail.attempt import Attempt, Scope, State
from relay.mail.envelope import Message, Recipient
from relay.mail.fallback import PATIENCE, UNREACHED
from relay.mail.learned import ANYWHERE, LIFETIME, LearnedRoute
from relay.mail.reply import Reply
from relay.mail.route import Discard, NextHop, Route
from relay.queue.selection import Selection
from tests.support.queue import NOW
from tests.support.rig import Rig, commands_at, messages_at, next_hop_of, rigged, settle, until
from tests.support.site import unused_port
from tests.support.smtp_server import DROP, HANG, OK, RESET, Script, ScriptedServer

QUEUED, SENT, DEFERRED, BOUNCED = State.QUEUED, State.DELIVERED, State.DEFERRED, State.BOUNCED
BLOCKED = b"554 5.7.1 Client host [203.0.113.7] blocked using zen.spamhaus.org\r\n"
BLOCKED_FOR_NOW = (
    b"421 4.7.0 [TSS04] Messages from 203.0.113.7 temporarily deferred due to user complaints\r\n"
)
GREYLISTED = b"450 4.7.1 Greylisted for 5 minutes\r\n"
CROWDED = Attempt(Reply(451, "4.3.2", "no room"), Scope.SITE)
UNKNOWN = b"550 5.1.1 no such user\r\n"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")


@asynccontextmanager
async def house(path: Path) -> AsyncIterator[tuple[Rig, ScriptedServer, ScriptedServer]]:
    """A relay with a site dest.test, and a fallback."""
    async with rigged(path) as rig, ScriptedServer() as site, ScriptedServer() as isp:
        rig.fallback = next_hop_of(isp, "isp.test", is_relayhost=True)
        rig.routes["dest.test"] = Route(direct(site))
        yield rig, site, isp


def direct(server: ScriptedServer, domain: str = "dest.test") -> NextHop:
    return NextHop(domain, server.port, use_mx=True, tls="none")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[Rig, ScriptedServer, ScriptedServer]]:
    async with house(tmp_path / "queue.db") as built:
        yield built


World = tuple[Rig, ScriptedServer, ScriptedServer]


async def deliver(rig: Rig, *recipients: str, states: tuple[State, ...] = (SENT,)) -> Message:
    """Let a message arrive, and wait until its recipients are in these states."""
    message = await rig.arrive(*recipients, is_fresh=True)
    await rig.until_states(message, *states)
    return message


@pytest.mark.parametrize(
    "script",
    [
        Script(greeting=(BLOCKED, DROP)),
        Script().but(MAIL=BLOCKED),
        Script().but(RCPT=BLOCKED),
        Script().but(DATA=BLOCKED),
        Script().but(DOT=BLOCKED),
    ],
    ids=["greeting", "MAIL", "RCPT", "DATA", "end of DATA"],
)
async def test_mail_that_a_site_refuses_because_of_us_goes_on_over_the_fallback(
    world: World, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, isp = world
    site.script = script
    async with rig.running():
        message = await deliver(rig)
        sessions = len(site.sessions)
        await deliver(rig)
    assert len(messages_at(isp)) == 2
    assert len(site.sessions) == sessions  # the second one did not ask the site again
    (learned,) = rig.store.learned.values()
    assert (learned.domain, learned.via, learned.reason) == ("dest.test", rig.fallback.key, "blocklist")  # type: ignore[union-attr]
    assert "blocked using zen.spamhaus.org" in learned.reply
    assert (learned.learned_at, learned.expires_at) == (NOW, NOW + LIFETIME)
    assert f"{message.queue_id}: to=<a@dest.test>" in caplog.text
    assert f"status=detoured to {rig.fallback.key} (" in caplog.text  # type: ignore[union-attr]
    (traced,) = await rig.store.trace(message.queue_id, 1)
    hosts = [tried.attempt.next_hop for tried in traced.attempts[0]]
    assert hosts == [direct(site).key, rig.fallback.key]  # type: ignore[union-attr]


async def test_only_the_refused_recipients_take_the_detour(world: World) -> None:
    rig, site, isp = world
    verdicts = {b"a": OK, b"b": BLOCKED, b"c": UNKNOWN, b"d": GREYLISTED}
    site.script = Script().but(RCPT=lambda line: verdicts[line[9:10]])
    async with rig.running():
        await deliver(rig, *(f"{user}@dest.test" for user in "abcd"), states=(SENT, SENT, BOUNCED, DEFERRED))
    assert [line.split()[1] for line in commands_at(isp, b"RCPT")] == [b"TO:<b@dest.test>"]
    assert len(messages_at(site)) == len(messages_at(isp)) == 1


@pytest.mark.parametrize(
    ("script", "state"),
    [
        (Script().but(RCPT=UNKNOWN), BOUNCED),
        (Script().but(DOT=b"554 5.6.0 Message content rejected: spam\r\n"), BOUNCED),
        (Script().but(RCPT=GREYLISTED), DEFERRED),
        (Script().but(RCPT=b"450 4.7.1 something that nobody knows\r\n"), DEFERRED),
        (Script().but(DOT=DROP), DEFERRED),
        (Script().but(DOT=RESET), DEFERRED),
        (Script(greeting=DROP), DEFERRED),
        (Script(greeting=(BLOCKED_FOR_NOW, DROP)), DEFERRED),
        (Script().but(MAIL=(BLOCKED_FOR_NOW, DROP)), DEFERRED),
    ],
)
async def test_other_failures_mean_what_they_always_mean(world: World, script: Script, state: State) -> None:
    rig, site, isp = world
    site.script = script
    async with rig.running():
        await deliver(rig, states=(state,))
    assert not isp.sessions
    assert not rig.store.learned


async def test_a_final_dot_without_a_reply_never_takes_the_detour_however_old_the_message(
    world: World,
) -> None:
    rig, site, isp = world
    site.script = Script().but(
        DOT=(b"421 4.7.0 blocked using zen.spamhaus.org", DROP)
    )  # no line end: no reply
    async with rig.running():
        message = await rig.arrive(is_fresh=False, now=NOW - PATIENCE)
        await rig.until_states(message, DEFERRED)
    assert not isp.sessions


@pytest.mark.parametrize(
    "script", [Script(greeting=(BLOCKED_FOR_NOW, DROP)), Script().but(MAIL=(BLOCKED_FOR_NOW, DROP))]
)
async def test_a_temporary_refusal_of_us_is_waited_out_for_half_an_hour(world: World, script: Script) -> None:
    rig, site, isp = world
    site.script = script
    async with rig.running():
        young = await rig.arrive(is_fresh=True, now=NOW - PATIENCE + 1)
        await rig.until_states(young, DEFERRED)
        assert not isp.sessions
        rig.now.time += 1
        rig.manager.retry_now()
        await deliver_old(rig, NOW - PATIENCE)
    assert len(messages_at(isp)) == 1
    assert list(rig.store.learned) == ["dest.test"]


@pytest.mark.parametrize(
    "script", [Script(greeting=(BLOCKED_FOR_NOW, DROP)), Script().but(MAIL=(BLOCKED_FOR_NOW, DROP))]
)
async def test_half_an_hour_is_that_of_the_site_whichever_message_asks(world: World, script: Script) -> None:
    rig, site, isp = world
    site.script = script
    async with rig.running():
        first = await deliver(rig, states=(DEFERRED,))
        rig.now.time += PATIENCE
        await deliver(rig)  # it is young, and finds the lane blocked, or is refused itself
        rig.manager.retry_now()
        await rig.until_states(first, SENT)
    assert len(messages_at(isp)) == 2


async def test_a_site_that_took_mail_since_is_given_half_an_hour_again(world: World) -> None:
    rig, site, isp = world
    async with rig.running():
        for script, state in ((BLOCKED_FOR_NOW, DEFERRED), (OK, SENT), (BLOCKED_FOR_NOW, DEFERRED)):
            site.script = Script().but(MAIL=script)
            await deliver(rig, states=(state,))
            await rig.store.delete(Selection())
            rig.now.time += PATIENCE
    assert not isp.sessions


async def deliver_old(rig: Rig, received_at: float) -> None:
    message = await rig.arrive(is_fresh=True, now=received_at)
    await rig.until_states(message, SENT)


async def test_greylisting_is_waited_out_for_ever(world: World) -> None:
    rig, site, isp = world
    site.script = Script().but(RCPT=GREYLISTED)
    async with rig.running():
        message = await rig.arrive(is_fresh=True, now=NOW - 10 * PATIENCE)
        await rig.until_states(message, DEFERRED)
    assert not isp.sessions


async def test_a_route_that_the_owner_chose_is_never_left(world: World) -> None:
    rig, site, isp = world
    site.script = Script().but(RCPT=BLOCKED)
    await rig.store.learn(learned_route(rig))
    rig.routes["dest.test"] = Route(direct(site), rule=("transport", "dest.test"))
    async with rig.running():
        await deliver(rig, states=(BOUNCED,))
    assert not isp.sessions


def learned_route(rig: Rig, domain: str = "dest.test", reason: str = "blocklist") -> LearnedRoute:
    assert rig.fallback is not None
    return LearnedRoute(domain, rig.fallback.key, reason, "said so", NOW - LIFETIME, NOW)


async def test_without_a_fallback_a_refusal_bounces(world: World) -> None:
    rig, site, _ = world
    rig.fallback = None
    site.script = Script().but(RCPT=BLOCKED)
    async with rig.running():
        await deliver(rig, states=(BOUNCED,))


async def test_a_refusal_by_the_fallback_bounces(world: World) -> None:
    rig, site, isp = world
    site.script = isp.script = Script().but(RCPT=BLOCKED)
    async with rig.running():
        await deliver(rig, states=(BOUNCED,))
    assert len(commands_at(isp, b"RCPT")) == 1


async def test_what_is_not_remembered_takes_the_detour_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, isp = world

    async def fail(_route: LearnedRoute) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(rig.store, "learn", fail)
    site.script = Script().but(RCPT=BLOCKED)
    async with rig.running():
        await deliver(rig)
    assert len(messages_at(isp)) == 1
    assert "the route for dest.test is not remembered: the disk is on fire" in caplog.text


async def test_many_messages_that_meet_one_refusal_learn_one_route(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, isp = world
    site.script = Script(greeting=(BLOCKED, DROP))
    await rig.arrive_many(30)
    async with rig.running():
        await rig.until_empty()
    assert len(messages_at(isp)) == 30
    assert len(site.sessions) <= 2
    assert caplog.text.count("mail for dest.test goes over the fallback") == 1


async def test_a_detour_without_room_waits_in_the_queue_and_is_reported_with_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, isp = world
    site.script = Script().but(RCPT=lambda line: UNKNOWN if b"<b" in line else BLOCKED)
    rig.routes["free.fr"] = Route(Discard())  # where the report goes
    lanes = rig.manager._lanes
    submit, offered = lanes._submit_to_lane, 0

    def crowd(lane: Lane, transfer: Transfer) -> list[tuple[Recipient, Attempt]]:
        nonlocal offered
        offered += lane.next_hop == rig.fallback
        if lane.next_hop == rig.fallback and offered == 1:
            return [(recipient, CROWDED) for recipient in transfer.recipients]
        return submit(lane, transfer)

    monkeypatch.setattr(lanes, "_submit_to_lane", crowd)
    async with rig.running():
        message = await rig.arrive("a@dest.test", "b@dest.test", is_fresh=True)
        await rig.until_states(message, SENT, BOUNCED)
        await rig.until_empty()
    assert len(messages_at(isp)) == 1
    assert f"{message.queue_id}: sender non-delivery notification" in caplog.text


async def test_a_site_that_refuses_one_recipient_and_takes_the_next_has_refused_us(world: World) -> None:
    rig, site, isp = world
    site.script = Script().but(RCPT=lambda line: BLOCKED if b"<a" in line else OK)
    async with rig.running():
        await deliver(rig, "a@dest.test", "b@dest.test", states=(SENT, SENT))
    assert len(messages_at(site)) == len(messages_at(isp)) == 1
    assert list(rig.store.learned) == ["dest.test"]


async def test_a_detour_that_comes_while_the_relay_stops_is_not_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, site, isp = world
    site.script = Script().but(RCPT=BLOCKED)
    learn, learning, may_go_on = rig.store.learn, asyncio.Event(), asyncio.Event()

    async def learn_slowly(route: LearnedRoute) -> None:
        learning.set()
        await may_go_on.wait()
        await learn(route)

    monkeypatch.setattr(rig.store, "learn", learn_slowly)
    async with rig.running() as manager:
        message = await rig.arrive(is_fresh=True)
        await learning.wait()
        closing = asyncio.create_task(manager.close(0))
        await settle()
        may_go_on.set()
        await closing
    entry = await rig.store.show(message.number)
    assert entry is not None
    (queued,) = entry.recipients
    assert (queued.state, queued.next_attempt_at) == (QUEUED, pytest.approx(time.time(), abs=60))
    assert not isp.sessions


async def test_mail_that_is_on_its_way_over_the_fallback_is_not_called_deferred(world: World) -> None:
    rig, site, isp = world
    site.script, isp.script = Script().but(RCPT=BLOCKED), Script(greeting=HANG)
    async with rig.running():
        message = await rig.arrive("a@dest.test", is_fresh=True)
        await until(lambda: bool(isp.sessions))
        entry = await rig.store.show(message.number)
        await rig.store.hold(Selection())
        await rig.manager.close(0)
        assert await rig.states(message) == [State.HELD]
    assert entry is not None
    (queued,) = entry.recipients
    assert (queued.state, queued.attempts) == (QUEUED, 1)
    assert 270 <= queued.next_attempt_at - NOW <= 330  # should the relay be killed now
    assert queued.attempt is not None
    assert "blocked using zen.spamhaus.org" in queued.attempt.explain()


@pytest.mark.parametrize("refused_by", ["greeting", "nobody there"])
async def test_no_mail_is_said_to_wait_that_goes_on_over_the_fallback(
    world: World, caplog: pytest.LogCaptureFixture, refused_by: str
) -> None:
    rig, site, isp = world
    site.script = Script(greeting=(BLOCKED, DROP))
    if refused_by == "nobody there":
        rig.routes["dest.test"] = Route(NextHop("dest.test", unused_port(), use_mx=True, tls="none"))
    async with rig.running():
        await deliver(rig, "a@dest.test", "b@dest.test", states=(SENT, SENT))
    assert len(messages_at(isp)) == 1
    assert "its mail waits" not in caplog.text


@pytest.mark.parametrize("rule", [(), ("transport", "dest.test")])
async def test_mail_that_waits_for_a_site_is_said_to_wait_once(
    world: World, caplog: pytest.LogCaptureFixture, rule: tuple[str, ...]
) -> None:
    rig, site, _ = world
    site.script = Script(greeting=(BLOCKED if rule else BLOCKED_FOR_NOW, DROP))
    rig.routes["dest.test"] = Route(direct(site), rule=rule)
    async with rig.running():
        await deliver(rig, "a@dest.test", "b@dest.test", states=(DEFERRED, DEFERRED))
        await deliver(rig, states=(DEFERRED,))
    assert caplog.text.count(f"{direct(site).key}: no session; its mail waits 300 s before the next") == 1


# When its time is over


async def test_when_its_time_is_over_one_message_tries_the_site_again_and_a_refusal_renews_it(
    world: World,
) -> None:
    rig, site, isp = world
    await rig.store.learn(learned_route(rig))
    site.script = Script().but(RCPT=BLOCKED)
    await rig.arrive_many(10)
    async with rig.running():
        await rig.until_empty()
    assert len(site.sessions) == 1
    assert len(messages_at(isp)) == 10
    assert rig.store.learned["dest.test"].expires_at == NOW + LIFETIME


async def test_when_the_site_takes_mail_again_the_route_is_forgotten(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, isp = world
    await rig.store.learn(learned_route(rig))
    async with rig.running():
        await deliver(rig)
        await until(lambda: not rig.store.learned)
        await deliver(rig, "a@dest.test", "b@dest.test", states=(SENT, SENT))
    assert len(messages_at(site)) == 2
    assert not isp.sessions
    assert "mail for dest.test goes directly again: it takes mail from us again" in caplog.text


async def test_when_its_time_is_over_a_temporary_refusal_of_us_is_not_waited_out_again(world: World) -> None:
    rig, site, isp = world
    await rig.store.learn(learned_route(rig))
    site.script = Script().but(MAIL=BLOCKED_FOR_NOW)
    async with rig.running():
        await deliver(rig, "a@dest.test", "b@dest.test", states=(SENT, SENT))
    assert (len(site.sessions), len(messages_at(isp))) == (1, 1)
    assert rig.store.learned["dest.test"].expires_at == NOW + LIFETIME


async def test_while_port_25_is_closed_no_site_is_tried_again(world: World) -> None:
    rig, site, isp = world
    await rig.store.learn(learned_route(rig))
    await rig.store.learn(replace(learned_route(rig, ANYWHERE, UNREACHED), expires_at=NOW + 1))
    async with rig.running():
        await deliver(rig)
    assert not site.sessions
    assert len(messages_at(isp)) == 1


async def test_a_pinned_route_is_never_over(world: World) -> None:
    rig, site, isp = world
    await rig.store.learn(replace(learned_route(rig), is_pinned=True))
    async with rig.running():
        await deliver(rig)
    assert not site.sessions
    assert len(messages_at(isp)) == 1


# Sites that do not answer


async def test_a_site_that_cannot_be_reached_is_left_alone_and_the_second_one_means_all(
    world: World,
) -> None:
    rig, site, isp = world
    closed = unused_port()
    for domain in ("one.test", "two.test", "three.test"):
        rig.routes[domain] = Route(NextHop(domain, closed, use_mx=True, tls="none"))
    async with rig.running():
        await deliver(rig, "a@one.test")
        await until(lambda: "one.test" in rig.store.learned)
        assert rig.store.learned["one.test"].reason == UNREACHED
        await deliver(rig, "a@two.test")
        await until(lambda: list(rig.store.learned) == [ANYWHERE])
        await deliver(rig, "a@three.test", "a@dest.test", states=(SENT, SENT))
    assert not site.sessions
    assert len(messages_at(isp)) == 3


async def test_a_relay_that_is_off_line_learns_nothing_of_sites(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rig, _, isp = world
    online = rig.fallback
    rig.fallback = offline = NextHop("isp.test", unused_port(), tls="none", is_relayhost=True)
    for domain in ("one.test", "two.test"):
        rig.routes[domain] = Route(NextHop(domain, offline.port, use_mx=True, tls="none"))
    async with rig.running():
        for domain in ("one.test", "two.test"):
            await deliver(rig, f"a@{domain}", states=(DEFERRED,))
        assert not rig.store.learned
        waiting = await rig.store.list_messages(0, 2, Selection())
        moments = {recipient.next_attempt_at for entry in waiting for recipient in entry.recipients}
        assert len(moments) == 1, "they wait for the fallback, and not each for itself"
        assert caplog.text.count(f"{offline.key}: no session; its mail waits 300 s before the next") == 1
        assert caplog.text.count("its mail waits") == 1
        rig.fallback = online
        await deliver(rig, "a@two.test")
        await until(lambda: list(rig.store.learned) == ["two.test"])
    assert len(messages_at(isp)) == 1


async def test_while_other_sites_answer_a_silent_one_speaks_for_itself(world: World) -> None:
    rig, _, isp = world
    closed = unused_port()
    for domain in ("one.test", "two.test"):
        rig.routes[domain] = Route(NextHop(domain, closed, use_mx=True, tls="none"))
    async with rig.running():
        await deliver(rig)
        await deliver(rig, "a@one.test")
        await deliver(rig, "a@two.test")
        await until(lambda: sorted(rig.store.learned) == ["one.test", "two.test"])
    assert len(messages_at(isp)) == 2


async def test_a_site_that_was_silent_long_ago_says_nothing_of_port_25(world: World) -> None:
    rig, _, _ = world
    await rig.store.learn(learned_route(rig, "old.test", UNREACHED))
    rig.routes["one.test"] = Route(NextHop("one.test", unused_port(), use_mx=True, tls="none"))
    async with rig.running():
        await deliver(rig, "a@one.test")
        await until(lambda: sorted(rig.store.learned) == ["old.test", "one.test"])


async def test_a_server_that_speaks_no_word_shows_that_port_25_is_open(world: World) -> None:
    rig, site, _ = world
    site.script = Script(greeting=DROP)
    closed = unused_port()
    for domain in ("one.test", "two.test"):
        rig.routes[domain] = Route(NextHop(domain, closed, use_mx=True, tls="none"))
    async with rig.running():
        await deliver(rig, states=(DEFERRED,))
        await deliver(rig, "a@one.test")
        await deliver(rig, "a@two.test")
        await until(lambda: sorted(rig.store.learned) == ["one.test", "two.test"])


@pytest.mark.parametrize("is_reached", [True, False])
async def test_what_the_owner_does_while_a_site_is_looked_at_stands(
    world: World, monkeypatch: pytest.MonkeyPatch, *, is_reached: bool
) -> None:
    rig, _, _ = world
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def answer(_: NextHop) -> bool:
        asked.set()
        await may_answer.wait()
        return is_reached

    monkeypatch.setattr(rig.manager._fallback, "_reaches", answer)
    known = learned_route(rig, ANYWHERE, UNREACHED)
    pinned = replace(known, is_pinned=True)
    await rig.store.learn(known)
    async with rig.running():
        await deliver(rig)
        await asked.wait()
        await rig.store.learn(pinned)
        may_answer.set()
        await until(lambda: not rig.manager._fallback._tasks)
    assert rig.store.learned == {ANYWHERE: pinned}


async def test_that_port_25_opens_is_noticed_without_delay_to_mail(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, isp = world
    site.script = Script(greeting=HANG)  # it is enough that somebody is there
    await rig.store.learn(learned_route(rig, ANYWHERE, UNREACHED))
    async with rig.running():
        await deliver(rig)
        await until(lambda: not rig.store.learned)
    assert len(messages_at(isp)) == 1
    assert "mail for * goes directly again: port 25 can be reached again" in caplog.text


async def test_that_port_25_is_still_closed_is_remembered_for_another_hour(world: World) -> None:
    rig, _, isp = world
    await rig.store.learn(learned_route(rig, ANYWHERE, UNREACHED))
    rig.routes["gone.test"] = Route(NextHop("gone.test", unused_port(), use_mx=True, tls="none"))
    async with rig.running():
        await rig.arrive_many(5, "a@gone.test")
        await rig.until_empty()
        await until(lambda: rig.store.learned[ANYWHERE].expires_at == NOW + 3600)
    assert len(messages_at(isp)) == 5


async def test_what_was_learned_while_the_clock_was_ahead_lasts_no_longer(world: World) -> None:
    rig, _, isp = world
    rig.routes["gone.test"] = Route(NextHop("gone.test", unused_port(), use_mx=True, tls="none"))
    ahead = replace(learned_route(rig, ANYWHERE, UNREACHED), learned_at=NOW + LIFETIME, expires_at=2 * NOW)
    await rig.store.learn(ahead)
    async with rig.running():
        await deliver(rig, "a@gone.test")
        await until(lambda: rig.store.learned[ANYWHERE].expires_at == NOW + 3600)
    assert rig.store.learned[ANYWHERE].learned_at == NOW
    assert len(messages_at(isp)) == 1


async def test_a_site_that_dns_does_not_know_now_counts_as_not_reached(world: World) -> None:
    rig, _, _ = world
    await rig.store.learn(learned_route(rig, ANYWHERE, UNREACHED))
    rig.endpoints["dest.test"] = Attempt(Reply(451, "4.4.3", "no answer from DNS"), Scope.SITE)
    async with rig.running():
        await deliver(rig)
        await until(lambda: rig.store.learned[ANYWHERE].expires_at == NOW + 3600)


async def test_what_is_under_way_is_broken_off_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, _, _ = world
    asked = asyncio.Event()

    async def hang(_: NextHop) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(rig.manager._fallback, "_reaches", hang)
    await rig.store.learn(learned_route(rig, ANYWHERE, UNREACHED))
    async with rig.running():
        await deliver(rig)
        await asked.wait()
    assert not rig.manager._fallback._tasks


async def test_a_queue_that_cannot_be_written_changes_no_verdict(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig, site, _ = world

    async def fail(*_: object) -> list[LearnedRoute]:
        raise OSError("the disk is on fire")

    await rig.store.learn(learned_route(rig))
    await rig.store.learn(learned_route(rig, "gone.test", UNREACHED))
    rig.routes["gone.test"] = Route(NextHop("gone.test", unused_port(), use_mx=True, tls="none"))
    monkeypatch.setattr(rig.store, "forget", fail)
    monkeypatch.setattr(rig.store, "learn", fail)
    async with rig.running():
        await deliver(rig)
        await deliver(rig, "a@gone.test")
        await settle()
        await until(lambda: "the route for gone.test is not remembered: the disk is on fire" in caplog.text)
    assert "a learned route is not forgotten: the disk is on fire" in caplog.text
    assert len(messages_at(site)) == 1


async def test_routes_over_a_smarthost_that_is_gone_are_forgotten(world: World) -> None:
    rig, _, _ = world
    assert rig.fallback is not None
    for route in (learned_route(rig), replace(learned_route(rig), domain="old.test", via="old=[a.test]:25")):
        await rig.store.learn(route)
    await rig.manager._fallback.keep({rig.fallback.key})
    assert list(rig.store.learned) == ["dest.test"]


async def test_a_changed_fallback_takes_the_routes_over_and_none_is_unpinned(world: World) -> None:
    rig, _, _ = world
    known = replace(learned_route(rig), via="isp=[smtp.isp.test]:25", is_pinned=True)
    await rig.store.learn(known)
    rig.fallback = NextHop("smtp.isp.test", 587, smarthost="isp")
    await rig.manager._fallback.keep({"isp"})
    assert rig.store.learned == {"dest.test": replace(known, via="isp=[smtp.isp.test]:587")}
    rig.fallback = None
    await rig.manager._fallback.keep({"isp"})
    assert len(rig.store.learned) == 1


async def test_a_route_that_nobody_needed_for_long_is_forgotten(world: World) -> None:
    rig, _, _ = world
    await rig.store.learn(learned_route(rig))
    await rig.store.learn(replace(learned_route(rig, "kept.test"), is_pinned=True))
    assert rig.fallback is not None
    await rig.manager._fallback.keep({rig.fallback.key})
    assert len(rig.store.learned) == 2
    rig.now.time += LIFETIME
    await rig.manager._fallback.keep({rig.fallback.key})
    assert list(rig.store.learned) == ["kept.test"]
