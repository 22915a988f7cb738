"""Contents on their way into the queue, in memory and in files, and out of it again."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from relay.mail.attempt import State
from relay.mail.dsn import Report
from relay.queue.claims import MOST_CONTENT
from relay.queue.contents import Contents
from relay.queue.errors import QueueError
from relay.queue.incoming import MOST_MEMORY, SMALL_SIZE, TIGHT_SIZE
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import (
    CONTENT,
    LARGE,
    NOW,
    Gate,
    accept,
    claim,
    content_files,
    content_of,
    make_message,
    opened,
    outcome,
    query,
)

ALL = Selection()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
async def store(path: Path) -> Any:
    async with opened(path) as store:
        yield store


async def size_in_row(store: Store, number: int) -> int | None:
    """Return the size of the content that stands in a message's row."""
    ((size,),) = await store._writer.run(
        lambda db: db.execute("SELECT length(content) FROM message WHERE number = ?", (number,)).fetchall()
    )
    return None if size is None else int(size)


# In


async def test_small_content_stays_in_memory_until_the_commit_and_is_handed_over(store: Store) -> None:
    incoming = store.incoming(1)
    await incoming.write(CONTENT)
    assert content_files(store.path) == []
    assert store._memory.used == len(CONTENT)

    await incoming.commit(make_message(1), retry_at=NOW + 300)

    assert incoming.small_content == CONTENT
    assert await content_of(store, make_message(1)) == CONTENT
    assert await size_in_row(store, 1) == len(CONTENT)
    assert content_files(store.path) == []
    assert store._memory.used == 0


async def test_large_content_is_in_a_file_for_its_owner_alone_and_not_handed_over(store: Store) -> None:
    incoming = store.incoming(0xABC)
    await incoming.write(LARGE[: SMALL_SIZE + 1])
    assert content_files(store.path) == ["ABC"]
    assert store._memory.used == 0
    await incoming.write(LARGE[SMALL_SIZE + 1 :])

    await incoming.commit(make_message(0xABC), retry_at=None)

    file = store.path.with_name("queue.db.content") / "ABC"
    assert file.read_bytes() == LARGE
    assert file.stat().st_mode & 0o777 == 0o600
    assert incoming.small_content is None
    assert await size_in_row(store, 0xABC) is None
    assert store._memory.used == 0


@pytest.mark.parametrize("size", [0, 1, SMALL_SIZE, SMALL_SIZE + 1, 500_000, 1_000_000])
async def test_content_of_any_size_comes_back_whole(path: Path, size: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    async with opened(path) as store:
        message = await accept(store, content=content)
        assert await content_of(store, message) == content
    assert bool(content_files(path)) == (size > SMALL_SIZE)
    async with opened(path) as store:
        assert await content_of(store, message) == content


async def test_less_stays_in_memory_while_that_is_short(store: Store) -> None:
    store._memory.used = MOST_MEMORY  # others hold it
    small = await accept(store, content=b"x" * TIGHT_SIZE)
    larger = await accept(store, content=b"x" * (TIGHT_SIZE + 1))
    assert content_files(store.path) == [larger.queue_id]
    assert await size_in_row(store, small.number) == TIGHT_SIZE

    incoming = store.incoming(store.new_number(NOW))
    for _ in range(9):
        await incoming.write(b"x" * TIGHT_SIZE)
        assert store._memory.used - MOST_MEMORY <= TIGHT_SIZE
    await incoming.abandon()
    assert store._memory.used == MOST_MEMORY


@pytest.mark.parametrize("content", [b"", CONTENT, LARGE])
async def test_an_abandoned_message_leaves_nothing(path: Path, content: bytes) -> None:
    async with opened(path) as store:
        incoming = store.incoming(1)
        await incoming.write(content)
        await incoming.write(b"the rest")
        await incoming.abandon()
        await incoming.abandon()
        assert store._memory.used == 0
        assert content_files(path) == []
    assert query(path, "SELECT count(*) FROM message") == [(0,)]


async def test_abandoning_in_a_queue_that_is_closed_does_not_fail(path: Path) -> None:
    async with opened(path) as store:
        incoming = store.incoming(1)
        await incoming.write(LARGE)
    await incoming.abandon()
    assert content_files(path) == []


@pytest.mark.parametrize("content", [CONTENT, LARGE])
async def test_a_commit_that_fails_leaves_nothing_when_it_is_abandoned(store: Store, content: bytes) -> None:
    incoming = store.incoming(1)
    await incoming.write(content)
    store._writer._db.execute("PRAGMA query_only = ON")
    with pytest.raises(QueueError, match="can't be written"):
        await incoming.commit(make_message(1), retry_at=None)
    store._writer._db.execute("PRAGMA query_only = OFF")
    await incoming.abandon()
    assert content_files(store.path) == []
    assert not store._contents.has(1)
    assert store._memory.used == 0
    assert await store.show(1) is None


async def test_a_message_whose_commit_was_cancelled_but_went_on_is_whole(store: Store) -> None:
    gate = Gate(store._writer)
    await gate.entered()
    incoming = store.incoming(1)
    await incoming.write(LARGE)
    commit = asyncio.ensure_future(incoming.commit(make_message(1, size=len(LARGE)), retry_at=None))
    while not incoming._may_be_stored:
        await asyncio.sleep(0)
    commit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await commit
    await incoming.abandon()
    await gate.let_go()
    assert await content_of(store, make_message(1, size=len(LARGE))) == LARGE
    assert store._memory.used == 0


async def test_a_message_that_is_stored_is_not_abandoned_any_more(store: Store) -> None:
    incoming = store.incoming(1)
    await incoming.write(LARGE)
    await incoming.commit(make_message(1, size=len(LARGE)), retry_at=None)
    await incoming.abandon()
    assert await content_of(store, make_message(1, size=len(LARGE))) == LARGE


async def test_a_message_abandoned_while_its_file_is_written_leaves_nothing(store: Store) -> None:
    incoming = store.incoming(1)
    await incoming.write(LARGE)
    assert incoming._file is not None
    with incoming._file._lock:  # the disk is slow
        writing = asyncio.ensure_future(incoming.write(LARGE))
        await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        abandoning = asyncio.ensure_future(incoming.abandon())
        await asyncio.sleep(0)
    await abandoning
    assert content_files(store.path) == []
    assert store._memory.used == 0


def test_what_comes_after_a_file_was_discarded_goes_nowhere(path: Path) -> None:
    contents = Contents(path)
    contents.prepare()
    for blocks in ([], [b"x" * 300_000]):
        file = contents.create(1)
        for block in blocks:
            file.write(block)
        file.discard()
        file.write(b"late")
        file.finish()
        assert content_files(path) == []
        assert not contents.has(1)


async def test_a_folder_that_is_gone_refuses_the_message(store: Store) -> None:
    folder, elsewhere = store._contents.folder, store.path.with_name("elsewhere")
    incoming = store.incoming(1)
    await incoming.write(LARGE)
    folder.rename(elsewhere)
    with pytest.raises(QueueError, match=r"the queue's files in .* failed"):
        await incoming.commit(make_message(1), retry_at=None)
    with pytest.raises(QueueError, match=r"the queue's files in .* failed"):
        await store.incoming(2).write(LARGE)
    await incoming.abandon()
    elsewhere.rename(folder)
    assert await store.list_messages(0, 10, ALL) == []
    assert not store._contents.has(1)
    assert store._memory.used == 0


async def test_a_file_of_another_is_not_written_over(store: Store) -> None:
    file = store._contents.path(1)
    file.write_bytes(b"theirs")
    incoming = store.incoming(1)
    with pytest.raises(QueueError, match="File exists"):
        await incoming.write(LARGE)
    await incoming.abandon()
    assert file.read_bytes() == b"theirs"


# Out


async def test_claims_bring_small_contents_but_not_too_many(store: Store) -> None:
    large = await accept(store, content=LARGE)
    most = MOST_CONTENT // SMALL_SIZE
    messages = [await accept(store, content=b"x" * SMALL_SIZE, now=NOW + 1) for _ in range(most + 1)]
    claims = await claim(store, NOW + 1)
    assert [one.message for one in claims] == [large, *messages]
    assert [one.content for one in claims] == [None, *[b"x" * SMALL_SIZE] * most, None]
    assert await content_of(store, messages[-1]) == b"x" * SMALL_SIZE


async def test_a_small_content_in_a_file_is_not_brought_but_can_be_read(store: Store) -> None:
    store._memory.used = MOST_MEMORY
    message = await accept(store, content=b"x" * (TIGHT_SIZE + 1))
    [claimed] = await claim(store)
    assert claimed.content is None
    assert await content_of(store, message) == b"x" * (TIGHT_SIZE + 1)


async def test_a_large_report_stands_in_its_row_and_is_not_brought(store: Store) -> None:
    message = await accept(store)
    report = make_message(store.new_number(NOW + 9), size=len(LARGE), received_at=NOW + 9)
    await store.record([outcome(message, State.DELIVERED)], reports=[Report(report, LARGE)])
    [claimed] = await claim(store, NOW + 9)
    assert (claimed.message, claimed.content) == (report, None)
    assert await content_of(store, report) == LARGE


async def test_a_message_deleted_while_it_is_read_can_be_read_to_its_end(store: Store) -> None:
    message = await accept(store, content=LARGE)
    async with aclosing(store.read(message.number)) as blocks:
        start = await anext(blocks)
        await store.delete(ALL)
        assert content_files(store.path) == []
        assert start + b"".join([block async for block in blocks]) == LARGE
    with pytest.raises(QueueError, match=f"message {message.queue_id} is no longer in the queue"):
        await content_of(store, message)


async def test_a_file_that_is_missing_is_told(store: Store) -> None:
    message = await accept(store, content=LARGE)
    store._contents.path(message.number).unlink()
    with pytest.raises(QueueError, match=f"message {message.queue_id} is no longer in the queue"):
        await content_of(store, message)


@pytest.mark.parametrize("size", [0, 1, len(LARGE) - 1, len(LARGE) + 1])
async def test_a_file_of_another_size_is_told_and_nothing_of_it_is_given_out(store: Store, size: int) -> None:
    message = await accept(store, content=LARGE)
    file = store._contents.path(message.number)
    file.write_bytes((LARGE + CONTENT)[:size])
    async with aclosing(store.read(message.number)) as blocks:
        with pytest.raises(QueueError, match=rf"{file} is damaged \({size} bytes, not {len(LARGE)}\)"):
            await anext(blocks)
    file.write_bytes(LARGE)
    assert await content_of(store, message) == LARGE


async def test_a_file_that_is_cut_while_it_is_read_is_told_before_its_end(store: Store) -> None:
    message = await accept(store, content=LARGE)
    async with aclosing(store.read(message.number)) as blocks:
        await anext(blocks)
        os.truncate(store._contents.path(message.number), len(LARGE) // 2)
        with pytest.raises(QueueError, match="is damaged"):
            [block async for block in blocks]


async def test_a_file_whose_message_is_in_no_table_any_more_is_not_read(store: Store) -> None:
    message = await accept(store, content=LARGE)
    await store.record([outcome(message, State.DELIVERED)])
    await store.purge(2e9)
    store._contents._numbers.add(message.number)  # it is purged while it is read
    with pytest.raises(QueueError, match="no longer in the queue"):
        await content_of(store, message)


async def test_a_file_that_cannot_be_read_is_told(store: Store) -> None:
    message = await accept(store, content=LARGE)
    file = store._contents.path(message.number)
    file.unlink()
    file.mkdir()
    with pytest.raises(QueueError, match=r"the queue's files in .* failed \(.*Is a directory"):
        await content_of(store, message)


async def test_a_reading_that_is_broken_off_leaves_no_descriptor(store: Store) -> None:
    message = await accept(store, content=LARGE)
    file = store._contents.path(message.number)

    def is_open() -> bool:
        return any(link.is_symlink() and link.resolve() == file for link in Path("/proc/self/fd").iterdir())

    blocks = store.read(message.number)
    await anext(blocks)
    assert is_open()
    await blocks.aclose()
    assert not is_open()
    assert [block async for block in blocks] == []


def test_a_reader_that_is_closed_opens_nothing(path: Path) -> None:
    reader = Contents(path).open(1, 9)
    reader.close()
    assert reader.read(1) == b""


# Gone


@pytest.mark.parametrize("content", [CONTENT, LARGE])
async def test_a_delivered_message_has_no_content(store: Store, content: bytes) -> None:
    message = await accept(store, 2, content=content)
    assert await store.record([outcome(message, State.DELIVERED, 0)]) == []
    assert await content_of(store, message) == content
    assert await store.record([outcome(message, State.DELIVERED, 1)]) == [message.number]
    with pytest.raises(QueueError, match="no longer in the queue"):
        await content_of(store, message)
    assert content_files(store.path) == []
    assert await size_in_row(store, message.number) is None


@pytest.mark.parametrize("content", [CONTENT, LARGE])
async def test_deleting_a_message_that_reached_others_deletes_its_content(
    store: Store, content: bytes
) -> None:
    message = await accept(store, 3, content=content)
    await store.record([outcome(message, State.DELIVERED, 0)])
    assert await store.delete(Selection(recipient="u1@example.net")) == 1
    assert await content_of(store, message) == content
    assert await store.delete(ALL) == 1
    assert content_files(store.path) == []
    assert await size_in_row(store, message.number) is None


async def test_a_file_that_cannot_be_deleted_is_left_to_the_next_start(path: Path) -> None:
    async with opened(path) as store:
        message = await accept(store, content=LARGE)
        incoming = store.incoming(store.new_number(NOW))
        await incoming.write(LARGE)
        for number in (message.number, incoming.number):
            store._contents.path(number).unlink()
            store._contents.path(number).mkdir()
        assert await store.record([outcome(message, State.DELIVERED)]) == [message.number]
        await incoming.abandon()
        assert len(content_files(path)) == 2
        for number in (message.number, incoming.number):
            store._contents.path(number).rmdir()
            store._contents.path(number).write_bytes(LARGE)
    async with opened(path):
        assert content_files(path) == []
