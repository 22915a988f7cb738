"""Handing out what is due, with the retry booked in the same transaction."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

from relay.mail.attempt import Claim, State
from relay.queue import rows
from relay.queue.incoming import SMALL_SIZE

MOST_CONTENT = 4 * 1024 * 1024
"""Bytes of content that are handed out with messages; delivery reads the rest when it comes to it."""

Retry = Callable[[int, float, int], float]
"""(attempt number, now, message number) -> epoch second of the next attempt."""

# One step per next hop, whatever waits for it: a loose index scan over ``due``.
NEXT_HOPS = """
    WITH RECURSIVE hop (name) AS (
        SELECT min(next_hop) FROM recipient WHERE state IN ('queued', 'deferred')
        UNION ALL
        SELECT (SELECT min(next_hop) FROM recipient WHERE state IN ('queued', 'deferred') AND next_hop > name)
        FROM hop WHERE name IS NOT NULL
    )
    SELECT name, (
        SELECT min(next_attempt_at) FROM recipient WHERE state IN ('queued', 'deferred') AND next_hop = name)
    FROM hop WHERE name IS NOT NULL
"""
DUE_OF_NEXT_HOP = """
    SELECT next_attempt_at, message FROM recipient
    WHERE state IN ('queued', 'deferred') AND next_hop = ? AND next_attempt_at <= ?
    ORDER BY next_attempt_at
"""
# The two bounds are those of messages that were not yet warned about, and of those that were.
OLD = """
    SELECT number FROM message
    WHERE finished_at IS NULL AND is_warned = 0 AND received_at < :unwarned_before AND EXISTS (
        SELECT 1 FROM recipient
        WHERE message = number AND state IN ('queued', 'deferred') AND next_attempt_at <= :now)
    UNION ALL
    SELECT number FROM message
    WHERE finished_at IS NULL AND is_warned = 1 AND received_at < :overdue_before AND EXISTS (
        SELECT 1 FROM recipient
        WHERE message = number AND state IN ('queued', 'deferred') AND next_attempt_at <= :now)
"""


def claim(
    db: sqlite3.Connection,
    retry: Retry,
    now: float,
    limit: int,
    *,
    caps: Mapping[str, int],
    in_flight: Collection[int],
    overdue_before: float,
    late_before: float,
) -> list[Claim]:
    """Return what is to be tried now: what is old, regardless of caps, then what is due; earliest first."""
    bounds = {
        "now": now,
        "overdue_before": overdue_before,
        "unwarned_before": max(late_before, overdue_before),
    }
    candidates = (number for (number,) in db.execute(OLD, bounds) if number not in in_flight)
    old = list(islice(candidates, max(0, limit)))
    due = _select_due(db, now, limit - len(old), caps, {*in_flight, *old})
    closed = {next_hop for next_hop, cap in caps.items() if cap <= 0}
    claims = [_book(db, retry, now, number, set()) for number in old]
    claims += [_book(db, retry, now, number, closed) for number in due]
    return list(_add_contents(db, claims))


def next_due_at(db: sqlite3.Connection, caps: Mapping[str, int]) -> float | None:
    """Return when the next recipient is due whose next hop has room."""
    moments = [due_at for next_hop, due_at in db.execute(NEXT_HOPS) if caps.get(rows.unpack(next_hop), 1) > 0]
    return min(moments, default=None)


def _select_due(
    db: sqlite3.Connection, now: float, limit: int, caps: Mapping[str, int], excluded: Collection[int]
) -> list[int]:
    """Return the numbers of due messages, earliest first."""
    streams = [
        islice(_due_of(db, next_hop, now, excluded), cap)
        for next_hop, due_at in db.execute(NEXT_HOPS).fetchall()
        if due_at <= now and (cap := max(0, caps.get(rows.unpack(next_hop), limit)))
    ]
    numbers: dict[int, None] = {}
    for _, number in heapq.merge(*streams):
        if len(numbers) >= limit:
            break
        numbers[number] = None
    return list(numbers)


def _due_of(
    db: sqlite3.Connection, next_hop: bytes, now: float, excluded: Collection[int]
) -> Iterator[tuple[float, int]]:
    """Yield each due message of a next hop once, with the time since which it is due."""
    seen = set(excluded)
    for due_at, number in db.execute(DUE_OF_NEXT_HOP, (next_hop, now)):
        if number not in seen:
            seen.add(number)
            yield due_at, number


def _add_contents(db: sqlite3.Connection, claims: Iterable[Claim]) -> Iterator[Claim]:
    """Add the contents that are small, as long as they are not too many."""
    left = MOST_CONTENT
    for claim in claims:
        message = claim.message
        is_wanted = message.size <= min(left, SMALL_SIZE)
        content = rows.select_content(db, message.number) if is_wanted else None
        left -= len(content or b"")
        yield replace(claim, content=content)


def _book(db: sqlite3.Connection, retry: Retry, now: float, number: int, closed: Collection[str]) -> Claim:
    """Count the attempt, book the next one, and return the claim to the recipients that are due."""
    entry = rows.select_entry(db, number)
    assert entry is not None  # selected in this transaction
    due = [
        recipient
        for recipient in entry.recipients
        if recipient.state in {State.QUEUED, State.DEFERRED}
        and recipient.next_attempt_at <= now
        and recipient.next_hop not in closed
    ]
    attempt_number = 1 + max(recipient.attempts for recipient in due)
    retry_at = retry(attempt_number, now, number)
    db.executemany(
        "UPDATE recipient SET attempts = attempts + 1, next_attempt_at = ? WHERE message = ? AND idx = ?",
        [(retry_at, number, recipient.recipient.index) for recipient in due],
    )
    return Claim(
        message=rows.narrow(entry.message, [recipient.recipient for recipient in due]),
        attempt_number=attempt_number,
        is_warned=entry.is_warned,
    )
