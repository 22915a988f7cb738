"""The delivery manager: claims what is due from the queue, as much as there is room for, and lets it pass."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from relay import events
from relay.delivery.fallback import Fallback
from relay.delivery.jumps import Jumps
from relay.delivery.lane import Health, Tools
from relay.delivery.lanes import Lanes, Via
from relay.delivery.maildir import Maildirs
from relay.delivery.passes import Books, Clock, Passes, Record, growing_pauses
from relay.mail import lifecycle
from relay.mail.attempt import Claim
from relay.mail.envelope import Envelope
from relay.mail.route import Route

__all__ = ["Clock", "Manager"]

IN_FLIGHT = 500
"""Messages in delivery at once, most of them waiting in a lane."""
LOW_WATER = 250
"""When so few are left the queue is asked for more, so that a backlog is taken in batches."""
LONGEST_SLEEP = 3600.0
"""Bound on a wait, so that a clock that jumps strands nothing for long."""
SHORTEST_SLEEP = 1.0
"""How soon the queue is asked again for what was due and not claimed: it is in flight."""
RECORD_SECONDS = 2.0
"""How long outcomes may take to be recorded at the end."""


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
        fallback: Fallback,
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
        self._now = now
        self._fallback = fallback
        self._jumps = Jumps(now, steady or now)
        self._lanes = Lanes(
            tools(self._probe_at, self.wake),
            maildirs(self.wake),
            self._now,
            lambda: IN_FLIGHT - len(self._passes),
        )
        self._passes = Passes(
            self._lanes,
            fallback,
            Books(route, record, queue, self._notice),
            self._now,
            self._jumps,
            self._pass_ended,
        )
        self.configure(clock, has_postmaster=has_postmaster)
        self._wake = asyncio.Event()
        self._wakes_at = 0.0
        self._turned_at = math.inf
        self._is_stopping = False

    def configure(self, clock: Clock, *, has_postmaster: bool) -> None:
        """Follow a changed configuration from the next outcome on."""
        self._passes.clock = clock
        self._passes.has_postmaster = has_postmaster

    def renew_connections(self) -> None:
        """Begin all further transfers over new connections: accounts or routes may be others."""
        self._lanes.renew_connections()

    @property
    def health(self) -> list[Health]:
        """How it is going with the next hops that are in use, or that failed lately."""
        return self._lanes.health

    def has_room(self, envelope: Envelope) -> bool:
        """Whether a message that arrives now may go to its lanes without being read back from the queue."""
        if len(self._passes) >= IN_FLIGHT or self._is_stopping:
            return False
        return all(map(self._lanes.has_room, self._vias(envelope)))

    def may_begin(self, envelope: Envelope) -> bool:
        """Whether the mail of some recipient of a message could leave now, were it claimed."""
        return any(map(self._lanes.has_room, self._vias(envelope)))

    def submit(self, claim: Claim) -> None:
        """Deliver a message that was put into the queue already claimed."""
        if self._is_stopping:
            self._passes.give_back(claim)
        else:
            self._passes.start(claim)

    def wake(self) -> None:
        """Look at the queue again: something became due, or a lane has room."""
        self._wake.set()

    def retry_now(self) -> None:
        """Look at the queue again and let every next hop be probed at once: the owner asked."""
        self._lanes.probe_now()
        self.wake()

    async def run(self) -> None:
        """Claim and deliver until cancelled."""
        while True:
            for seconds in growing_pauses():
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
        await asyncio.gather(self._lanes.close(grace_seconds), self._fallback.close())
        await self._passes.close(RECORD_SECONDS)

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
        jump = self._jumps.look() - self._jumps.kept
        if jump:
            await self._queue.rejuvenate(self._now() - jump, jump)
            self._jumps.kept += jump
        now = self._now()
        if now < self._turned_at:
            self._lanes.probe_now()
            await self._queue.bring_forward(lifecycle.latest_sensible(self._passes.clock.retry, now), now)
        self._turned_at = now

    async def _claim_due(self) -> None:
        now = self._now()
        clock = self._passes.clock
        claims = await self._queue.claim(
            now,
            IN_FLIGHT - len(self._passes),
            caps=self._lanes.caps(now, IN_FLIGHT),
            in_flight=self._passes.numbers,
            overdue_before=now - clock.lifetime,
            late_before=now - clock.warn_after if clock.warn_after else 0.0,
        )
        for claim in claims:
            self.submit(claim)

    async def _sleep(self) -> None:
        """Wait until something is due, a lane may be probed, or someone calls ``wake``."""
        now = self._now()
        if now < self._turned_at:
            return  # the clock was set back just now: what is booked is not worth waiting for
        moments = self._lanes.next_probes(now)
        is_full = len(self._passes) >= IN_FLIGHT
        caps = self._lanes.caps(now, IN_FLIGHT)
        due_at = now if is_full else await self._queue.next_due_at(now, caps)
        if due_at is not None:
            moments.append(max(due_at, now + SHORTEST_SLEEP))
        self._wakes_at = min([*moments, now + LONGEST_SLEEP])
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wakes_at - now):
                await self._wake.wait()

    def _notice(self, due_at: float) -> None:
        """Take note that something new is due at a time."""
        if due_at < self._wakes_at:
            self.wake()

    def _pass_ended(self) -> None:
        if self._lanes.is_crowded or len(self._passes) == LOW_WATER - 1:
            self._lanes.is_crowded = False
            self.wake()

    def _vias(self, envelope: Envelope) -> set[Via]:
        return {
            self._route(recipient.address, envelope.reverse_path).via for recipient in envelope.recipients
        }

    def _probe_at(self, failures: int, now: float) -> float:
        return lifecycle.next_attempt_at(self._passes.clock.retry, failures, now, failures)
