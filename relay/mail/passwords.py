"""Hashes of passwords: scrypt (RFC 7914), written ``$scrypt$ln=14,r=8,p=1$SALT$KEY`` with both in base64."""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

SALT_SIZE = 16
"""Bytes of a new salt."""
MOST_MEMORY = 64 * 1024 * 1024
"""Bytes that checking one password may take; 16 MiB are needed for a hash made here."""

_KEY_SIZE = 32
_SHORTEST_KEY = 16
_BASE64 = r"((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2,3})?)=*"
_HASH = re.compile(rf"\$scrypt\$ln=(\d{{1,2}}),r=(\d{{1,2}}),p=(\d{{1,2}})\${_BASE64}\${_BASE64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """What is kept of a password; its ``repr`` does not show it."""

    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)
    log2_n: int = 14
    """The binary logarithm of the cost."""
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        """Bytes that checking takes (RFC 7914 section 2)."""
        return 128 * self.r * ((1 << self.log2_n) + self.p + 2)

    def is_of(self, password: bytes) -> bool:
        """Whether this is the hash of a password. Slow on purpose: not for the event loop."""
        return hmac.compare_digest(_derive(password, self), self.key)

    def __str__(self) -> str:
        """Return the hash as the configuration holds it, the base64 without padding."""
        salt, key = (b64encode(part).decode().rstrip("=") for part in (self.salt, self.key))
        return f"$scrypt$ln={self.log2_n},r={self.r},p={self.p}${salt}${key}"


def make_hash(password: bytes, salt: bytes) -> PasswordHash:
    """Return the hash of a password; ``salt`` is ``SALT_SIZE`` random bytes."""
    return PasswordHash(salt, _derive(password, PasswordHash(salt, bytes(_KEY_SIZE))))


def parse_hash(text: str) -> PasswordHash:
    """Return the hash that is written so, with or without padding of the base64. Raises ValueError."""
    match = _HASH.fullmatch(text)
    if match is None:
        raise ValueError("this is not the hash of a password: make one with 'relay passwd'")
    log2_n, r, p = map(int, match.groups()[:3])
    salt, key = (b64decode(part + "=" * (-len(part) % 4)) for part in match.groups()[3:])
    parsed = PasswordHash(salt, key, log2_n, r, p)
    is_sound = r and p and 0 < log2_n < 16 * r and len(key) >= _SHORTEST_KEY
    if not is_sound or parsed.memory > MOST_MEMORY:
        raise ValueError("this hash is too weak or takes too much memory: make one with 'relay passwd'")
    return parsed


def _derive(password: bytes, settings: PasswordHash) -> bytes:
    return hashlib.scrypt(
        password,
        salt=settings.salt,
        n=1 << settings.log2_n,
        r=settings.r,
        p=settings.p,
        maxmem=settings.memory,
        dklen=len(settings.key),
    )
