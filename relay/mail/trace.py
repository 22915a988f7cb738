"""Headers that a relay adds: trace (RFC 5321 section 4.4), and those that a client left out."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from relay.mail.address import fold, quote_address, unquote_address
from relay.mail.envelope import Client, Recipient
from relay.mail.headers import header_name, header_value

HOP_LIMIT = 50
"""A message with this many Received headers, ours included, is taken for one that loops."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ODD = re.compile(r'[\x00-\x20\x7f<>()\\";@\udc80-\udcff]')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESENT = frozenset(
    f"resent-{name}" for name in ("bcc", "cc", "date", "from", "message-id", "reply-to", "sender", "to")
)


def received_header(
    client: Client, hostname: str, queue_id: str, now: float, recipient: str | None = None
) -> bytes:
    """Return our Received header, laid out as Postfix does.

    ``recipient`` is the internal address that the client gave, None unless the message has just this one.
    What could break the header's syntax in a name is shown as "?".
    """
    end = ";\r\n\t"
    if recipient is not None:
        end = f"\r\n\tfor <{_show(recipient)}>; "
    if client.uid is not None:
        where = f"by {hostname} (relay, from userid {client.uid})"
        text = f"Received: {where}\r\n\tid {queue_id}{end}{format_date(now)}\r\n"
        return text.encode("utf-8", "surrogateescape")
    helo = _ODD.sub("?", client.helo or client.name)
    name = _ODD.sub("?", client.name)
    address = f"IPv6:{client.address}" if ":" in client.address else client.address
    text = (
        f"Received: from {helo} ({name} [{address}])\r\n"
        f"\tby {hostname} (relay) with {client.protocol} id {queue_id}{end}{format_date(now)}\r\n"
    )
    return text.encode("utf-8", "surrogateescape")


def format_date(now: float) -> str:
    """Return a date as RFC 5322 section 3.3 writes it, in the local time zone; ``now`` is epoch seconds."""
    local = time.localtime(now)
    sign = "-" if local.tm_gmtoff < 0 else "+"
    hours, minutes = divmod(abs(local.tm_gmtoff) // 60, 60)
    return (
        f"{_DAYS[local.tm_wday]}, {local.tm_mday:02} {_MONTHS[local.tm_mon - 1]} {local.tm_year} "
        f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02} {sign}{hours:02}{minutes:02}"
    )


def format_message_id(now: float, queue_id: str, hostname: str) -> str:
    """Return a new Message-ID, with its angle brackets."""
    return f"<{time.strftime('%Y%m%d%H%M%S', time.gmtime(now))}.{queue_id}@{hostname}>"


def has_too_many_hops(headers: Iterable[bytes]) -> bool:
    """Return whether a client's headers, with our Received header to come, reach ``HOP_LIMIT``."""
    return sum(header_name(header) == "received" for header in headers) + 1 >= HOP_LIMIT


def delivery_headers(reverse_path: str, recipient: Recipient) -> bytes:
    """Return the headers that stand in front of the copy in a mailbox, in Postfix's order (local(8))."""
    text = (
        f"Return-Path: <{_show(reverse_path)}>\r\n"
        f"X-Original-To: {_show(recipient.original or recipient.address)}\r\n"
        f"Delivered-To: {_show(recipient.address)}\r\n"
    )
    return text.encode("utf-8", "surrogateescape")


def delivered_to(headers: Iterable[bytes]) -> Iterator[str]:
    """Yield the addresses, folded, in whose mailboxes a message was before (local(8))."""
    for header in headers:
        if header_name(header) == "delivered-to":
            yield fold(unquote_address(header_value(header)))


def was_delivered_to(address: str, headers: Iterable[bytes]) -> bool:
    """Return whether a message was in the mailbox of an address before, and so loops (local(8))."""
    return fold(unquote_address(_show(address))) in delivered_to(headers)


def missing_headers(
    present: AbstractSet[str], reverse_path: str, hostname: str, queue_id: str, now: float
) -> list[bytes]:
    """Return the Message-Id, Date and From headers that are not ``present`` (names in lower case).

    They are the Resent- ones where a Resent- header is present (RFC 5322 section 3.6.6). From is made of the
    reverse-path after rewriting.
    """
    prefix = "" if _RESENT.isdisjoint(present) else "Resent-"
    values = (
        (f"{prefix}Message-Id", format_message_id(now, queue_id, hostname)),
        (f"{prefix}Date", format_date(now)),
        (f"{prefix}From", quote_address(reverse_path) or "MAILER-DAEMON"),
    )
    return [
        f"{name}: {value}\r\n".encode("utf-8", "surrogateescape")
        for name, value in values
        if name.lower() not in present
    ]


def _show(address: str) -> str:
    """Return the external form of an address, with "?" for what would break a header."""
    return _CONTROL.sub("?", quote_address(address))
