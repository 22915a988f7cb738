"""What the relay is to reach: ratios to tuned Postfix, and absolute bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.results import Results, Spread, largest

_MB = 1e6
_LONGEST_QUEUE = 100_000

Figure = Callable[[Results], Spread | None]


@dataclass(frozen=True, slots=True)
class Goal:
    """One target."""

    text: str
    figure: Figure
    bound: float
    aim: float | None = None
    unit: str = ""
    is_upper: bool = True
    """Whether the figure is to stay below the bound; else it is to reach it."""

    def row(self, results: Results) -> list[object]:
        """Return target, bound, aim, figure and whether it is met."""
        found = self.figure(results)
        sign = "<" if self.is_upper else "≥"
        bound = f"{sign} {self.bound:g}{self.unit}"
        aim = None if self.aim is None else f"{self.aim:g}{self.unit}"
        if found is None:
            return [self.text, None, None, None, None]
        is_met = found.median < self.bound if self.is_upper else found.median >= self.bound
        return [self.text, bound, aim or "", found, "yes" if is_met else "**no**"]


def _rate(text: str, workload: str, field: str, bound: float, aim: float) -> Goal:
    def figure(results: Results) -> Spread | None:
        return results.ratio("rate", field, workload=workload)

    return Goal(f"{text}, {workload}", figure, bound, aim, "×", is_upper=False)


def _footprint(text: str, name: str, bound: float, unit: str = "", size: float = 1.0) -> Goal:
    def figure(results: Results) -> Spread | None:
        return results.spread("footprint", "value", unit=size, server="relay", figure=name)

    return Goal(text, figure, bound, unit=unit)


def _long_queue(text: str, field: str, bound: float, unit: str) -> Goal:
    def figure(results: Results) -> Spread | None:
        return results.spread("backlog", field, server="relay", depth=_LONGEST_QUEUE)

    return Goal(text, figure, bound, unit=unit)


def _memory_of_long_queue(results: Results) -> Spread | None:
    """Return the most memory seen, whatever the relay does with the queue."""
    of = {"unit": _MB, "server": "relay", "depth": _LONGEST_QUEUE}
    fields = ("idle_memory", "started_memory", "peak_memory", "fill_peak_memory")
    found = [results.spread("backlog", field, **of) for field in fields]  # type: ignore[arg-type]
    return largest([*found, results.spread("drain", "peak_memory", **of)])  # type: ignore[arg-type]


def _growth_of_cost(results: Results) -> Spread | None:
    """Return the CPU per message at the longest queue over that at an empty one, round by round."""
    cost = {
        (record["round"], record["depth"]): record["cpu_ms"]
        for record in results.find("backlog", server="relay")
    }
    growth = [
        cost[number, _LONGEST_QUEUE] / cost[number, 0]
        for number, depth in cost
        if depth == 0 and (number, _LONGEST_QUEUE) in cost
    ]
    return Spread(tuple(growth)) if growth else None


ACCEPT, END_TO_END = "accept_per_s", "end_to_end_per_s"
GOALS = (
    _rate("accept", "1 KB, 10 sessions, kept", ACCEPT, 2.5, 3.5),
    _rate("accept", "1 KB, 50 sessions, kept", ACCEPT, 2.5, 3.5),
    _rate("accept", "1 KB, 10 sessions, fresh", ACCEPT, 2, 2.5),
    _rate("accept", "1 KB, 50 sessions, fresh", ACCEPT, 2, 2.5),
    _rate("end to end", "1 KB, 10 sessions, kept", END_TO_END, 2, 3),
    _rate("end to end", "1 KB, 50 sessions, kept", END_TO_END, 2, 3),
    _rate("end to end", "100 KB, 10 sessions, kept", END_TO_END, 1.2, 1.5),
    _rate("end to end", "10 MB, 4 sessions, kept", END_TO_END, 0.8, 1.2),
    Goal(
        "final dot to delivery, idle, p50, of Postfix's",
        lambda results: results.ratio("latency", "delivery_p50_ms", series="one after the other"),
        1.0,
        0.5,
        "×",
    ),
    Goal(
        "drain of 100,000 deferred messages",
        lambda results: results.ratio("drain", "drain_per_s", depth=_LONGEST_QUEUE),
        2.5,
        4,
        "×",
        is_upper=False,
    ),
    _footprint("memory, idle", "idle_memory", 45, " MB", _MB),
    _footprint("memory, 20 clients with 25 MB each at once", "large_messages_memory", 90, " MB", _MB),
    _footprint("memory, 1,000 idle connections", "idle_connections_memory", 90, " MB", _MB),
    Goal("memory, 100,000 messages in the queue, at most", _memory_of_long_queue, 80, unit=" MB"),
    _long_queue("start with 100,000 messages, until 220", "start_s", 1, " s"),
    _long_queue("`queue list` of 100,000 messages, first line", "first_page_s", 1, " s"),
    Goal("CPU per message at 100,000 waiting, of that at none", _growth_of_cost, 1.2, unit="×"),
    _footprint("wake-ups a second, idle, 1,000 deferred", "wakeups_per_s", 0.5),
    _footprint("written while idle for a minute", "idle_written", 1, " B"),
    _footprint("written for a lone 1 KB message", "lone_written", 64, " KB", 1000.0),
    _footprint("written for each byte of content, 100 KB", "written_per_byte_100_kb", 3, " B"),
    _footprint("written for each byte of content, 10 MB", "written_per_byte_10_mb", 3, " B"),
)
