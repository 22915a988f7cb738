"""A disk that is full, fails, is read-only, slow or damaged: nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from relay.queue.control import request
from relay.queue.incoming import SMALL_SIZE
from tests.torture.conftest import Figure
from tests.torture.disk_damage import (
    CONTENT_DAMAGES,
    DAMAGES,
    IN_THE_LOG,
    LETTERS,
    OFTEN,
    Damaged,
    Fate,
    damage_pages,
    make_relay,
)
from tests.torture.disk_trouble import fill, house, small_disk, trouble
from tests.torture.kill_letters import SESSIONS
from tests.torture.kill_sink import Mood, Sink

STOP_SECONDS = 8.0


FAILURES = {
    "sync": ("fdatasync:error=EIO", "451", "disk .* failed"),
    "write": ("pwrite64:error=EIO", "451", "disk .* failed"),
    "write, read-only": ("pwrite64:error=EROFS", "451", "disk .* failed"),
    "write, full": ("pwrite64:error=ENOSPC", "452", "no room on the disk"),
}


@pytest.mark.needs("strace")
@pytest.mark.needs_root
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_disk_that_fails_costs_nothing_but_time(
    tmp_path: Path, failure: str, is_whole: bool, figure: Figure
) -> None:
    """Before, during and after: what is promised arrives once; what is refused is so at once, and gone."""
    if not (is_whole or failure in {"sync", "write, full"}):
        pytest.skip("part of the long form")
    injection, code, words = FAILURES[failure]
    async with house(tmp_path, mood=Mood.DOWN) as home:
        assert (await home.send()) == {"250": SESSIONS}
        async with trouble(home.relay, injection):
            refused = await home.send()
            assert refused == {code: SESSIONS}
            await home.serves()
            await home.relay.logged(words)
        assert (await home.send()) == {"250": SESSIONS}
        home.sink.mood = Mood.UP
        await home.empty()
    home.check()
    figure("disk", f"{failure}: refused with {code}", SESSIONS)


@pytest.mark.needs("strace")
@pytest.mark.needs_root
async def test_an_outcome_that_finds_the_disk_broken_is_not_forgotten(tmp_path: Path) -> None:
    async with house(tmp_path, mood=Mood.GATE) as home:
        assert (await home.send()) == {"250": SESSIONS}
        await home.taken()
        async with trouble(home.relay, "fdatasync:error=EIO"):
            home.sink.gate.set()
            await home.relay.logged("outcome not recorded yet: .*failed")
        await home.empty()
    home.check()


@pytest.mark.needs("strace")
@pytest.mark.needs_root
async def test_a_slow_disk_keeps_nobody_waiting_but_who_needs_it(tmp_path: Path, figure: Figure) -> None:
    async with house(tmp_path, mood=Mood.DOWN) as home:
        async with trouble(home.relay, "fdatasync:delay_exit=500000") as record:
            sending = asyncio.create_task(home.send())
            served = 0
            while not sending.done():
                await home.serves()
                served += 1
            assert await sending == {"250": SESSIONS}
        syncs = record.read_text().count("(DELAYED)")
        home.sink.mood = Mood.UP
        await home.empty()
    home.check()
    assert served > 1, "sessions waited for the disk, though they needed nothing of it"
    assert 0 < syncs < SESSIONS, "each message had a sync of its own"
    figure("disk", "slow: sessions served while twenty waited", served)
    figure("disk", "slow: syncs for twenty messages", syncs)


@pytest.mark.needs("strace")
@pytest.mark.needs_root
async def test_a_stop_is_in_time_on_a_slow_disk(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    """Nothing is lost; what was taken meanwhile may come twice, where its outcome found no time."""
    if not is_whole:
        pytest.skip("part of the long form")
    async with house(tmp_path) as home:
        async with trouble(home.relay, "fdatasync:delay_exit=1000000"):
            sending = asyncio.create_task(home.send_until_the_end())
            await home.taken()
            began_at = time.monotonic()
            assert await home.relay.stop() == 0
            seconds = time.monotonic() - began_at
            await sending
        await home.relay.start()
        await home.empty()
    copies = home.copies()
    assert home.load.promised <= copies.keys()
    figure("disk", "slow: stop, seconds", round(seconds, 1))
    figure("disk", "slow: repeats after the stop", sum(copies.values()) - len(copies))
    assert seconds < STOP_SECONDS


@pytest.mark.needs("strace")
@pytest.mark.needs_root
async def test_a_retry_that_is_due_before_the_commit_is_over_sends_no_second_copy(tmp_path: Path) -> None:
    """The commits take longer than that, and mail for a dead next hop has the queue asked all the time."""
    async with house(tmp_path, retry="1s") as home:
        for user in "abcdefgh":
            assert (await home.relay.send(b"\r\n", f"{user}@dead.test")).startswith("250 ")
        await home.relay.logged("status=deferred", 8)
        async with trouble(home.relay, "fdatasync:delay_exit=1500000"):
            assert await home.send() == {"250": SESSIONS}
        await home.relay.logged(": removed", SESSIONS)
    home.check()


@pytest.mark.needs_root
async def test_a_full_disk_drains_by_its_reserve_and_recovers(
    tmp_path: Path, is_whole: bool, figure: Figure
) -> None:
    with small_disk(tmp_path, "64m") as disk:
        reserve = disk / "queue.db.reserve"
        async with house(tmp_path, disk, mood=Mood.DOWN) as home:
            others = fill(disk, "files of others", 30_000_000 if is_whole else 7_000_000)
            accepted = await home.send_until_refused()
            await home.settled()
            ballast = fill(disk, "ballast")
            assert reserve.exists()
            await home.serves()
            assert await home.send() == {"452": SESSIONS}
            await home.relay.kill()
            await home.relay.start()
            assert await home.send() == {"452": SESSIONS}
            await home.relay.stop()  # its log is gone now, and has no room to grow again
            more = fill(disk, "more")
            home.sink.mood = Mood.UP
            await home.relay.start()
            await home.empty()
            assert not reserve.exists()
            home.check()
            for file in (others, ballast, more):
                file.unlink()
            assert await home.send() == {"250": SESSIONS}
            assert reserve.exists()
            await home.empty()
        home.check()
    figure("disk", "full: messages accepted before, all delivered from the full disk", accepted)


@pytest.mark.needs_root
async def test_without_a_reserve_a_full_disk_keeps_its_mail_until_there_is_room(tmp_path: Path) -> None:
    """SQLite needs room to delete: hence the reserve. Nothing is lost or repeated without it."""
    with small_disk(tmp_path, "64m") as disk:
        async with house(tmp_path, disk, mood=Mood.GATE) as home:
            fill(disk, "files of others", 7_000_000)
            await home.send_until_refused()
            await home.taken()
            (disk / "queue.db.reserve").unlink()
            ballast = fill(disk, "ballast")
            home.sink.gate.set()
            await home.relay.logged("no room on the disk")
            assert home.ask("list", limit=1)["messages"]
            ballast.unlink()
            await home.empty()
        home.check()


@pytest.mark.needs_root
async def test_a_disk_that_is_read_only_at_the_start_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path, "8m") as disk:
        async with house(tmp_path, disk) as home:
            pass
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        refused = await home.relay.command("serve")
        assert refused.status == 1
        assert refused.err == (
            f"relay: the queue {disk}/queue.db can't be opened (Read-only file system): "
            f"see that this user may write its folder (this user: {os.geteuid()})\n"
        )


@pytest.mark.needs("strace")
@pytest.mark.needs_root
async def test_a_disk_that_fails_for_large_contents_refuses_just_them(tmp_path: Path) -> None:
    with small_disk(tmp_path, "64m", "queue.db.content") as disk:
        async with house(tmp_path, mood=Mood.DOWN) as home:
            ballast = fill(disk, "ballast")
            assert set(await home.send()) == {"250", "452"}
            ballast.unlink()
            assert await home.send() == {"250": SESSIONS}
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            assert set(await home.send()) == {"250", "451"}
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            async with trouble(home.relay, "fsync:error=EIO", file=disk):
                assert set(await home.send()) == {"250", "451"}
            assert await home.send() == {"250": SESSIONS}
            home.sink.mood = Mood.UP
            await home.empty()
            assert not list(disk.iterdir())
        home.check()


@pytest.mark.needs("strace")
@pytest.mark.needs_root
@pytest.mark.parametrize("is_late", [True, False])
async def test_a_kill_after_a_sync_that_failed_loses_nothing(tmp_path: Path, is_late: bool) -> None:
    """What was refused then may be in the queue all the same: nobody knows whether it is on the disk."""
    async with house(tmp_path, mood=Mood.DOWN) as home:
        assert (await home.send()) == {"250": SESSIONS}
        async with trouble(home.relay, "fdatasync:error=EIO"):
            assert (await home.send()) == {"451": SESSIONS}
            assert (await home.send_one(300_000)).startswith("451 ")
        if is_late:
            assert (await home.send_one(1000)).startswith("250 ")
        await home.relay.kill()
        await home.relay.start()
        files = {path.name for path in home.contents.iterdir()}
        assert {entry["id"] for entry in await home.relay.queue() if entry["size"] > SMALL_SIZE} == files
        home.sink.mood = Mood.UP
        await home.empty()
    copies = home.copies()
    assert home.load.promised <= copies.keys()
    assert set(copies.values()) == {1}


@pytest.mark.needs("strace")
@pytest.mark.needs_root
async def test_a_large_content_that_cannot_be_read_waits(tmp_path: Path) -> None:
    async with house(tmp_path, mood=Mood.DOWN) as home:
        assert (await home.send_one(300_000)).startswith("250 ")
        await home.relay.logged("status=deferred")
        [file] = home.contents.iterdir()
        home.sink.mood = Mood.UP
        async with trouble(home.relay, "read:error=EIO", file=file):
            home.ask("retry")
            await home.relay.logged(
                r"status=deferred \(the message cannot be read: the queue's files .*Input/output error"
            )
        assert not home.sink.transfers
        await home.empty()
    home.check()


async def test_damaged_files_of_large_contents_are_told_and_not_sent(tmp_path: Path, figure: Figure) -> None:
    """All others arrive; once the right files are back, these do too, whole."""
    queue = await Damaged.make(tmp_path / "queue", killed=True, sizes=(140_000, 400_000))
    folder = queue.folder / "queue.db.content"
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    assert len(whole) == LETTERS
    damaged = dict(zip(whole, CONTENT_DAMAGES.values(), strict=False))
    for path, (do, _) in damaged.items():
        do(path)
    async with Sink(random.Random(1), Mood.UP) as sink:
        async with make_relay(queue.folder, sink) as relay:
            await relay.command("queue", "retry", "--all")
            for path, (_, words) in damaged.items():
                await relay.logged(rf"{path.name}: .*status=deferred .*the message cannot be read: .*{words}")
                shown = request(relay.queue_path, {"command": "show", "id": path.name})
                assert shown["message"]["header"] == ""
            await relay.logged(": removed", LETTERS - len(damaged))
            assert {entry["id"] for entry in await relay.queue()} == {path.name for path in damaged}
        assert not {transfer.queue_id for transfer in sink.transfers} & {path.name for path in damaged}
        for path in damaged:
            if path.is_dir():
                path.rmdir()
            path.unlink(missing_ok=True)
            path.write_bytes(whole[path])
        async with make_relay(queue.folder, sink) as relay:
            await relay.command("queue", "retry", "--all")
            await relay.logged(": removed", len(damaged))
    assert Counter((transfer.sender, transfer.digest) for transfer in sink.transfers) == Counter(
        (sender, letter.digest) for sender, letter in queue.load.letters.items()
    )
    figure("disk", "damage to large contents: told, nothing sent", len(damaged))


async def test_a_damaged_queue_is_refused_or_read(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    stopped = await Damaged.make(tmp_path / "stopped", killed=False)
    killed = await Damaged.make(tmp_path / "killed", killed=True)
    for name, damage in DAMAGES.items():
        if is_whole or name in OFTEN:
            queue = (killed if damage.is_in_log else stopped).copy(tmp_path / name)
            damage.do(queue)
            fate = await queue.try_out()
            figure("disk", f"damage: {name}", fate.value)
            assert fate is damage.fate, name


@pytest.mark.parametrize("name", IN_THE_LOG)
async def test_a_damaged_log_is_not_taken_for_a_short_one(tmp_path: Path, name: str, is_whole: bool) -> None:
    if not (is_whole or "middle" in name):
        pytest.skip("part of the long form")
    queue = await Damaged.make(tmp_path / "queue", killed=True)
    IN_THE_LOG[name].do(queue)
    assert await queue.try_out() is IN_THE_LOG[name].fate


async def test_a_queue_with_any_page_overwritten(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    whole = await Damaged.make(tmp_path / "queue", killed=False)
    fates = dict.fromkeys(Fate, 0)
    for number, damaged in enumerate(damage_pages(whole, tmp_path, every=1 if is_whole else 16)):
        fate = await damaged.try_out()
        fates[fate] += 1
        assert fate is not Fate.LOST, f"damage {number}"
    for fate, count in fates.items():
        figure("disk", f"a page overwritten: {fate.value}", count)
