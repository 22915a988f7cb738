"""Recording what a pass came to, together with the reports that it calls for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay import events
from relay.mail import lifecycle
from relay.mail.attempt import Attempt, Claim, Failed, Outcome, Scope, State
from relay.mail.dsn import (
    Letter,
    Plan,
    Report,
    ReportSettings,
    build_report,
    plan_reports,
    returned_size,
    seal,
)
from relay.mail.envelope import Message, Recipient, format_queue_id
from relay.mail.reply import Reply


class Unreported(Protocol):
    """A message with failures that no report has told of yet."""

    @property
    def message(self) -> Message: ...

    @property
    def failed(self) -> Sequence[Failed]: ...


class Entry(Protocol):
    """A message in the queue, with all its recipients."""

    @property
    def message(self) -> Message: ...

    @property
    def recipients(self) -> Sequence[QueuedRecipient]: ...


class QueuedRecipient(Protocol):
    """One of them, with its last attempt."""

    @property
    def recipient(self) -> Recipient: ...

    @property
    def state(self) -> State: ...

    @property
    def attempt(self) -> Attempt | None: ...


class Queue(Protocol):
    """What the recorder asks of the queue."""

    def new_number(self, now: float) -> int: ...

    def read(self, number: int) -> AsyncIterator[bytes]: ...

    async def show(self, number: int) -> Entry | None: ...

    async def unreported(self, in_flight: Collection[int]) -> Sequence[Unreported]: ...

    async def record(
        self,
        outcomes: Sequence[Outcome],
        *,
        reports: Sequence[Report] = (),
        reported: Sequence[tuple[int, int]] = (),
        warned: Sequence[int] = (),
    ) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Reporting:
    """Who is told what."""

    settings: ReportSettings
    warn_after: float
    """Seconds after which a sender is told that a message is late."""
    report_to: Callable[[Message], str]
    """Gives the address that is told about a message."""
    expand: Callable[[str, str], tuple[str, ...]]
    """Gives those who get the mail for an address: (address, "")."""


class Recorder:
    """Writes outcomes to the queue, and to whoever must hear of them."""

    def __init__(self, queue: Queue, reporting: Reporting, now: Callable[[], float]) -> None:
        self._queue = queue
        self._reporting = reporting
        self._now = now

    def configure(self, reporting: Reporting) -> None:
        """Follow a changed configuration."""
        self._reporting = reporting

    async def record(
        self, claim: Claim, outcomes: Sequence[Outcome], whole_pass: Sequence[Outcome] | None
    ) -> bool:
        """Record new outcomes; with the whole pass, once it is over, its reports too, in one transaction.

        Return whether reports went into the queue. Lateness is looked at once: it counts as told even where
        no recipient wants to hear of it.
        """
        message = claim.message
        if whole_pass is None:
            await self._queue.record(outcomes)
            return False
        is_late = (
            not claim.is_warned
            and lifecycle.is_late(message, self._now(), self._reporting.warn_after)
            and any(outcome.state is State.DEFERRED for outcome in whole_pass)
        )
        if is_late:
            message, others = await self._find_others(message, whole_pass)
            return await self._store(message, outcomes, [*whole_pass, *others], is_late=True)
        return await self._store(message, outcomes, whole_pass, is_late=False)

    async def _find_others(
        self, message: Message, whole_pass: Sequence[Outcome]
    ) -> tuple[Message, list[Outcome]]:
        """Return the message with all its recipients, and the deferrals of those not in this pass.

        The warning is given once: it tells of all who are still waited for.
        """
        entry = await self._queue.show(message.number)
        if entry is None:
            return message, []
        known = {outcome.index for outcome in whole_pass}
        others = [
            Outcome(message.number, queued.recipient.index, State.DEFERRED, queued.attempt)
            for queued in entry.recipients
            if queued.attempt and queued.state is State.DEFERRED and queued.recipient.index not in known
        ]
        return entry.message, others

    async def report_leftovers(self) -> None:
        """Report failures of passes that a crash cut short; to be called before the first new pass.

        Those that cannot be written now stay for the next start.
        """
        for left in await self._queue.unreported(()):
            outcomes = [
                Outcome(
                    left.message.number,
                    failed.recipient.index,
                    State.BOUNCED if failed.attempt.reply.is_permanent else State.EXPIRED,
                    failed.attempt,
                )
                for failed in left.failed
            ]
            try:
                await self._store(left.message, (), outcomes, is_late=False)
            except Exception as error:
                events.warned(f"{left.message.queue_id}: failure not reported yet: {error}")

    async def refuse(self, message: Message, original: bytes, reply: Reply) -> None:
        """Report a message that was not taken into the queue, with the start of its content."""
        outcomes = [
            Outcome(message.number, recipient.index, State.BOUNCED, Attempt(reply, Scope.MESSAGE))
            for recipient in message.envelope.recipients
        ]
        to, postmaster = self._reporting.report_to(message), self._reporting.settings.postmaster
        plans = plan_reports(message, outcomes, to=to, postmaster=postmaster, is_late=False)
        reports = [self._build(plan, message, original) for plan in plans]
        await self._queue.record((), reports=reports)
        for plan, report in zip(plans, reports, strict=True):
            events.reported(message, plan.kind, report.message)

    async def announce(self, subject: str, text: str) -> None:
        """Put a letter to the postmaster into the queue; nothing is ever reported about it."""
        settings, now = self._reporting.settings, self._now()
        body, plain = text.encode(), "text/plain; charset=utf-8"
        letter = Letter(settings.postmaster, subject, plain, body, "auto-generated", "NEVER")
        recipients = self._reporting.expand(settings.postmaster, "")
        number = self._queue.new_number(now)
        report = seal(letter, settings, recipients=recipients, number=number, now=now)
        await self._queue.record((), reports=[report])
        events.announced(report.message, subject)

    async def _store(
        self, message: Message, outcomes: Sequence[Outcome], whole_pass: Sequence[Outcome], *, is_late: bool
    ) -> bool:
        plans = plan_reports(
            message,
            whole_pass,
            to=self._reporting.report_to(message),
            postmaster=self._reporting.settings.postmaster,
            is_late=is_late,
        )
        reports = [
            self._build(plan, message, await self._read(message.number, returned_size(plan.kind, message)))
            for plan in plans
        ]
        failures = [
            (outcome.number, outcome.index)
            for outcome in whole_pass
            if outcome.state in {State.BOUNCED, State.EXPIRED}
        ]
        finished = await self._queue.record(
            outcomes, reports=reports, reported=failures, warned=[message.number] if is_late else []
        )
        for plan, report in zip(plans, reports, strict=True):
            events.reported(message, plan.kind, report.message)
        if message.number in finished:
            events.removed(message.queue_id)
        return bool(plans)

    def _build(self, plan: Plan, message: Message, original: bytes) -> Report:
        now = self._now()
        number = self._queue.new_number(now)
        return build_report(
            plan,
            message,
            original,
            self._reporting.settings,
            recipients=self._reporting.expand(plan.to, ""),
            number=number,
            now=now,
        )

    async def _read(self, number: int, size: int) -> bytes:
        """Return the first bytes of a content, at least that many; fewer where it was deleted meanwhile."""
        start = bytearray()
        try:
            async for chunk in self._queue.read(number):
                start += chunk
                if len(start) >= size:
                    break
        except Exception as error:
            events.warned(f"{format_queue_id(number)}: reported without its content: {error}")
        return bytes(start)
