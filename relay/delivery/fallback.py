"""The fallback: where mail goes on that a site refuses from us, and what is learned from that."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from relay import events
from relay.delivery.agent import ADDRESSES_PER_SESSION, Endpoints
from relay.mail.attempt import Attempt
from relay.mail.envelope import Recipient
from relay.mail.fallback import PATIENCE, UNREACHED, find_reason
from relay.mail.learned import (
    ANYWHERE,
    LIFETIME,
    Learned,
    LearnedRoute,
    find_learned,
    may_detour,
    name_way,
)
from relay.mail.route import NextHop, Route

SILENCE_LIFETIME = 3600.0
"""Seconds after which it is looked whether a site answers that did not: that costs no mail any time."""
PROBE_SECONDS = 3600.0
"""How long one message or look-up decides for all whether a site takes mail from us again."""
OPEN_SECONDS = 3600.0
"""How long port 25 counts as open after a site was reached."""
PUT_OFF_SECONDS = 86400.0
"""How long it is remembered that a site put us off: then it may have other reasons."""
LOOK_SECONDS = 30.0
"""How long a server may take to answer at its port before it counts as not reached."""


class Memory(Protocol):
    """Keeps the learned routes."""

    @property
    def learned(self) -> Learned: ...

    async def learn(self, route: LearnedRoute) -> None: ...

    async def forget(self, domains: Iterable[str]) -> Sequence[LearnedRoute]: ...


@dataclass(frozen=True, slots=True)
class Detour:
    """How the mail for a recipient goes on that a site does not take from us."""

    site: NextHop
    reason: str
    """Why the site does not take it."""
    attempt: Attempt
    """The one at the site."""
    via: NextHop
    """The fallback."""

    @property
    def route(self) -> Route:
        """The way that the mail takes now."""
        return Route(self.via, rule=("fallback",), instead_of=self.site)


class Fallback:
    """Decides which mail goes on over the fallback, and for which sites that is remembered."""

    def __init__(
        self,
        via: Callable[[], NextHop | None],
        memory: Memory,
        reaches: Callable[[NextHop], Awaitable[bool]],
        now: Callable[[], float],
    ) -> None:
        """``via`` is the fallback in force; ``reaches`` tells whether a server of a next hop answers."""
        self._via = via
        self._memory = memory
        self._reaches = reaches
        self._now = now
        self._answered_at = -math.inf
        """When a site was last spoken to directly."""
        self._put_off: dict[str, float] = {}
        """Since when a site refuses us temporarily: one message after the other may probe a blocked lane."""
        self._probed: dict[str, float] = {}
        """When the one direct attempt at a site began whose time is over."""
        self._unproven: dict[str, Detour] = {}
        """Sites that did not answer, until the fallback does: a relay that is off line reaches nobody."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        """Held while something is learned: many messages meet the same refusal at once."""

    def begin(self, route: Route) -> Route:
        """Return the route that mail takes now: the direct one, once, where what was learned is to be tried.

        Where a site did not answer, it is looked whether it does, and the mail does not wait for that.
        """
        now = self._now()
        if route.instead_of is None or self._is_closed(now):
            return route
        known = find_learned(self._memory.learned, route.instead_of.host)
        if known is None or not known.is_expired(now):
            return route
        if 0 <= now - self._probed.get(known.domain, -math.inf) < PROBE_SECONDS:
            return route
        self._probed[known.domain] = now
        if known.reason != UNREACHED:
            return Route(route.instead_of)
        self._start(self._probe(known, route.instead_of))
        return route

    def judge(
        self, routes: Mapping[Recipient, Route], known: Mapping[Recipient, Attempt | None], age: float
    ) -> dict[Recipient, Detour]:
        """Return whose mail goes on over the fallback, of the recipients of a message.

        ``known`` are attempts on ``routes``; the message is ``age`` seconds old.
        """
        detours: dict[Recipient, Detour] = {}
        via = self._via()
        if via is None:
            return detours
        for recipient, attempt in known.items():
            route = routes[recipient]
            if attempt is None or not may_detour(route):
                continue
            assert isinstance(route.via, NextHop)
            if attempt.host:
                self._answered_at = self._now()
            if reason := find_reason(attempt, max(age, self._note_patience(route.via.host, attempt))):
                detours[recipient] = Detour(route.via, reason, attempt, via)
        return detours

    async def learn(
        self,
        routes: Mapping[Recipient, Route],
        known: Mapping[Recipient, Attempt | None],
        detours: Mapping[Recipient, Detour],
    ) -> None:
        """Remember what attempts teach, given the detours that follow; else the next attempt teaches it.

        That a site does not answer is learned when the fallback has taken the same mail.
        """
        for recipient, attempt in known.items():
            route, detour = routes[recipient], detours.get(recipient)
            if detour is not None and detour.reason == UNREACHED:
                self._unproven[detour.site.host] = detour
            elif detour is not None:
                await self._learn(detour)
            elif attempt is not None and route.instead_of is not None:
                silent = self._unproven.pop(route.instead_of.host, None)
                if silent is not None and attempt.reply.is_positive:
                    await self._learn(silent)
            elif attempt is not None and attempt.reply.is_positive and may_detour(route):
                await self._forget_over(route)

    async def keep(self, names: Collection[str]) -> None:
        """Forget the routes over what relay.toml does not name any more, and those long out of use.

        ``names`` are those of ``name_way``. The others lead over the fallback, whatever it was before.
        """
        via, routes, past = self._via(), list(self._memory.learned.values()), self._now() - LIFETIME
        gone = [route.domain for route in routes if name_way(route.via) not in names]
        await self._forget(gone, "its smarthost is no longer in relay.toml")
        unused = [route.domain for route in routes if not route.is_pinned and route.expires_at <= past]
        await self._forget(unused, "no mail went there")
        for route in [*self._memory.learned.values()]:
            if via is not None and route.via != via.key:
                await self._renew(replace(route, via=via.key))

    async def close(self) -> None:
        """Break off the look-ups that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _note_patience(self, site: str, attempt: Attempt) -> float:
        """Take note of an attempt, and return for how long refusals of a site have been waited out."""
        if site in self._memory.learned:
            return PATIENCE
        now = self._now()
        if attempt.reply.is_positive:
            self._put_off.pop(site, None)
        elif not attempt.is_unreachable and find_reason(attempt, PATIENCE):
            self._put_off = {name: at for name, at in self._put_off.items() if now < at + PUT_OFF_SECONDS}
            self._put_off.setdefault(site, now)
        return now - self._put_off.get(site, now)

    def _is_closed(self, now: float) -> bool:
        """Whether port 25 is closed for all: then no site is tried directly."""
        known = self._memory.learned.get(ANYWHERE)
        return known is not None and not known.is_expired(now)

    async def _learn(self, detour: Detour) -> None:
        async with self._lock:
            domain, reason, now = detour.site.host, detour.reason, self._now()
            is_open = 0 <= now - self._answered_at < OPEN_SECONDS
            silent = [] if reason != UNREACHED or is_open else self._find_silent(now)
            if set(silent) - {domain}:
                domain = ANYWHERE
            known = self._memory.learned.get(domain)
            if known is not None and not known.is_expired(now):
                return  # another message has met the same
            lifetime = SILENCE_LIFETIME if reason == UNREACHED else LIFETIME
            reply = detour.attempt.explain()
            learned = LearnedRoute(domain, detour.via.key, reason, reply, now, now + lifetime)
            try:
                await self._memory.learn(learned)
            except Exception as error:
                events.warned(f"the route for {domain} is not remembered: {error}")
                return
            self._probed.pop(domain, None)
            events.learned(learned)
            if domain == ANYWHERE:
                await self._forget(silent, "")  # all of them are meant now

    def _find_silent(self, now: float) -> list[str]:
        """Return the sites that could not be reached lately either."""
        return [
            route.domain
            for route in self._memory.learned.values()
            if route.reason == UNREACHED and not (route.is_pinned or route.is_expired(now))
        ]

    async def _forget_over(self, route: Route) -> None:
        """Forget a site that refused us, where its time is over and a direct attempt has been the trial."""
        assert isinstance(route.via, NextHop)
        known = self._memory.learned.get(route.via.host)
        if known is not None and known.is_expired(self._now()):
            await self._forget([known.domain], "it takes mail from us again")

    async def _forget(self, domains: Collection[str], why: str) -> None:
        if not domains:
            return
        try:
            gone = await self._memory.forget(domains)
        except Exception as error:
            events.warned(f"a learned route is not forgotten: {error}")
            return
        for route in gone:
            self._probed.pop(route.domain, None)
            if why:
                events.forgotten(route.domain, why)

    async def _probe(self, known: LearnedRoute, site: NextHop) -> None:
        is_reached = await self._reaches(site)
        now = self._now()
        if is_reached:
            self._answered_at = now
        if self._memory.learned.get(known.domain) != known:
            return  # the owner pinned or forgot it meanwhile
        if is_reached:
            await self._forget([known.domain], "port 25 can be reached again")
        else:
            begun_at = min(known.learned_at, now)
            await self._renew(replace(known, learned_at=begun_at, expires_at=now + SILENCE_LIFETIME))

    async def _renew(self, route: LearnedRoute) -> None:
        try:
            await self._memory.learn(route)
        except Exception as error:
            events.warned(f"the route for {route.domain} is not remembered: {error}")
        self._probed.pop(route.domain, None)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def reaches(next_hop: NextHop, endpoints: Endpoints) -> bool:
    """Return whether a connection to some server of a next hop can be had; nothing is said over it."""
    found = await endpoints(next_hop)
    if isinstance(found, Attempt):
        return False
    addresses = [endpoint.address for endpoint in found[:ADDRESSES_PER_SESSION]]
    return any(await asyncio.gather(*(_answers(address, next_hop.port) for address in addresses)))


async def _answers(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
