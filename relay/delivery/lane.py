"""One lane per next hop: its waiting transfers, its agents, its health.

A lane opens few connections and keeps each while there is work. When no session can be had, the lane is
blocked as a whole: whatever waits is deferred with the reason, and after a growing pause one transfer
probes. Where the next hop has a rate, transfers wait for their turn. Lanes share nothing, so a site that is
down or slow holds up no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from relay import events
from relay.delivery.agent import Agent, Endpoint, Report, Tools, Transfer
from relay.delivery.login import is_login_failure
from relay.delivery.pace import Pace
from relay.mail.attempt import Attempt, Scope
from relay.mail.route import NextHop

__all__ = ["Endpoint", "Health", "Lane", "Report", "Tools", "Transfer"]

CONNECTIONS = 5
"""Connections to one next hop at once, when it has shown that it answers; unless it says how many."""
FIRST_CONNECTIONS = 2
"""The same before; only one where there may be an account, lest a wrong password be tried twice at once."""
BACKLOG = 100
"""Transfers that may wait in memory for one next hop that answers."""
FIRST_BACKLOG = 20
"""The same before it has answered, or under a rate: few, so that they don't fill the room of the others."""
LOGIN_PAUSE = 300.0
"""Seconds until the next login after one that failed, at least: too many would have the account locked."""
IDLE_SECONDS = 5.0
"""How long an unused connection is kept."""
FORGET_SECONDS = 3600.0
"""How long after its pause a lane that failed is kept, to remember how often in a row it did."""


@dataclass(frozen=True, slots=True)
class Health:
    """How it is going with one next hop."""

    next_hop: str
    """``NextHop.key``."""
    waiting: int
    """Transfers that wait in memory."""
    under_way: int
    blocked_until: float
    """Epoch second of the next probe; 0 where the next hop answers."""
    failure: str
    """Why no session could be had, "" where one could."""


class Lane:
    """The way to one next hop."""

    def __init__(self, next_hop: NextHop, tools: Tools) -> None:
        self.next_hop = next_hop
        self.blocked_until = 0.0
        """Epoch second of the next probe."""
        self._tools = tools
        self._steady = tools.steady or tools.now
        self._waiting: deque[Transfer] = deque()
        self._pace = Pace(next_hop.rate)
        self._alarm: asyncio.TimerHandle | None = None
        """Rings when the rate lets the next transfer leave."""
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        """What wakes each worker that rests, keeping its connection, for lack of work."""
        self._failures = 0
        self._last_failure: Attempt | None = None
        self._is_told = True
        """Whether the log says that mail waits: not before some does, for it may go on over the fallback."""
        self._has_answered = False
        self._allowed_connections = next_hop.connections or CONNECTIONS
        self._most_connections = self._allowed_connections
        self._has_turned_away = False
        self._generation = 0
        """Counts how often all connections were to be renewed."""
        self._is_closing = False

    def is_blocked(self, now: float) -> bool:
        """Whether no session could be had lately, and it is too early to probe."""
        return self._failures > 0 and now < self.blocked_until

    def is_disposable(self, now: float) -> bool:
        """Whether nothing worth remembering would be lost with the lane."""
        is_idle = not (self._waiting or self._workers)
        return (
            is_idle
            and self._pace.is_at_rest(self._steady())
            and (not self._failures or now >= self.blocked_until + FORGET_SECONDS)
        )

    @property
    def held(self) -> int:
        """The number of transfers that wait here or are under way."""
        return len(self._waiting) + len(self._workers) - len(self._idle)

    @property
    def health(self) -> Health:
        """How it is going now."""
        failure = self._last_failure.explain() if self._last_failure else ""
        waiting = len(self._waiting)
        until = self.blocked_until if self._failures else 0.0
        return Health(self.next_hop.key, waiting, self.held - waiting, until, failure)

    def room(self, now: float) -> int:
        """Return how many more messages the lane takes; after a 0, ``changed`` is called when it takes some.

        None while it is blocked, then one as a probe; else either none or at least half of its backlog, so
        that the queue is asked for many at once.
        """
        if self._failures:
            return 0 if self._waiting or self._workers or self.is_blocked(now) else 1
        if len(self._waiting) >= self._backlog // 2:
            self._has_turned_away = True
            return 0
        return self._backlog - len(self._waiting)

    def submit(self, transfer: Transfer) -> bool:
        """Take a transfer, and fail it at once while blocked; return False where far too many wait already.

        The limit is twice the backlog: several may have been told of the same room.
        """
        if self._is_closing:
            transfer.fail(None)
        elif self._last_failure is not None and self.is_blocked(self._tools.now()):
            transfer.fail(self._last_failure)
        elif len(self._waiting) >= 2 * self._backlog:
            self._has_turned_away = True
            return False
        else:
            self._waiting.append(transfer)
            self._employ()
        return True

    def wait(self) -> float:
        """Return the epoch second until which mail waits that found no session; the log says so once."""
        if self._last_failure is not None and not self._is_told:
            self._is_told = True
            seconds = self.blocked_until - self._tools.now()
            events.next_hop_backed_off(self.next_hop.key, seconds, self._last_failure.explain())
        return self.blocked_until

    def probe_now(self) -> None:
        """Forget how long the next hop is to be left alone: the next transfer may try."""
        self.blocked_until = 0.0

    def release(self) -> None:
        """Forget that no session could be had: mail goes elsewhere, and need not wait for the next probe."""
        if self._failures:
            self._forget_failures()

    def renew(self) -> None:
        """Leave the connections that are open: each when its transfer is done."""
        self._generation += 1
        while self._idle:
            self._wake_one()

    async def close(self, grace_seconds: float) -> None:
        """Give up what waits, let what has begun finish within the grace, then abort it."""
        self._is_closing = True
        while self._waiting:
            self._waiting.popleft().fail(None)
        while self._idle:
            self._wake_one()
        if self._workers:
            _, late = await asyncio.wait(self._workers, timeout=grace_seconds)
            for worker in late:
                worker.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def _backlog(self) -> int:
        return BACKLOG if self._has_answered and self.next_hop.rate is None else FIRST_BACKLOG

    # Workers

    @property
    def _most_workers(self) -> int:
        if self._failures:
            return 1
        if self._has_answered:
            return self._most_connections
        return min(self._most_connections, 1 if self.next_hop.smarthost else FIRST_CONNECTIONS)

    def _ready(self) -> int:
        """Return how many of the transfers that wait may leave now."""
        return min(len(self._waiting), self._pace.allowance(self._steady()))

    def _employ(self) -> None:
        """Wake or start a worker for each transfer that may leave, as far as the next hop allows."""
        self._set_alarm()
        for _ in range(self._ready()):
            if self._idle:
                self._wake_one()
            elif len(self._workers) < self._most_workers:
                self._workers.add(asyncio.get_running_loop().create_task(self._work()))
            else:
                break

    def _wake_one(self) -> None:
        _set(self._idle.pop())

    def _set_alarm(self) -> None:
        delay = self._pace.delay(self._steady())
        if self._waiting and delay and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._employ()

    async def _work(self) -> None:
        agent = Agent(self.next_hop, self._tools, self._recover)
        try:
            while (transfer := await self._next_transfer(agent)) is not None:
                failure = await agent.carry(transfer)
                if failure is not None:
                    self._refuse(transfer, failure)
            await agent.leave()
        finally:
            agent.abort()
            self._workers.discard(asyncio.current_task())
            self._employ()
            if self._failures and not self._workers:
                self._tools.changed()  # the probe is over

    async def _next_transfer(self, agent: Agent) -> Transfer | None:
        """Return the next transfer, waiting a little for one where a connection would be lost otherwise."""
        if agent.connection is not None:
            await self._rest(agent)
            if agent.generation != self._generation:
                await agent.leave()
        elif len(self._workers) > self._most_workers:
            return None
        if not self._ready():
            return None
        agent.generation = self._generation
        transfer = self._waiting.popleft()
        self._pace.note(self._steady())
        self._set_alarm()
        if self._has_turned_away and len(self._waiting) < self._backlog // 2:
            self._has_turned_away = False
            self._tools.changed()
        return transfer

    async def _rest(self, agent: Agent) -> None:
        """Wait until a transfer may leave, or for as long as the agent's connection is kept without."""
        if self._ready():
            return
        self._most_connections = self._allowed_connections
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + IDLE_SECONDS
        while not (self._ready() or self._is_closing or loop.time() >= ends_at):
            if agent.generation != self._generation:
                break
            alarm: asyncio.Future[None] = loop.create_future()
            timer = loop.call_at(ends_at, _set, alarm)
            self._idle.append(alarm)
            try:
                await alarm
            finally:
                timer.cancel()
                if alarm in self._idle:
                    self._idle.remove(alarm)

    # Health

    def _recover(self) -> None:
        """Take note that there is a session."""
        if self._failures:
            events.next_hop_recovered(self.next_hop.key)
            self._forget_failures()
        if not self._has_answered:
            self._has_answered = True
            self._employ()

    def _forget_failures(self) -> None:
        self._failures = 0
        self._last_failure = None
        self._tools.changed()

    def _refuse(self, transfer: Transfer, failure: Attempt) -> None:
        """Decide what it means that no session was to be had for a transfer."""
        others = len(self._workers) - 1
        if failure.scope is not Scope.SITE:
            if self._failures:
                self._forget_failures()  # the answer is definite: the others may have theirs
            transfer.fail(failure)
        elif others and not self._is_closing and not is_login_failure(failure):
            # While another one has, or may get, a session, the next hop may only want fewer connections.
            self._most_connections = others
            self._waiting.appendleft(transfer)
            self._employ()
        else:
            if not self.is_blocked(self._tools.now()):  # by another one that met the same
                self._block(failure)
            transfer.fail(failure)

    def _block(self, failure: Attempt) -> None:
        """Defer what waits, and let nobody try until the next probe."""
        now = self._tools.now()
        self._failures += 1
        self._last_failure = failure
        self.blocked_until = self._tools.pause(self._failures, now)
        self._is_told = is_login_failure(failure)
        if self._is_told:
            self.blocked_until = max(self.blocked_until, now + LOGIN_PAUSE)
            events.login_refused(self.next_hop.key, self.blocked_until - now, failure.reply)
        self._has_answered = False
        self._most_connections = self._allowed_connections
        while self._waiting:
            self._waiting.popleft().fail(failure)


def _set(alarm: asyncio.Future[None]) -> None:
    """Set an alarm, unless work and the end of the rest came in one turn of the loop."""
    if not alarm.done():
        alarm.set_result(None)
