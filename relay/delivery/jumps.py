"""A clock that is set while the relay runs."""

from __future__ import annotations

from collections.abc import Callable

from relay.mail.lifecycle import Moment, find_jump


class Jumps:
    """Notices when the clock is set forward, by one that nobody sets."""

    def __init__(self, now: Callable[[], float], steady: Callable[[], float]) -> None:
        self._now = now
        self._steady = steady
        self._seen = Moment(now(), steady())
        self._total = 0.0
        self.kept = 0.0
        """Seconds of the jumps that the queue knows of."""

    def look(self) -> float:
        """Return by how many seconds the clock was set forward so far."""
        before, self._seen = self._seen, Moment(self._now(), self._steady())
        self._total += find_jump(before, self._seen)
        return self._total
