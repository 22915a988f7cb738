"""What the queue remembers of messages: every attempt, and how they are found again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.mail.attempt import Attempt, Outcome, Scope, State
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply
from relay.queue import history, recording, rows, schema
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import (
    CONTENT,
    ISP,
    NOW,
    OTHER,
    SENT,
    accept,
    content_of,
    deferred,
    failed,
    make_message,
    opened,
    outcome,
    query,
)

WAITS = Attempt(Reply(451, "4.3.2", "it waits for its turn"), Scope.SITE, next_hop=ISP)
COUNT = "SELECT count(*) FROM attempt"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def store(path: Path) -> Any:
    async with opened(path) as store:
        yield store


@pytest.fixture
def db(path: Path) -> Iterator[sqlite3.Connection]:
    db = schema.connect(path, log_size=1_000_000)
    yield db
    db.close()


def add(db: sqlite3.Connection, recipients: int = 1, **changes: Any) -> Message:
    message = make_message(changes.pop("number", 1), recipients, **changes)
    rows.insert_message(db, message, CONTENT, NOW + 300, is_held=False)
    return message


def record(db: sqlite3.Connection, at: float, *outcomes: Outcome) -> None:
    recording.record(db, at, outcomes, (), (), ())


def history_of(db: sqlite3.Connection, message: Message, index: int = 0) -> list[tuple[float, str]]:
    trace = history.select_trace(db, message.number)
    assert trace is not None
    return [(tried.at - NOW, tried.attempt.reply.text) for tried in trace.attempts[index]]


# Attempts


def test_nothing_more_is_written_for_a_message_that_is_sent_at_once(db: sqlite3.Connection) -> None:
    message = add(db)
    assert history_of(db, message) == []
    record(db, NOW + 1, outcome(message, State.DELIVERED))
    assert history_of(db, message) == [(1, "taken")]
    assert db.execute(COUNT).fetchone() == (0,)


def test_every_attempt_is_kept_with_all_that_was_said(db: sqlite3.Connection) -> None:
    message = add(db, is_report=True)
    busy = Attempt(
        Reply(451, "4.7.1", "one\ntwo \udce9"), Scope.SITE, "mx\udcff[::1]:25", "MAIL FROM", is_remote=True
    )
    record(db, NOW + 1, Outcome(message.number, 0, State.DEFERRED, busy, NOW + 300))
    record(db, NOW + 2, deferred(message, OTHER))
    record(db, NOW + 3, outcome(message, State.DELIVERED))
    trace = history.select_trace(db, message.number)
    assert trace is not None
    assert [(tried.at - NOW, tried.attempt.host) for tried in trace.attempts[0]] == [
        (1, "mx\udcff[::1]:25"),
        (2, "mx[1.2.3.4]:25"),
        (3, "mx[1.2.3.4]:25"),
    ]
    first, second, last = (tried.attempt for tried in trace.attempts[0])
    assert first.explain() == busy.explain()
    assert second.explain() == failed(OTHER).explain()
    assert (second.next_hop, last) == (OTHER, SENT)


@pytest.mark.parametrize("state", [State.BOUNCED, State.EXPIRED])
def test_failures_end_the_attempts(db: sqlite3.Connection, state: State) -> None:
    message = add(db)
    record(db, NOW + 1, deferred(message, ISP))
    record(db, NOW + 2, outcome(message, state))
    record(db, NOW + 3, deferred(message, ISP))  # too late: it is ignored
    assert history_of(db, message) == [(1, "try later"), (2, "no such user")]
    record(db, NOW + 4, outcome(message, State.DELIVERED))
    assert history_of(db, message)[1:] == [(2, "no such user"), (4, "taken")]


def test_each_recipient_has_its_own_attempts(db: sqlite3.Connection) -> None:
    message, other = add(db, 3), add(db, number=2)
    record(db, NOW + 1, *(deferred(message, ISP, index=index) for index in range(3)), deferred(other, ISP))
    record(db, NOW + 2, outcome(message, State.DELIVERED), outcome(message, State.BOUNCED, 1))
    assert history_of(db, message, 0) == [(1, "try later"), (2, "taken")]
    assert history_of(db, message, 1) == [(1, "try later"), (2, "no such user")]
    assert history_of(db, message, 2) == [(1, "try later")]
    assert history_of(db, other) == [(1, "try later")]


def test_waiting_for_a_turn_is_no_attempt(db: sqlite3.Connection) -> None:
    message = add(db)
    waits = Outcome(message.number, 0, State.DEFERRED, WAITS, NOW, was_tried=False)
    record(db, NOW + 1, waits)
    entry = rows.select_entry(db, message.number)
    assert entry is not None
    assert (entry.recipients[0].attempt, entry.recipients[0].attempted_at) == (WAITS, None)
    assert history_of(db, message) == []
    record(db, NOW + 2, deferred(message, ISP))
    record(db, NOW + 3, waits)
    record(db, NOW + 4, waits)
    record(db, NOW + 5, outcome(message, State.DELIVERED))
    assert history_of(db, message) == [(2, "try later"), (5, "taken")]


def test_of_very_many_attempts_the_first_and_the_newest_are_kept(db: sqlite3.Connection) -> None:
    message = add(db, 2)
    for second in range(400):
        record(db, NOW + second, deferred(message, ISP), deferred(message, ISP, index=1))
    for index in (0, 1):
        assert [at for at, _ in history_of(db, message, index)] == [0, *range(250, 400)]


def test_a_clock_that_stands_still_loses_no_outcome(db: sqlite3.Connection) -> None:
    message = add(db)
    for _ in range(3):
        record(db, NOW, deferred(message, ISP))
    record(db, NOW, outcome(message, State.DELIVERED))
    assert history_of(db, message) == [(0, "try later"), (0, "taken")]


async def test_the_history_goes_when_it_is_purged(store: Store) -> None:
    message = await accept(store, now=1000.0)
    await store.record([deferred(message, ISP)])
    await store.record([outcome(message, State.DELIVERED)])
    assert len((await store.trace(message.queue_id, 1))[0].attempts[0]) == 2
    assert await store.purge(time.time() + 1) == 1
    assert await store.trace("", 10) == []
    assert await store._writer.run(lambda db: db.execute(COUNT).fetchone()) == (0,)


async def test_the_history_goes_with_what_is_deleted(store: Store) -> None:
    message = await accept(store, 2)
    for _ in range(2):
        await store.record([deferred(message, ISP), deferred(message, ISP, index=1)])
    await store.delete(Selection(recipient="u0@example.net"))
    (trace,) = await store.trace(message.queue_id, 1)
    assert [len(attempts) for attempts in trace.attempts] == [2]
    await store.delete(Selection())
    assert await store.trace(message.queue_id, 1) == []
    assert await store._writer.run(lambda db: db.execute(COUNT).fetchone()) == (0,)


async def test_a_queue_of_version_2_is_brought_forward(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:2])
        db = schema.connect(path, log_size=1_000_000)
    columns = (
        "number, reverse_path, given_reverse_path, ret, envid, is_8bitmime, is_smtputf8, size, header_size, "
        "body_is_8bit, received_at, client, is_report, finished_at, content"
    )
    insert = (
        f"INSERT INTO message ({columns}) VALUES (?, x'61', x'', '', x'', 0, 0, ?, 5, 0, ?, x'', 0, ?, ?)"
    )
    for number, finished_at, content in ((7, None, CONTENT), (8, NOW, None), (999, None, None)):
        db.execute(insert, (number, len(CONTENT), NOW, finished_at, content))
    db.execute("DELETE FROM message WHERE number = 999")
    for number, state in ((7, "deferred"), (8, "delivered")):
        db.execute(
            "INSERT INTO recipient (message, idx, address, original, orcpt, notify, state, attempts, "
            "next_attempt_at, attempted_at, code, enhanced, text, scope, host, command, is_remote, "
            "is_possible_duplicate, passes_dsn) VALUES "
            "(?, 0, x'62', x'', x'', '', ?, 1, ?, ?, 451, '4.0.0', x'6c61746572', 'site', x'', '', 0, 0, 0)",
            (number, state, NOW, NOW + 1),
        )
    db.close()

    async with opened(path) as store:
        traces = await store.trace("", 10)
        assert [trace.entry.message.number for trace in traces] == [8, 7]
        assert [[tried.at for tried in trace.attempts[0]] for trace in traces] == [[NOW + 1]] * 2
        waiting = traces[1].entry.message
        assert (waiting.message_id, waiting.subject) == ("", "")
        assert await content_of(store, waiting) == CONTENT
        await store.record([outcome(waiting, State.DELIVERED)])
        (trace,) = await store.trace("7", 10)
        assert [tried.attempt.reply.code for tried in trace.attempts[0]] == [451, 250]
    assert query(path, "SELECT seq FROM sqlite_sequence WHERE name = 'message'") == [(999,)]
    assert query(path, "SELECT name FROM pragma_table_info('message')")[-1] == ("content",)


# Searching


MESSAGES = {
    "rewritten": make_message(
        101,
        envelope=Envelope(
            "chris@free.fr",
            (Recipient("bob@aol.com", original="robert"), Recipient("gr\udcfcn@aol.com", index=1)),
            given_reverse_path="chris@gw1.maison.mrs",
        ),
        message_id="<1.AB@pc.maison.mrs>",
        subject="Photos de l'Été [100 %]",
    ),
    "plain": make_message(
        102, [Recipient("Anne.Ünal@Orange.fr")], message_id="<2@pc>", subject="photos_*?", reverse_path="a@b"
    ),
    "report": make_message(103, reverse_path="", message_id="<3@gw1>", is_report=True),
    "bare": make_message(104, [Recipient("c@d", original="C")], reverse_path="x@y"),
}


@pytest.fixture
async def filled(store: Store) -> Store:
    for message in MESSAGES.values():
        incoming = store.incoming(message.number)
        await incoming.write(CONTENT)
        await incoming.commit(message, retry_at=None)
    return store


async def find(store: Store, text: str, limit: int = 10, **options: Any) -> list[str]:
    names = {message.number: name for name, message in MESSAGES.items()}
    return [names[trace.entry.message.number] for trace in await store.trace(text, limit, **options)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["bare", "report", "plain", "rewritten"]),
        ("65", ["rewritten"]),
        ("0X65", ["rewritten"]),
        ("<1.AB@pc.maison.mrs>", ["rewritten"]),
        ("1.AB@pc.maison.mrs", ["rewritten"]),
        ("1.ab@pc.maison.mrs", []),
        ("1.AB@pc", []),
        ("chris@free.fr", ["rewritten"]),
        ("<CHRIS@GW1.maison.mrs>", ["rewritten"]),
        ("Bob@AOL.com", ["rewritten"]),
        ("ROBERT", ["rewritten"]),
        ("gr\udcfcn@aol.com", ["rewritten"]),
        ("grün@aol.com", []),
        ("@aol.COM", ["rewritten"]),
        ("@com", []),
        ("ob@aol.com", []),
        ("anne.üNAL@orange.FR", ["plain"]),
        ("anne.?nal@orange.fr", []),
        ("*@orange.fr", []),
        ("<>", ["report"]),
        ("c", ["bare"]),
        ("PHOTOS", ["plain", "rewritten"]),
        ("l'éTÉ", ["rewritten"]),
        ("[100 %]", ["rewritten"]),
        ("_*?", ["plain"]),
        ("[", ["rewritten"]),
        ("photos*été", []),
        ("Photos%", []),
        ("nothing\udcff\0\n", []),
        ("F" * 40, []),
        ("-65", []),
        ("x" * 1_000_000, []),
    ],
)
async def test_messages_are_found_by_what_is_known_of_them(
    filled: Store, text: str, found: list[str]
) -> None:
    assert await find(filled, text) == found


async def test_what_is_found_comes_in_pages(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for slice_size in (1, 2, 3, 100):
        monkeypatch.setattr(history, "SLICE", slice_size)
        assert await find(filled, "photos") == ["plain", "rewritten"]
        assert await find(filled, "", 2) == ["bare", "report"]
        assert await find(filled, "", 2, before=103) == ["plain", "rewritten"]
        assert await find(filled, "", 2, before=101) == []
        assert await find(filled, "", 0) == []
    assert await find(filled, "65", before=101) == []
    assert await filled.oldest() == NOW


async def test_a_message_that_goes_while_it_is_found_is_left_out(filled: Store) -> None:
    found, _ = await asyncio.gather(
        find(filled, ""), filled.delete(Selection(numbers=frozenset({MESSAGES["plain"].number})))
    )
    assert found == ["bare", "report", "rewritten"]


async def test_an_empty_queue_has_no_history(store: Store) -> None:
    assert await store.trace("", 10) == []
    assert await store.oldest() is None


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("aAéÉß*?[]^-\\%_ 漢\U0001f600"), max_size=8),
    st.text(st.sampled_from("aAéÉß*?[]^-\\%_ 漢\U0001f600"), min_size=1, max_size=3),
)
@example("[a]", "[A]")
def test_a_subject_is_found_by_any_part_in_any_case(subject: str, text: str) -> None:
    db = sqlite3.connect(":memory:")
    pattern = f"*{history._in_any_case(text)}*"
    (is_found,) = db.execute("SELECT ? GLOB ?", (subject, pattern)).fetchone()
    db.close()
    assert bool(is_found) == (text.lower() in subject.lower())
