"""The metrics in the words of Prometheus (https://prometheus.io/docs/practices/naming/)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from relay.web.counts import BOUNDS, Counts, Delays

__all__ = ["CONTENT_TYPE", "expose"]

STATES = ("queued", "deferred", "held")


def expose(
    counts: Counts, queue: Mapping[str, Any], commits: tuple[int, float], problems: int, now: float
) -> bytes:
    """Return all metrics; ``queue`` and ``commits`` are those of relay.web.facts."""
    registry = CollectorRegistry(auto_describe=False)
    metrics = [*_counters(counts), *_delays(counts), *_queue(queue, now), *_commits(*commits)]
    registry.register(_Collector([*metrics, _gauge("problems", "what the owner must mend", problems)]))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def _counters(counts: Counts) -> Iterator[Metric]:
    yield _counter("messages_received", "messages taken from clients", counts.received)
    yield _counter("received_bytes", "bytes of these messages", counts.received_bytes)
    yield _counter("commands_refused", "commands of clients that were refused", counts.refused)
    outcomes = Counter("relay_recipients", "outcomes of attempts, one for each recipient", labels=["outcome"])
    attempts = Counter(
        "relay_attempts", "the same by next hop; the first 50, then together", labels=["next_hop", "outcome"]
    )
    for outcome in ("delivered", "deferred", "bounced"):
        outcomes.add_metric([outcome], sum(n for (_, o), n in counts.attempts.items() if o == outcome))
    for (next_hop, outcome), number in counts.attempts.items():
        attempts.add_metric([next_hop, outcome], number)
    yield outcomes
    yield attempts
    reports = Counter("relay_reports", "reports to senders", labels=["kind"])
    for kind in ("non-delivery", "delay", "delivery"):
        reports.add_metric([kind], counts.reports[kind])
    yield reports
    logins = Counter(
        "relay_logins_failed",
        "failed logins: of clients, at smarthosts, at the status page",
        labels=["where"],
    )
    for where in ("client", "smarthost", "page"):
        logins.add_metric([where], counts.failed_logins[where])
    yield logins


def _delays(counts: Counts) -> Iterator[Metric]:
    family = Histogram(
        "relay_delivery_seconds", "from a message's arrival to its delivery, by next hop", labels=["next_hop"]
    )
    for next_hop, delays in counts.delays.items():
        family.add_metric([next_hop], _buckets(delays), delays.total)
    yield family


def _buckets(delays: Delays) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(delays.numbers)), strict=True))


def _queue(queue: Mapping[str, Any], now: float) -> Iterator[Metric]:
    family = Gauge(
        "relay_queue_recipients", "recipients of messages in the queue, by state", labels=["state"]
    )
    for state in STATES:
        family.add_metric([state], queue["recipients"].get(state, 0))
    yield family
    age = max(0.0, now - queue["oldest"]) if queue["oldest"] is not None else 0.0
    yield _gauge("queue_oldest_seconds", "age of the oldest message in the queue; 0: it is empty", age)


def _commits(number: int, seconds: float) -> Iterator[Metric]:
    yield _counter("queue_commits", "transactions of the queue", number)
    yield _counter("queue_fsync_seconds", "time that their commits, each with its fsync, took", seconds)


def _counter(name: str, words: str, value: float) -> Metric:
    return Counter(f"relay_{name}", words, value=value)


def _gauge(name: str, words: str, value: float) -> Metric:
    return Gauge(f"relay_{name}", words, value=value)
