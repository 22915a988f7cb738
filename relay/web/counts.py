"""What has happened since the start, counted from the events of the log."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

HOURS = 48
"""Hours that are remembered for the charts."""
MOST_NEXT_HOPS = 50
"""Next hops that are counted each by itself: the first ones since the start; all others together."""
OTHERS = "other"
NOBODY = "none"
"""Stands for the next hop where none was reached: mailboxes here, refusals by the transport table."""
BOUNDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 14400.0)
"""Upper bounds of the classes of delays, seconds; one more class has no bound."""

_OUTCOMES = {"sent": "delivered", "deferred": "deferred", "bounced": "bounced"}
_LOGINS = {"login_failed": "client", "login_refused": "smarthost", "page_login_failed": "page"}


class Delays:
    """How long deliveries took, in classes."""

    def __init__(self) -> None:
        self.numbers = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one delay."""
        self.numbers[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def median(self) -> float | None:
        """About half of the delays are shorter, in seconds; None where there are none."""
        middle = sum(self.numbers) / 2
        if not middle:
            return None
        edges = (0.0, *BOUNDS, 2 * BOUNDS[-1])
        place = next(place for place, up_to in enumerate(accumulate(self.numbers)) if up_to >= middle)
        share = (middle - sum(self.numbers[:place])) / self.numbers[place]
        return edges[place] + share * (edges[place + 1] - edges[place])


@dataclass(slots=True)
class Hour:
    """What happened in one hour; ``number`` counts hours since the epoch."""

    number: int
    outcomes: Counter[str] = field(default_factory=Counter)
    delays: Delays = field(default_factory=Delays)


class Counts(logging.Handler):
    """Counts events; add it with ``log.observe``."""

    def __init__(self, started_at: float) -> None:
        """``started_at``: since when it counts, in epoch seconds."""
        super().__init__(logging.INFO)
        self.started_at = started_at
        self.received = 0
        self.received_bytes = 0
        self.refused = 0
        self.reports: Counter[str] = Counter()
        """By kind: non-delivery, delay, delivery."""
        self.failed_logins: Counter[str] = Counter()
        """By where: client, smarthost, page."""
        self.attempts: Counter[tuple[str, str]] = Counter()
        """By next hop and outcome: delivered, deferred, bounced."""
        self.delays: dict[str, Delays] = {}
        """Of the deliveries to each next hop, from the arrival of the message on."""
        self._hours: deque[Hour] = deque(maxlen=HOURS)

    def emit(self, record: logging.LogRecord) -> None:
        """Count an event."""
        if not isinstance(record.args, Mapping):
            return
        fields: Mapping[str, Any] = record.args
        match fields.get("event"):
            case "accepted":
                self.received += 1
                self.received_bytes += fields["size"]
            case "reject":
                self.refused += 1
            case "report":
                self.reports[fields["kind"]] += 1
            case "sent" | "deferred" | "bounced" as status:
                self._count_attempt(_OUTCOMES[status], fields["next_hop"], fields["delay"], record.created)
            case "login_failed" | "login_refused" | "page_login_failed" as event:
                self.failed_logins[_LOGINS[event]] += 1

    def hours(self, now: float) -> Sequence[Hour]:
        """Return the last 48 hours, this one last; in hours before the start nothing happened."""
        known = {hour.number: hour for hour in self._hours}
        this = int(now // 3600)
        return [known.get(number) or Hour(number) for number in range(this - HOURS + 1, this + 1)]

    def _count_attempt(self, outcome: str, next_hop: str, delay: float, now: float) -> None:
        name = next_hop.encode("ascii", "backslashreplace").decode() or NOBODY
        if name not in self.delays:
            if len(self.delays) >= MOST_NEXT_HOPS:
                name = OTHERS
            self.delays.setdefault(name, Delays())
        self.attempts[name, outcome] += 1
        hour = self._hour(int(now // 3600))
        hour.outcomes[outcome] += 1
        if outcome == "delivered":
            self.delays[name].add(delay)
            hour.delays.add(delay)

    def _hour(self, number: int) -> Hour:
        """Return the hour that things are counted in: the last one also where the clock was set back."""
        if not self._hours or self._hours[-1].number < number:
            self._hours.append(Hour(number))
        return self._hours[-1]
