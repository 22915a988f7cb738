"""Passes: each is one attempt at the recipients of one claim.

What becomes of each recipient is recorded as soon as it is known; the transaction with the last of them also
holds the reports of the whole pass.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from relay import events
from relay.delivery.fallback import Detour, Fallback
from relay.delivery.jumps import Jumps
from relay.delivery.lane import Transfer
from relay.delivery.lanes import Lanes
from relay.mail import lifecycle
from relay.mail.attempt import Attempt, Claim, Outcome, Scope, State
from relay.mail.envelope import Recipient
from relay.mail.route import NextHop, Route

MOST_CONTENT = 16 * 1024 * 1024
"""Bytes of content that messages in delivery hold in memory; the rest is read from the queue when needed."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How long mail is kept and when its lateness is told; seconds."""

    retry: tuple[float, ...]
    lifetime: float
    warn_after: float


Record = Callable[[Claim, Sequence[Outcome], Sequence[Outcome] | None], Awaitable[bool]]
"""Record new outcomes of a claim; with the whole pass as third argument when it is over, so that its reports
go into the same transaction. True where there was one: it waits in the queue."""


class Giving(Protocol):
    """What takes a claim back."""

    async def give_back(self, number: int, indexes: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Books:
    """What passes ask of the queue, and of those who keep it."""

    route: Callable[[str, str], Route]
    """The way to a recipient, for mail of a reverse-path."""
    record: Record
    queue: Giving
    due: Callable[[float], None]
    """Told when something new is due; epoch seconds."""


class Results:
    """What is reported of the recipients of one pass, until it is taken; each is reported once."""

    def __init__(self) -> None:
        self._known: dict[Recipient, Attempt | None] = {}
        self._waiter: asyncio.Future[None] | None = None

    def add(self, known: Mapping[Recipient, Attempt | None]) -> None:
        """Report some recipients."""
        self._known.update(known)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> dict[Recipient, Attempt | None]:
        """Return all that was reported since the last time, waiting until there is something."""
        if not self._known:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        known, self._known = self._known, {}
        return known


@dataclass(slots=True)
class Run:
    """A pass that is under way."""

    claim: Claim
    routes: dict[Recipient, Route]
    """The way that the mail of each recipient takes: the last one, where it took a detour."""
    started_at: float
    results: Results = field(default_factory=Results)


class Passes:
    """The passes that are under way."""

    def __init__(
        self,
        lanes: Lanes,
        fallback: Fallback,
        books: Books,
        now: Callable[[], float],
        jumps: Jumps,
        on_end: Callable[[], None],
    ) -> None:
        """``on_end`` is called when one is over."""
        self.clock: Clock
        self.has_postmaster: bool
        self._lanes = lanes
        self._fallback = fallback
        self._books = books
        self._now = now
        self._jumps = jumps
        self._on_end = on_end
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._content = 0
        """Bytes of content that the passes hold."""

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def numbers(self) -> set[int]:
        """The numbers of their messages."""
        return set(self._tasks)

    def start(self, claim: Claim) -> None:
        """Hand a claim to its lanes and follow it; they know how full they are when this returns."""
        if claim.message.number in self._tasks:
            return  # its first retry was due before its commit was over
        if claim.content is not None and self._content + len(claim.content) > MOST_CONTENT:
            claim = replace(claim, content=None)
        try:
            run = Run(claim, self._find_routes(claim), self._now())
            turned_away = self._submit(run, run.routes)
        except Exception as error:
            events.failed(f"delivery of {claim.message.queue_id}", error)  # its retry is booked
            return
        self._follow(claim, self._run(run, turned_away))

    def give_back(self, claim: Claim) -> None:
        """Make a claim due again that is not handed out any more."""
        indexes = [recipient.index for recipient in claim.message.envelope.recipients]
        self._follow(replace(claim, content=None), self._give_back(claim, indexes))

    async def close(self, seconds: float) -> None:
        """Let them record what is known by now, for so long at most."""
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _follow(self, claim: Claim, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[claim.message.number] = task
        self._content += len(claim.content or b"")
        task.add_done_callback(lambda done: self._finish(claim, done))

    def _finish(self, claim: Claim, task: asyncio.Task[None]) -> None:
        del self._tasks[claim.message.number]
        self._content -= len(claim.content or b"")
        if not task.cancelled() and (error := task.exception()) is not None:
            events.failed(f"delivery of {claim.message.queue_id}", error)
        self._on_end()

    def _find_routes(self, claim: Claim) -> dict[Recipient, Route]:
        """Return the route that the mail of each recipient takes now."""
        routes: dict[Recipient, Route] = {}
        begun: dict[NextHop, Route] = {}
        for recipient in claim.message.envelope.recipients:
            route = self._books.route(recipient.address, claim.message.envelope.reverse_path)
            if route.instead_of is not None:
                if route.instead_of not in begun:
                    begun[route.instead_of] = self._fallback.begin(route)
                route = begun[route.instead_of]
            routes[recipient] = route
        return routes

    def _submit(self, run: Run, routes: Mapping[Recipient, Route]) -> list[Outcome]:
        """Give recipients to their lanes and mailboxes; return the outcomes of those that find no room."""
        groups: dict[Route, list[Recipient]] = {}
        for recipient, route in routes.items():
            groups.setdefault(route, []).append(recipient)
        turned_away: list[tuple[Recipient, Attempt]] = []
        for route, recipients in groups.items():
            transfer = Transfer(run.claim, tuple(recipients), route.internal, run.results.add)
            turned_away += self._lanes.submit(route.via, transfer)
        return [self._turn_away(run.claim, recipient, attempt) for recipient, attempt in turned_away]

    async def _run(self, run: Run, turned_away: Sequence[Outcome]) -> None:
        """Record what becomes of a claim until nothing more will."""
        jumped, left = self._jumps.kept, len(run.routes)
        outcomes: list[Outcome] = []
        given_up: list[int] = []
        while True:
            if turned_away:
                left -= len(turned_away)
                await self._save(run.claim, turned_away, outcomes if outcomes and not left else None)
            if not left:
                break
            known = await run.results.take()
            if jump := self._jumps.look() - jumped:
                run.claim = replace(run.claim, message=lifecycle.rejuvenate(run.claim.message, jump))
                jumped += jump
                self._books.due(0.0)
            age = lifecycle.age(run.claim.message, self._now())
            detours = self._fallback.judge(run.routes, known, age)
            left -= len(known) - len(detours)
            given_up += [recipient.index for recipient, attempt in known.items() if attempt is None]
            fresh = [
                self._judge(run, recipient, attempt)
                for recipient, attempt in known.items()
                if attempt is not None and recipient not in detours
            ]
            outcomes += fresh
            fresh += [self._send_on(run, recipient, detour) for recipient, detour in detours.items()]
            if fresh:
                await self._save(run.claim, fresh, None if left else outcomes)
            await self._fallback.learn(run.routes, known, detours)
            ways = {recipient: detour.route for recipient, detour in detours.items()}
            run.routes |= ways
            turned_away = self._submit(run, ways)
        if given_up:
            await self._give_back(run.claim, given_up)

    def _judge(self, run: Run, recipient: Recipient, attempt: Attempt) -> Outcome:
        """Return what an attempt means for its recipient."""
        now, message = self._now(), run.claim.message
        state = lifecycle.judge(
            attempt, message, now=now, lifetime=self.clock.lifetime, has_postmaster=self.has_postmaster
        )
        retry_at = self._retry_at(run, recipient, attempt) if state is State.DEFERRED else 0.0
        events.attempted(message, recipient, state, attempt, now)
        return Outcome(message.number, recipient.index, state, attempt, retry_at)

    def _send_on(self, run: Run, recipient: Recipient, detour: Detour) -> Outcome:
        """Return what an attempt means after which a detour follows at once: the booked retry stands."""
        message = run.claim.message
        events.detoured(message, recipient, detour.attempt, detour.via.key)
        self._lanes.release(detour.site)
        retry_at = self._next_attempt_at(run.claim, run.started_at)
        return Outcome(message.number, recipient.index, State.QUEUED, detour.attempt, retry_at)

    async def _save(
        self, claim: Claim, outcomes: Sequence[Outcome], whole_pass: Sequence[Outcome] | None
    ) -> None:
        """Record outcomes, however long it takes: one that is forgotten would be repeated at the next hop."""
        for seconds in growing_pauses():
            try:
                has_report = await self._books.record(claim, outcomes, whole_pass)
            except Exception as error:
                events.warned(f"{claim.message.queue_id}: outcome not recorded yet: {error}")
                await asyncio.sleep(seconds)
            else:
                break
        waiting = (State.QUEUED, State.DEFERRED)
        retries = (outcome.next_attempt_at for outcome in outcomes if outcome.state in waiting)
        self._books.due(0.0 if has_report else min(retries, default=math.inf))

    async def _give_back(self, claim: Claim, indexes: Sequence[int]) -> None:
        """Make due what was not attempted; where that fails, its booked retry stands."""
        try:
            await self._books.queue.give_back(claim.message.number, indexes)
        except Exception as error:
            events.warned(f"{claim.message.queue_id}: not given back, tried again when booked: {error}")

    def _turn_away(self, claim: Claim, recipient: Recipient, attempt: Attempt) -> Outcome:
        """Return the outcome that lets a recipient wait in the queue: due still, but for a known next hop.

        Old messages are due later: the queue would hand them out again at once, however full the lane is.
        """
        now, clock, message = self._now(), self.clock, claim.message
        is_old = lifecycle.age(message, now) >= clock.lifetime or (
            not claim.is_warned and lifecycle.is_late(message, now, clock.warn_after)
        )
        due_at = self._next_attempt_at(claim, now) if is_old else now
        return Outcome(message.number, recipient.index, State.DEFERRED, attempt, due_at, was_tried=False)

    def _retry_at(self, run: Run, recipient: Recipient, attempt: Attempt) -> float:
        """Return when a deferred recipient is due again: with its next hop where that does not answer."""
        if attempt.scope is Scope.SITE:
            route = self._books.route(recipient.address, run.claim.message.envelope.reverse_path)
            taken = run.routes[recipient]
            via = taken.via if taken.instead_of == route.via else route.via
            blocked_until = self._lanes.wait_for(via)
            if blocked_until is not None:
                return max(self._now(), blocked_until)
        return self._next_attempt_at(run.claim, run.started_at)

    def _next_attempt_at(self, claim: Claim, started_at: float) -> float:
        """Return when to try again, counted from the start of the pass: its recipients stay together."""
        now = self._now()
        started_at = min(started_at, now)  # the clock may have been set back since
        wait = lifecycle.next_attempt_at(self.clock.retry, claim.attempt_number, 0.0, claim.message.number)
        return started_at + wait if started_at + wait > now else now + wait


def growing_pauses() -> Iterator[float]:
    """Yield 1, 2, 4 … up to 30 seconds, without end."""
    seconds = 1.0
    while True:
        yield seconds
        seconds = min(2 * seconds, 30.0)
