"""The delivery manager between a real queue and scripted servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from relay import events
from relay.delivery import lanes, maildir, passes
from relay.delivery import manager as managers
from relay.delivery.lane import BACKLOG, FIRST_BACKLOG, Lane
from relay.mail.attempt import Attempt, Claim, Scope, State
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.route import Discard, Mailbox, Refuse, Route
from relay.queue.selection import Selection
from tests.support.queue import CONTENT, NOW
from tests.support.rig import (
    Now,
    Rig,
    commands_at,
    messages_at,
    next_hop_of,
    rigged,
    settle,
    until,
)
from tests.support.smtp_server import DROP, HANG, OK, Script, ScriptedServer, Wait

SENT, DEFERRED, BOUNCED, EXPIRED = State.DELIVERED, State.DEFERRED, State.BOUNCED, State.EXPIRED
LATER = b"451 4.3.0 later\r\n"
NO_USER = b"550 5.1.1 no such user\r\n"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rigged(tmp_path / "queue.db") as made:
        yield made


@pytest.fixture
async def server(rig: Rig) -> AsyncIterator[ScriptedServer]:
    """The server for dest.test."""
    async with ScriptedServer() as made:
        rig.route_to(made)
        yield made


# The way of one message


async def test_a_fresh_message_is_delivered_from_memory_without_a_question_to_the_queue(
    rig: Rig, server: ScriptedServer
) -> None:
    async with rig.running():
        await until(lambda: rig.store.claims == 1)
        await settle()
        message = await rig.arrive(is_fresh=True, content=CONTENT)
        await rig.until_states(message, SENT)
        await settle()
        assert messages_at(server) == [CONTENT]
        assert rig.store.claims == 1


async def test_a_message_in_the_queue_is_claimed_and_delivered(rig: Rig, server: ScriptedServer) -> None:
    message = await rig.arrive()
    async with rig.running():
        await rig.until_states(message, SENT)
    assert messages_at(server) == [CONTENT]


async def test_a_wake_brings_out_what_came_into_the_queue(rig: Rig, server: ScriptedServer) -> None:
    async with rig.running() as manager:
        await until(lambda: rig.store.claims == 1)
        message = await rig.arrive()
        manager.wake()
        await rig.until_states(message, SENT)


async def test_a_deferred_recipient_is_tried_again_when_it_is_due(rig: Rig, server: ScriptedServer) -> None:
    server.script = Script().but(RCPT=[OK, LATER, OK])
    message = await rig.arrive("a@dest.test", "b@dest.test", is_fresh=True)
    async with rig.running() as manager:
        await rig.until_states(message, SENT, DEFERRED)
        entry = await rig.store.show(message.number)
        assert entry is not None
        assert NOW + 270 <= entry.recipients[1].next_attempt_at <= NOW + 330
        assert entry.recipients[1].next_hop == f"[mx.dest.test]:{server.port}"
        rig.now.time += 330
        manager.wake()
        await rig.until_states(message, SENT, SENT)
    assert [c.split()[1] for c in commands_at(server, b"RCPT")] == [
        b"TO:<a@dest.test>",
        b"TO:<b@dest.test>",
        b"TO:<b@dest.test>",
    ]


async def test_the_manager_wakes_by_itself_when_something_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "SHORTEST_SLEEP", 0.01)
    loop = asyncio.get_running_loop()
    start = loop.time()
    monkeypatch.setattr(Now, "__call__", lambda _: NOW + loop.time() - start)
    async with rigged(tmp_path / "queue.db", retry=(0.05,)) as rig, ScriptedServer() as server:
        rig.route_to(server)
        server.script = Script().but(RCPT=[LATER, OK])
        message = await rig.arrive()
        async with rig.running():
            await rig.until_states(message, SENT)


async def test_recipients_beyond_the_limit_of_one_transaction_get_another(
    rig: Rig, server: ScriptedServer
) -> None:
    count = lanes.RECIPIENTS_PER_TRANSFER + 1
    message = await rig.arrive(*(f"u{n}@dest.test" for n in range(count)), is_fresh=True)
    async with rig.running():
        await rig.until_states(message, *[SENT] * count)
    assert len(messages_at(server)) == 2


async def test_internal_and_external_recipients_never_share_a_transaction(
    rig: Rig, server: ScriptedServer
) -> None:
    rig.routes["in.test"] = Route(next_hop_of(server, "mx.dest.test"), internal=True)
    message = await rig.arrive("a@dest.test", "b@in.test", is_fresh=True)
    async with rig.running():
        await rig.until_states(message, SENT, SENT)
    assert len(messages_at(server)) == 2


async def test_the_transport_table_may_discard_and_refuse(rig: Rig) -> None:
    rig.routes |= {
        "void.test": Route(Discard()),
        "gone.test": Route(Refuse(Reply(550, "5.1.2", "this domain is gone"))),
        "client.test": Route(Discard()),
    }
    message = await rig.arrive("a@void.test", "b@gone.test", is_fresh=True, reverse_path="chris@client.test")
    async with rig.running():
        await rig.until_states(message, SENT, BOUNCED)
        await rig.until_empty()
    entry = await rig.store.show(message.number + 1)
    assert entry is not None
    assert entry.message.is_report


async def test_one_report_tells_of_all_failures_of_a_pass(rig: Rig, server: ScriptedServer) -> None:
    release = asyncio.Event()
    async with ScriptedServer(Script().but(RCPT=(Wait(release), NO_USER))) as slow, ScriptedServer() as home:
        rig.route_to(slow, "slow.test")
        rig.route_to(home, "client.test")
        server.script = Script().but(RCPT=NO_USER)
        message = await rig.arrive(
            "a@dest.test", "b@slow.test", is_fresh=True, reverse_path="chris@client.test"
        )
        async with rig.running():
            await rig.until_states(message, BOUNCED, State.QUEUED)
            assert not messages_at(home)
            release.set()
            await rig.until_empty()
        (report,) = messages_at(home)
        assert b"a@dest.test" in report
        assert b"b@slow.test" in report


async def test_mail_that_is_too_old_expires_with_the_last_words(rig: Rig, server: ScriptedServer) -> None:
    server.script = Script().but(RCPT=LATER)
    message = await rig.arrive(reverse_path="")
    rig.now.time += rig.clock.lifetime
    async with rig.running():
        await rig.until_states(message, EXPIRED)


async def test_a_lost_report_is_held_where_there_is_no_postmaster(tmp_path: Path) -> None:
    async with rigged(tmp_path / "queue.db", postmaster="") as rig, ScriptedServer() as server:
        rig.route_to(server)
        server.script = Script().but(RCPT=NO_USER)
        report = await rig.arrive(Recipient("a@dest.test", notify="FAILURE"), reverse_path="", is_report=True)
        async with rig.running():
            await rig.until_states(report, State.HELD)


# Many messages


async def test_a_backlog_drains(rig: Rig, server: ScriptedServer) -> None:
    asyncio.get_running_loop().set_debug(False)
    await rig.arrive_many(2000)
    async with rig.running():
        await rig.until_empty()
    assert len(messages_at(server)) == 2000
    assert len(server.sessions) <= 5


async def test_a_next_hop_that_hangs_holds_up_no_other(rig: Rig, server: ScriptedServer) -> None:
    asyncio.get_running_loop().set_debug(False)
    async with ScriptedServer(Script(greeting=HANG)) as hanging:
        rig.route_to(hanging, "hanging.test")
        await rig.arrive_many(500, "a@hanging.test")
        last = await rig.arrive()
        async with rig.running() as manager:
            await rig.until_states(last, SENT)
            fresh = await rig.arrive(is_fresh=True)
            await rig.until_states(fresh, SENT)
            assert manager.has_room(fresh.envelope)
            assert not manager.has_room(Envelope("", (Recipient("a@hanging.test"),)))
            assert len(manager._passes) <= 2 * FIRST_BACKLOG + 2


async def test_a_dead_next_hop_is_probed_once_per_pause_and_drains_when_it_is_back(
    rig: Rig, server: ScriptedServer
) -> None:
    server.script = Script(greeting=(b"421 4.3.2 not now\r\n", DROP))
    await rig.arrive_many(200)
    async with rig.running() as manager:
        lane = await _lane_of(rig)
        await until(lambda: lane.is_blocked(NOW) and not manager._passes)
        tried = len(server.sessions)
        assert tried <= 2
        for probes in (1, 2, 3):
            rig.now.time = lane.blocked_until
            manager.wake()
            await until(lambda: lane.is_blocked(rig.now()) and not manager._passes)
            await settle()
            assert len(server.sessions) == tried + probes
        server.script = Script()
        rig.now.time = lane.blocked_until
        manager.wake()
        await rig.until_empty()
    assert len(messages_at(server)) == 200


async def _lane_of(rig: Rig) -> Lane:
    await until(lambda: bool(rig.manager._lanes._lanes))
    return next(iter(rig.manager._lanes._lanes.values()))


async def test_what_is_fresh_while_its_next_hop_is_down_waits_for_the_probe(
    rig: Rig, server: ScriptedServer
) -> None:
    server.script = Script(greeting=[(b"421 4.3.2 not now\r\n", DROP), b"220 mx.test\r\n"])
    async with rig.running() as manager:
        first = await rig.arrive(is_fresh=True)
        await rig.until_states(first, DEFERRED)
        lane = await _lane_of(rig)
        assert manager.has_room(first.envelope)
        second = await rig.arrive(is_fresh=True)
        await rig.until_states(second, DEFERRED)
        entry = await rig.store.show(second.number)
        assert entry is not None
        assert entry.recipients[0].next_attempt_at == lane.blocked_until
        assert len(server.sessions) == 1
        await rig.store.retry(Selection())
        manager.retry_now()
        # The queue's own clock is the real one, which is behind ours.
        await rig.until_states(first, SENT)
        await rig.until_states(second, SENT)


async def test_a_message_beyond_the_room_stays_in_the_queue(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "IN_FLIGHT", 6)  # a lone lane gets a third
    monkeypatch.setattr(managers, "LOW_WATER", 1)
    monkeypatch.setattr(managers, "SHORTEST_SLEEP", 0.01)
    release = asyncio.Event()
    server.script = Script().but(DOT=[(Wait(release), b"250 taken\r\n")])
    await rig.arrive_many(6)
    async with rig.running() as manager:
        await until(lambda: len(manager._passes) == 2 and manager._lanes.is_crowded)
        await settle()
        assert not manager.has_room(Envelope("", (Recipient("a@dest.test"),)))
        claims = rig.store.claims
        await asyncio.sleep(0.05)
        assert rig.store.claims == claims
        release.set()
        await rig.until_empty()


async def test_old_mail_beyond_the_room_of_its_next_hop_neither_expires_untried_nor_turns_in_circles(
    rig: Rig,
) -> None:
    asyncio.get_running_loop().set_debug(False)
    async with ScriptedServer(Script(greeting=HANG)) as hanging:
        rig.route_to(hanging, "hanging.test")
        await rig.arrive_many(3 * FIRST_BACKLOG, "a@hanging.test")
        rig.now.time += rig.clock.lifetime
        async with rig.running() as manager:
            await until(lambda: 0 < len(manager._passes) == 2 * FIRST_BACKLOG)
            await settle()
            assert (await rig.store.counts()) == {
                State.QUEUED: 2 * FIRST_BACKLOG,
                DEFERRED: FIRST_BACKLOG,
            }
            entries = await rig.store.list_messages(0, 1000, Selection())
            recipients = [recipient for entry in entries for recipient in entry.recipients]
            turned_away = [recipient for recipient in recipients if recipient.state is DEFERRED]
            assert {recipient.attempted_at for recipient in turned_away} == {None}
            assert await rig.store.next_due_at(rig.now(), {}) > rig.now()  # type: ignore[operator]


async def test_two_ways_to_one_server_have_two_lanes(rig: Rig, server: ScriptedServer) -> None:
    rig.routes["other.test"] = Route(next_hop_of(server, "mx.dest.test", is_relayhost=True))
    async with rig.running() as manager:
        for _ in range(2):
            message = await rig.arrive("a@dest.test", "b@other.test", is_fresh=True)
            await rig.until_states(message, SENT, SENT)
            await settle()
        assert len(manager._lanes._lanes) == 2
        assert manager._lanes.caps(NOW, managers.IN_FLIGHT) == {
            f"[mx.dest.test]:{server.port}": BACKLOG,
            maildir.MAILDIR: maildir.BACKLOG,
        }
    assert len(server.sessions) == 2


# Mailboxes


@pytest.fixture
def box(rig: Rig, tmp_path: Path) -> Path:
    """The mailbox for home.test."""
    rig.routes["home.test"] = Route(Mailbox("chris", tmp_path / "chris"), internal=True)
    return tmp_path / "chris"


class Gate:
    """Lets nobody read a content from the queue before it is opened."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(passes, "MOST_CONTENT", 0)  # none comes with a claim
        self.opened = asyncio.Event()
        self.begun = 0
        self._read = rig.store.read
        rig.manager._lanes._maildirs._read = self._wait

    async def _wait(self, number: int) -> AsyncIterator[bytes]:
        self.begun += 1
        await self.opened.wait()
        async for chunk in self._read(number):
            yield chunk


def messages_in(box: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((box / "new").iterdir())]


async def test_a_message_may_be_for_a_mailbox_and_a_next_hop(
    rig: Rig, server: ScriptedServer, box: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay")
    async with rig.running():
        message = await rig.arrive("chris@home.test", "a@dest.test", is_fresh=True, content=CONTENT)
        await rig.until_states(message, SENT, SENT)
        entry = await rig.store.show(message.number)
        assert entry is not None
        assert [recipient.next_hop for recipient in entry.recipients] == [
            "maildir",
            f"[mx.dest.test]:{server.port}",
        ]
    assert messages_at(server) == [CONTENT]
    [copy] = messages_in(box)
    assert copy.endswith(b"Delivered-To: chris@home.test\n" + CONTENT.replace(b"\r\n", b"\n"))
    assert (
        "to=<chris@home.test>, relay=maildir, delay=0.00, dsn=2.0.0, status=sent (delivered to mailbox)"
        in caplog.text
    )


async def test_one_report_tells_of_mailboxes_and_next_hops(
    rig: Rig, server: ScriptedServer, box: Path
) -> None:
    looping = b"Delivered-To: chris@home.test\r\n" + CONTENT
    server.script = Script().but(RCPT=NO_USER)
    async with ScriptedServer() as home:
        rig.route_to(home, "client.test")
        async with rig.running():
            await rig.arrive(
                "a@dest.test",
                "chris@home.test",
                is_fresh=True,
                content=looping,
                header_size=len(looping) - len(b"\r\nworld\r\n"),
                reverse_path="ann@client.test",
            )
            await rig.until_empty()
    [report] = messages_at(home)
    assert b"a@dest.test" in report
    assert b"Diagnostic-Code: X-Relay; mail forwarding loop for chris@home.test\r\n" in report
    assert not box.exists()


async def test_who_asks_to_be_told_hears_that_a_mailbox_has_it(rig: Rig, box: Path) -> None:
    async with ScriptedServer() as home:
        rig.route_to(home, "client.test")
        async with rig.running():
            await rig.arrive(Recipient("chris@home.test", notify="SUCCESS"), reverse_path="ann@client.test")
            await rig.until_empty()
    [report] = messages_at(home)
    assert b"Action: delivered\r\nStatus: 2.0.0\r\n" in report
    assert b"Remote-MTA" not in report


async def test_a_disk_that_hangs_holds_up_no_next_hop(
    rig: Rig, server: ScriptedServer, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.get_running_loop().set_debug(False)
    gate = Gate(rig, monkeypatch)
    await rig.arrive_many(managers.IN_FLIGHT, "chris@home.test")
    async with rig.running() as manager:
        await until(lambda: gate.begun == maildir.WRITERS)
        others = [await rig.arrive(is_fresh=True) for _ in range(10)]
        for message in others:
            await rig.until_states(message, SENT)
        assert len(manager._passes) <= 2 * maildir.BACKLOG + maildir.WRITERS
        assert not manager.has_room(Envelope("", (Recipient("chris@home.test"),)))
        assert manager.has_room(others[0].envelope)
        gate.opened.set()
        await rig.until_empty()
    assert len(messages_in(box)) == managers.IN_FLIGHT


async def test_closing_records_what_mailboxes_got_and_gives_back_what_waits(
    rig: Rig, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(rig, monkeypatch)
    messages = [await rig.arrive("chris@home.test") for _ in range(maildir.WRITERS + 1)]
    async with rig.running() as manager:
        await until(lambda: gate.begun == maildir.WRITERS)
        closing = asyncio.create_task(manager.close(20))
        await settle()
        gate.opened.set()
        await closing
        assert not manager._passes
    assert [await rig.states(message) for message in messages] == [[SENT]] * maildir.WRITERS + [
        [State.QUEUED]
    ]
    entry = await rig.store.show(messages[-1].number)
    assert entry is not None
    assert entry.recipients[0].attempts == 0
    assert len(messages_in(box)) == maildir.WRITERS


async def test_closing_does_not_wait_for_a_disk_that_hangs(
    rig: Rig, box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(rig, monkeypatch)
    message = await rig.arrive("chris@home.test")
    async with rig.running() as manager:
        await until(lambda: gate.begun == 1)
        await manager.close(0)
        assert await rig.states(message) == [DEFERRED]
        gate.opened.set()
    entry = await rig.store.show(message.number)
    assert entry is not None
    assert entry.recipients[0].attempts == 1


async def test_a_delivery_that_was_not_recorded_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "RECORD_SECONDS", 0.01)
    box = tmp_path / "chris"
    route = Route(Mailbox("chris", box), internal=True)
    async with rigged(tmp_path / "queue.db", routes={"home.test": route}) as rig, rig.running():
        await until(lambda: rig.store.claims == 1)
        rig.store.faults = 1_000_000
        message = await rig.arrive("chris@home.test", is_fresh=True)
        await until(lambda: rig.store.faults < 1_000_000)
    async with rigged(tmp_path / "queue.db", routes={"home.test": route}) as rig:
        assert await rig.states(message) == [State.QUEUED]
        rig.now.time += 330
        async with rig.running():
            await rig.until_states(message, SENT)
    assert len(messages_in(box)) == 1


# Trouble


async def test_what_is_due_again_while_it_is_in_flight_makes_no_haste(
    rig: Rig, server: ScriptedServer
) -> None:
    server.script = Script().but(DOT=HANG)
    await rig.arrive()
    async with rig.running() as manager:
        await server.wait_for("DOT")
        rig.now.time += 1000
        manager.wake()
        await until(lambda: rig.store.claims == 2)
        await settle()
        await asyncio.sleep(0.05)
        assert rig.store.claims == 2
    assert len(messages_at(server)) == 1


async def test_outcomes_are_recorded_however_long_it_takes(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(passes, "growing_pauses", lambda: iter([0.0] * 100))
    async with rig.running():
        await until(lambda: rig.store.claims == 1)
        rig.store.faults = 3
        message = await rig.arrive(is_fresh=True)
        await rig.until_states(message, SENT)
    assert len(messages_at(server)) == 1
    assert caplog.text.count(f"{message.queue_id}: outcome not recorded yet: the disk is on fire") == 3


async def test_a_queue_that_cannot_be_read_is_asked_again(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(managers, "growing_pauses", lambda: iter([0.0] * 100))
    rig.store.faults = 2
    message = await rig.arrive()
    async with rig.running():
        await rig.until_states(message, SENT)
    assert caplog.text.count("the queue cannot be read or written: the disk is on fire") == 2


def test_pauses_grow_up_to_half_a_minute() -> None:
    pauses = passes.growing_pauses()
    assert [next(pauses) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


async def test_a_defect_in_routing_costs_one_message_an_attempt(
    rig: Rig, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    bad = await rig.arrive("a@unheard-of.test")
    good = await rig.arrive()
    async with rig.running():
        await rig.until_states(good, SENT)
    assert await rig.states(bad) == [State.QUEUED]
    assert f"delivery of {bad.queue_id}: KeyError" in caplog.text


async def test_a_defect_in_judging_costs_one_message_an_attempt(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    async with rig.running() as manager:
        with monkeypatch.context() as patch:
            patch.setattr(events, "attempted", fail)
            bad = await rig.arrive(is_fresh=True)
            await until(lambda: not manager._passes)
        good = await rig.arrive(is_fresh=True)
        await rig.until_states(good, SENT)
    assert f"delivery of {bad.queue_id}: ZeroDivisionError" in caplog.text


async def test_a_clock_that_was_set_back_strands_nothing(rig: Rig, server: ScriptedServer) -> None:
    server.script = Script(greeting=[(b"421 4.3.2 not now\r\n", DROP), b"220 mx.test\r\n"])
    message = await rig.arrive()
    async with rig.running() as manager:
        await rig.until_states(message, DEFERRED)
        rig.now.time -= 10 * 365 * 86400
        manager.wake()
        await rig.until_states(message, SENT)


async def test_no_servers_to_be_found_blocks_the_next_hop(rig: Rig, server: ScriptedServer) -> None:
    rig.endpoints["mx.dest.test"] = Attempt(
        Reply(451, "4.4.3", "no answer from DNS"), Scope.SITE, next_hop=f"[mx.dest.test]:{server.port}"
    )
    message = await rig.arrive()
    async with rig.running():
        await rig.until_states(message, DEFERRED)
        entry = await rig.store.show(message.number)
        assert entry is not None
        assert entry.recipients[0].next_attempt_at == (await _lane_of(rig)).blocked_until


# The end


async def test_closing_records_what_was_delivered_and_leaves_the_rest_for_later(
    rig: Rig, server: ScriptedServer
) -> None:
    release = asyncio.Event()
    server.script = Script().but(DOT=(Wait(release), b"250 2.0.0 taken\r\n"))
    async with ScriptedServer(Script().but(RCPT=HANG)) as hanging:
        rig.route_to(hanging, "hanging.test")
        message = await rig.arrive("a@dest.test", "b@hanging.test", is_fresh=True)
        async with rig.running() as manager:
            await server.wait_for("DOT")
            await hanging.wait_for("RCPT")
            closing = asyncio.create_task(manager.close(0.2))
            await settle()
            assert not manager.has_room(message.envelope)
            manager.submit(Claim(message))
            release.set()
            await closing
            assert await rig.states(message) == [SENT, State.QUEUED]
            assert not manager._passes
        entry = await rig.store.show(message.number)
        assert entry is not None
        assert entry.recipients[1].attempts == 0
        assert entry.recipients[1].next_attempt_at <= time.time()
        assert not messages_at(hanging)


async def test_what_cannot_be_given_back_costs_no_outcome(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(_number: int, _indexes: Sequence[int]) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(rig.store, "give_back", fail)
    next_hop = rig.route_to(server, "closed.test")
    rig.routes["discard.test"] = Route(Discard())
    await rig.manager._lanes._lane(next_hop).close(0)
    message = await rig.arrive("a@closed.test", "b@discard.test", is_fresh=True)
    await rig.until_states(message, State.QUEUED, SENT)
    async with asyncio.timeout(20):
        while rig.manager._passes:
            await settle()
    assert "not given back, tried again when booked: the disk is on fire" in caplog.text


async def test_closing_does_not_wait_for_a_disk_that_is_full(
    rig: Rig, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managers, "RECORD_SECONDS", 0.01)
    async with rig.running() as manager:
        await until(lambda: rig.store.claims == 1)
        rig.store.faults = 1_000_000
        await rig.arrive(is_fresh=True)
        await until(lambda: rig.store.faults < 1_000_000)
        await manager.close(0)
        assert not manager._passes


async def test_a_restart_repeats_only_what_was_not_recorded(tmp_path: Path) -> None:
    async with ScriptedServer(Script().but(DOT=[b"250 taken\r\n", HANG])) as server:
        async with rigged(tmp_path / "queue.db") as rig:
            rig.route_to(server)
            async with rig.running():
                first = await rig.arrive(is_fresh=True)
                await rig.until_states(first, SENT)
                second = await rig.arrive(is_fresh=True)
                await until(lambda: len(messages_at(server)) == 2)
        server.script = Script()
        async with rigged(tmp_path / "queue.db") as rig:
            rig.route_to(server)
            rig.now.time += 330
            async with rig.running():
                await rig.until_states(second, SENT)
    assert len(messages_at(server)) == 3


async def test_a_report_that_a_crash_prevented_is_made_at_the_next_start(tmp_path: Path) -> None:
    async with (
        ScriptedServer(Script().but(RCPT=NO_USER)) as server,
        ScriptedServer(Script().but(RCPT=HANG)) as hanging,
        ScriptedServer() as home,
    ):
        async with rigged(tmp_path / "queue.db") as rig:
            rig.route_to(server)
            rig.route_to(hanging, "hanging.test")
            async with rig.running():
                message = await rig.arrive(
                    "a@dest.test", "b@hanging.test", is_fresh=True, reverse_path="chris@client.test"
                )
                await rig.until_states(message, BOUNCED, State.QUEUED)
        async with rigged(tmp_path / "queue.db") as rig:
            rig.route_to(home, "client.test")
            await rig.recorder.report_leftovers()
            async with rig.running():
                await until(lambda: len(messages_at(home)) == 1)
        async with rigged(tmp_path / "queue.db") as rig:
            assert await rig.store.unreported(()) == []
        (report,) = messages_at(home)
        assert b"a@dest.test" in report
        assert b"b@hanging.test" not in report
