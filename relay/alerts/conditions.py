"""What is worth an alert, decided from facts alone.

The causes are ``leaving`` (no mail leaves), ``login:NAME`` and ``token:NAME`` (of a smarthost), ``disk``
(nearly full) and ``queue`` (can't be used). What is told is not over at the slightest change: the disk must
have half as much room again, and mail must leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LEAVING, LOGIN, DISK, QUEUE = "leaving", "login:", "disk", "queue"
PATIENCE_SECONDS = 3600.0
"""How long mail waits, while none leaves, before that is told."""
NEARLY_FULL = 0.1
"""The share of a disk that should be free."""
ENOUGH_BYTES = 5_000_000_000
"""So much is enough, however large the disk is."""
_AGAIN = 1.5


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at one moment."""

    now: float
    """Seconds of a clock that never jumps."""
    left_at: float | None = None
    """When mail last left the house, by the same clock; None: not since the relay watches."""
    waiting: str | None = None
    """What was last said of the oldest mail that should leave, "" if nothing was; None: none waits."""
    logins: Mapping[str, str] = field(default_factory=dict)
    """A sentence by the name of each smarthost that lets nobody in."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with tokens, a sentence by the name of the smarthost."""
    free: int = 0
    size: int = 0
    """Bytes of the queue's file system."""
    queue_problem: str = ""
    """Why the queue can't be used, a sentence: then its mail and its disk are unknown."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is wrong: a sentence by its cause."""

    causes: Mapping[str, str] = field(default_factory=dict)
    waiting_since: float | None = None
    """Since when mail has always waited, and none has left."""


def leaves(next_hop: str) -> bool:
    """Whether mail for a next hop (``NextHop.key``) leaves the house: it goes to no mailbox here."""
    return next_hop != "maildir" and not next_hop.startswith("lmtp:")


def logins_in(causes: Mapping[str, str]) -> dict[str, str]:
    """Return what causes say of logins: ``Facts.logins`` again."""
    return {cause.removeprefix(LOGIN): text for cause, text in causes.items() if cause.startswith(LOGIN)}


def judge(facts: Facts, before: Conditions) -> Conditions:
    """Return what is wrong now, given what was wrong ``before``."""
    causes = {f"token:{name}": problem for name, problem in facts.tokens.items()}
    for name, refusal in facts.logins.items():
        if name not in facts.tokens:  # else the token is the cause
            causes[f"{LOGIN}{name}"] = refusal
    if facts.queue_problem:
        kept = {cause: text for cause, text in before.causes.items() if cause in {LEAVING, DISK}}
        return Conditions({**causes, **kept, QUEUE: facts.queue_problem}, before.waiting_since)
    since = _find_waiting_since(facts, before)
    if facts.waiting is not None and _is_stuck(facts, before, since):
        said = f" The oldest was last told: {facts.waiting}" if facts.waiting else ""
        causes[LEAVING] = f"No mail has left for an hour, and mail waits.{said}"
    if _is_nearly_full(facts, is_told=DISK in before.causes):
        room = f"{_format_bytes(facts.free)} of {_format_bytes(facts.size)} are free"
        advice = "When it is full, no mail is taken in: free some space there."
        causes[DISK] = f"The disk of the queue is nearly full: {room}. {advice}"
    return Conditions(causes, since)


def _find_waiting_since(facts: Facts, before: Conditions) -> float | None:
    if facts.waiting is None:
        return None
    since = facts.now if before.waiting_since is None else before.waiting_since
    return since if facts.left_at is None else max(since, facts.left_at)


def _is_stuck(facts: Facts, before: Conditions, since: float | None) -> bool:
    if since is not None and facts.now - since >= PATIENCE_SECONDS:
        return True
    # After a restart it is known that none left before, but not since when.
    has_left = facts.left_at is not None and (
        before.waiting_since is None or facts.left_at > before.waiting_since
    )
    return LEAVING in before.causes and not has_left


def _is_nearly_full(facts: Facts, *, is_told: bool) -> bool:
    wanted = min(facts.size * NEARLY_FULL, ENOUGH_BYTES)
    return facts.free < wanted * (_AGAIN if is_told else 1.0)


def _format_bytes(count: int) -> str:
    """Return a number of bytes as a person reads it, ``1.2 GB``."""
    for unit, length in (("GB", 10**9), ("MB", 10**6)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
