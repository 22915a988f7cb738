"""How a queue is, as alerts see it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from relay import lookout
from relay.lookout import look
from relay.mail.attempt import State
from relay.mail.envelope import Recipient
from relay.oauth.tokens import Tokens
from relay.queue import condition
from relay.queue.errors import QueueError
from relay.queue.store import Store
from tests.support.queue import ISP, accept, deferred, opened, outcome

NO_TOKENS = Tokens({})


async def test_the_oldest_message_that_waits_for_each_next_hop(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        assert (await store.examine(0)).oldest == {}
        now = time.time()
        first, second, sent = [await accept(store, now=now - age) for age in (300, 200, 100)]
        await accept(store, now=now, is_held=True)
        await store.record([deferred(first, ISP, now + 900), deferred(second, ISP, now + 900)])
        await store.record([outcome(sent, State.DELIVERED)])
        fresh = await accept(store, now=now)
        seen = await store.examine(0)
        assert seen.oldest == {ISP: first.number, "": fresh.number}
        assert (await store.examine(first.number)).oldest == {ISP: second.number, "": fresh.number}
        disk = os.statvfs(tmp_path)
        assert seen.size == disk.f_blocks * disk.f_frsize
        assert 0 < seen.free <= seen.size


async def test_what_was_last_said_of_the_oldest_that_should_leave(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        assert (await look(store, NO_TOKENS, 0)).waiting is None
        now = time.time()
        home = await accept(store, now=now - 500)
        await store.record([deferred(home, "maildir", now + 900)])
        assert (await look(store, NO_TOKENS, 0)).waiting is None
        both = [Recipient("done@x.test"), Recipient("late@x.test", index=1)]
        mail = await accept(store, both, now=now - 400)
        assert (await look(store, NO_TOKENS, 0)).waiting == ""
        await store.record([outcome(mail, State.DELIVERED, 0), deferred(mail, ISP, now + 900, 1)])
        facts = await look(store, NO_TOKENS, 0)
        assert facts.waiting == "host mx[1.2.3.4] said: 451 4.3.0 try later (in reply to DATA command)"
        assert facts.free > 0
        assert (await look(store, NO_TOKENS, mail.number)).waiting is None


async def test_a_queue_that_fails_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "queue.db") as store:
        pass
    assert (await look(store, NO_TOKENS, 0)).queue_problem == f"the queue {store.path} is closed"

    async def hang(self: Store, after: int) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Store, "examine", hang)
    monkeypatch.setattr(lookout, "QUEUE_SECONDS", 0.01)
    assert "does not answer" in (await look(store, NO_TOKENS, 0)).queue_problem


@pytest.mark.needs_root
def test_a_disk_that_is_mounted_read_only_is_told(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        with pytest.raises(QueueError, match=r"can't be written: its disk is mounted read-only"):
            condition.examine(sqlite3.connect(":memory:"), tmp_path / "queue.db", 0)
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
