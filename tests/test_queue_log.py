"""The check of the write-ahead log at the start, on logs that SQLite wrote; it says itself what it sees."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.queue import log
from relay.queue.errors import QueueError
from relay.queue.store import Store
from tests.support.queue import LARGE, accept, content_of, opened, retry_in_five_minutes

SIZES = (1, 10_000, 1, 1, 30_000, 500, 20_000, 1)
"""Bytes that the transactions of a log insert: some have one frame, some several."""
SECTOR = 512


@dataclass
class Queue:
    """A database in a folder of its own, as a kill leaves it."""

    folder: Path
    page_size: int = 4096

    @property
    def path(self) -> Path:
        return self.folder / "queue.db"

    @property
    def log(self) -> Path:
        return self.folder / "queue.db-wal"

    @property
    def frame_size(self) -> int:
        return 24 + self.page_size

    @property
    def commits(self) -> list[bool]:
        """Of each frame of the log, not of an earlier one, whether it ends a transaction."""
        data = self.log.read_bytes()
        starts = range(32, len(data), self.frame_size)
        return [any(data[at + 4 : at + 8]) for at in starts if data[at + 8 : at + 16] == data[16:24]]

    def copy(self, name: str) -> Queue:
        return Queue(Path(shutil.copytree(self.folder, self.folder.with_name(name))), self.page_size)

    def write(self, *sizes: int, first: Callable[[sqlite3.Connection], object] = lambda db: None) -> None:
        """Insert a row in a transaction of its own for each size, and be killed before the close."""
        other = self.copy(f"{self.folder.name}.writing")
        db = sqlite3.connect(other.path, isolation_level=None)
        db.execute("PRAGMA wal_autocheckpoint = 0")
        first(db)
        for size in sizes:
            db.execute("INSERT INTO t VALUES (randomblob(?))", (size,))
        shutil.copytree(other.folder, self.folder, dirs_exist_ok=True)
        db.close()
        shutil.rmtree(other.folder)

    def damage(self, at: int, data: bytes) -> None:
        with self.log.open("r+b") as file:
            file.seek(at)
            file.write(data)

    def rows(self) -> int:
        """Return how many rows SQLite sees."""
        other = self.copy(f"{self.folder.name}.reading")
        db = sqlite3.connect(other.path)
        ((count,),) = db.execute("SELECT count(*) FROM t")
        db.close()
        shutil.rmtree(other.folder)
        return int(count)

    def is_refused(self) -> bool:
        """Whether the check refuses it, which must leave all as it was."""
        before, words = (self.path.read_bytes(), self.log.read_bytes()), ""
        try:
            log.check(self.path)
        except QueueError as error:
            words = str(error)
        assert (self.path.read_bytes(), self.log.read_bytes()) == before
        assert not words or words.startswith(f"the log of the queue {self.path} is damaged (")
        return bool(words)


def make(folder: Path, page_size: int = 4096) -> Queue:
    """Return a queue with a log of some transactions."""
    folder.mkdir()
    queue = Queue(folder, page_size)
    db = sqlite3.connect(queue.path)
    db.executescript(f"PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; CREATE TABLE t (data)")
    db.close()
    queue.write(*SIZES)
    assert len(queue.commits) > sum(queue.commits) == len(SIZES)
    return queue


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return make(tmp_path / "queue")


def begin_again(db: sqlite3.Connection) -> None:
    """Let what is written next overwrite the log from its start."""
    db.execute("PRAGMA wal_checkpoint(RESTART)")


def turn_byte_order(queue: Queue) -> None:
    """Give the log the checksums that a machine of the other byte order would have written."""
    data = bytearray(queue.log.read_bytes())
    (magic,) = struct.unpack_from(">I", data)
    struct.pack_into(">I", data, 0, magic ^ 1)
    running = log._sum(bytes(data[:24]), magic ^ 1, (0, 0))
    struct.pack_into(">2I", data, 24, *running)
    for at in range(32, len(data), queue.frame_size):
        frame = bytes(data[at : at + queue.frame_size])
        running = log._sum(frame[:8] + frame[24:], magic ^ 1, running)
        struct.pack_into(">2I", data, at + 16, *running)
    queue.log.write_bytes(data)


# No damage


@pytest.mark.parametrize("page_size", [512, 4096, 16384])
@pytest.mark.parametrize("is_turned", [False, True])
def test_a_whole_log_is_right(tmp_path: Path, page_size: int, is_turned: bool) -> None:
    queue = make(tmp_path / "queue", page_size)
    if is_turned:
        turn_byte_order(queue)
    assert queue.rows() == len(SIZES)
    assert [is_right for _, is_right in frames(queue)] == [True] * len(queue.commits)
    assert not queue.is_refused()


def frames(queue: Queue) -> Iterator[tuple[object, bool]]:
    with queue.log.open("rb") as file:
        yield from log._frames(file.read(32), file)


def test_no_log_is_right(queue: Queue) -> None:
    queue.log.unlink()
    log.check(queue.path)


@pytest.mark.parametrize("data", [b"", b"\x37", bytes(31), bytes(32), bytes(100_000)])
def test_a_log_of_nothing_is_right(queue: Queue, data: bytes) -> None:
    queue.log.write_bytes(data)
    assert queue.rows() == 0
    assert not queue.is_refused()
    queue.path.write_bytes(b"")
    assert not queue.is_refused()


def test_a_log_that_is_cut_is_right(queue: Queue) -> None:
    whole = queue.log.read_bytes()
    for length in range(0, len(whole), 997):
        queue.log.write_bytes(whole[:length])
        assert not queue.is_refused()


def test_frames_of_an_earlier_log_behind_the_end_are_right(queue: Queue) -> None:
    length = queue.log.stat().st_size
    queue.write(20_000, 1, first=begin_again)
    assert queue.log.stat().st_size == length
    assert queue.rows() == len(SIZES) + 2
    assert [is_right for _, is_right in frames(queue)].count(True) == len(queue.commits)
    assert [is_right for _, is_right in frames(queue)].count(False) > 0
    assert not queue.is_refused()


def test_what_a_transaction_left_that_was_rolled_back_is_right(queue: Queue) -> None:
    length = queue.log.stat().st_size

    def roll_back(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA cache_size = 5")  # it is in the log before its commit
        db.execute("BEGIN")
        db.execute("INSERT INTO t VALUES (randomblob(200000))")
        db.execute("INSERT INTO t VALUES (randomblob(200000))")
        db.execute("ROLLBACK")

    queue.write(first=roll_back)
    assert queue.log.stat().st_size > length
    assert not queue.is_refused()
    queue.write(1, 1)
    assert queue.rows() == len(SIZES) + 2
    assert not queue.is_refused()


def test_what_transactions_left_whose_sync_failed_is_right(queue: Queue) -> None:
    """SQLite writes each next one over them, from the same place on."""
    size = queue.log.stat().st_size
    left = b""
    for number, sizes in enumerate([(100_000,), (40_000,), (9000,), (1, 1)]):
        following = queue.copy(f"queue{number}")
        following.write(*sizes)
        written = following.log.read_bytes()[size:]
        assert number == 0 or len(written) < len(left)
        left = written + left[len(written) :]
        following.log.write_bytes(queue.log.read_bytes() + left)
        assert following.rows() == len(SIZES) + len(sizes)
        assert following.commits[-1]
        assert not following.is_refused()


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_a_power_loss_leaves_of_the_last_transaction_is_right(queue: Queue, is_restarted: bool) -> None:
    """It was not synced: each sector of it is there, or what was in its place before."""
    if is_restarted:
        queue.write(9000, 1, first=begin_again)
    rows, before = queue.rows(), queue.log.read_bytes()
    queue.write(30_000)
    after, chance = queue.log.read_bytes(), random.Random(1)
    before = before.ljust(len(after), b"\0")
    seen = set()
    for _ in range(50):
        share = chance.random() ** 8
        sectors = [
            (before if chance.random() < share else after)[at : at + SECTOR]
            for at in range(0, len(after), SECTOR)
        ]
        queue.log.write_bytes(b"".join(sectors))
        assert not queue.is_refused()
        seen.add(queue.rows())
    assert seen == {rows, rows + 1}


def test_kills_while_it_is_written_leave_it_right(queue: Queue) -> None:
    script = """if True:
        import sqlite3, sys
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("PRAGMA wal_autocheckpoint = 50")
        while True:
            db.execute("INSERT INTO t VALUES (randomblob(1 << abs(random() % 17)))")
            print(flush=True)
    """
    chance, rows = random.Random(2), len(SIZES)
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", script, queue.path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(chance.randint(1, 200)):
                rows += len(child.stdout.readline())
            child.kill()
            rows += len(child.stdout.read())
        assert child.returncode == -signal.SIGKILL
        assert not queue.is_refused()
        assert queue.rows() - rows in {0, 1}
        rows = queue.rows()


# Damage


@pytest.mark.parametrize("at", range(32))
def test_a_wrong_header_is_refused(queue: Queue, at: int) -> None:
    queue.damage(at, bytes([queue.log.read_bytes()[at] ^ 1]))
    assert queue.rows() == 0
    assert queue.is_refused()


def test_a_header_of_zeros_before_frames_is_refused(queue: Queue) -> None:
    queue.damage(0, bytes(32))
    assert queue.is_refused()


def test_an_empty_queue_beside_a_log_is_refused(queue: Queue) -> None:
    queue.path.write_bytes(b"")
    assert queue.is_refused()


@pytest.mark.parametrize("kind", ["", "of the other byte order", "with an earlier one behind it"])
@pytest.mark.parametrize(
    ("at", "data"),
    [(0, b"\0\0\1"), (8, b"salt"), (20, b"sums"), (24, b"page"), (4119, b"\xff"), (0, b"\xff" * 4120)],
)
def test_damage_to_a_frame_is_refused_where_no_crash_leaves_the_like(
    queue: Queue, kind: str, at: int, data: bytes
) -> None:
    """Two commits behind it at least, and it is the first of no transaction, or a gap in the log."""
    if "byte order" in kind:
        turn_byte_order(queue)
    elif "earlier" in kind:
        queue.write(1, 9000, 1, 20_000, 1, first=begin_again)
    whole, commits, rows = queue.log.read_bytes(), queue.commits, queue.rows()
    is_gap = at <= 8 < at + len(data)
    for index in range(len(commits)):
        queue.log.write_bytes(whole)
        start = 32 + index * queue.frame_size + at
        is_so = whole[start : start + len(data)] == data  # by chance, as the rows' bytes are random
        queue.damage(start, bytes(len(data)) if is_so else data)
        assert queue.rows() == rows - sum(commits[index:])
        follows_commit = index == 0 or commits[index - 1]
        unseen = sum(commits[index + is_gap :])
        assert queue.is_refused() == (unseen > 1 and (is_gap or not follows_commit)), index


def test_damage_of_a_block_of_the_disk_is_refused_wherever_two_transactions_are_behind(queue: Queue) -> None:
    """As good as each block of 4096 bytes has the header of a frame in it."""
    whole, commits = queue.log.read_bytes(), queue.commits
    garbage = random.Random(3).randbytes(4096)
    second_last = [index for index, is_commit in enumerate(commits) if is_commit][-2]
    for at in range(4096, 32 + second_last * queue.frame_size - 4096, 4096):
        queue.log.write_bytes(whole)
        queue.damage(at, garbage)
        assert queue.rows() < len(SIZES) - 1
        assert queue.is_refused()


# The way out


async def test_a_damaged_log_is_refused_at_the_start_and_the_way_out_leads_on(tmp_path: Path) -> None:
    queue, stays = Queue(tmp_path / "killed"), tmp_path / "running"
    stays.mkdir()
    async with opened(stays / "queue.db") as store:
        first = await accept(store, content=LARGE)
        for _ in range(5):
            await accept(store, content=b"x" * 20_000)
        shutil.copytree(stays, queue.folder)
    size = queue.log.stat().st_size
    queue.damage(size // 2, bytes(4096))
    before = queue.path.read_bytes(), queue.log.read_bytes()

    with pytest.raises(QueueError, match="it is wrong in the middle") as refused:
        await Store.open(queue.path, retry=retry_in_five_minutes)

    assert (queue.path.read_bytes(), queue.log.read_bytes()) == before
    command = "PRAGMA wal_checkpoint(TRUNCATE)"
    assert f"'sqlite3 {queue.path} \"{command}\"'" in str(refused.value)
    db = sqlite3.connect(queue.path)
    db.execute(command)
    db.close()
    async with opened(queue.path) as store:
        assert await content_of(store, first) == LARGE
