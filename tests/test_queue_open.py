"""Opening a queue: new, old, in use, from the future, damaged, not writable."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from relay.mail.attempt import State
from relay.queue import schema
from relay.queue.errors import QueueError
from relay.queue.store import Store
from tests.support.queue import (
    LARGE,
    accept,
    claim,
    content_files,
    content_of,
    opened,
    outcome,
    query,
    retry_in_five_minutes,
)


async def refusal(path: Path) -> str:
    with pytest.raises(QueueError) as caught:
        await Store.open(path, retry=retry_in_five_minutes)
    return str(caught.value)


async def test_a_new_queue_is_made_with_its_folders_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "queue.db"
    async with opened(path):
        assert sorted(p.name for p in path.parent.iterdir()) == [
            "queue.db",
            "queue.db-wal",
            "queue.db.content",
            "queue.db.lock",
            "queue.db.reserve",
        ]
        modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
        assert modes.pop("queue.db.content") == 0o700
        assert set(modes.values()) == {0o600}
    assert query(path, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]


async def test_a_queue_survives_reopening(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        message = await accept(store)
    async with opened(tmp_path / "queue.db") as store:
        entry = await store.show(message.number)
        assert entry is not None
        assert entry.message == message


async def test_two_processes_never_share_a_queue(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path):
        assert await refusal(path) == f"the queue {path} is already in use by process {os.getpid()}"
    async with opened(path):
        pass


async def test_a_lock_without_a_number_is_told_too(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path):
        (tmp_path / "queue.db.lock").write_bytes(b"")
        assert "in use by process unknown" in await refusal(path)


async def test_a_queue_that_another_program_has_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "is in use by another program" in await refusal(path)
    other.close()
    async with opened(path):
        pass


async def test_a_queue_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path):
        pass
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 1000")
    db.close()
    before = path.read_bytes()
    known = len(schema.MIGRATIONS)
    assert await refusal(path) == (
        f"the queue {path} was written by a newer relay (format 1000, this one knows up to {known}): "
        "install that version again, or name another file in queue.path"
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("version", [0, 1])
async def test_the_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, version: int
) -> None:
    path = tmp_path / "photos.db"
    db = sqlite3.connect(path)
    db.executescript(f"CREATE TABLE photo (name TEXT); PRAGMA user_version = {version}")
    db.close()
    before = path.read_bytes()
    assert await refusal(path) == f"{path} belongs to another program: name another file in queue.path"
    assert path.read_bytes() == before


async def test_an_older_queue_is_brought_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "queue.db"
    async with opened(path) as store:
        message = await accept(store)
    later = (*schema.MIGRATIONS, "ALTER TABLE message ADD COLUMN colour BLOB; CREATE TABLE note (text BLOB)")
    monkeypatch.setattr(schema, "MIGRATIONS", later)
    async with opened(path) as store:
        assert await store.show(message.number) is not None
    assert query(path, "PRAGMA user_version") == [(len(later),)]
    assert query(path, "SELECT colour FROM message") == [(None,)]


_MESSAGE = (
    "INSERT INTO message (number, reverse_path, given_reverse_path, ret, envid, is_8bitmime, is_smtputf8, "
    "size, header_size, body_is_8bit, received_at, client, is_report, finished_at) "
    "VALUES (?, x'61', x'', '', x'', 0, 0, ?, 5, 0, 1000.0, x'', 0, ?)"
)
_RECIPIENT = (
    "INSERT INTO recipient (message, idx, address, original, orcpt, notify, state, attempts, next_attempt_at)"
    " VALUES (?, 0, x'62', x'', x'', '', ?, 1, 2000.0)"
)


async def test_contents_of_version_1_are_brought_forward(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    every_byte = bytes(range(256))
    chunks = {1: [b""], 2: [every_byte], 3: [every_byte * 300, b"\0\xff\0", every_byte[::-1] * 1000, b""]}
    half_received = {9: [b"half-received"]}
    db = sqlite3.connect(path)
    db.executescript(f"{schema.MIGRATIONS[0]}; PRAGMA user_version = 1")
    for number, parts in {**chunks, **half_received}.items():
        rows = [(number, seq, data) for seq, data in enumerate(parts)]
        db.executemany("INSERT INTO content VALUES (?, ?, ?)", reversed(rows))
    for number, parts in chunks.items():
        db.execute(_MESSAGE, (number, sum(map(len, parts)), None))
        db.execute(_RECIPIENT, (number, "queued"))
    db.execute(_MESSAGE, (4, 9, 3000.0))
    db.execute(_RECIPIENT, (4, "delivered"))
    db.commit()
    db.close()

    async with opened(path) as store:
        claims = {claim.message.number: claim for claim in await claim(store)}
        assert {number: one.content for number, one in claims.items()} == {1: b"", 2: every_byte, 3: None}
        for number, parts in chunks.items():
            assert await content_of(store, claims[number].message) == b"".join(parts)
        finished = await store.show(4)
        assert finished is not None
        assert finished.finished_at == 3000.0
        assert content_files(path) == []
    assert query(path, "SELECT content FROM message WHERE number = 4") == [(None,)]
    assert query(path, "SELECT name FROM sqlite_schema WHERE name LIKE 'content%'") == []


async def test_files_without_an_unfinished_message_are_swept_and_others_left(tmp_path: Path) -> None:
    path, folder = tmp_path / "queue.db", tmp_path / "queue.db.content"
    async with opened(path) as store:
        waiting = await accept(store, content=LARGE)
        delivered = await accept(store, content=LARGE)
        await store.record([outcome(delivered, State.DELIVERED)])
    (folder / delivered.queue_id).write_bytes(LARGE)
    (folder / "5FFF").write_bytes(b"half-received")
    foreign = ["README", "0", "-5", "0x5F", "5fff", "5_F", "05F", "8" + "0" * 15, "\udcff"]
    for name in foreign:
        (folder / name).write_bytes(b"")
    (folder / "ABC").mkdir()  # can't be deleted as a file
    async with opened(path) as store:
        assert content_files(path) == sorted([waiting.queue_id, "ABC", *foreign])
        assert await content_of(store, waiting) == LARGE


async def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    path, folder = tmp_path / "queue.db", tmp_path / "queue.db.content"
    folder.write_text("")
    assert "can't be opened (File exists)" in await refusal(path)
    folder.unlink()
    async with opened(path):
        pass


async def test_a_migration_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "queue.db"
    async with opened(path):
        pass
    known = len(schema.MIGRATIONS)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE note (text BLOB); nonsense"))
    assert "failed: near" in await refusal(path)
    assert query(path, "PRAGMA user_version") == [(known,)]
    assert query(path, "SELECT name FROM sqlite_schema WHERE name = 'note'") == []


async def test_a_file_that_is_no_queue_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(b"this is not a database" * 1000)
    words = await refusal(path)
    assert f"the queue {path} is damaged" in words
    assert "start again with an empty queue" in words
    assert path.read_bytes() == b"this is not a database" * 1000


async def test_a_damaged_queue_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    async with opened(path) as store:
        for _ in range(20):
            await accept(store)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    assert "is damaged" in await refusal(path)
    path.write_bytes(whole)
    async with opened(path):
        pass


async def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    words = await refusal(tmp_path / "file" / "queue.db")
    assert "can't be opened (File exists)" in words or "can't be opened (Not a directory)" in words


async def test_a_folder_in_the_place_of_the_queue_is_told(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    path.mkdir()
    assert await refusal(path) == (
        f"the queue {path} can't be opened (Is a directory): see that this user may write its folder "
        f"(this user: {os.geteuid()})"
    )
    async with opened(tmp_path / "other.db"):
        pass


@pytest.mark.needs_root
async def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        async with opened(disk / "queue.db"):
            pass
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert "can't be opened (Read-only file system)" in await refusal(disk / "queue.db")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


async def test_a_queue_that_turns_read_only_is_told_and_recovers(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        await store._writer.run(lambda db: db.execute("SELECT 1").fetchone())
        store._writer._db.execute("PRAGMA query_only = ON")
        with pytest.raises(QueueError, match="can't be written"):
            await accept(store)
        store._writer._db.execute("PRAGMA query_only = OFF")
        await accept(store)


def test_an_interpreter_that_leaves_without_closing_does_not_hang(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path; from relay.queue.store import Store\n"
        "asyncio.run(Store.open(Path(sys.argv[1]), retry=lambda a, now, n: now))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "queue.db"], check=True, timeout=30)
