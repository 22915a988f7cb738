"""A queue of the first version of the tables, and a relay that is killed while it brings it forward."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from relay.queue import schema
from tests.torture.kill_stage import Stage

FIRST_NUMBER = 1_000_000
CHUNK = 65_536


def fill_old_queue(stage: Stage) -> None:
    """Make the queue: letters of 1 kB to 2 MB, all due, their contents in chunks."""
    db = sqlite3.connect(stage.folder / "queue.db")
    db.executescript(f"PRAGMA journal_mode = WAL; {schema.MIGRATIONS[0]}; PRAGMA user_version = 1")
    for number in range(FIRST_NUMBER, FIRST_NUMBER + 5):
        sender, content = stage.load.write(["a@sink.test"])
        stage.load.note(sender, f"250 2.0.0 Ok: queued as {number:X}")
        trace = b"Received: from load (load [127.0.0.1])\r\n\tby gw1.maison.mrs (relay) with ESMTP "
        content = trace + b"id %X;\r\n\tMon, 22 May 2000 20:27:59 +0200\r\n" % number + content
        db.execute(
            "INSERT INTO message (number, reverse_path, given_reverse_path, ret, envid, is_8bitmime,"
            " is_smtputf8, size, header_size, body_is_8bit, received_at, client, is_report)"
            " VALUES (?, ?, x'', '', x'', 0, 0, ?, ?, 0, unixepoch(), x'', 0)",
            (number, sender.encode(), len(content), content.index(b"\r\n\r\n") + 2),
        )
        db.execute(
            "INSERT INTO recipient (message, idx, address, original, orcpt, notify, state, attempts,"
            " next_attempt_at) VALUES (?, 0, ?, x'', x'', '', 'queued', 0, unixepoch())",
            (number, b"a@sink.test"),
        )
        parts = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
        db.executemany(
            "INSERT INTO content VALUES (?, ?, ?)", [(number, seq, part) for seq, part in enumerate(parts)]
        )
    db.commit()
    db.close()


async def start_and_be_killed(stage: Stage, call: str, at: int) -> bool:
    """Start a relay that is killed at a system call; return whether it was not, but answers."""
    relay, survives = stage.prepare_for_call(call, at), False
    with suppress(AssertionError):  # it may die before it answers
        await relay.start()
        survives = True
    await stage.ended()
    return survives
