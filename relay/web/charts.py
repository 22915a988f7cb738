"""The geometry of the small charts: what the templates draw as SVG."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from relay.web.counts import Hour
from relay.web.words import count, delay

WIDTH = 480
HEIGHT = 90
_SLOWEST = 14400.0
_QUICKEST = 0.1
_KINDS = ("delivered", "deferred", "bounced")


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, its class and the words for it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of the hours, its largest value in words, and all of it in words."""

    bars: tuple[Bar, ...]
    top: str
    words: str


def draw_deliveries(hours: Sequence[Hour], since: str) -> Chart:
    """Return a bar for each hour, of what was delivered, deferred and bounced in it, ``since`` when."""
    most = max(sum(hour.outcomes.values()) for hour in hours)
    bars: list[Bar] = []
    for place, hour in enumerate(hours):
        bottom = float(HEIGHT)
        said = ", ".join(f"{hour.outcomes[kind]:,} {kind}" for kind in _KINDS if hour.outcomes[kind])
        for kind in _KINDS:
            if number := hour.outcomes[kind]:
                height = max(1.5, number / most * HEIGHT)
                bottom -= height
                bars.append(_bar(place, len(hours), bottom, height, kind, f"{_clock(hour)}: {said}"))
    totals = ", ".join(f"{sum(h.outcomes[kind] for h in hours):,} {kind}" for kind in _KINDS)
    top = f"up to {count(most, 'recipient')}" if most else ""
    return Chart(tuple(bars), top, f"{since}: {totals}.")


def draw_delays(hours: Sequence[Hour]) -> Chart:
    """Return a bar for the median delay of each hour's deliveries, on a logarithmic scale."""
    medians = [(place, hour, hour.delays.median) for place, hour in enumerate(hours)]
    known = [(place, hour, median) for place, hour, median in medians if median is not None]
    slowest = max((median for *_, median in known), default=0.0)
    bars = []
    for place, hour, median in known:
        height = _scale(median, slowest) * HEIGHT
        words = f"{_clock(hour)}: half were there within {delay(median)}"
        bars.append(_bar(place, len(hours), HEIGHT - height, height, "delay", words))
    words = f"Slowest hour: half were there within {delay(slowest)}." if known else "No deliveries yet."
    return Chart(tuple(bars), f"up to {delay(slowest)}" if known else "", words)


def _bar(place: int, places: int, y: float, height: float, kind: str, words: str) -> Bar:
    step = WIDTH / places
    return Bar(round(place * step + 1, 1), round(y, 1), round(step - 2, 1), round(height, 1), kind, words)


def _scale(seconds: float, slowest: float) -> float:
    """Return the share of the height: a tenth for the quickest."""
    top = math.log(min(max(slowest, 10 * _QUICKEST), _SLOWEST) / _QUICKEST)
    return 0.1 + 0.9 * min(1.0, math.log(max(seconds, _QUICKEST) / _QUICKEST) / top)


def _clock(hour: Hour) -> str:
    return time.strftime("%a %H:00", time.localtime(hour.number * 3600))
