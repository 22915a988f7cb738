"""Learned routes: which sites refuse this relay as a sender, so that their mail goes over the fallback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from relay.mail.route import NextHop, Route

ANYWHERE = "*"
"""Stands for every domain: port 25 is closed to this relay altogether."""
LIFETIME = 30 * 86400.0
"""Seconds after which a site is tried directly again."""


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """Mail for a domain goes over the fallback, and why."""

    domain: str
    """In lower case; or ANYWHERE."""
    via: str
    """``NextHop.key`` of the fallback: the route goes when relay.toml does not name that any more."""
    reason: str
    """In a few words: ``blocklist``, ``reverse DNS``, ``port 25 closed``."""
    reply: str
    """What the site said, or why it was not reached."""
    learned_at: float
    """Epoch seconds, as is ``expires_at``."""
    expires_at: float
    is_pinned: bool = False
    """Whether the owner wants it kept for ever."""

    def is_expired(self, now: float) -> bool:
        """Whether the site is to be tried directly once more, also as the clock has been set back since."""
        return not (self.is_pinned or self.learned_at <= now < self.expires_at)


Learned = Mapping[str, LearnedRoute]
"""By domain."""
NOTHING_LEARNED: Learned = MappingProxyType({})


def may_detour(route: Route) -> bool:
    """Whether mail may leave a route for the fallback: no line of relay.toml chose it, and it goes by MX."""
    return not route.rule and isinstance(route.via, NextHop) and route.via.use_mx


def name_way(via: str) -> str:
    """Return the name of the smarthost that a next hop's key is of; the key itself where it is of none."""
    return via.rpartition("=")[0] or via


def find_learned(learned: Learned, domain: str) -> LearnedRoute | None:
    """Return what was learned about a domain, else about all."""
    return learned.get(domain) or learned.get(ANYWHERE)


def detour(route: Route, fallback: NextHop | None, learned: Learned) -> Route:
    """Return the route over the fallback where one was learned for the domain; else the route as it is."""
    if fallback is None or not learned or not may_detour(route):
        return route
    assert isinstance(route.via, NextHop)
    if find_learned(learned, route.via.host) is None:
        return route
    return Route(fallback, route.internal, ("fallback",), instead_of=route.via)
