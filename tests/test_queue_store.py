"""The durable queue through its public face, on a real SQLite file."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.attempt import Attempt, Outcome, Scope, State
from relay.mail.dsn import Report
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.queue import claims, rows
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import (
    CONTENT,
    ISP,
    LARGE,
    NOW,
    OTHER,
    REFUSED,
    accept,
    claim,
    content_files,
    content_of,
    deferred,
    failed,
    make_message,
    opened,
    outcome,
    query,
    states,
)

ALL = Selection()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def store(path: Path) -> Any:
    async with opened(path) as store:
        yield store


# Arrival


async def test_a_message_comes_back_as_it_was_given(store: Store) -> None:
    odd = "gr\udcfc\udcdfe@example.net"
    recipients = (
        Recipient(odd, "né@example.net", "rfc822;x+2By", "SUCCESS,DELAY", 0),
        Recipient("b@example.net", index=1),
    )
    envelope = Envelope(odd, recipients, "chris@gw1", "HDRS", "env\udcff", True, True)
    given_message = make_message(
        store.new_number(NOW), envelope=envelope, client="pc[::1]", is_report=True, body_is_8bit=True
    )
    incoming = store.incoming(given_message.number)
    await incoming.write(CONTENT)
    await incoming.commit(given_message, retry_at=None)

    entry = await store.show(given_message.number)

    assert entry is not None
    assert entry.message == given_message
    assert (entry.is_warned, entry.finished_at) == (False, None)
    assert (await claim(store))[0].message == given_message


async def test_an_attempt_comes_back_as_it_was_recorded(store: Store) -> None:
    message = await accept(store)
    attempt = Attempt(
        Reply(451, "4.7.1", "one\ntwo \udce9"),
        Scope.SITE,
        "mx\udcff[::1]:25",
        "MAIL FROM",
        is_remote=True,
        is_possible_duplicate=True,
        passes_dsn=True,
        next_hop="d\udcf6.example:25",
    )
    await store.record([Outcome(message.number, 0, State.DEFERRED, attempt, NOW)])

    entry = await store.show(message.number)

    assert entry is not None
    assert entry.recipients[0].attempt == attempt
    assert (await claim(store, caps={"d\udcf6.example:25": 0})) == []
    assert await claim(store)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
def test_any_text_and_any_bytes_survive_storage(text: str, odd: bytes) -> None:
    assert rows.unpack(rows.pack(text)) == text
    assert rows.pack(rows.unpack(odd)) == odd


async def test_a_message_that_was_not_claimed_is_due_at_once(store: Store) -> None:
    message = await accept(store)
    claimed = await claim(store)
    assert [(one.message, one.attempt_number) for one in claimed] == [(message, 1)]


async def test_a_message_that_was_put_in_claimed_comes_again_when_its_retry_is_due(store: Store) -> None:
    message = await accept(store, retry_at=NOW + 300)
    assert await claim(store, NOW + 299) == []
    again = await claim(store, NOW + 300)
    assert [(one.message, one.attempt_number) for one in again] == [(message, 2)]


async def test_a_held_message_waits_for_its_release(store: Store) -> None:
    message = await accept(store, is_held=True)
    assert await claim(store, NOW + 1e6) == []
    assert await store.release(ALL) == 1
    assert len(await claim(store, time.time() + 1)) == 1
    assert await states(store, message) == [State.QUEUED]


async def test_numbers_grow_even_if_the_clock_does_not(path: Path) -> None:
    async with opened(path) as store:
        first, second, third = store.new_number(NOW), store.new_number(NOW), store.new_number(NOW - 1000)
        assert first == int(NOW * 1e6)
        assert first < second < third
        await accept(store)
        await store.delete(ALL)
    async with opened(path) as store:
        assert store.new_number(NOW - 5000) > third


# Claims


async def test_a_claim_books_the_retry(store: Store) -> None:
    message = await accept(store, 2)
    [claimed] = await claim(store)
    assert claimed.message == message
    entry = await store.show(message.number)
    assert entry is not None
    assert [(r.attempts, r.next_attempt_at, r.state) for r in entry.recipients] == [
        (1, NOW + 300, State.QUEUED)
    ] * 2
    assert await claim(store) == []
    assert await store.next_due_at(NOW, {}) == NOW + 300


async def test_claims_come_earliest_first_and_no_more_than_the_limit(store: Store) -> None:
    late, early, middle = [await accept(store, now=NOW + shift) for shift in (20, 0, 10)]
    assert [c.message for c in await claim(store, NOW + 60, 2)] == [early, middle]
    assert [c.message for c in await claim(store, NOW + 60, 2)] == [late]
    assert await claim(store, NOW + 9999, 0) == []
    assert await claim(store, NOW + 9999, -1) == []


async def test_messages_in_flight_are_not_handed_out(store: Store) -> None:
    message = await accept(store)
    assert await claim(store, in_flight=[message.number]) == []
    assert await claim(store, in_flight=[message.number], late_before=NOW + 1) == []
    assert len(await claim(store)) == 1


async def test_caps_limit_the_messages_of_a_next_hop(store: Store) -> None:
    messages = [await accept(store, now=NOW + i) for i in range(5)]
    await store.record([deferred(message, ISP) for message in messages[:4]])
    await store.record([deferred(messages[4], OTHER)])
    assert [c.message for c in await claim(store, caps={ISP: 2})] == [messages[0], messages[1], messages[4]]
    assert await claim(store, caps={ISP: 0}) == []
    assert await store.next_due_at(NOW, {ISP: 0, OTHER: 1}) == NOW + 300
    assert await store.next_due_at(NOW, {ISP: 0, OTHER: 0}) is None
    assert await store.next_due_at(NOW + 5, {}) == NOW + 5


async def test_the_limit_holds_over_all_next_hops(store: Store) -> None:
    messages = [await accept(store, now=NOW + i) for i in range(4)]
    await store.record(
        [deferred(m, hop, NOW + i) for i, (m, hop) in enumerate(zip(messages, [ISP, OTHER] * 2, strict=True))]
    )
    assert [c.message for c in await claim(store, NOW + 9, 3)] == messages[:3]


async def test_a_claim_has_all_due_recipients_but_those_of_a_closed_next_hop(store: Store) -> None:
    message = await accept(store, 4)
    await store.record(
        [
            deferred(message, ISP, index=0),
            deferred(message, OTHER, index=1),
            deferred(message, OTHER, index=2),
            deferred(message, OTHER, NOW + 50, index=3),
        ]
    )
    [claimed] = await claim(store, caps={ISP: 0})
    assert [recipient.index for recipient in claimed.message.envelope.recipients] == [1, 2]
    [claimed] = await claim(store)
    assert [recipient.index for recipient in claimed.message.envelope.recipients] == [0]


async def test_overdue_messages_come_regardless_of_caps(store: Store) -> None:
    old = await accept(store)
    await accept(store, now=NOW + 1000)
    await store.record([deferred(old, ISP)], warned=[old.number])
    claimed = await claim(store, NOW + 500, caps={ISP: 0, "": 0}, overdue_before=NOW + 10)
    assert [(c.message, c.is_warned) for c in claimed] == [(old, True)]


async def test_late_messages_come_regardless_of_caps_until_they_were_warned_about(store: Store) -> None:
    message = await accept(store)
    await store.record([deferred(message, ISP)])
    late: dict[str, Any] = {"caps": {ISP: 0}, "late_before": NOW + 10}
    assert [c.message for c in await claim(store, **late)] == [message]
    assert [c.is_warned for c in await claim(store, NOW + 300, **late)] == [False]
    await store.record([], warned=[message.number])
    assert await claim(store, NOW + 900, **late) == []


async def test_retries_follow_the_clock_that_was_given(path: Path) -> None:
    asked = []

    def retry(attempt: int, now: float, number: int) -> float:
        asked.append((attempt, now, number))
        return now + attempt

    store = await Store.open(path, retry=retry)
    message = await accept(store)
    await claim(store)
    await claim(store, NOW + 1)
    assert asked == [(1, NOW, message.number), (2, NOW + 1, message.number)]
    await store.close()


async def test_what_a_wrong_clock_booked_is_brought_forward(store: Store) -> None:
    strange = await accept(store, retry_at=NOW + 1e9)
    await accept(store, retry_at=NOW + 300)
    assert await store.bring_forward(NOW + 7200, NOW) == 1
    assert [c.message for c in await claim(store)] == [strange]


async def test_what_waits_is_no_older_for_a_clock_that_was_set_forward(store: Store) -> None:
    await accept(store)
    await accept(store, now=NOW + 1e9 + 6)
    assert await store.rejuvenate(NOW + 5, 1e9) == 1
    times = [entry.message.received_at for entry in await store.list_messages(0, 9, Selection())]
    assert times == [NOW + 1e9, NOW + 1e9 + 6]


async def test_what_came_in_the_future_counts_as_received_now(store: Store) -> None:
    await accept(store, now=NOW + 1e9)
    await store.bring_forward(NOW + 7200, NOW)
    (entry,) = await store.list_messages(0, 9, Selection())
    assert entry.message.received_at == NOW


# A backlog


def fill(db: sqlite3.Connection, count: int) -> None:
    """Insert messages for a next hop that is down, all due, and none for others."""
    first = int((NOW - 1000) * 1e6)
    db.executemany(
        "INSERT INTO message (number, reverse_path, given_reverse_path, ret, envid, is_8bitmime, "
        "is_smtputf8, size, header_size, body_is_8bit, received_at, client, is_report) "
        "VALUES (?, x'61', x'', '', x'', 0, 0, 9, 5, 0, ?, x'', 0)",
        ((first + i, NOW - 1000) for i in range(count)),
    )
    db.executemany(
        "INSERT INTO recipient (message, idx, address, original, orcpt, notify, state, attempts, "
        "next_attempt_at, next_hop) VALUES (?, 0, x'62', x'', x'', '', 'deferred', 3, ?, ?)",
        ((first + i, NOW - 100, ISP.encode()) for i in range(count)),
    )


async def test_a_backlog_of_a_next_hop_that_is_down_costs_no_steps(store: Store) -> None:
    await store._writer.run(lambda db: fill(db, 100_000))
    message = await accept(store)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    store._writer._db.set_progress_handler(count, 1)
    assert [c.message for c in await claim(store, caps={ISP: 0})] == [message]
    assert await store.next_due_at(NOW, {ISP: 0}) == NOW + 300
    assert len(await claim(store, limit=10)) == 10
    store._writer._db.set_progress_handler(None, 0)
    assert steps < 5000


@pytest.mark.parametrize("statement", [claims.NEXT_HOPS, claims.DUE_OF_NEXT_HOP, claims.OLD])
async def test_what_is_due_is_found_by_indexes(store: Store, statement: str) -> None:
    parameters: Any = {"now": NOW, "overdue_before": 1.0, "unwarned_before": 2.0}
    if statement is claims.DUE_OF_NEXT_HOP:
        parameters = (b"x", NOW)
    plan = await store._writer.run(
        lambda db: [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    )
    tables = [step for step in plan if "recipient" in step or "message" in step]
    assert tables
    assert all(step.startswith("SEARCH") and ("INDEX" in step or "PRIMARY KEY" in step) for step in tables)
    assert not any("TEMP B-TREE" in step for step in plan)


# Outcomes


async def test_a_delivered_message_is_finished(store: Store) -> None:
    message = await accept(store)
    assert await store.record([outcome(message, State.DELIVERED)]) == [message.number]
    entry = await store.show(message.number)
    assert entry is not None
    assert entry.finished_at == pytest.approx(time.time(), abs=60)
    assert await store.list_messages(0, 10, ALL) == []


async def test_a_message_waits_for_its_last_recipient(store: Store) -> None:
    message = await accept(store, 2)
    assert await store.record([outcome(message, State.DELIVERED, 0)]) == []
    assert await content_of(store, message) == CONTENT
    assert await store.record([outcome(message, State.DELIVERED, 1)]) == [message.number]


@pytest.mark.parametrize("state", [State.BOUNCED, State.EXPIRED])
async def test_a_failure_keeps_its_message_until_it_is_reported(store: Store, state: State) -> None:
    message = await accept(store, 2)
    assert await store.record([outcome(message, state, 0), outcome(message, State.DELIVERED, 1)]) == []

    [left] = await store.unreported(())
    assert left.message == replace(
        message, envelope=replace(message.envelope, recipients=message.envelope.recipients[:1])
    )
    assert [(f.recipient.index, f.attempt) for f in left.failed] == [(0, REFUSED)]
    assert await store.failures(message.number) == left.failed
    assert await store.unreported([message.number]) == []
    assert await content_of(store, message) == CONTENT

    assert await store.record([], reported=[(message.number, 0)]) == [message.number]
    assert await store.unreported(()) == []
    assert await store.failures(message.number) == ()


async def test_failures_of_an_unknown_message_are_none(store: Store) -> None:
    assert await store.failures(1) == ()


async def test_an_outcome_and_its_report_go_in_together(store: Store) -> None:
    message = await accept(store)
    report = make_message(store.new_number(NOW + 9), reverse_path="", is_report=True, received_at=NOW + 9)
    await store.record(
        [outcome(message, State.BOUNCED)],
        reports=[Report(report, CONTENT)],
        reported=[(message.number, 0)],
    )
    assert [c.message for c in await claim(store, NOW + 9)] == [report]
    assert await content_of(store, report) == CONTENT


@pytest.mark.parametrize("state", [State.DEFERRED, State.QUEUED])
async def test_a_late_deferral_or_detour_leaves_a_held_recipient_held(store: Store, state: State) -> None:
    message = await accept(store)
    await store.hold(ALL)
    await store.record([replace(deferred(message, ISP), state=state)])
    entry = await store.show(message.number)
    assert entry is not None
    assert [(r.state, r.attempt) for r in entry.recipients] == [(State.HELD, failed(ISP))]


@pytest.mark.parametrize("state", [State.DELIVERED, State.BOUNCED, State.EXPIRED])
async def test_a_final_outcome_ends_a_hold(store: Store, state: State) -> None:
    message = await accept(store)
    await store.hold(ALL)
    await store.record([outcome(message, state)])
    assert await states(store, message) == [state]


@pytest.mark.parametrize("first", [State.BOUNCED, State.EXPIRED, State.DELIVERED])
@pytest.mark.parametrize("second", list(State))
async def test_final_states_stay_save_that_delivered_wins(store: Store, first: State, second: State) -> None:
    message = await accept(store)
    await store.record([outcome(message, first)])
    await store.record([outcome(message, second)])
    assert await states(store, message) == [State.DELIVERED if second is State.DELIVERED else first]


async def test_a_report_that_nobody_can_be_told_of_is_held(store: Store) -> None:
    message = await accept(store, is_report=True)
    await store.record([outcome(message, State.HELD)])
    assert await states(store, message) == [State.HELD]
    assert await content_of(store, message) == CONTENT


async def test_outcomes_of_deleted_messages_are_ignored(store: Store) -> None:
    message = await accept(store)
    await store.delete(ALL)
    assert await store.record([outcome(message, State.BOUNCED)], reported=[(message.number, 0)]) == []
    assert await store.show(message.number) is None
    assert await store.unreported(()) == []


async def test_history_is_purged_when_it_is_old(store: Store) -> None:
    finished = [await accept(store, now=1000.0 + i) for i in range(450)]
    waiting = await accept(store, now=1000.0)
    await store.record([outcome(message, State.DELIVERED) for message in finished])
    assert await store.purge(time.time() - 3600) == 0
    assert await store.purge(time.time() + 1) == 450
    assert await store.show(finished[0].number) is None
    assert await states(store, finished[0]) == []
    assert await states(store, waiting) == [State.QUEUED]


async def test_recently_accepted_history_is_kept(store: Store) -> None:
    now = time.time()
    message = await accept(store, now=now)
    await store.record([outcome(message, State.DELIVERED)])
    assert await store.purge(now - 1) == 0


# Reading


async def test_the_header_block_can_be_read_alone(store: Store) -> None:
    entry = await store.show((await accept(store)).number)
    assert entry is not None
    assert await store.read_header(entry) == b"Subject: hello\r\n"


# The owner's commands


async def select_three(store: Store) -> list[int]:
    first = await accept(store, [Recipient("A@Aol.com"), Recipient("b@free.fr", index=1)])
    second = await accept(store, [Recipient("b@free.fr")], reverse_path="Root@gw1")
    third = await accept(store, [Recipient("c@sub.aol.com")], reverse_path="")
    return [first.number, second.number, third.number]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [0, 1, 2]),
        (Selection(recipient="a@AOL.com"), [0]),
        (Selection(recipient="@aol.com"), [0]),
        (Selection(recipient="aol.com"), []),
        (Selection(recipient="B@free.FR"), [0, 1]),
        (Selection(sender="@GW1"), [1]),
        (Selection(sender=""), [2]),
        (Selection(sender="chris@free.fr", recipient="@free.fr"), [0]),
        (Selection(numbers=frozenset()), []),
    ],
)
async def test_messages_are_listed_by_sender_and_recipient(
    store: Store, selection: Selection, expected: list[int]
) -> None:
    numbers = await select_three(store)
    listed = await store.list_messages(0, 10, selection)
    assert [entry.message.number for entry in listed] == [numbers[i] for i in expected]


async def test_messages_are_listed_by_number_and_page_by_page(store: Store) -> None:
    numbers = await select_three(store)
    [entry] = await store.list_messages(0, 10, Selection(numbers=frozenset({numbers[1], 5})))
    assert entry.message.number == numbers[1]
    assert [e.message.number for e in await store.list_messages(numbers[0], 1, ALL)] == [numbers[1]]
    assert await store.list_messages(numbers[2], 1, ALL) == []


async def test_actions_concern_just_the_recipients_that_were_chosen(store: Store) -> None:
    message = await accept(store, [Recipient("a@aol.com"), Recipient("b@free.fr", index=1)])
    assert await store.hold(Selection(recipient="@aol.com")) == 1
    assert await states(store, message) == [State.HELD, State.QUEUED]
    assert await store.delete(Selection(recipient="@aol.com")) == 1
    assert await states(store, message) == [State.QUEUED]
    assert await content_of(store, message) == CONTENT


async def test_deleting_what_is_left_finishes_a_message_that_reached_others(store: Store) -> None:
    message = await accept(store, 2)
    await store.record([outcome(message, State.DELIVERED, 0)])
    assert await store.delete(Selection(numbers=frozenset({message.number}))) == 1
    entry = await store.show(message.number)
    assert entry is not None
    assert entry.finished_at is not None
    assert await states(store, message) == [State.DELIVERED]


async def test_a_deleted_message_leaves_nothing(path: Path) -> None:
    async with opened(path) as store:
        await accept(store)
        await accept(store, content=LARGE)
        assert await store.delete(ALL) == 2
        assert await store.delete(ALL) == 0
    assert content_files(path) == []
    assert query(path, "SELECT count(*) FROM message") == [(0,)]
    assert query(path, "SELECT count(*) FROM recipient") == [(0,)]


async def test_a_retry_makes_waiting_recipients_due_but_not_held_ones(store: Store) -> None:
    message = await accept(store, [Recipient("a@aol.com"), Recipient("b@free.fr", index=1)])
    await store.record([deferred(message, ISP, NOW * 2, index=0), deferred(message, ISP, NOW * 2, index=1)])
    await store.hold(Selection(recipient="@aol.com"))
    assert await claim(store, time.time()) == []
    assert await store.retry(ALL) == 1
    [claimed] = await claim(store, time.time())
    assert [recipient.index for recipient in claimed.message.envelope.recipients] == [1]


async def test_recipients_are_counted_by_state(store: Store) -> None:
    message = await accept(store, 3)
    await store.record([outcome(message, State.DELIVERED, 0), deferred(message, ISP, index=1)])
    await accept(store, is_held=True)
    gone = await accept(store)
    await store.record([outcome(gone, State.DELIVERED)])
    assert await store.counts() == {
        State.DELIVERED: 1,
        State.DEFERRED: 1,
        State.QUEUED: 1,
        State.HELD: 1,
    }
