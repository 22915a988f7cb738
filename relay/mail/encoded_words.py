"""Header text that people read, out of the forms that it travels in (RFC 2047, RFC 6532, plain 8-bit)."""

from __future__ import annotations

from email.errors import MessageError
from email.header import decode_header, make_header

from relay.mail.headers import unfold

LONGEST_SUBJECT = 200
"""Characters of a subject as ``read_subject`` returns it."""
_MOST_RAW = 2000
"""Bytes that are decoded for it; bounds the work on an odd one."""


def decode_words(raw: bytes) -> str:
    """Return the text of a header value: encoded words decoded, or as it stands where that can't be done."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    try:
        return str(make_header(decode_header(text))).strip()
    except (LookupError, ValueError, MessageError):
        return text.strip()


def read_subject(header: bytes) -> str:
    """Return the decoded value of a header as one line that can be shown, cut to LONGEST_SUBJECT."""
    text = decode_words(unfold(header).partition(b":")[2][:_MOST_RAW])
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:LONGEST_SUBJECT]
