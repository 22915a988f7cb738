"""What is recorded of a pass, and the reports that go into the queue with it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.delivery.reports import Recorder, Reporting
from relay.mail.attempt import Attempt, Claim, Outcome, State
from relay.mail.dsn import ReportSettings
from relay.mail.envelope import Message, Recipient
from relay.mail.reply import Reply
from relay.queue.errors import QueueError
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import CONTENT, NOW, REFUSED, SENT, accept, content_of, opened, states

LATE = 4 * 3600.0
LATER = Attempt(Reply(451, "4.3.0", "later"), host="mx[1.2.3.4]:25", command="DATA", is_remote=True)
SILENT = Recipient("u0@example.net", notify="NEVER")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(tmp_path / "queue.db") as made:
        yield made


def recorder(store: Store, now: float = NOW, postmaster: str = "postmaster@free.fr") -> Recorder:
    settings = ReportSettings("relay.test", 5 * 86400.0, postmaster)
    reporting = Reporting(
        settings, LATE, lambda message: message.envelope.reverse_path, lambda to, _given: (to,)
    )
    return Recorder(store, reporting, lambda: now)


def outcome(message: Message, attempt: Attempt, index: int = 0) -> Outcome:
    reply = attempt.reply
    state = State.BOUNCED if reply.is_permanent else State.DELIVERED if reply.is_positive else State.DEFERRED
    return Outcome(message.number, index, state, attempt, next_attempt_at=NOW + 300)


async def reports_in(store: Store) -> list[Message]:
    entries = await store.list_messages(0, 100, Selection())
    return [entry.message for entry in entries if entry.message.is_report]


async def test_a_delivered_message_is_finished_and_that_is_logged(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    message = await accept(store)
    outcomes = [outcome(message, SENT)]
    assert not await recorder(store).record(Claim(message), outcomes, outcomes)
    assert await states(store, message) == [State.DELIVERED]
    assert f"{message.queue_id}: removed" in caplog.text


async def test_outcomes_of_a_pass_that_goes_on_are_recorded_without_a_report(store: Store) -> None:
    message = await accept(store, 2)
    assert not await recorder(store).record(Claim(message), [outcome(message, REFUSED)], None)
    assert await states(store, message) == [State.BOUNCED, State.QUEUED]
    assert not await reports_in(store)


async def test_the_last_outcome_of_a_pass_brings_one_report_on_all_its_failures(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    message = await accept(store, 3)
    first, last = outcome(message, REFUSED), [outcome(message, SENT, 1), outcome(message, REFUSED, 2)]
    await recorder(store).record(Claim(message), [first], None)
    assert await recorder(store).record(Claim(message), last, [first, *last])
    (report,) = await reports_in(store)
    content = await content_of(store, report)
    assert re.findall(rb"Final-Recipient: rfc822; (.*)\r\n", content) == [
        b"u0@example.net",
        b"u2@example.net",
    ]
    assert b"world" in content
    assert report.envelope.recipients[0].address == "chris@free.fr"
    assert f"{message.queue_id}: sender non-delivery notification: {report.queue_id}" in caplog.text
    assert f"{message.queue_id}: removed" in caplog.text
    assert not await store.unreported(())


async def test_a_sender_is_warned_once_of_a_late_message(store: Store) -> None:
    message = await accept(store)
    late = recorder(store, NOW + LATE)
    outcomes = [outcome(message, LATER)]
    assert await late.record(Claim(message), outcomes, outcomes)
    (report,) = await reports_in(store)
    assert b"Delayed Mail" in await content_of(store, report)
    assert not await late.record(Claim(message, is_warned=True), outcomes, outcomes)
    assert await _is_warned(store, message)


async def test_the_warning_tells_of_all_who_are_still_waited_for(store: Store) -> None:
    silent, waiting, done = SILENT, Recipient("u1@example.net", index=1), Recipient("u2@example.net", index=2)
    message = await accept(store, [silent, waiting, done])
    await store.record([outcome(message, LATER, 1), outcome(message, SENT, 2)])
    outcomes = [outcome(message, LATER)]
    assert await recorder(store, NOW + LATE).record(Claim(message), outcomes, outcomes)
    (report,) = await reports_in(store)
    content = await content_of(store, report)
    assert b"u1@example.net" in content
    assert b"u0@example.net" not in content
    assert b"u2@example.net" not in content


async def test_the_lateness_of_a_message_that_was_deleted_is_told_all_the_same(store: Store) -> None:
    message = await accept(store)
    await store.delete(Selection())
    outcomes = [outcome(message, LATER)]
    assert await recorder(store, NOW + LATE).record(Claim(message), outcomes, outcomes)


async def test_a_message_that_is_not_late_or_not_deferred_needs_no_warning(store: Store) -> None:
    message = await accept(store, 2)
    outcomes = [outcome(message, LATER)]
    assert not await recorder(store, NOW + LATE - 1).record(Claim(message), outcomes, outcomes)
    outcomes = [outcome(message, SENT, 1)]
    assert not await recorder(store, NOW + LATE).record(Claim(message), outcomes, outcomes)
    assert not await _is_warned(store, message)


async def test_lateness_that_nobody_wants_to_hear_of_is_looked_at_once(store: Store) -> None:
    message = await accept(store, [SILENT])
    outcomes = [outcome(message, LATER)]
    assert not await recorder(store, NOW + LATE).record(Claim(message), outcomes, outcomes)
    assert await _is_warned(store, message)
    assert not await reports_in(store)


async def _is_warned(store: Store, message: Message) -> bool:
    entry = await store.show(message.number)
    assert entry is not None
    return entry.is_warned


async def test_a_failure_that_nobody_wants_to_hear_of_finishes_the_message(store: Store) -> None:
    message = await accept(store, [SILENT])
    outcomes = [outcome(message, REFUSED)]
    assert not await recorder(store).record(Claim(message), outcomes, outcomes)
    entry = await store.show(message.number)
    assert entry is not None
    assert entry.finished_at is not None


async def test_a_lost_report_is_told_to_the_postmaster(store: Store) -> None:
    lost = await accept(
        store, [Recipient("u0@example.net", notify="FAILURE")], reverse_path="", is_report=True
    )
    outcomes = [outcome(lost, REFUSED)]
    assert await recorder(store).record(Claim(lost), outcomes, outcomes)
    assert [m.envelope.recipients[0].address for m in await reports_in(store)] == ["postmaster@free.fr"]


async def test_a_letter_to_the_postmaster_is_lost_in_silence(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await recorder(store).announce("gw1: caf\u00e9", "caf\u00e9\r\n")
    (letter,) = await reports_in(store)
    assert f"{letter.queue_id}: notice to the postmaster: gw1: caf" in caplog.text
    assert letter.envelope.reverse_path == ""
    assert letter.envelope.recipients == (Recipient("postmaster@free.fr", notify="NEVER"),)
    content = (await content_of(store, letter)).decode()
    assert "\r\nTo: postmaster@free.fr\r\nAuto-Submitted: auto-generated\r\n" in content
    assert content.endswith("\r\n\r\ncaf\u00e9\r\n")
    failed = [outcome(letter, REFUSED)]
    assert not await recorder(store).record(Claim(letter), failed, failed)
    assert not await reports_in(store)


async def test_a_report_on_a_large_message_reads_no_more_than_it_returns(store: Store) -> None:
    large = CONTENT + b"x" * 700_000
    message = await accept(store, content=large, size=len(large))
    outcomes = [outcome(message, REFUSED)]
    assert await recorder(store).record(Claim(message), outcomes, outcomes)
    (report,) = await reports_in(store)
    assert b"Subject: hello" in await content_of(store, report)
    assert report.size < 10_000


async def test_a_message_that_was_deleted_meanwhile_is_reported_without_its_content(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    message = await accept(store)
    await store.delete(Selection())
    outcomes = [outcome(message, REFUSED)]
    assert await recorder(store).record(Claim(message), outcomes, outcomes)
    assert len(await reports_in(store)) == 1
    assert f"{message.queue_id}: reported without its content" in caplog.text


async def test_failures_that_a_crash_left_unreported_are_reported_at_the_next_start(store: Store) -> None:
    message = await accept(store, 2)
    await store.record([outcome(message, REFUSED), Outcome(message.number, 1, State.EXPIRED, LATER)])
    await recorder(store).report_leftovers()
    (report,) = await reports_in(store)
    content = await content_of(store, report)
    assert b"u0@example.net" in content
    assert b"u1@example.net" in content
    await recorder(store).report_leftovers()
    assert len(await reports_in(store)) == 1


async def test_a_start_does_not_fail_for_a_report_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class FullStore(Store):
        async def record(self, *_: object, **__: object) -> list[int]:
            raise QueueError("no room on the disk")

    store = await FullStore.open(tmp_path / "queue.db", retry=lambda _attempt, now, _number: now)
    try:
        message = await accept(store)
        await Store.record(store, [outcome(message, REFUSED)])
        await recorder(store).report_leftovers()
        assert len(await store.unreported(())) == 1
    finally:
        await store.close()
    assert f"{message.queue_id}: failure not reported yet: no room on the disk" in caplog.text
