"""Recording what attempts came to, and finishing messages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from relay.mail.attempt import Failed, Outcome, State
from relay.mail.dsn import Report
from relay.mail.envelope import Message
from relay.queue import rows

# Who still waits after an attempt stays held; what is final stays, but delivered mail counts as delivered.
# The attempt before it goes to the history (the trigger keep_attempt).
_RECORD = """
    UPDATE recipient SET
        state = iif(state = 'held' AND :state IN ('queued', 'deferred'), 'held', :state),
        next_attempt_at = :next_attempt_at, next_hop = :next_hop, attempted_at = :attempted_at,
        code = :code, enhanced = :enhanced, text = :text, scope = :scope, host = :host, command = :command,
        is_remote = :is_remote, is_possible_duplicate = :is_possible_duplicate, passes_dsn = :passes_dsn
    WHERE message = :message AND idx = :idx
        AND (state IN ('queued', 'deferred', 'held') OR :state = 'delivered')
"""
_FINISH = """
    UPDATE message SET finished_at = ?, content = NULL
    WHERE number = ? AND finished_at IS NULL AND NOT EXISTS (
        SELECT 1 FROM recipient WHERE message = number AND (
            state IN ('queued', 'deferred', 'held') OR (state IN ('bounced', 'expired') AND is_reported = 0)))
"""


@dataclass(frozen=True, slots=True)
class Unreported:
    """A message with failures that its sender was not told of."""

    message: Message
    """Its envelope holds just the recipients that failed."""
    failed: tuple[Failed, ...]


def record(
    db: sqlite3.Connection,
    now: float,
    outcomes: Sequence[Outcome],
    reports: Iterable[Report],
    reported: Sequence[tuple[int, int]],
    warned: Iterable[int],
) -> list[int]:
    """Write outcomes and the reports that they cause; return the messages that are finished thereby."""
    db.executemany(_RECORD, [_values(outcome, now) for outcome in outcomes])
    if reported:
        db.executemany("UPDATE recipient SET is_reported = 1 WHERE message = ? AND idx = ?", reported)
    for number in warned:
        db.execute("UPDATE message SET is_warned = 1 WHERE number = ?", (number,))
    for report in reports:
        rows.insert_message(db, report.message, report.content, retry_at=None, is_held=False)
    return finish(db, now, {outcome.number for outcome in outcomes}.union(number for number, _ in reported))


def give_back(db: sqlite3.Connection, now: float, number: int, indexes: Iterable[int]) -> None:
    """Undo a claim: the recipients were not attempted, and are due again."""
    db.executemany(
        "UPDATE recipient SET attempts = max(0, attempts - 1), next_attempt_at = ? "
        "WHERE message = ? AND idx = ? AND state IN ('queued', 'deferred')",
        [(now, number, index) for index in indexes],
    )


def finish(db: sqlite3.Connection, now: float, numbers: Iterable[int]) -> list[int]:
    """Close those of the messages that need nothing more, forget their content, and return their numbers."""
    return [number for number in numbers if db.execute(_FINISH, (now, number)).rowcount]


def select_failures(db: sqlite3.Connection, number: int) -> tuple[Failed, ...]:
    """Return the failed recipients of a message that were not reported yet."""
    entry = rows.select_entry(db, number)
    return () if entry is None else _unreported(entry).failed


def select_unreported(db: sqlite3.Connection, excluded: Iterable[int]) -> list[Unreported]:
    """Return all failures that were not reported yet, but for those of the excluded messages."""
    numbers = {
        number
        for (number,) in db.execute(
            "SELECT message FROM recipient WHERE is_reported = 0 AND state IN ('bounced', 'expired')"
        )
    }
    entries = [rows.select_entry(db, number) for number in sorted(numbers.difference(excluded))]
    return [_unreported(entry) for entry in entries if entry is not None]


def purge(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Delete messages that were finished before a time, at most ``limit`` of them, and return how many."""
    # Numbers tell the time of arrival (Store.new_number): the bound spares looking at all of the history.
    return db.execute(
        "DELETE FROM message WHERE number IN "
        "(SELECT number FROM message WHERE number < ? AND finished_at < ? ORDER BY number LIMIT ?)",
        (int(before * 1e6), before, limit),
    ).rowcount


def _unreported(entry: rows.Entry) -> Unreported:
    failed = tuple(
        Failed(recipient.recipient, recipient.attempt)
        for recipient in entry.recipients
        if recipient.state in {State.BOUNCED, State.EXPIRED}
        and not recipient.is_reported
        and recipient.attempt
    )
    return Unreported(rows.narrow(entry.message, [failure.recipient for failure in failed]), failed)


def _values(outcome: Outcome, now: float) -> dict[str, object]:
    attempt = outcome.attempt
    return {
        "message": outcome.number,
        "idx": outcome.index,
        "state": outcome.state.value,
        "next_attempt_at": outcome.next_attempt_at,
        "attempted_at": now if outcome.was_tried else None,
        "next_hop": rows.pack(attempt.next_hop),
        "code": attempt.reply.code,
        "enhanced": attempt.reply.enhanced,
        "text": rows.pack(attempt.reply.text),
        "scope": attempt.scope.value,
        "host": rows.pack(attempt.host),
        "command": attempt.command,
        "is_remote": attempt.is_remote,
        "is_possible_duplicate": attempt.is_possible_duplicate,
        "passes_dsn": attempt.passes_dsn,
    }
