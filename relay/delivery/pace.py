"""How fast messages may leave for one next hop."""

from __future__ import annotations

import sys
from collections import deque

from relay.mail.route import Rate


class Pace:
    """Keeps to a rate exactly: in no span of its length do more messages leave, bursts or not.

    ``now`` is in seconds of any clock. What left before the relay started is not known.
    """

    def __init__(self, rate: Rate | None) -> None:
        """Without a rate there is no limit."""
        self._rate = rate
        self._departures: deque[float] = deque()

    def allowance(self, now: float) -> int:
        """Return how many messages may leave now."""
        if self._rate is None:
            return sys.maxsize
        self._forget(self._rate, now)
        return self._rate.messages - len(self._departures)

    def delay(self, now: float) -> float:
        """Return the seconds until a message may leave."""
        if self._rate is None or self.allowance(now) > 0:
            return 0.0
        return self._departures[0] + self._rate.seconds - now

    def note(self, now: float) -> None:
        """Take note that a message leaves."""
        if self._rate is not None:
            self._departures.append(now)

    def is_at_rest(self, now: float) -> bool:
        """Whether nothing is remembered that limits anything."""
        return self._rate is None or self.allowance(now) == self._rate.messages

    def _forget(self, rate: Rate, now: float) -> None:
        if self._departures and self._departures[-1] > now:  # the clock was set back
            self._departures.clear()
        while self._departures and self._departures[0] + rate.seconds <= now:
            self._departures.popleft()
