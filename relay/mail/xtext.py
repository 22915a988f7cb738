"""xtext: how a parameter of MAIL or RCPT carries any text (RFC 3461 section 4)."""

from __future__ import annotations

import re

_CODE = re.compile(rb"\+([0-9A-Fa-f]{2})")
_PLAIN = frozenset(range(33, 127)) - frozenset(b"+=")


def encode_xtext(text: str) -> str:
    """Return a text as xtext; bytes beyond ASCII are those of UTF-8."""
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if byte in _PLAIN else f"+{byte:02X}" for byte in raw)


def decode_xtext(text: str) -> str:
    """Return what xtext stands for; what is none stays as it is."""
    raw = text.encode("utf-8", "surrogateescape")
    raw = _CODE.sub(lambda found: bytes.fromhex(found[1].decode()), raw)
    return raw.decode("utf-8", "surrogateescape")
