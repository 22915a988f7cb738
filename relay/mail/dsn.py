"""Delivery status notifications (RFC 3464): who is told what became of a message.

A report is a message like any other, with the null reverse-path (RFC 5321 section 4.5.5). Whether its own
failure is told to the postmaster stands in the NOTIFY of its recipient: FAILURE at first, then NEVER.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from relay.mail.address import fold, quote_address
from relay.mail.attempt import Failed, Outcome, State
from relay.mail.envelope import Envelope, Message, Recipient, format_queue_id
from relay.mail.notification import Kind, clean, get_server_name, wrap, write_notification
from relay.mail.trace import format_date, format_message_id
from relay.mail.xtext import decode_xtext

RETURN_LIMIT = 50_000
"""Bytes of a message that a report returns at most (Postfix's bounce_size_limit)."""

_SUBJECTS: dict[Kind, str] = {
    "failure": "Undelivered Mail Returned to Sender",
    "delay": "Delayed Mail (still being retried)",
    "success": "Successful Mail Delivery Report",
}
_POSTMASTER_SUBJECT = "Postmaster Copy: Undelivered Mail"
_RETURNED = {
    (True, False): ("message/rfc822", "Undelivered Message"),
    (True, True): ("message/global", "Undelivered Message"),
    (False, False): ("text/rfc822-headers", "Message Headers"),
    (False, True): ("message/global-headers", "Message Headers"),
}
"""The returned part's type and description: whether it is whole, whether it is SMTPUTF8 (RFC 6533)."""

_NOT_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What reports say about this relay."""

    hostname: str
    lifetime: float
    """Seconds that a message is tried."""
    postmaster: str = ""
    """The address that reports come from; MAILER-DAEMON at the host name where it is ""."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A report that is due."""

    kind: Kind
    to: str
    about: tuple[Failed, ...]


@dataclass(frozen=True, slots=True)
class Letter:
    """What the relay itself writes to somebody."""

    to: str
    subject: str
    content_type: str
    body: bytes
    auto_submitted: Literal["auto-replied", "auto-generated"]
    """Whether it answers a message or comes by itself (RFC 3834 section 5)."""
    notify: str
    """Whether its own failure is told to the postmaster: FAILURE or NEVER."""


@dataclass(frozen=True, slots=True)
class Report:
    """A report ready for the queue."""

    message: Message
    content: bytes


def plan_reports(
    message: Message, outcomes: Iterable[Outcome], *, to: str, postmaster: str, is_late: bool
) -> list[Plan]:
    """Return the reports that the outcomes of one pass call for, at most one of each kind.

    ``to`` is where the sender is told, ``is_late`` whether a warning is due and not yet given. Nobody is
    told about a message with the null reverse-path, save the postmaster about a report of ours, once.
    """
    if message.is_report:
        to = postmaster
    elif not message.envelope.reverse_path:
        to = ""
    if not to:
        return []
    recipients = {recipient.index: recipient for recipient in message.envelope.recipients}
    about: dict[Kind, list[Failed]] = {"failure": [], "delay": [], "success": []}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.index):
        recipient = recipients[outcome.index]
        kind = _choose_kind(recipient, outcome, is_late=is_late)
        if kind is not None:
            about[kind].append(Failed(recipient, outcome.attempt))
    return [Plan(kind, to, tuple(some)) for kind, some in about.items() if some]


def _choose_kind(recipient: Recipient, outcome: Outcome, *, is_late: bool) -> Kind | None:
    """Return which report tells of an outcome (RFC 3461 section 4.1), if any."""
    match outcome.state:
        case State.BOUNCED | State.EXPIRED if recipient.wants_failure:
            return "failure"
        case State.DEFERRED if recipient.wants_delay and is_late:
            return "delay"
        case State.DELIVERED if recipient.wants_success and not outcome.attempt.passes_dsn:
            return "success"
        case _:
            return None


def returned_size(kind: Kind, message: Message) -> int:
    """Return how many bytes from the start of a message's content a report returns: all, or its header."""
    if _returns_whole(kind, message):
        return message.size
    return min(message.header_size, RETURN_LIMIT)


def _returns_whole(kind: Kind, message: Message) -> bool:
    return kind == "failure" and message.envelope.ret != "HDRS" and message.size <= RETURN_LIMIT


def build_report(
    plan: Plan,
    message: Message,
    original: bytes,
    settings: ReportSettings,
    *,
    recipients: Sequence[str],
    number: int,
    now: float,
) -> Report:
    """Return the report about a message, as message ``number``, to those who get mail for ``plan.to``.

    ``original`` is the start of the message's content, of at least ``returned_size`` bytes.
    """
    body, boundary = _join_parts(_write_parts(plan, message, original, settings, now), number, now)
    letter = Letter(
        plan.to,
        _POSTMASTER_SUBJECT if message.is_report else _SUBJECTS[plan.kind],
        f'multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
        body,
        "auto-replied",
        _choose_notify(plan, message, settings),
    )
    return seal(letter, settings, recipients=recipients, number=number, now=now)


def seal(
    letter: Letter, settings: ReportSettings, *, recipients: Sequence[str], number: int, now: float
) -> Report:
    """Return a letter as message ``number`` with the null reverse-path.

    ``recipients`` are those who get mail for ``letter.to``.
    """
    is_8bit = not letter.body.isascii()
    message_id = format_message_id(now, format_queue_id(number), settings.hostname)
    header = _write_header(letter, settings, number, now, message_id, is_8bit=is_8bit)
    envelope = Envelope(
        reverse_path="",
        recipients=tuple(
            Recipient(address, "" if address == letter.to else letter.to, notify=letter.notify, index=index)
            for index, address in enumerate(recipients)
        ),
        is_8bitmime=is_8bit,
        is_smtputf8=not header.isascii(),
    )
    content = header + b"\r\n" + letter.body
    return Report(
        Message(
            number,
            envelope,
            size=len(content),
            header_size=len(header),
            body_is_8bit=is_8bit,
            received_at=now,
            is_report=True,
            message_id=message_id,
        ),
        content,
    )


def _choose_notify(plan: Plan, message: Message, settings: ReportSettings) -> str:
    """Return whether the postmaster is to be told when the report itself is lost: of a bounce, once."""
    is_first = not message.is_report and not _goes_to_postmaster(plan, settings)
    return "FAILURE" if plan.kind == "failure" and is_first else "NEVER"


def _goes_to_postmaster(plan: Plan, settings: ReportSettings) -> bool:
    return fold(plan.to) == fold(settings.postmaster)


def _write_parts(
    plan: Plan, message: Message, original: bytes, settings: ReportSettings, now: float
) -> list[bytes]:
    """Return the three parts of a report, each with its header."""
    deadline = message.received_at + settings.lifetime
    text = write_notification(
        plan.kind,
        message,
        plan.about,
        original[: min(message.header_size, RETURN_LIMIT)],
        hostname=settings.hostname,
        deadline=deadline,
        now=now,
        offers_help=settings.postmaster != "" and not _goes_to_postmaster(plan, settings),
    )
    is_whole, is_global = _returns_whole(plan.kind, message), message.envelope.is_smtputf8
    returned = original[: returned_size(plan.kind, message)]
    if not is_whole:
        returned = returned[: returned.rfind(b"\r\n") + 2]
    status = _write_status(plan, message, settings.hostname, deadline, is_global=is_global)
    return [
        _encode_part("text/plain; charset=utf-8", "Notification", text.encode()),
        _encode_part(f"message/{'global-' * is_global}delivery-status", "Delivery report", status),
        _encode_part(*_RETURNED[is_whole, is_global], returned),
    ]


def _write_status(plan: Plan, message: Message, hostname: str, deadline: float, *, is_global: bool) -> bytes:
    """Return the fields about the message, then those about each recipient (RFC 3464 section 2)."""
    blocks = [
        {
            "Reporting-MTA": f"dns; {hostname}",
            "Original-Envelope-Id": decode_xtext(message.envelope.envid),
            "X-Relay-Queue-ID": message.queue_id,
            "Arrival-Date": format_date(message.received_at),
        }
    ]
    until = format_date(deadline) if plan.kind == "delay" else ""
    blocks += [_describe(plan.kind, failed, until, is_global=is_global) for failed in plan.about]
    text = "\r\n".join(_write_fields(block) for block in blocks)
    return text.encode("utf-8" if is_global else "ascii", "replace")


def _describe(kind: Kind, failed: Failed, until: str, *, is_global: bool) -> dict[str, str]:
    """Return the fields about one recipient (RFC 3464 section 2.3)."""
    recipient, attempt = failed.recipient, failed.attempt
    original = _type_address(recipient.original or recipient.address, is_global=is_global)
    # A mailbox server, which speaks LMTP, is where the way ends (RFC 3464 section 2.3.3).
    is_relayed = attempt.is_remote and not attempt.next_hop.startswith("lmtp:")
    success = "relayed" if is_relayed else "delivered"
    words = f"smtp; {attempt.reply}" if attempt.is_remote else f"X-Relay; {attempt.explain()}"
    return {
        "Original-Recipient": decode_xtext(recipient.orcpt) or original,
        "Final-Recipient": _type_address(recipient.address, is_global=is_global),
        "Action": {"failure": "failed", "delay": "delayed", "success": success}[kind],
        "Status": attempt.reply.dsn,
        "Remote-MTA": f"dns; {get_server_name(attempt)}" if attempt.is_remote else "",
        "Diagnostic-Code": words,
        "Will-Retry-Until": until,
    }


def _write_fields(fields: dict[str, str]) -> str:
    """Return a block of fields, folded; one without a value is left out."""
    lines = [
        line
        for name, value in fields.items()
        if value
        for line in wrap(f"{name}: {value}", hanging_indent="    ")
    ]
    return "".join(f"{line}\r\n" for line in lines)


def _type_address(address: str, *, is_global: bool) -> str:
    """Return an address with its type; beyond ASCII as it is, or in the 7-bit form of RFC 6533 section 3."""
    text = clean(quote_address(address))
    if text.isascii():
        return f"rfc822; {text}"
    if is_global:
        return f"utf-8; {text}"
    return "utf-8; " + _NOT_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", text)


def _encode_part(content_type: str, description: str, body: bytes) -> bytes:
    encoding = "7bit" if body.isascii() else "8bit"
    lines = (
        f"Content-Description: {description}",
        f"Content-Type: {content_type}",
        f"Content-Transfer-Encoding: {encoding}",
    )
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def _join_parts(parts: list[bytes], number: int, now: float) -> tuple[bytes, str]:
    """Return the body of a multipart and its boundary, which stands nowhere in the parts."""
    boundary = f"=_{format_queue_id(number)}.{int(now)}"
    while any(b"--" + boundary.encode() in part for part in parts):
        boundary += "="
    delimiter = f"--{boundary}".encode()
    return b"".join(delimiter + b"\r\n" + part + b"\r\n" for part in parts) + delimiter + b"--\r\n", boundary


def _write_header(
    letter: Letter, settings: ReportSettings, number: int, now: float, message_id: str, *, is_8bit: bool
) -> bytes:
    """Return the header block of a letter."""
    host, date, queue_id = settings.hostname, format_date(now), format_queue_id(number)
    postmaster = quote_address(settings.postmaster) or f"MAILER-DAEMON@{host}"
    lines = (
        f"Received: by {host} (relay)\r\n\tid {queue_id}; {date}",
        f"Date: {date}",
        f"From: Mail Delivery System <{postmaster}>",
        f"Subject: {letter.subject}",
        f"To: {clean(quote_address(letter.to))}",
        f"Auto-Submitted: {letter.auto_submitted}",
        "MIME-Version: 1.0",
        f"Content-Type: {letter.content_type}",
        f"Content-Transfer-Encoding: {'8bit' if is_8bit else '7bit'}",
        f"Message-Id: {message_id}",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()
