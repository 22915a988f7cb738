"""Who may see the page, and which requests are its own: host names, sessions, passwords, tokens.

Three things a hostile web page could try, and what stands in its way: to send a form here (its Origin is
another one, the session's cookie is not sent along, and it does not know the token), to read the page under
a name that it makes point here (DNS rebinding; only known names and bare addresses are answered), and to
show the page in a frame (frame-ancestors).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv6Address, ip_address

from relay.texts import is_ip

SESSION_SECONDS = 30 * 86400.0
"""How long a browser stays logged in after its last look."""
COOKIE_SECONDS = 400 * 86400
"""Browsers keep no cookie longer (RFC 6265bis section 5.5); the session behind it ends long before."""
MOST_SESSIONS = 100
MOST_FAILURES = 5
MOST_FAILURES_OF_PEER = 100
"""Those of all clients behind one proxy: whom it names may be made up."""
MEMORY_SECONDS = 600.0
"""Who failed so often in this time is not listened to until the first failure is forgotten."""
MOST_GUESSERS = 1000

_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]*)?")
"""A Host header (RFC 9110 section 7.2): name or address, and port."""
_LOOPBACK_NAMES = frozenset({"localhost", "ip6-localhost"})


def is_known_host(header: str, names: Collection[str]) -> bool:
    """Whether a Host header names this machine: by IP address, which nobody can rebind, or a known name."""
    match = _HOST.fullmatch(header)
    if match is None:
        return False
    host = (match[1] or match[2]).lower().removesuffix(".")
    return is_ip(host) or host in _LOOPBACK_NAMES or host in names


def is_loopback(address: str) -> bool:
    """Whether a peer is a program of this machine."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def find_client(peer: str, forwarded: Sequence[str]) -> str:
    """Return whom a peer sends a request for: where it is a proxy, the address that it saw, else its own.

    ``forwarded`` are the values of X-Forwarded-For. A proxy adds what it saw behind what others wrote there.
    """
    last = forwarded[-1].rpartition(",")[2].strip(" []").partition("%")[0] if forwarded else ""
    return last if is_ip(last) else peer


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
    """Passwords that were wrong, by the client and the peer they came from. ``now`` counts seconds.

    Behind a proxy each client is counted for itself, lest a stranger bar the owner; all together, more are
    allowed. Who names another client with each guess is barred by that, and bars nobody at other peers.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._failures: dict[tuple[str, str], list[float]] = {}

    def is_barred(self, peer: str, client: str) -> bool:
        """Whether too many wrong passwords came lately."""
        since = self._now() - MEMORY_SECONDS
        return any(
            sum(time > since for time in self._failures.get(key, ())) >= most
            for key, most in _limits(peer, client).items()
        )

    def note(self, peer: str, client: str) -> None:
        """Remember a wrong password."""
        for key, most in _limits(peer, client).items():
            times = [*self._failures.pop(key, []), self._now()]
            self._failures[key] = times[-most:]  # behind all others: the first is forgotten first
            if len(self._failures) > MOST_GUESSERS:
                del self._failures[next(iter(self._failures))]

    def forget(self, peer: str, client: str) -> None:
        """Let a client start anew, whose password was right; who else is behind the peer does not."""
        self._failures.pop((_network(peer), _network(client)), None)


def is_equal(given: str, right: str) -> bool:
    """Compare two secrets in a time that tells nothing of them."""
    return hmac.compare_digest(
        *(hashlib.sha256(t.encode("utf-8", "replace")).digest() for t in (given, right))
    )


def _limits(peer: str, client: str) -> Mapping[tuple[str, str], int]:
    """Return how many guesses are allowed, by what they are counted by."""
    return {
        (_network(peer), _network(client)): MOST_FAILURES,
        (_network(peer), ""): MOST_FAILURES_OF_PEER,
    }


def _network(address: str) -> str:
    """Return what an address counts as: a host of IPv6 has 2^64 of them."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or parsed.exploded[:19])
    return address
