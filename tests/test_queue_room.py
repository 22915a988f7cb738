"""A full disk: mail is refused, outcomes go on, and all is well again when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.mail.attempt import State
from relay.mail.envelope import Message
from relay.queue.errors import NoRoom, QueueError
from relay.queue.store import Store
from tests.support.queue import (
    CONTENT,
    LARGE,
    NOW,
    accept,
    content_files,
    content_of,
    opened,
    outcome,
    retry_in_five_minutes,
    states,
)


def limit_pages(store: Store, more: int | None) -> None:
    """Let SQLite find the disk full that many pages from now."""
    db = store._writer._db
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {2**30 if more is None else pages + more}")


async def test_a_full_disk_refuses_messages_and_recovers_by_itself(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        limit_pages(store, 0)
        with pytest.raises(NoRoom, match="no room on the disk for the queue"):
            await accept(store, content=b"x" * 60_000)
        with pytest.raises(NoRoom):
            await accept(store, 400, content=LARGE)
        limit_pages(store, None)
        message = await accept(store, content=b"x" * 60_000)
        assert len(await content_of(store, message)) == 60_000


async def test_one_message_too_many_harms_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        limit_pages(store, 5)
        with pytest.raises(NoRoom):
            await accept(store, content=b"x" * 60_000)
        message = await accept(store)
        assert await content_of(store, message) == CONTENT


async def test_an_outcome_that_finds_no_room_takes_the_reserve(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    reserve = tmp_path / "queue.db.reserve"
    async with opened(path) as store:
        message = await accept(store, 400)
        long_outcomes = [outcome(message, State.BOUNCED, index) for index in range(400)]
        assert reserve.stat().st_size == store._room.margin
        limit_pages(store, 0)
        with pytest.raises(NoRoom):
            await store.record(long_outcomes)
        assert not reserve.exists()
        with pytest.raises(NoRoom):
            await store.record(long_outcomes)
        limit_pages(store, None)
        await store.record(long_outcomes)
        assert set(await states(store, message)) == {State.BOUNCED}
        await accept(store)
        assert reserve.exists()


async def test_a_reserve_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "queue.db.reserve").symlink_to(tmp_path / "nowhere" / "at-all")
    async with opened(tmp_path / "queue.db") as store:
        assert not store._room.give_up_reserve()
        await accept(store)


@pytest.mark.parametrize("name", ["queue.db", "queue.db-wal"])
async def test_a_queue_that_was_taken_away_takes_no_message_but_records_outcomes(
    tmp_path: Path, name: str
) -> None:
    file, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    async with opened(tmp_path / "queue.db") as store:
        message = await accept(store)
        file.rename(elsewhere)
        for replacement in (None, b"", b"x" * 4096):
            if replacement is not None:
                file.write_bytes(replacement)
            with pytest.raises(QueueError, match="was moved, deleted or replaced: put"):
                await accept(store)
        assert await content_of(store, message) == CONTENT
        await store.record([outcome(message, State.DELIVERED)])
        elsewhere.replace(file)
        await accept(store)


async def test_a_queue_whose_folder_was_taken_away_takes_no_message(tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    async with opened(folder / "queue.db") as store:
        await accept(store)
        folder.rename(tmp_path / "elsewhere")
        for content in (CONTENT, LARGE):
            with pytest.raises(QueueError):
                await accept(store, content=content)
        folder.symlink_to(tmp_path / "elsewhere")
        await accept(store, content=LARGE)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(b"x" * (free - leave))
    return ballast


async def accept_or_none(store: Store) -> Message | None:
    try:
        return await accept(store, content=b"x" * 50_000)
    except NoRoom:
        return None


@pytest.mark.needs_root
async def test_messages_are_refused_below_the_margin(disk: Path) -> None:
    async with opened(disk / "queue.db") as store:
        assert store._room.margin == 4 * 2**20 // 16
        ballast = fill(disk, store._room.margin - 65536)
        for content in (CONTENT, LARGE):
            with pytest.raises(NoRoom, match=r"for the queue /.*: free some space there"):
                await accept(store, content=content)
        assert content_files(store.path) == []
        ballast.unlink()
        await accept(store)


@pytest.mark.needs_root
async def test_a_disk_that_fills_up_while_a_file_is_written_refuses_the_message(disk: Path) -> None:
    async with opened(disk / "queue.db") as store:
        ballast = fill(disk, store._room.margin + 65536)
        incoming = store.incoming(store.new_number(NOW))
        with pytest.raises(NoRoom, match=r"no room on the disk for the queue's files in /.*\.content: free"):
            await incoming.write(b"x" * 3 * store._room.margin)
        assert len(content_files(store.path)) == 1
        await incoming.abandon()
        assert content_files(store.path) == []
        assert store._memory.used == 0
        ballast.unlink()
        assert await content_of(store, await accept(store, content=LARGE)) == LARGE


@pytest.mark.needs_root
async def test_a_full_disk_drains(disk: Path) -> None:
    async with opened(disk / "queue.db") as store:
        messages = []
        while (message := await accept_or_none(store)) is not None:
            messages.append(message)
        assert len(messages) > 10
        fill(disk)
        for message in messages:
            await store.record([outcome(message, State.DELIVERED)])
        assert {(await states(store, message))[0] for message in messages} == {State.DELIVERED}
        await accept(store)  # there is room inside the file again


@pytest.mark.needs_root
async def test_a_full_disk_does_not_keep_the_queue_from_opening(disk: Path) -> None:
    async with opened(disk / "queue.db") as store:
        message = await accept(store)
    fill(disk)
    async with opened(disk / "queue.db") as store:
        await store.record([outcome(message, State.DELIVERED)])
        assert await states(store, message) == [State.DELIVERED]
    assert not (disk / "queue.db.reserve").exists()


@pytest.mark.needs_root
async def test_a_queue_that_cannot_be_made_for_want_of_room_says_so(disk: Path) -> None:
    fill(disk)
    with pytest.raises(QueueError, match="no room on the disk"):
        await Store.open(disk / "queue.db", retry=retry_in_five_minutes)
