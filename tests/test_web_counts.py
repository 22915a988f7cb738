from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import events, log
from relay.mail.attempt import Attempt, State
from relay.mail.envelope import Client, Envelope, Message, Recipient
from relay.mail.reply import Reply
from relay.web import metrics
from relay.web.charts import HEIGHT, draw_delays, draw_deliveries
from relay.web.counts import HOURS, MOST_NEXT_HOPS, Counts, Delays

NOW = 1_800_000_000.0
CLIENT = Client("192.168.0.3", "pc")
MESSAGE = Message(63, Envelope("a@gw.test", (Recipient("b@x.test"),)), 1000, 300, False, NOW)
TAKEN = Attempt(Reply(250, "2.0.0", "ok"), next_hop="x.test:25")


@pytest.fixture
def counts() -> Iterator[Counts]:
    counts = Counts(NOW)
    log.observe(counts)
    yield counts
    log.ignore(counts)


def attempted(state: State, next_hop: str = "x.test:25", seconds: float = 0.3) -> None:
    attempt = Attempt(Reply(250 if state is State.DELIVERED else 450, "", "so"), next_hop=next_hop)
    events.attempted(MESSAGE, Recipient("b@x.test"), state, attempt, NOW + seconds)


def values(counts: Counts, **changes: object) -> dict[tuple[str, ...], float]:
    """Return the metrics as a scraper reads them: by name and labels."""
    queue = {"recipients": {"held": 3}, "oldest": NOW - 60}
    text = metrics.expose(counts, queue, (7, 0.25), 2, NOW).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_events_become_metrics(counts: Counts) -> None:
    events.accepted(MESSAGE, CLIENT, "<1@pc>")
    events.refused(CLIENT, "RCPT", Reply(550, "5.1.1", "no"))
    events.reported(MESSAGE, "failure", MESSAGE)
    events.login_failed(CLIENT, "PLAIN", "chris", "wrong password")
    events.login_refused("isp", 300, Reply(535, "5.7.8", "no"))
    events.page_login_failed("192.168.0.3", "wrong password")
    for state in (State.DELIVERED, State.DELIVERED, State.DEFERRED, State.HELD, State.BOUNCED, State.EXPIRED):
        attempted(state)
    attempted(State.BOUNCED, "")
    found = values(counts)
    assert found["relay_messages_received_total",] == 1
    assert found["relay_received_bytes_total",] == 1000
    assert found["relay_commands_refused_total",] == 1
    assert found["relay_reports_total", "non-delivery"] == 1
    assert {
        where: found["relay_logins_failed_total", where] for where in ("client", "smarthost", "page")
    } == {
        "client": 1,
        "smarthost": 1,
        "page": 1,
    }
    assert [found["relay_recipients_total", o] for o in ("delivered", "deferred", "bounced")] == [2, 2, 3]
    assert found["relay_attempts_total", "x.test:25", "bounced"] == 2
    assert found["relay_attempts_total", "none", "bounced"] == 1
    assert found["relay_delivery_seconds_count", "x.test:25"] == 2
    assert found["relay_delivery_seconds_sum", "x.test:25"] == pytest.approx(0.6)
    assert found["relay_delivery_seconds_bucket", "0.5", "x.test:25"] == 2
    assert found["relay_delivery_seconds_bucket", "0.2", "x.test:25"] == 0
    assert found["relay_queue_recipients", "held"] == 3
    assert found["relay_queue_recipients", "queued"] == 0
    assert found["relay_queue_oldest_seconds",] == 60
    assert found["relay_queue_commits_total",] == 7
    assert found["relay_queue_fsync_seconds_total",] == 0.25
    assert found["relay_problems",] == 2


def test_what_is_no_event_of_ours_is_not_counted(counts: Counts) -> None:
    logging.getLogger("relay").warning("a plain line")
    logging.getLogger("relay").warning("%s", "a line with an argument")
    events.removed("3F")
    assert values(counts)["relay_messages_received_total",] == 0


def test_only_so_many_next_hops_are_told_apart(counts: Counts) -> None:
    for number in range(MOST_NEXT_HOPS + 20):
        attempted(State.DELIVERED, f"x{number}.test:25")
    attempted(State.DELIVERED, "x3.test:25")
    found = values(counts)
    assert found["relay_attempts_total", "x3.test:25", "delivered"] == 2
    assert found["relay_attempts_total", "other", "delivered"] == 20
    assert len(counts.delays) == MOST_NEXT_HOPS + 1


def test_a_next_hop_with_an_odd_name_breaks_nothing(counts: Counts) -> None:
    attempted(State.DELIVERED, 'x"\n\\\udcff:25')
    assert values(counts)["relay_recipients_total", "delivered"] == 1


def test_the_median_is_within_its_class() -> None:
    delays = Delays()
    assert delays.median is None
    for seconds in (0.3, 0.3, 0.3, 100_000):
        delays.add(seconds)
    assert delays.median == pytest.approx(0.4)
    late = Delays()
    late.add(100_000)
    assert late.median is not None
    assert late.median > 14_400


def record(counts: Counts, at: float, outcome: str = "sent", delay: float = 0.3) -> None:
    record = logging.LogRecord("relay", logging.INFO, "", 0, "", None, None)
    record.created = at
    record.args = {"event": outcome, "next_hop": "x.test:25", "delay": delay}
    counts.emit(record)


def test_hours_are_kept_for_two_days() -> None:
    counts = Counts(NOW)
    for hour in range(100):
        record(counts, NOW + hour * 3600)
    now = NOW + 99 * 3600
    assert [hour.outcomes["delivered"] for hour in counts.hours(now)] == [1] * HOURS
    assert [hour.outcomes["delivered"] for hour in counts.hours(now + 2 * 3600)][-3:] == [1, 0, 0]
    record(counts, NOW)  # the clock was set back
    assert counts.hours(now)[-1].outcomes["delivered"] == 2


def test_charts_say_what_they_show() -> None:
    counts = Counts(NOW)
    record(counts, NOW - 3600, delay=0.05)
    for outcome in ("sent", "sent", "deferred", "bounced"):
        record(counts, NOW, outcome, delay=700)
    hours = counts.hours(NOW)
    deliveries = draw_deliveries(hours, "Since noon")
    assert deliveries.words == "Since noon: 3 delivered, 1 deferred, 1 bounced."
    assert deliveries.top == "up to 4 recipients"
    *_, delivered, deferred, bounced = deliveries.bars
    assert (delivered.height, deferred.height, bounced.height) == (HEIGHT / 2, HEIGHT / 4, HEIGHT / 4)
    assert bounced.y == 0
    assert delivered.words.endswith(": 2 delivered, 1 deferred, 1 bounced")
    quick, slow = draw_delays(hours).bars
    assert (quick.height, slow.height) == (HEIGHT / 10, HEIGHT)
    assert "half were there within" in draw_delays(hours).words


def test_charts_of_nothing_are_empty() -> None:
    hours = Counts(NOW).hours(NOW)
    assert draw_deliveries(hours, "Since noon").bars == ()
    assert draw_deliveries(hours, "Since noon").top == ""
    assert draw_delays(hours).words == "No deliveries yet."
