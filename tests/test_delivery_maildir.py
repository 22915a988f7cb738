"""Delivery to Maildirs, on real file systems; killed at each line, and read back as a mail program does.

The child at the end of this file is what the test of kills runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import mailbox as mailboxes
import os
import pwd
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from relay.delivery import maildir
from relay.delivery.agent import Transfer
from relay.delivery.maildir import BACKLOG, WRITERS, Maildirs, make_name, write_message
from relay.mail.attempt import Attempt, Claim
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.route import Mailbox
from relay.queue.errors import QueueError
from tests.support.queue import NOW, accept, make_message, opened
from tests.support.rig import until
from tests.support.service import HOSTNAME, Service

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
CHRIS = Recipient("chris@home.test")
LINES_OF_CHRIS = (
    b"Return-Path: <ann@far.test>\nX-Original-To: chris@home.test\nDelivered-To: chris@home.test\n"
    b"Subject: hello\n\nworld\n"
)
DONE = Attempt(Reply(250, "2.0.0", "delivered to mailbox"), host="maildir", next_hop="maildir")
NOBODY = pwd.getpwnam("nobody")


@dataclass
class House:
    """Maildirs under a folder, and what they were asked for."""

    folder: Path
    changes: int = 0
    queued: dict[int, Sequence[bytes]] = field(default_factory=dict)
    """Content by message number, in chunks."""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Queued content is not read before it is set."""
    numbers: int = 0
    reports: list[tuple[Recipient, Attempt | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()
        self.maildirs = Maildirs("gw1.home.test", self._read, self._change)

    async def _read(self, number: int) -> AsyncIterator[bytes]:
        await self.gate.wait()
        for chunk in self.queued[number]:
            yield chunk

    def _change(self) -> None:
        self.changes += 1

    def mailbox(self, user: str = "chris") -> Mailbox:
        return Mailbox(user, self.folder / user)

    def claim(
        self,
        content: bytes | Sequence[bytes] = CONTENT,
        *recipients: Recipient,
        attempt: int = 1,
        **changes: Any,
    ) -> Claim:
        """Return a message, from memory or, where its content is in chunks, from the queue."""
        whole = content if isinstance(content, bytes) else b"".join(content)
        self.numbers += 1
        message = make_message(
            changes.pop("number", self.numbers),
            envelope=Envelope(changes.pop("reverse_path", "ann@far.test"), recipients or (CHRIS,)),
            size=len(whole),
            header_size=changes.pop("header_size", whole.find(b"\r\n\r\n") + 2),
            **changes,
        )
        if isinstance(content, bytes):
            return Claim(message, attempt, content=content)
        self.queued[message.number] = content
        return Claim(message, attempt)

    def submit(self, claim: Claim, user: str = "chris") -> bool:
        recipients = claim.message.envelope.recipients
        transfer = Transfer(
            claim, recipients, internal=True, report=lambda known: self.reports.extend(known.items())
        )
        return self.maildirs.submit(self.mailbox(user), transfer)

    async def deliver(self, claim: Claim, user: str = "chris") -> Attempt | None:
        """Deliver a message and return what became of its last copy."""
        count = len(self.reports) + len(claim.message.envelope.recipients)
        assert self.submit(claim, user)
        await until(lambda: len(self.reports) == count)
        return self.reports[-1][1]

    def files(self, user: str = "chris") -> list[bytes]:
        """Return the messages of a mailbox, new and seen; there must be nothing half-written."""
        box = self.folder / user
        assert not list((box / "tmp").iterdir())
        return [path.read_bytes() for part in ("new", "cur") for path in sorted((box / part).iterdir())]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    made.gate.set()
    await made.maildirs.close(20)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory on a folder."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


# What is in a mailbox


async def test_a_mail_program_finds_the_message(house: House) -> None:
    given = Recipient("chris@home.test", original="Family@home.test")
    content = b"Subject: caf\xc3\xa9\r\nX-Folded: a\r\n b\r\n\r\nna\xefve\r\n.\r\nFrom me\r\n\r\n"
    assert await house.deliver(house.claim(content, given)) == DONE
    box = mailboxes.Maildir(house.mailbox().folder, create=False)
    [(key, message)] = box.items()
    assert message.get_subdir() == "new"
    assert box.get_bytes(key) == (
        b"Return-Path: <ann@far.test>\n"
        b"X-Original-To: Family@home.test\n"
        b"Delivered-To: chris@home.test\n"
        b"Subject: caf\xc3\xa9\nX-Folded: a\n b\n\nna\xefve\n.\nFrom me\n\n"
    )


async def test_a_report_has_an_empty_return_path(house: House) -> None:
    await house.deliver(house.claim(CONTENT, reverse_path=""))
    assert house.files()[0].startswith(b"Return-Path: <>\n")


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 1000])
async def test_content_from_the_queue_may_be_cut_anywhere(house: House, size: int) -> None:
    chunks = [CONTENT[start : start + size] for start in range(0, len(CONTENT), size)]
    assert await house.deliver(house.claim(chunks)) == DONE
    assert house.files() == [LINES_OF_CHRIS]


async def test_content_may_be_nothing_but_header(house: House) -> None:
    await house.deliver(house.claim(b"Subject: hello\r\n", header_size=16))
    assert house.files()[0].endswith(b"Delivered-To: chris@home.test\nSubject: hello\n")


async def test_only_its_owner_may_look_into_a_mailbox(house: House) -> None:
    box = Mailbox("chris", house.folder / "homes" / "chris" / "Maildir")
    write_message(box, "name", [b"x"], is_first=True)
    folders = [house.folder / "homes", box.folder.parent, box.folder, *box.folder.iterdir()]
    assert [folder.stat().st_mode & 0o7777 for folder in folders] == [0o700] * 6
    assert (box.folder / "new" / "name").stat().st_mode & 0o7777 == 0o600


async def test_each_recipient_and_each_user_gets_a_copy(house: House) -> None:
    both = Recipient("chris@home.test"), Recipient("chris@localhost", index=1)
    await house.deliver(house.claim(CONTENT, *both))
    await house.deliver(house.claim(CONTENT, Recipient("marc@home.test", index=2), number=1), "marc")
    assert [b"\nDelivered-To: chris@home.test\n" in file for file in house.files()] == [True, False]
    assert len(house.files("marc")) == 1


async def test_messages_for_one_mailbox_at_once_are_all_delivered(house: House) -> None:
    for number in range(20):
        assert house.submit(house.claim(b"Subject: %d\r\n\r\n" % number))
    await until(lambda: len(house.reports) == 20)
    assert {attempt for _, attempt in house.reports} == {DONE}
    assert {file.partition(b"Subject: ")[2] for file in house.files()} == {b"%d\n\n" % n for n in range(20)}


def test_the_name_of_a_file_follows_the_specification() -> None:
    message = make_message(0x6A1B, received_at=NOW + 0.5)
    assert make_name(message, Recipient("a@b", index=3), "gw1.home.test") == "1800000000.6A1B_3.gw1.home.test"
    assert make_name(message, CHRIS, "a/b:c") == r"1800000000.6A1B_0.a\057b\072c"
    longest = make_name(make_message(2**63 - 1), Recipient("a@b", index=999_999), "h" * 253)
    assert len(longest + ":2,DFPRST") < 200


# Once and only once


@pytest.mark.parametrize("place", ["new/{}", "cur/{}", "cur/{}:2,FS", "cur/{},S=120:2,S"])
async def test_a_message_that_an_earlier_attempt_delivered_is_found(house: House, place: str) -> None:
    claim = house.claim()
    await house.deliver(claim)
    folder = house.mailbox().folder
    [file] = (folder / "new").iterdir()
    file.rename(folder / place.format(file.name))
    assert await house.deliver(house.claim(number=claim.message.number, attempt=2)) == DONE
    assert house.files() == [LINES_OF_CHRIS]


async def test_a_retry_of_one_that_did_not_get_through_delivers(house: House) -> None:
    await house.deliver(house.claim())
    assert await house.deliver(house.claim(attempt=2)) == DONE
    assert len(house.files()) == 2


async def test_what_a_killed_attempt_left_is_replaced(house: House) -> None:
    claim = house.claim()
    for part in ("tmp", "new", "cur"):
        (house.mailbox().folder / part).mkdir(parents=True)
    left = house.mailbox().folder / "tmp" / make_name(claim.message, CHRIS, "gw1.home.test")
    left.write_bytes(b"Return-Pa")
    assert await house.deliver(claim) == DONE
    assert house.files() == [LINES_OF_CHRIS]


async def test_a_message_that_was_in_the_mailbox_before_loops(house: House) -> None:
    content = b"Received: from a\r\nDelivered-To:  CHRIS@Home.Test \r\n\r\nworld\r\n"
    attempt = await house.deliver(house.claim(content))
    assert attempt == Attempt(
        Reply(554, "5.4.6", "mail forwarding loop for chris@home.test"), host="maildir", next_hop="maildir"
    )
    assert await house.deliver(house.claim(content, Recipient("marc@home.test")), "marc") == DONE
    in_body = b"Subject: hello\r\n\r\nDelivered-To: chris@home.test\r\n"
    assert await house.deliver(house.claim(in_body)) == DONE


def test_a_kill_at_any_line_costs_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-m", "tests.test_delivery_maildir", tmp_path],
        cwd=Path(__file__).parents[1],
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    left = child.stdout.split()
    assert min(map(left.count, ("nothing", "partial", "written", "delivered"))) >= 2, left


@pytest.mark.needs("strace")
async def test_a_delivery_counts_once_it_is_on_disk(tmp_path: Path) -> None:
    record = tmp_path / "calls"
    calls = "trace=/^renameat,fsync,fdatasync,pwrite64"
    toml = f"""
        [local]
        users = ["chris"]
        maildir = "{tmp_path}/mail/{{user}}"
        """
    under = ("strace", "-f", "-qq", "-y", "-e", calls, "-o", record)
    async with Service(tmp_path, toml, under=under) as relay:
        assert (await relay.send(CONTENT, f"chris@{HOSTNAME}")).startswith("250 ")
        await relay.logged("relay=maildir, .* status=sent")
        await relay.emptied()
    steps = "".join(find_steps(record.read_text(), tmp_path / "mail" / "chris"))
    assert re.fullmatch("[qs]*qsm+FRNq+s[qs]*", steps), steps


def find_steps(calls: str, folder: Path) -> Iterator[str]:
    """Yield what was done.

    "q" the queue was written, "s" synced; "m" the folder of a new folder was synced; "F" the file was synced,
    "R" renamed, "N" the folder "new" was synced.
    """
    kinds = {
        r"pwrite64\(\d+<\S+queue\.db-wal>": "q",
        r"f(data)?sync\(\d+<\S+queue\.db-wal>": "s",
        rf"fsync\(\d+<{folder}/tmp/\S+>": "F",
        rf"renameat2?\(\d+<{folder}/tmp>, \S+ \d+<{folder}/new>": "R",
        rf"fsync\(\d+<{folder}/new>": "N",
        rf"fsync\(\d+<({folder}|{folder.parent})>": "m",
    }
    begun: dict[str, str] = {}
    for line in calls.splitlines():
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
        elif call.endswith("= 0") or "pwrite64" in call:
            call = begun.pop(thread, "") + call
            yield from (step for pattern, step in kinds.items() if re.search(pattern, call))


# What stands in the way


async def reply_of(house: House, claim: Claim | None = None) -> str:
    attempt = await house.deliver(claim or house.claim())
    assert attempt is not None
    assert (attempt.host, attempt.next_hop, attempt.is_remote) == ("maildir", "maildir", False)
    return f"{attempt.reply} [{attempt.scope}]"


@pytest.mark.needs_root
async def test_a_full_disk_defers_and_leaves_nothing(house: House) -> None:
    folder = house.mailbox().folder
    folder.mkdir()
    with mounted(folder, "size=512k"):
        large = house.claim([CONTENT, *[b"x" * 9998 + b"\r\n"] * 200])
        words = f"452 4.3.1 no room on the disk of the mailbox {folder}: free some space there [recipient]"
        assert await reply_of(house, large) == words
        assert house.files() == []
        assert await house.deliver(house.claim()) == DONE
        subprocess.run(["mount", "-o", "remount,size=8m", folder], check=True)
        assert await house.deliver(large) == DONE
        assert sorted(house.files()) == [LINES_OF_CHRIS, LINES_OF_CHRIS + (b"x" * 9998 + b"\n") * 200]


@pytest.mark.needs_root
async def test_a_disk_that_cannot_be_written_defers(house: House) -> None:
    folder = house.mailbox().folder
    folder.mkdir()
    with mounted(folder, "size=512k"):
        await house.deliver(house.claim())
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        assert await reply_of(house) == (
            f"451 4.3.0 the mailbox of chris cannot be written: {folder}: Read-only file system; "
            "mount its file system for writing [recipient]"
        )
        assert house.files() == [LINES_OF_CHRIS]


async def test_a_folder_that_the_relay_may_not_write_defers() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        folder.chmod(0o555)
        child = subprocess.run(
            [sys.executable, "-m", "tests.test_delivery_maildir", folder, "as nobody"],
            cwd=Path(__file__).parents[1],
            timeout=60,
            check=False,
            capture_output=True,
            text=True,
        )
        user = os.getuid() or NOBODY.pw_uid
        assert child.stdout == (
            f"451 4.3.0 the mailbox of chris cannot be written: {folder}/chris: Permission denied; "
            f"let the relay write there; it runs as the user with the number {user}\n"
        ), child.stderr


def test_a_mailbox_that_is_full_is_told_as_such(house: House) -> None:
    reply = maildir._explain(house.mailbox(), OSError(errno.EDQUOT, "Disk quota exceeded"))
    assert reply == Reply(452, "4.2.2", "the mailbox of chris is full: its quota is used up")


async def test_a_file_in_the_place_of_a_folder_defers(house: House) -> None:
    folder = house.mailbox().folder
    folder.write_bytes(b"")
    assert await reply_of(house) == (
        f"451 4.3.0 the mailbox of chris cannot be written: {folder}: Not a directory; "
        "it is no folder, or a link that a user may have made: write the real path in relay.toml [recipient]"
    )


async def test_a_disk_that_is_not_there_is_not_replaced(house: House) -> None:
    folder = house.mailbox().folder
    folder.symlink_to(house.folder / "disk")
    assert await reply_of(house) == (
        f"451 4.3.0 the mailbox of chris cannot be written: {folder}: No such file or directory [recipient]"
    )
    assert list(house.folder.iterdir()) == [folder]


async def test_an_earlier_attempt_that_cannot_be_removed_defers(house: House) -> None:
    await house.deliver(house.claim())
    claim = house.claim()
    left = house.mailbox().folder / "tmp" / make_name(claim.message, CHRIS, "gw1.home.test")
    left.mkdir()
    place = house.mailbox().folder
    words = f"451 4.3.0 the mailbox of chris cannot be written: {place}: Is a directory [recipient]"
    assert await reply_of(house, claim) == words
    left.rmdir()
    assert await house.deliver(claim) == DONE


async def test_content_that_cannot_be_read_defers_and_leaves_nothing(house: House) -> None:
    claim = house.claim([b"Subject: hello\r\n\r\n"])
    house.queued.clear()
    assert await reply_of(house, claim) == "451 4.3.0 the message cannot be read: 1 [message]"
    await house.deliver(house.claim())
    assert house.files() == [LINES_OF_CHRIS]


async def test_content_that_breaks_off_defers_and_leaves_nothing(house: House, tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        message = await accept(store, [CHRIS], content=b"Subject: hello\r\n\r\n" + b"x" * 600_000)

        async def read(number: int) -> AsyncIterator[bytes]:
            async for chunk in store.read(number):
                yield chunk
                raise QueueError("the disk failed")

        house.maildirs._read = read
        words = await reply_of(house, Claim(message))
    assert words.startswith("451 4.3.0 the message cannot be read: the disk failed")
    assert house.files() == []


async def test_a_defect_costs_an_attempt(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("oops")

    with monkeypatch.context() as patch:
        patch.setattr(maildir, "make_name", fail)
        words = await reply_of(house)
    assert words == "451 4.3.0 the relay met an internal error; it will try again [message]"
    assert "delivery of 1: ZeroDivisionError('oops')" in caplog.text
    assert await house.deliver(house.claim()) == DONE


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
async def test_a_folder_that_cannot_be_synced_is_no_delivery_unless_its_file_system_never_can(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    await house.deliver(house.claim())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        claim = house.claim()
        attempt = await house.deliver(claim)
        assert attempt is not None
        assert attempt.reply.is_positive == (number == errno.EINVAL)
    assert await house.deliver(house.claim(number=claim.message.number, attempt=2)) == DONE
    assert house.files() == [LINES_OF_CHRIS] * 2


# Whoever owns a Maildir


@pytest.mark.parametrize("part", ["tmp", "new", "cur"])
async def test_no_link_is_followed_within_a_maildir(house: House, part: str) -> None:
    await house.deliver(house.claim())
    elsewhere = house.folder / "elsewhere"
    elsewhere.mkdir()
    folder = house.mailbox().folder / part
    folder.rename(house.folder / "away")
    folder.symlink_to(elsewhere)
    assert f" cannot be written: {folder}: Not a directory; " in await reply_of(house)
    assert not list(elsewhere.iterdir())


async def test_no_link_is_followed_in_the_place_of_the_file(house: House) -> None:
    await house.deliver(house.claim())
    claim = house.claim()
    victim = house.folder / "victim"
    victim.write_bytes(b"precious")
    name = make_name(claim.message, CHRIS, "gw1.home.test")
    for part in ("tmp", "new"):
        (house.mailbox().folder / part / name).symlink_to(victim)
    assert await house.deliver(claim) == DONE
    assert victim.read_bytes() == b"precious"
    assert house.files() == [LINES_OF_CHRIS] * 2


async def test_a_link_of_the_machines_owner_is_followed(house: House) -> None:
    house.mailbox().folder.symlink_to(house.folder / "disk")
    (house.folder / "disk").mkdir()
    assert await house.deliver(house.claim()) == DONE
    assert house.files() == [LINES_OF_CHRIS]


@pytest.mark.needs_root
@pytest.mark.parametrize(("of_folder", "of_link"), [(NOBODY.pw_uid, 0), (0, NOBODY.pw_uid)])
async def test_a_link_that_a_user_may_have_made_is_not_followed(
    house: House, of_folder: int, of_link: int
) -> None:
    home = house.folder / "chris"
    home.mkdir()
    (home / "Maildir").symlink_to(house.folder)
    os.chown(home / "Maildir", of_link, of_link, follow_symlinks=False)
    os.chown(home, of_folder, of_folder)
    with pytest.raises(NotADirectoryError) as caught:
        write_message(Mailbox("chris", home / "Maildir" / "x"), "name", [b"x"], is_first=True)
    assert caught.value.filename == str(home / "Maildir")
    assert list(house.folder.iterdir()) == [home]


def owners(folder: Path) -> set[tuple[int, int]]:
    return {(path.lstat().st_uid, path.lstat().st_gid) for path in (folder, *folder.rglob("*"))}


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("user", "of_parent", "expected"),
    [
        ("nobody", (0, 0), (NOBODY.pw_uid, NOBODY.pw_gid)),
        ("no.such.account", (0, 0), (0, 0)),
        ("nobody", (5000, 5001), (5000, 5001)),
    ],
)
@pytest.mark.parametrize("mode", [0o755, 0o2775])
def test_as_root_a_mailbox_gets_the_owner_of_its_place_or_else_the_account_of_its_name(
    tmp_path: Path, user: str, of_parent: tuple[int, int], expected: tuple[int, int], mode: int
) -> None:
    os.chown(tmp_path, *of_parent)
    tmp_path.chmod(mode)  # Debian's /var/mail hands its group on
    for attempt in range(2):
        write_message(Mailbox(user, tmp_path / user / "Maildir"), f"name{attempt}", [b"x"], is_first=True)
    assert owners(tmp_path / user) == {expected}


@pytest.mark.needs_root
def test_as_root_a_folder_that_was_not_handed_over_yet_is_finished(tmp_path: Path) -> None:
    os.chown(tmp_path, 5000, 5001)
    (tmp_path / "chris").mkdir(mode=0)
    write_message(Mailbox("chris", tmp_path / "chris"), "name", [b"x"], is_first=True)
    assert owners(tmp_path / "chris") == {(5000, 5001)}
    assert (tmp_path / "chris").stat().st_mode & 0o7777 == 0o700


# Many, large and slow


@pytest.mark.needs_root
def test_as_root_a_folder_that_is_not_the_relays_is_not_given_away(tmp_path: Path) -> None:
    theirs = tmp_path / "home"
    theirs.mkdir()
    os.chown(theirs, NOBODY.pw_uid, NOBODY.pw_gid)
    mailbox = Mailbox("eve", theirs / "Maildir")
    mailbox.folder.mkdir()
    (mailbox.folder / "secret").touch()
    mailbox.folder.chmod(0)  # as one that the relay has begun to make
    with pytest.raises(PermissionError):
        write_message(mailbox, "name", [b"x"], is_first=True)
    assert owners(mailbox.folder) == {(0, 0)}


async def test_large_content_never_lies_in_memory(house: House, tmp_path: Path) -> None:
    line = b"x" * 998 + b"\r\n"
    content = b"Subject: large\r\n\r\n" + line * 20_000
    asyncio.get_running_loop().set_debug(False)
    async with opened(tmp_path / "queue.db") as store:
        message = await accept(store, [CHRIS], content=content, header_size=16, size=len(content))
        del content
        house.maildirs._read = store.read
        tracemalloc.start()
        try:
            assert await house.deliver(Claim(message)) == DONE
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    [path] = (house.mailbox().folder / "new").iterdir()
    assert path.stat().st_size > 19_980_000
    assert peak < 3_000_000


async def test_a_few_are_written_at_once_and_many_wait(house: House) -> None:
    house.gate.clear()
    for _ in range(WRITERS):
        house.submit(house.claim([CONTENT]))
    assert house.maildirs.room() == BACKLOG
    for left in reversed(range(BACKLOG // 2, BACKLOG)):
        house.submit(house.claim())
        assert house.maildirs.room() in {left, 0}
    assert house.maildirs.room() == 0
    taken = [house.submit(house.claim()) for _ in range(2 * BACKLOG)]
    assert taken.count(True) == 2 * BACKLOG - BACKLOG // 2
    assert house.changes == 0
    house.gate.set()
    await until(lambda: len(house.reports) == WRITERS + 2 * BACKLOG)
    assert house.changes == 1
    assert house.maildirs.room() == BACKLOG
    assert {attempt for _, attempt in house.reports} == {DONE}


async def test_at_the_end_what_waits_is_given_back_and_what_has_begun_is_finished(house: House) -> None:
    house.gate.clear()
    for _ in range(WRITERS + 3):
        house.submit(house.claim([CONTENT]))
    closing = asyncio.create_task(house.maildirs.close(20))
    await until(lambda: len(house.reports) == 3)
    assert [attempt for _, attempt in house.reports] == [None] * 3
    assert not closing.done()
    house.gate.set()
    await closing
    assert [attempt for _, attempt in house.reports[3:]] == [DONE] * WRITERS
    assert house.files() == [LINES_OF_CHRIS] * WRITERS
    assert house.submit(house.claim())
    assert house.reports[-1] == (CHRIS, None)


async def test_what_takes_longer_than_the_grace_has_failed_and_leaves_nothing(house: House) -> None:
    await house.deliver(house.claim())
    house.gate.clear()
    house.submit(house.claim([CONTENT[:20], CONTENT[20:]]))
    await house.maildirs.close(0)
    words = Reply(451, "4.3.2", "the relay was stopped while it wrote the message")
    assert house.reports[-1][1] == Attempt(words, host="maildir", next_hop="maildir")
    house.gate.set()
    await until(lambda: "mailbox" not in {thread.name for thread in threading.enumerate()})
    assert house.files() == [LINES_OF_CHRIS]


# The child


def die_at(line: int, work: Callable[[], None]) -> bool:
    """Do some work in a process that is killed at a line of it; return False where it has fewer lines."""
    child = os.fork()
    if not child:
        sys.settrace(killer(line))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def killer(line: int) -> Callable[..., Any]:
    """Return a trace function that kills at a line, counted from 1 as the module's lines are run."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal count
        if frame.f_code.co_filename != maildir.__file__:
            return None
        count += event == "line"
        if count == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace


def kill_at_each_line(folder: Path) -> None:
    """Deliver, be killed and deliver again, for each line that runs; print how much each kill had left."""
    chunks = [b"Subject: large\n\n", b"x" * 20_000, b"y" * 20_000]
    for line in itertools.count(1):
        box = Mailbox("nobody", folder / str(line) / "box")
        if not die_at(line, lambda box=box: write_message(box, "name", chunks, is_first=True)):
            return
        print(look(box, b"".join(chunks)))
        if (box.folder / "new" / "name").exists() and line % 2:
            (box.folder / "new" / "name").rename(box.folder / "cur" / "name:2,S")
        write_message(box, "name", chunks, is_first=False)
        assert look(box, b"".join(chunks)) == "delivered", line
        assert owners(folder / str(line)) == {
            (NOBODY.pw_uid, NOBODY.pw_gid) if os.getuid() == 0 else (os.getuid(), os.getgid())
        }, line


def look(box: Mailbox, whole: bytes) -> str:
    """Return how far a delivery came."""
    files = {path.parent.name: path.read_bytes() for path in box.folder.glob("*/*")}
    if not files:
        return "nothing"
    [(part, content)] = files.items()
    if part == "tmp":
        return "written" if content == whole else "partial"
    assert content == whole
    return "delivered"


def deliver_as_nobody(folder: Path) -> None:
    """Print the reply to a delivery by somebody who may not write there."""
    if os.getuid() == 0:
        os.setuid(NOBODY.pw_uid)

    async def deliver() -> None:
        house = House(folder)
        attempt = await house.deliver(house.claim())
        print(attempt and attempt.reply)

    asyncio.run(deliver())


if __name__ == "__main__":
    place, *rest = sys.argv[1:]
    (deliver_as_nobody if rest else kill_at_each_line)(Path(place))
