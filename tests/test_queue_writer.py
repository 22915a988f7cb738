"""The writer thread: one transaction for all that waits, one culprit for each failure."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay.mail.attempt import State
from relay.queue.errors import DiskError, NoRoom, QueueError, explain
from relay.queue.store import Store
from relay.queue.writer import Writer
from tests.support.queue import Gate, accept, opened, outcome, query, retry_in_five_minutes


@pytest.fixture
async def store(tmp_path: Path) -> Any:
    async with opened(tmp_path / "queue.db") as store:
        await store._writer.run(make_notes)
        yield store


def make_notes(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE note (value INTEGER UNIQUE)")


def insert(value: int) -> Callable[[sqlite3.Connection], int]:
    def job(db: sqlite3.Connection) -> int:
        db.execute("INSERT INTO note VALUES (?)", (value,))
        return value

    return job


def trace(store: Store) -> list[str]:
    statements: list[str] = []
    store._writer._db.set_trace_callback(statements.append)
    return statements


async def test_all_jobs_that_wait_share_one_transaction(store: Store) -> None:
    gate = Gate(store._writer)
    await gate.entered()
    statements = trace(store)
    jobs = [asyncio.ensure_future(store._writer.run(insert(i))) for i in range(50)]
    await asyncio.sleep(0)
    await gate.let_go()
    assert await asyncio.gather(*jobs) == list(range(50))
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert statements.count("COMMIT") == 2  # the gate's, and theirs


async def test_a_lone_job_waits_for_nobody(store: Store) -> None:
    statements = trace(store)
    await store._writer.run(insert(1))
    assert [s for s in statements if "INSERT" not in s] == ["BEGIN IMMEDIATE", "COMMIT"]


async def test_a_job_that_fails_harms_no_other_of_its_group(store: Store) -> None:
    gate = Gate(store._writer)
    await gate.entered()

    def broken(db: sqlite3.Connection) -> None:
        insert(99)(db)
        raise ValueError("broken")

    jobs = [
        asyncio.ensure_future(store._writer.run(job))
        for job in (insert(1), insert(2), broken, insert(1), insert(3))
    ]
    await asyncio.sleep(0)
    await gate.let_go()
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [results[i] for i in (0, 1, 4)] == [1, 2, 3]
    assert isinstance(results[2], ValueError)
    assert isinstance(results[3], QueueError)
    rows = await store._writer.run(lambda db: db.execute("SELECT value FROM note ORDER BY 1").fetchall())
    assert rows == [(1,), (2,), (3,)]


async def test_a_job_goes_on_when_its_caller_is_cancelled(store: Store) -> None:
    gate = Gate(store._writer)
    await gate.entered()
    job = asyncio.ensure_future(store._writer.run(insert(7)))
    await asyncio.sleep(0)
    job.cancel()
    await gate.let_go()
    with pytest.raises(asyncio.CancelledError):
        await job
    rows = await store._writer.run(lambda db: db.execute("SELECT value FROM note").fetchall())
    assert rows == [(7,)]


async def test_closing_finishes_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    store = await Store.open(path, retry=retry_in_five_minutes)
    await store._writer.run(make_notes)
    gate = Gate(store._writer)
    await gate.entered()
    job = asyncio.ensure_future(store._writer.run(insert(7)))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await gate.let_go()
    await closing
    assert await job == 7
    assert query(path, "SELECT value FROM note") == [(7,)]


async def test_a_closed_queue_takes_no_more_jobs(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        pass
    with pytest.raises(QueueError, match="is closed"):
        await store.counts()


def test_a_loop_that_ends_before_the_answer_does_not_disturb_the_writer(tmp_path: Path) -> None:
    go = threading.Event()

    async def leave_without_waiting() -> Writer:
        store = await Store.open(tmp_path / "queue.db", retry=retry_in_five_minutes)
        job = asyncio.ensure_future(store._writer.run(lambda db: go.wait()))
        await asyncio.sleep(0)
        job.cancel()
        return store._writer

    writer = asyncio.run(leave_without_waiting())
    go.set()
    asyncio.run(writer.close())
    assert not writer._thread.is_alive()


async def test_commits_are_fsynced_before_they_are_answered(store: Store) -> None:
    def settings(db: sqlite3.Connection) -> dict[str, Any]:
        names = ("synchronous", "journal_mode", "locking_mode", "foreign_keys", "secure_delete")
        return {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    assert await store._writer.run(settings) == {
        "synchronous": 2,  # FULL
        "journal_mode": "wal",
        "locking_mode": "exclusive",
        "foreign_keys": 1,
        "secure_delete": 0,
    }


async def test_the_fast_path_of_a_message_has_two_commits(store: Store) -> None:
    statements = trace(store)
    message = await accept(store, retry_at=1e12)
    await store.record([outcome(message, State.DELIVERED)])
    assert statements.count("COMMIT") == 2


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (sqlite3.SQLITE_FULL, NoRoom, "no room on the disk"),
        (sqlite3.SQLITE_CORRUPT, QueueError, "is damaged"),
        (sqlite3.SQLITE_READONLY_ROLLBACK, QueueError, "can't be written"),
        (sqlite3.SQLITE_IOERR_FSYNC, DiskError, "the disk of the queue"),
        (sqlite3.SQLITE_BUSY, QueueError, "is in use by another program"),
        (sqlite3.SQLITE_MISMATCH, QueueError, "failed: because"),
    ],
)
def test_failures_of_sqlite_are_told_in_words(code: int, kind: type[QueueError], words: str) -> None:
    error = sqlite3.OperationalError("because")
    error.sqlite_errorcode = code
    explained = explain(error, Path("/q/queue.db"))
    assert type(explained) is kind
    assert words in str(explained)
    assert "/q/queue.db" in str(explained)


async def test_only_what_is_fsynced_is_counted(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        number, seconds = store.commits
        await store.counts()
        assert store.commits == (number, seconds)
        await accept(store)
        assert store.commits[0] == number + 1
        assert store.commits[1] > seconds
