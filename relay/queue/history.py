"""The history: messages found by what the owner knows of them, with every attempt.

A search goes through it in slices, newest first, so that none keeps the writer from other work for long. A
slice is one statement that gives one row: each row, and each call of a function in Python, could have to
wait for the event loop to let go of the interpreter.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from relay.mail.attempt import Attempt
from relay.mail.reply import Reply
from relay.queue import rows

LONGEST_TEXT = 1000
"""Characters of what can be searched for; nothing that is kept of a message is longer."""
SLICE = 2000
"""Messages that are looked at in one transaction."""

_SEARCH = """
    SELECT min(number), json_group_array(number) FILTER (WHERE
        message_id IN (:text, :bracketed)
        OR CAST(subject AS TEXT) GLOB CAST(:part AS TEXT)
        OR CAST(reverse_path AS TEXT) GLOB CAST(:address AS TEXT)
        OR (given_reverse_path <> x'' AND CAST(given_reverse_path AS TEXT) GLOB CAST(:address AS TEXT))
        OR EXISTS (
            SELECT 1 FROM recipient WHERE message = number AND (
                CAST(address AS TEXT) GLOB CAST(:address AS TEXT)
                OR (original <> x'' AND CAST(original AS TEXT) GLOB CAST(:address AS TEXT)))))
    FROM (
        SELECT number, message_id, subject, reverse_path, given_reverse_path FROM message
        WHERE number < :before ORDER BY number DESC LIMIT :slice)
"""


@dataclass(frozen=True, slots=True)
class Tried:
    """An attempt and when it was over."""

    at: float
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of a message."""

    entry: rows.Entry
    attempts: tuple[tuple[Tried, ...], ...]
    """Those for each recipient, oldest first."""


def search(db: sqlite3.Connection, text: str, before: int) -> tuple[list[int], int | None]:
    """Return which of the next messages with numbers below ``before`` match, newest first.

    A message matches that has ``text`` as its Message-ID, as an address of its sender or of a recipient, as
    given or rewritten (``@domain``: one in that domain; ``<>``: no sender), or as a part of its subject; but
    for the Message-ID in any case. The other number is where to go on, None at the end.
    """
    bare = text.removeprefix("<").removesuffix(">")
    parameters = {
        "text": rows.pack(text),
        "bracketed": rows.pack(f"<{text}>"),
        "part": rows.pack(f"*{_in_any_case(text)}*"),
        "address": rows.pack(("*" if bare.startswith("@") else "") + _in_any_case(bare)),
        "before": before,
        "slice": SLICE,
    }
    lowest, numbers = db.execute(_SEARCH, parameters).fetchone()
    return sorted(json.loads(numbers), reverse=True), lowest


def select_trace(db: sqlite3.Connection, number: int) -> Trace | None:
    """Return a message with all its attempts."""
    entry = rows.select_entry(db, number)
    if entry is None:
        return None
    earlier = db.execute(
        "SELECT idx, attempted_at, next_hop, code, enhanced, text, host, command, is_remote "
        "FROM attempt WHERE message = ? ORDER BY idx, attempted_at",
        (number,),
    ).fetchall()
    attempts: dict[int, list[Tried]] = {}
    for idx, at, next_hop, code, enhanced, words, host, command, is_remote in earlier:
        attempt = Attempt(
            Reply(code, enhanced, rows.unpack(words)),
            host=rows.unpack(host),
            command=command,
            is_remote=bool(is_remote),
            next_hop=rows.unpack(next_hop),
        )
        attempts.setdefault(idx, []).append(Tried(at, attempt))
    return Trace(
        entry,
        tuple((*attempts.get(r.recipient.index, ()), *_last(r)) for r in entry.recipients),
    )


def oldest(db: sqlite3.Connection) -> float | None:
    """Return when the oldest message that is known came in; None where there is none."""
    row: tuple[float] | None = db.execute(
        "SELECT received_at FROM message ORDER BY number LIMIT 1"
    ).fetchone()
    return None if row is None else row[0]


def _last(recipient: rows.QueuedRecipient) -> Iterator[Tried]:
    if recipient.attempted_at is not None and recipient.attempt is not None:
        yield Tried(recipient.attempted_at, recipient.attempt)


def _in_any_case(text: str) -> str:
    """Return a pattern of GLOB for a text; SQLite's own folding knows no letters beyond ASCII."""
    return "".join(map(_glob, text))


def _glob(character: str) -> str:
    cases = {case for case in (character.lower(), character.upper()) if len(case) == 1}
    return f"[{''.join(sorted(cases))}]" if len(cases) > 1 or character in "*?[" else character
