"""The delivery manager: from the queue down the lanes, and back with what came of it.

A *pass* is one attempt at the recipients of one claim. What becomes of each is recorded as soon as it is
known; the transaction with the last of them also holds the reports of the whole pass.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from relay import events
from relay.delivery.jumps import Jumps
from relay.delivery.lane import Health, Lane, Report, Tools, Transfer
from relay.delivery.maildir import MAILDIR, Maildirs
from relay.mail import lifecycle
from relay.mail.attempt import Attempt, Claim, Outcome, Scope, State
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.route import Discard, Mailbox, NextHop, Refuse, Route

IN_FLIGHT = 500
"""Messages in delivery at once, most of them waiting in a lane."""
LOW_WATER = 250
"""When so few are left the queue is asked for more, so that a backlog is taken in batches."""
MOST_CONTENT = 16 * 1024 * 1024
"""Bytes of content that messages in delivery hold in memory; the rest is read from the queue when needed."""
RECIPIENTS_PER_TRANSFER = 50
"""Recipients of one transaction (smtp_destination_recipient_limit)."""
LONGEST_SLEEP = 3600.0
"""Bound on a wait, so that a clock that jumps strands nothing for long."""
SHORTEST_SLEEP = 1.0
"""How soon the queue is asked again for what was due and not claimed: it is in flight."""
RECORD_SECONDS = 2.0
"""How long outcomes may take to be recorded at the end."""

_CROWDED = Reply(451, "4.3.2", "many messages wait for this next hop; this one waits for its turn")
_DISCARDED = Attempt(Reply(250, "2.0.0", "discarded, as the transport table says"))


class Queue(Protocol):
    """What the manager asks of the queue."""

    async def claim(
        self,
        now: float,
        limit: int,
        *,
        caps: Mapping[str, int],
        in_flight: Collection[int],
        overdue_before: float,
        late_before: float,
    ) -> list[Claim]: ...

    async def next_due_at(self, now: float, caps: Mapping[str, int]) -> float | None: ...

    async def bring_forward(self, after: float, now: float) -> int: ...

    async def rejuvenate(self, before: float, jump: float) -> int: ...

    async def give_back(self, number: int, indexes: Sequence[int]) -> None: ...


@dataclass(frozen=True, slots=True)
class Clock:
    """How long mail is kept and when its lateness is told; seconds."""

    retry: tuple[float, ...]
    lifetime: float
    warn_after: float


Record = Callable[[Claim, Sequence[Outcome], Sequence[Outcome] | None], Awaitable[bool]]
"""Record new outcomes of a claim; with the whole pass as third argument when it is over, so that its reports
go into the same transaction. True where there was one: it waits in the queue."""


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


class Manager:
    """Moves mail from the queue to its next hops, and into mailboxes."""

    def __init__(
        self,
        queue: Queue,
        route: Callable[[str, str], Route],
        record: Record,
        tools: Callable[[Callable[[int, float], float], Callable[[], None]], Tools],
        clock: Clock,
        now: Callable[[], float],
        *,
        maildirs: Callable[[Callable[[], None]], Maildirs],
        has_postmaster: bool = True,
        steady: Callable[[], float] | None = None,
    ) -> None:
        """Wire the manager.

        ``route`` gives the way to a recipient for mail of a reverse-path. ``tools`` are made of two of the
        manager's own: when to probe a next hop again, and ``wake``; ``maildirs`` are made of ``wake``.
        ``steady`` is a clock that nobody sets, by which a jump of ``now`` is noticed.
        """
        self._queue = queue
        self._route = route
        self._record = record
        self._clock = clock
        self._now = now
        self._has_postmaster = has_postmaster
        self._tools = tools(self._probe_at, self.wake)
        self._maildirs = maildirs(self.wake)
        self._lanes: dict[NextHop, Lane] = {}
        self._passes: dict[int, asyncio.Task[None]] = {}
        self._content = 0
        """Bytes of content that the passes hold."""
        self._wake = asyncio.Event()
        self._wakes_at = 0.0
        self._turned_at = math.inf
        self._jumps = Jumps(now, steady or now)
        self._jump_kept = 0.0
        """Seconds of the clock's jumps that the queue knows of."""
        self._is_crowded = False
        """Whether a lane was given no room for the sake of the others: a pass that ends may make some."""
        self._is_stopping = False

    def configure(self, clock: Clock, *, has_postmaster: bool) -> None:
        """Follow a changed configuration from the next outcome on."""
        self._clock = clock
        self._has_postmaster = has_postmaster

    def renew_connections(self) -> None:
        """Begin all further transfers over new connections: accounts or routes may be others."""
        for lane in self._lanes.values():
            lane.renew()

    @property
    def health(self) -> list[Health]:
        """How it is going with the next hops that are in use, or that failed lately."""
        return [lane.health for lane in self._lanes.values()]

    def has_room(self, envelope: Envelope) -> bool:
        """Whether a message that arrives now may go to its lanes without being read back from the queue."""
        if len(self._passes) >= IN_FLIGHT or self._is_stopping:
            return False
        return all(self._via_has_room(via, self._now()) for via in self._vias(envelope))

    def may_begin(self, envelope: Envelope) -> bool:
        """Whether the mail of some recipient of a message could leave now, were it claimed."""
        return any(self._via_has_room(via, self._now()) for via in self._vias(envelope))

    def submit(self, claim: Claim) -> None:
        """Deliver a message that was put into the queue already claimed."""
        self._start(claim)

    def wake(self) -> None:
        """Look at the queue again: something became due, or a lane has room."""
        self._wake.set()

    def retry_now(self) -> None:
        """Look at the queue again and let every next hop be probed at once: the owner asked."""
        for lane in self._lanes.values():
            lane.probe_now()
        self.wake()

    async def run(self) -> None:
        """Claim and deliver until cancelled."""
        while True:
            for seconds in _growing_pauses():
                try:
                    await self._turn()
                except Exception as error:
                    events.warned(f"the queue cannot be read or written: {error}")
                    await asyncio.sleep(seconds)
                else:
                    break

    async def close(self, grace_seconds: float) -> None:
        """Claim nothing more, let transfers that have begun finish within the grace, abort the rest.

        Whatever was not delivered stays in the queue, due at the next start.
        """
        self._is_stopping = True
        lanes = (lane.close(grace_seconds) for lane in self._lanes.values())
        await asyncio.gather(self._maildirs.close(grace_seconds), *lanes)
        passes = list(self._passes.values())
        if passes:
            _, late = await asyncio.wait(passes, timeout=RECORD_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # Claims

    async def _turn(self) -> None:
        self._wake.clear()
        self._wakes_at = math.inf
        await self._mend_clock()
        if len(self._passes) < IN_FLIGHT and not self._is_stopping:
            await self._claim_due()
        await self._sleep()

    async def _mend_clock(self) -> None:
        """Where the clock was set back (at the start, it may have been), wait no longer than intended.

        Where it was set forward, mail that waits gets no older, unless a crash comes between.
        """
        jump = self._jumps.look() - self._jump_kept
        if jump:
            await self._queue.rejuvenate(self._now() - jump, jump)
            self._jump_kept += jump
        now = self._now()
        if now < self._turned_at:
            for lane in self._lanes.values():
                lane.probe_now()
            await self._queue.bring_forward(lifecycle.latest_sensible(self._clock.retry, now), now)
        self._turned_at = now

    async def _claim_due(self) -> None:
        now = self._now()
        clock = self._clock
        claims = await self._queue.claim(
            now,
            IN_FLIGHT - len(self._passes),
            caps=self._caps(now),
            in_flight=set(self._passes),
            overdue_before=now - clock.lifetime,
            late_before=now - clock.warn_after if clock.warn_after else 0.0,
        )
        for claim in claims:
            self._start(claim)

    async def _sleep(self) -> None:
        """Wait until something is due, a lane may be probed, or someone calls ``wake``."""
        now = self._now()
        if now < self._turned_at:
            return  # the clock was set back just now: what is booked is not worth waiting for
        moments = [lane.blocked_until for lane in self._lanes.values() if lane.is_blocked(now)]
        is_full = len(self._passes) >= IN_FLIGHT
        due_at = now if is_full else await self._queue.next_due_at(now, self._caps(now))
        if due_at is not None:
            moments.append(max(due_at, now + SHORTEST_SLEEP))
        self._wakes_at = min([*moments, now + LONGEST_SLEEP])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wakes_at - now):
                await self._wake.wait()

    def _caps(self, now: float) -> dict[str, int]:
        """Return how many messages each next hop takes; forget lanes that are of no use."""
        self._lanes = {hop: lane for hop, lane in self._lanes.items() if not lane.is_disposable(now)}
        caps = {MAILDIR: self._maildirs.room()}
        for next_hop, lane in self._lanes.items():
            caps[next_hop.key] = min(self._room(lane, now), caps.get(next_hop.key, IN_FLIGHT))
        return caps

    def _vias(self, envelope: Envelope) -> set[NextHop | Mailbox | Discard | Refuse]:
        return {
            self._route(recipient.address, envelope.reverse_path).via for recipient in envelope.recipients
        }

    def _via_has_room(self, via: NextHop | Mailbox | Discard | Refuse, now: float) -> bool:
        if isinstance(via, Mailbox):
            return self._maildirs.room() > 0
        lane = self._lanes.get(via) if isinstance(via, NextHop) else None
        return lane is None or lane.is_blocked(now) or self._room(lane, now) > 0

    def _room(self, lane: Lane, now: float) -> int:
        """Return how many more messages a lane takes."""
        return min(lane.room(now), self._share(lane))

    def _has_place(self, lane: Lane) -> bool:
        """Whether a lane may be given a message; one that is blocked gives it back at once."""
        return lane.is_blocked(self._now()) or self._share(lane) > 0

    def _share(self, lane: Lane) -> int:
        """Return how many more messages a lane may hold, so that those that hang leave places to the others.

        That is half as many as there are free places (a dynamic threshold): however many lanes fill up, some
        places stay free, and a lane without any message gets one.
        """
        free = IN_FLIGHT - len(self._passes)
        share = max(free // 2 - lane.held, 0 if lane.held else 1)
        self._is_crowded = self._is_crowded or share == 0
        return share

    def _probe_at(self, failures: int, now: float) -> float:
        return lifecycle.next_attempt_at(self._clock.retry, failures, now, failures)

    # One pass

    def _start(self, claim: Claim) -> None:
        """Hand a claim to its lanes and follow it; they know how full they are when this returns."""
        if claim.message.number in self._passes:
            return  # its first retry was due before its commit was over
        if self._is_stopping:
            indexes = [recipient.index for recipient in claim.message.envelope.recipients]
            self._follow_in_task(replace(claim, content=None), self._give_back(claim, indexes))
            return
        if claim.content is not None and self._content + len(claim.content) > MOST_CONTENT:
            claim = replace(claim, content=None)
        results = Results()
        try:
            turned_away = self._hand_out(claim, results.add)
        except Exception as error:
            events.failed(f"delivery of {claim.message.queue_id}", error)  # its retry is booked
            return
        self._follow_in_task(claim, self._follow(claim, results, turned_away))

    def _follow_in_task(self, claim: Claim, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._passes[claim.message.number] = task
        self._content += len(claim.content or b"")
        task.add_done_callback(lambda done: self._finish(claim, done))

    def _finish(self, claim: Claim, task: asyncio.Task[None]) -> None:
        del self._passes[claim.message.number]
        self._content -= len(claim.content or b"")
        if not task.cancelled() and (error := task.exception()) is not None:
            events.failed(f"delivery of {claim.message.queue_id}", error)
        if self._is_crowded or len(self._passes) == LOW_WATER - 1:
            self._is_crowded = False
            self.wake()

    def _hand_out(self, claim: Claim, report: Report) -> list[Outcome]:
        """Give recipients to their lanes and mailboxes; return the outcomes of those that find no room."""
        turned_away: list[Outcome] = []
        for route, recipients in self._group(claim.message.envelope).items():
            match route.via:
                case NextHop() as next_hop:
                    lane = self._lane(next_hop)
                    for start in range(0, len(recipients), RECIPIENTS_PER_TRANSFER):
                        some = tuple(recipients[start : start + RECIPIENTS_PER_TRANSFER])
                        transfer = Transfer(claim, some, route.internal, report)
                        if not (self._has_place(lane) and lane.submit(transfer)):
                            turned_away += self._turn_away(claim, some, next_hop.key)
                case Mailbox() as mailbox:
                    copies = Transfer(claim, tuple(recipients), route.internal, report)
                    if not self._maildirs.submit(mailbox, copies):
                        turned_away += self._turn_away(claim, recipients, MAILDIR)
                case Discard():
                    report(dict.fromkeys(recipients, _DISCARDED))
                case Refuse(reply):
                    report(dict.fromkeys(recipients, Attempt(reply)))
        return turned_away

    def _lane(self, next_hop: NextHop) -> Lane:
        lane = self._lanes.get(next_hop)
        if lane is None:
            lane = self._lanes[next_hop] = Lane(next_hop, self._tools)
        return lane

    def _group(self, envelope: Envelope) -> dict[Route, list[Recipient]]:
        groups: dict[Route, list[Recipient]] = {}
        for recipient in envelope.recipients:
            route = self._route(recipient.address, envelope.reverse_path)
            groups.setdefault(route, []).append(recipient)
        return groups

    def _turn_away(self, claim: Claim, recipients: Iterable[Recipient], next_hop: str) -> list[Outcome]:
        """Return the outcomes that let recipients wait in the queue: due still, but for a known next hop.

        Old messages are due later: the queue would hand them out again at once, however full the lane is.
        """
        now, clock, message = self._now(), self._clock, claim.message
        is_old = lifecycle.age(message, now) >= clock.lifetime or (
            not claim.is_warned and lifecycle.is_late(message, now, clock.warn_after)
        )
        due_at = self._next_attempt_at(claim, now, now) if is_old else now
        attempt = Attempt(_CROWDED, Scope.SITE, next_hop=next_hop)
        return [
            Outcome(message.number, r.index, State.DEFERRED, attempt, due_at, was_tried=False)
            for r in recipients
        ]

    async def _follow(self, claim: Claim, results: Results, turned_away: Sequence[Outcome]) -> None:
        """Record what becomes of a claim until nothing more will."""
        started_at, jumped = self._now(), self._jump_kept
        if turned_away:
            await self._save(claim, turned_away, None)
        left = len(claim.message.envelope.recipients) - len(turned_away)
        outcomes: list[Outcome] = []
        given_up: list[int] = []
        while left:
            known = await results.take()
            left -= len(known)
            jump = self._jumps.look() - jumped
            if jump:
                claim = replace(claim, message=lifecycle.rejuvenate(claim.message, jump))
                jumped += jump
                self.wake()
            given_up += [recipient.index for recipient, attempt in known.items() if attempt is None]
            fresh = self._judge(claim, known, started_at)
            outcomes += fresh
            if fresh:
                await self._save(claim, fresh, None if left else outcomes)
        if given_up:
            await self._give_back(claim, given_up)

    async def _give_back(self, claim: Claim, indexes: Sequence[int]) -> None:
        """Make due what was not attempted; where that fails, its booked retry stands."""
        try:
            await self._queue.give_back(claim.message.number, indexes)
        except Exception as error:
            events.warned(f"{claim.message.queue_id}: not given back, tried again when booked: {error}")

    def _judge(
        self, claim: Claim, known: Mapping[Recipient, Attempt | None], started_at: float
    ) -> list[Outcome]:
        now = self._now()
        outcomes = []
        for recipient, attempt in known.items():
            if attempt is None:
                continue
            state = lifecycle.judge(
                attempt,
                claim.message,
                now=now,
                lifetime=self._clock.lifetime,
                has_postmaster=self._has_postmaster,
            )
            retry_at = 0.0
            if state is State.DEFERRED:
                retry_at = self._retry_at(claim, recipient, attempt, started_at, now)
            events.attempted(claim.message, recipient, state, attempt, now)
            outcomes.append(Outcome(claim.message.number, recipient.index, state, attempt, retry_at))
        return outcomes

    def _retry_at(
        self, claim: Claim, recipient: Recipient, attempt: Attempt, started_at: float, now: float
    ) -> float:
        """Return when a deferred recipient is due again: with its next hop where that does not answer."""
        via = self._route(recipient.address, claim.message.envelope.reverse_path).via
        if attempt.scope is Scope.SITE and isinstance(via, NextHop) and via in self._lanes:
            return max(now, self._lanes[via].blocked_until)
        return self._next_attempt_at(claim, started_at, now)

    def _next_attempt_at(self, claim: Claim, started_at: float, now: float) -> float:
        """Return when to try again, counted from the start of the pass: its recipients stay together."""
        started_at = min(started_at, now)  # the clock may have been set back since
        wait = lifecycle.next_attempt_at(self._clock.retry, claim.attempt_number, 0.0, claim.message.number)
        return started_at + wait if started_at + wait > now else now + wait

    async def _save(
        self, claim: Claim, outcomes: Sequence[Outcome], whole_pass: Sequence[Outcome] | None
    ) -> None:
        """Record outcomes, however long it takes: one that is forgotten would be repeated at the next hop."""
        for seconds in _growing_pauses():
            try:
                has_report = await self._record(claim, outcomes, whole_pass)
            except Exception as error:
                events.warned(f"{claim.message.queue_id}: outcome not recorded yet: {error}")
                await asyncio.sleep(seconds)
            else:
                break
        retries = (outcome.next_attempt_at for outcome in outcomes if outcome.state is State.DEFERRED)
        if has_report or min(retries, default=math.inf) < self._wakes_at:
            self.wake()


def _growing_pauses() -> Iterator[float]:
    """Yield 1, 2, 4 … up to 30 seconds, without end."""
    seconds = 1.0
    while True:
        yield seconds
        seconds = min(2 * seconds, 30.0)
