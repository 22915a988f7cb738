"""Who may see the page, and which requests are its own: host names, sessions, passwords, tokens.

Three things a hostile web page could try, and what stands in its way: to send a form here (its Origin is
another one, the session's cookie is not sent along, and it does not know the token), to read the page under
a name that it makes point here (DNS rebinding; only known names and bare addresses are answered), and to
show the page in a frame (frame-ancestors).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

SESSION_SECONDS = 30 * 86400.0
"""How long a browser stays logged in after its last look."""
COOKIE_SECONDS = 400 * 86400
"""Browsers keep no cookie longer (RFC 6265bis section 5.5); the session behind it ends long before."""
MOST_SESSIONS = 100
MOST_FAILURES = 5
MEMORY_SECONDS = 600.0
"""Who failed so often in this time is not listened to until the first failure is forgotten."""
MOST_GUESSERS = 1000

_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})


def is_known_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header names this machine: by IP address, which nobody can rebind, or a known name."""
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    if any(character in header for character in "@/?#\\"):
        return False
    host = host.removesuffix(".")
    return is_address(host) or host in _LOOPBACK_NAMES or host in names


def is_address(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether a peer is a program of this machine."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def is_own_form(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a form was sent from a page of ours; a program says nothing at all.

    Browsers send Sec-Fetch-Site only to addresses that they trust: https, or this machine.
    """
    if headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = headers.get("Origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("Host", "").lower()


class Sessions:
    """Browsers that are logged in, and the tokens of their forms. ``now`` counts seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._key = secrets.token_bytes(32)
        self._password = b""
        self._sessions: dict[str, float] = {}
        """When each was last seen, the latest last."""

    def open(self, password: str) -> str:
        """Return the secret of a new session, which goes on for as long as this is the password."""
        self._follow(password)
        secret = secrets.token_urlsafe(32)
        self._sessions[secret] = self._now()
        if len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return secret

    def close(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(secret, None)

    def has(self, secret: str, password: str) -> bool:
        """Whether a session goes on; all end when the password changes."""
        self._follow(password)
        seen = self._sessions.pop(secret, None)
        if seen is None or self._now() - seen > SESSION_SECONDS:
            return False
        self._sessions[secret] = self._now()
        return True

    def token(self, secret: str) -> str:
        """Return the token of a session's forms; the secret is "" where no session is needed."""
        return hmac.new(self._key, secret.encode(), hashlib.sha256).hexdigest()

    def is_token(self, given: str, secret: str) -> bool:
        """Whether a form came with the token of its session."""
        return is_equal(given, self.token(secret))

    def _follow(self, password: str) -> None:
        digest = hashlib.sha256(password.encode()).digest()
        if not hmac.compare_digest(digest, self._password):
            self._sessions.clear()
            self._password = digest


class Guesses:
    """Passwords that were wrong, by the address they came from. ``now`` counts seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures: dict[str, list[float]] = {}

    def is_barred(self, address: str) -> bool:
        """Whether an address guessed too often lately."""
        since = self._now() - MEMORY_SECONDS
        return sum(time > since for time in self._failures.get(_network(address), ())) >= MOST_FAILURES

    def note(self, address: str) -> None:
        """Remember a wrong password."""
        network = _network(address)
        times = [*self._failures.pop(network, []), self._now()]
        self._failures[network] = times[-MOST_FAILURES:]  # behind all others: the first is forgotten first
        if len(self._failures) > MOST_GUESSERS:
            del self._failures[next(iter(self._failures))]

    def forget(self, address: str) -> None:
        """Start anew: the password was right."""
        self._failures.pop(_network(address), None)


def is_equal(given: str, right: str) -> bool:
    """Compare two secrets in a time that tells nothing of them."""
    return hmac.compare_digest(
        *(hashlib.sha256(t.encode("utf-8", "replace")).digest() for t in (given, right))
    )


def _network(address: str) -> str:
    """Return what guesses are counted by: a host of IPv6 has 2^64 addresses."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return parsed.exploded[:19] if isinstance(parsed, IPv6Address) else address
