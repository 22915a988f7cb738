"""The crash table of docs/queue.md: a process is killed (SIGKILL) at each step, and the queue opened again.

The child below does what the service does, step by step, and kills itself at the step that the test names.
``commit`` is a moment within the writer: all statements are done, the COMMIT is not. Moments between calls of
the system are found by Python's audit events.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.mail.attempt import State
from relay.mail.dsn import Report
from relay.mail.envelope import Message
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import (
    CONTENT,
    ISP,
    LARGE,
    NOW,
    accept,
    claim,
    content_files,
    content_of,
    deferred,
    make_message,
    opened,
    outcome,
    query,
    retry_in_five_minutes,
    states,
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_commit(store: Store, statement: str = "COMMIT") -> None:
    store._writer._db.set_trace_callback(lambda executed: die() if executed == statement else None)


def die_at_event(event: str, path: Path) -> None:
    """Die before a file or folder is opened, or deleted."""

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name == event and arguments[0] in (path, str(path)):
            die()

    sys.addaudithook(hook)


async def live(path: Path, step: str) -> None:
    """Take in a message for two next hops, fail at one and then at the other, report; die at a step."""

    def at(name: str, kill: Callable[[], None] = die) -> None:
        if step == name:
            kill()

    store = await Store.open(path, retry=retry_in_five_minutes)
    incoming = store.incoming(store.new_number(NOW))
    file = store._contents.path(incoming.number)
    at("before the file", lambda: die_at_event("open", file))
    for start in range(0, len(LARGE), 65536):
        await incoming.write(LARGE[start : start + 65536])
    at("half-received")
    at("before the sync of the folder", lambda: die_at_event("open", file.parent))
    at("file synced", lambda: die_at_commit(store, "BEGIN IMMEDIATE"))
    at("acceptance commit", lambda: die_at_commit(store))
    message = make_message(incoming.number, 2, size=len(LARGE))
    await incoming.commit(message, retry_at=NOW + 300)
    at("accepted")

    at("claim commit", lambda: die_at_commit(store))
    await claim(store, NOW + 300)
    at("claimed")

    at("first outcome commit", lambda: die_at_commit(store))
    await store.record([outcome(message, State.BOUNCED, 0)])
    at("first outcome")

    report = Report(make_message(store.new_number(NOW + 300), is_report=True, received_at=NOW + 300), CONTENT)
    at("last outcome commit", lambda: die_at_commit(store))
    at("before the file is deleted", lambda: die_at_event("os.remove", file))
    await store.record(
        [outcome(message, State.BOUNCED, 1)],
        reports=[report],
        reported=[(message.number, 0), (message.number, 1)],
    )
    at("last outcome")


async def act(path: Path, step: str) -> None:
    """Do one of the owner's commands, or a purge, and die before its commit, or before a file is deleted."""
    store = await Store.open(path, retry=retry_in_five_minutes)
    message = await accept(store, 2, content=LARGE)
    await store.record([deferred(message, ISP, NOW + 900)])
    await store.record([outcome(await accept(store, now=1000.0), State.DELIVERED)])
    if step == "delete file":
        die_at_event("os.remove", store._contents.path(message.number))
    else:
        die_at_commit(store)
    await {
        "hold": lambda: store.hold(Selection()),
        "retry": lambda: store.retry(Selection()),
        "delete": lambda: store.delete(Selection()),
        "delete file": lambda: store.delete(Selection()),
        "purge": lambda: store.purge(2e9),
    }[step]()


def killed(path: Path, deeds: str, step: str) -> None:
    """Run a child until it kills itself."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.test_queue_crash", deeds, path, step],
        cwd=Path(__file__).parents[1],
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL


async def the_message(store: Store) -> Message:
    entry = (await store.list_messages(0, 1, Selection()))[0]
    return entry.message


@pytest.mark.parametrize(
    ("step", "files", "is_whole"),
    [
        ("before the file", 0, False),
        ("half-received", 1, False),
        ("before the sync of the folder", 1, True),
        ("file synced", 1, True),
        ("acceptance commit", 1, True),
    ],
)
async def test_a_crash_before_acceptance_leaves_a_file_at_most_that_is_swept(
    tmp_path: Path, step: str, files: int, is_whole: bool
) -> None:
    path = tmp_path / "queue.db"
    killed(path, "live", step)
    names = content_files(path)
    assert len(names) == files
    if is_whole:
        assert (tmp_path / "queue.db.content" / names[0]).read_bytes() == LARGE
    async with opened(path) as store:
        assert await store.list_messages(0, 10, Selection()) == []
        assert content_files(path) == []


@pytest.mark.parametrize(
    ("step", "attempts"), [("accepted", 1), ("claim commit", 1), ("claimed", 2), ("first outcome commit", 2)]
)
async def test_a_crash_before_an_outcome_leaves_the_message_with_its_retry_booked(
    tmp_path: Path, step: str, attempts: int
) -> None:
    path = tmp_path / "queue.db"
    killed(path, "live", step)
    async with opened(path) as store:
        message = await the_message(store)
        assert await content_of(store, message) == LARGE
        assert await states(store, message) == [State.QUEUED, State.QUEUED]
        retry_at = await store.next_due_at(NOW, {})
        assert retry_at == NOW + 300 * attempts
        [again] = await claim(store, retry_at)
        assert (again.message, again.attempt_number) == (message, attempts + 1)


@pytest.mark.parametrize("step", ["first outcome", "last outcome commit"])
async def test_a_crash_within_a_pass_leaves_failures_to_report(tmp_path: Path, step: str) -> None:
    path = tmp_path / "queue.db"
    killed(path, "live", step)
    async with opened(path) as store:
        message = await the_message(store)
        assert await states(store, message) == [State.BOUNCED, State.QUEUED]
        [left] = await store.unreported(())
        assert [failure.recipient.index for failure in left.failed] == [0]
        [again] = await claim(store, NOW + 600)
        assert [recipient.index for recipient in again.message.envelope.recipients] == [1]


@pytest.mark.parametrize(("step", "files"), [("before the file is deleted", 1), ("last outcome", 0)])
async def test_a_crash_after_the_last_outcome_leaves_the_report(
    tmp_path: Path, step: str, files: int
) -> None:
    path = tmp_path / "queue.db"
    killed(path, "live", step)
    assert len(content_files(path)) == files
    async with opened(path) as store:
        [entry] = await store.list_messages(0, 10, Selection())
        assert entry.message.is_report
        assert content_files(path) == []
        assert await content_of(store, entry.message) == CONTENT
        assert await store.unreported(()) == []


@pytest.mark.parametrize("step", ["hold", "retry", "delete", "purge"])
async def test_a_crash_within_a_command_leaves_all_as_it_was(tmp_path: Path, step: str) -> None:
    path = tmp_path / "queue.db"
    killed(path, "act", step)
    async with opened(path) as store:
        message = await the_message(store)
        assert await states(store, message) == [State.DEFERRED, State.QUEUED]
        assert await content_of(store, message) == LARGE
        assert await store.next_due_at(NOW, {"": 0}) == NOW + 900
    assert query(path, "SELECT count(*) FROM message") == [(2,)]


async def test_a_crash_between_a_deletion_and_that_of_the_file_leaves_the_file_to_be_swept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "queue.db"
    killed(path, "act", "delete file")
    assert len(content_files(path)) == 1
    async with opened(path) as store:
        assert await store.list_messages(0, 10, Selection()) == []
        assert content_files(path) == []


async def test_a_log_that_was_cut_anywhere_holds_whole_messages_or_none(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        messages = [await accept(store, 2, content=CONTENT * count) for count in (1, 400, 2)]
        base, log = ((tmp_path / name).read_bytes() for name in ("queue.db", "queue.db-wal"))
    found = []
    for length in [*range(0, len(log), 1999), len(log)]:
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "queue.db").write_bytes(base)
        (folder / "queue.db-wal").write_bytes(log[:length])
        async with opened(folder / "queue.db") as store:
            entries = await store.list_messages(0, 10, Selection())
            assert [entry.message for entry in entries] == messages[: len(entries)]
            for entry, count in zip(entries, (1, 400, 2), strict=False):
                assert await content_of(store, entry.message) == CONTENT * count
            found.append(len(entries))
    assert found == sorted(found)
    assert set(found) == {0, 1, 2, 3}


async def test_numbers_are_not_given_again_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    killed(path, "live", "last outcome")
    ((highest,),) = query(path, "SELECT max(number) FROM message")
    async with opened(path) as store:
        assert store.new_number(NOW) > highest


if __name__ == "__main__":
    deeds, queue_path, named_step = sys.argv[1:]
    asyncio.run({"live": live, "act": act}[deeds](Path(queue_path), named_step))
