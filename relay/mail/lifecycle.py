"""The life of a queued recipient: which state may follow which, and when the next attempt is due.

Nothing here moves mail or reads a clock: times are epoch seconds, durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from zlib import crc32

from relay.mail.attempt import Attempt, State
from relay.mail.envelope import Message

_FINAL = frozenset(state for state in State if state.is_final)

TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.QUEUED: _FINAL | {State.DEFERRED, State.HELD},
        State.DEFERRED: _FINAL | {State.QUEUED, State.HELD},
        State.HELD: _FINAL | {State.QUEUED},
        State.DELIVERED: frozenset(),
        State.BOUNCED: frozenset({State.DELIVERED}),
        State.EXPIRED: frozenset({State.DELIVERED}),
    }
)
"""The other states that may follow each state (docs/queue.md).

An attempt that had begun before the owner held a recipient may still end, and mail that got through counts as
delivered whatever was known before.
"""

SMALLEST_JUMP = 3600.0
"""Seconds. A clock that is set forward by less does little to mail that is kept for days."""

_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Moment:
    """One instant by two clocks."""

    wall: float
    """Epoch seconds; somebody may set this clock."""
    steady: float
    """Seconds since some start that nobody can set."""


def find_jump(before: Moment, now: Moment) -> float:
    """Return by how many seconds the clock was set forward between two moments; 0 where by few, or back."""
    jump = (now.wall - before.wall) - (now.steady - before.steady)
    return jump if jump >= SMALLEST_JUMP else 0.0


def rejuvenate(message: Message, jump: float) -> Message:
    """Return a message that is no older though the clock was set forward since it came in."""
    return replace(message, received_at=message.received_at + jump) if jump else message


def next_attempt_at(retry: Sequence[float], attempt_number: int, now: float, seed: int) -> float:
    """Return when to try again after the given attempt (1 for the first): the last interval repeats.

    The interval is shifted by up to 10 % either way, so that what failed together does not come back at one
    instant. The shift follows from ``seed`` (the message's number) and ``attempt_number`` alone: the
    recipients of one message stay together.
    """
    interval = retry[min(attempt_number, len(retry)) - 1]
    shift = crc32(f"{seed}.{attempt_number}".encode()) / 0xFFFF_FFFF * 2 - 1
    return now + interval * (1 + _JITTER * shift)


def latest_sensible(retry: Sequence[float], now: float) -> float:
    """Return the time after which no retry can have been booked; one beyond it is due at once.

    Such a booking was made while the clock was ahead, or under longer intervals than today's.
    """
    return now + 2 * max(retry)


def age(message: Message, now: float) -> float:
    """Return how long ago a message came in; 0 where the clock has been set back since."""
    return max(0.0, now - message.received_at)


def judge(
    attempt: Attempt, message: Message, *, now: float, lifetime: float, has_postmaster: bool = True
) -> State:
    """Return the state of a recipient after an attempt.

    Whatever is neither a success nor a permanent failure is temporary, until the message is older than
    ``lifetime``. A report that is lost is held where no postmaster can be told of it.
    """
    if attempt.reply.is_positive:
        return State.DELIVERED
    is_final = attempt.reply.is_permanent or age(message, now) >= lifetime
    if not is_final:
        return State.DEFERRED
    if message.is_report and not has_postmaster and message.envelope.recipients[0].wants_failure:
        return State.HELD
    return State.BOUNCED if attempt.reply.is_permanent else State.EXPIRED


def is_late(message: Message, now: float, warn_after: float) -> bool:
    """Whether the sender is to be told that the message is late; never where ``warn_after`` is 0."""
    return 0 < warn_after <= age(message, now)
