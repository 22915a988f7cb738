"""The learned routes, in the database of the queue."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from relay.mail.learned import LearnedRoute
from relay.queue.rows import pack, unpack


def select_learned(db: sqlite3.Connection) -> dict[str, LearnedRoute]:
    """Return all learned routes by domain."""
    found = db.execute(
        "SELECT domain, via, reason, reply, learned_at, expires_at, is_pinned FROM learned_route "
        "ORDER BY domain"
    )
    routes = (
        LearnedRoute(
            unpack(domain),
            unpack(via),
            unpack(reason),
            unpack(reply),
            learned_at,
            expires_at,
            bool(is_pinned),
        )
        for domain, via, reason, reply, learned_at, expires_at, is_pinned in found
    )
    return {route.domain: route for route in routes}


def replace_learned(db: sqlite3.Connection, route: LearnedRoute) -> None:
    """Write a learned route in the place of what was known about its domain."""
    texts = (route.domain, route.via, route.reason, route.reply)
    db.execute(
        "INSERT OR REPLACE INTO learned_route VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*map(pack, texts), route.learned_at, route.expires_at, route.is_pinned),
    )


def delete_learned(db: sqlite3.Connection, domains: Iterable[str]) -> None:
    """Forget what was learned about domains."""
    db.executemany("DELETE FROM learned_route WHERE domain = ?", [(pack(domain),) for domain in domains])
