"""What the owner looks at and acts on: messages by number, sender and recipient."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from relay.mail.attempt import State
from relay.queue import rows
from relay.queue.recording import finish

_LIST = """
    SELECT number FROM message
    WHERE number > :after AND finished_at IS NULL
        AND (:numbers IS NULL OR number IN (SELECT value FROM json_each(:numbers)))
        AND (:sender IS NULL OR matches(reverse_path, :sender))
        AND (:recipient IS NULL OR EXISTS (
            SELECT 1 FROM recipient WHERE message = number AND matches(address, :recipient)))
    ORDER BY number LIMIT :limit
"""
_SELECT = """
    SELECT message, idx FROM message JOIN recipient ON message = number
    WHERE finished_at IS NULL AND state IN (SELECT value FROM json_each(:states))
        AND (:numbers IS NULL OR number IN (SELECT value FROM json_each(:numbers)))
        AND (:sender IS NULL OR matches(reverse_path, :sender))
        AND (:recipient IS NULL OR matches(address, :recipient))
"""
_WAITING = (State.QUEUED, State.DEFERRED)


@dataclass(frozen=True, slots=True)
class Selection:
    """Recipients of unfinished messages that fulfil all that is given; all of them where nothing is."""

    numbers: frozenset[int] | None = None
    sender: str | None = None
    """An address or @domain, any case; "" for the null reverse-path."""
    recipient: str | None = None
    """An address or @domain, any case."""

    def parameters(self) -> dict[str, object]:
        """Return the values of the statements' parameters."""
        return {
            "numbers": None if self.numbers is None else json.dumps(sorted(self.numbers)),
            "sender": None if self.sender is None else rows.pack(self.sender),
            "recipient": None if self.recipient is None else rows.pack(self.recipient),
        }


def matches(address: bytes, pattern: bytes) -> bool:
    """Whether an address is the one of the pattern, or in its @domain; a function of the database."""
    folded, wanted = rows.unpack(address).casefold(), rows.unpack(pattern).casefold()
    return folded == wanted or (wanted.startswith("@") and folded.endswith(wanted))


def select_entries(db: sqlite3.Connection, after: int, limit: int, selection: Selection) -> list[rows.Entry]:
    """Return unfinished messages with numbers above ``after``, in their order."""
    parameters = {"after": after, "limit": limit, **selection.parameters()}
    entries = [rows.select_entry(db, number) for (number,) in db.execute(_LIST, parameters).fetchall()]
    return [entry for entry in entries if entry is not None]


def count(db: sqlite3.Connection) -> dict[State, int]:
    """Return how many recipients of unfinished messages are in each state."""
    counted = db.execute(
        "SELECT state, count(*) FROM message JOIN recipient ON message = number "
        "WHERE finished_at IS NULL GROUP BY state"
    )
    return {State(state): number for state, number in counted}


def size(db: sqlite3.Connection) -> tuple[int, float | None]:
    """Return how many messages are unfinished, and when the oldest of them was received."""
    number, oldest = db.execute(
        "SELECT count(*), min(received_at) FROM message WHERE finished_at IS NULL"
    ).fetchone()
    return number, oldest


def hold(db: sqlite3.Connection, selection: Selection) -> int:
    """Attempt recipients no more until they are released; returns how many messages are concerned."""
    chosen = _select(db, selection, _WAITING)
    db.executemany("UPDATE recipient SET state = 'held' WHERE message = ? AND idx = ?", chosen)
    return _messages(chosen)


def release(db: sqlite3.Connection, selection: Selection, now: float) -> int:
    """Let held recipients be attempted, at once."""
    return _queue(db, now, _select(db, selection, [State.HELD]))


def retry(db: sqlite3.Connection, selection: Selection, now: float) -> int:
    """Let waiting recipients be attempted at once."""
    return _queue(db, now, _select(db, selection, _WAITING))


def delete(db: sqlite3.Connection, selection: Selection, now: float) -> tuple[int, list[int]]:
    """Forget recipients that wait or are held, and the messages that were for nobody else.

    Return how many messages are concerned, and those that need their content no more.
    """
    chosen = _select(db, selection, [*_WAITING, State.HELD])
    db.executemany("DELETE FROM recipient WHERE message = ? AND idx = ?", chosen)
    numbers = {number for number, _ in chosen}
    finish(db, now, numbers)
    db.executemany(
        "DELETE FROM message "
        "WHERE number = ? AND NOT EXISTS (SELECT 1 FROM recipient WHERE message = number)",
        [(number,) for number in numbers],
    )
    return len(numbers), [number for number in numbers if not rows.is_unfinished(db, number)]


def bring_forward(db: sqlite3.Connection, after: float, now: float) -> int:
    """Make due now what is booked for later than ``after``; returns how many recipients.

    What was received later than now was so by the wrong clock: it counts as received now.
    """
    db.execute("UPDATE message SET received_at = ? WHERE finished_at IS NULL AND received_at > ?", (now, now))
    return db.execute(
        "UPDATE recipient SET next_attempt_at = ? "
        "WHERE state IN ('queued', 'deferred') AND next_attempt_at > ?",
        (now, after),
    ).rowcount


def rejuvenate(db: sqlite3.Connection, before: float, jump: float) -> int:
    """Let messages received before a time be so many seconds younger; returns how many."""
    return db.execute(
        "UPDATE message SET received_at = received_at + ? WHERE finished_at IS NULL AND received_at <= ?",
        (jump, before),
    ).rowcount


def _select(db: sqlite3.Connection, selection: Selection, states: Iterable[State]) -> list[tuple[int, int]]:
    parameters = {"states": json.dumps(list(states)), **selection.parameters()}
    return db.execute(_SELECT, parameters).fetchall()


def _queue(db: sqlite3.Connection, now: float, chosen: list[tuple[int, int]]) -> int:
    db.executemany(
        "UPDATE recipient SET state = 'queued', next_attempt_at = ? WHERE message = ? AND idx = ?",
        [(now, number, index) for number, index in chosen],
    )
    return _messages(chosen)


def _messages(chosen: list[tuple[int, int]]) -> int:
    return len({number for number, _ in chosen})
