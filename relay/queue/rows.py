"""Rows of the database and the values that they stand for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from relay.mail.attempt import Attempt, Scope, State
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply

_INSERT_MESSAGE = """
    INSERT INTO message (number, reverse_path, given_reverse_path, ret, envid, is_8bitmime, is_smtputf8, size,
                         header_size, body_is_8bit, received_at, client, is_report, message_id, subject,
                         content)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_INSERT_RECIPIENT = """
    INSERT INTO recipient (message, idx, address, original, orcpt, notify, state, attempts, next_attempt_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


@dataclass(frozen=True, slots=True)
class QueuedRecipient:
    """One recipient and how far it has come."""

    recipient: Recipient
    state: State
    attempts: int
    next_attempt_at: float
    next_hop: str
    is_reported: bool
    attempted_at: float | None
    """None where it was not tried yet, or waits for its turn since."""
    attempt: Attempt | None
    """The last one, or why it waits for its turn."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One message of the queue or of its history, with what became of each recipient."""

    message: Message
    is_warned: bool
    finished_at: float | None
    recipients: tuple[QueuedRecipient, ...]


def pack(text: str) -> bytes:
    """Return text as it is stored; surrogate escapes become the bytes that they stand for."""
    return text.encode("utf-8", "surrogateescape")


def unpack(data: bytes) -> str:
    """Return stored text."""
    return data.decode("utf-8", "surrogateescape")


def insert_message(
    db: sqlite3.Connection, message: Message, content: bytes | None, retry_at: float | None, is_held: bool
) -> None:
    """Insert a message: claimed until ``retry_at``, or due now (None). Large content is in a file (None)."""
    envelope, number = message.envelope, message.number
    db.execute(
        _INSERT_MESSAGE,
        (
            number,
            pack(envelope.reverse_path),
            pack(envelope.given_reverse_path),
            envelope.ret,
            pack(envelope.envid),
            envelope.is_8bitmime,
            envelope.is_smtputf8,
            message.size,
            message.header_size,
            message.body_is_8bit,
            message.received_at,
            pack(message.client),
            message.is_report,
            pack(message.message_id),
            pack(message.subject),
            content,
        ),
    )
    state = State.HELD.value if is_held else State.QUEUED.value
    attempts, due_at = (0, message.received_at) if retry_at is None else (1, retry_at)
    db.executemany(
        _INSERT_RECIPIENT,
        [
            (
                number,
                r.index,
                pack(r.address),
                pack(r.original),
                pack(r.orcpt),
                r.notify,
                state,
                attempts,
                due_at,
            )
            for r in envelope.recipients
        ],
    )


def select_content(db: sqlite3.Connection, number: int) -> bytes | None:
    """Return a message's content; None where it is in a file, or gone."""
    row: tuple[bytes | None] | None = db.execute(
        "SELECT content FROM message WHERE number = ?", (number,)
    ).fetchone()
    return None if row is None else row[0]


def is_unfinished(db: sqlite3.Connection, number: int) -> bool:
    """Whether a message is in the queue, and not just in its history."""
    query = "SELECT 1 FROM message WHERE number = ? AND finished_at IS NULL"
    return db.execute(query, (number,)).fetchone() is not None


def select_entry(db: sqlite3.Connection, number: int) -> Entry | None:
    """Return a message and all its recipients."""
    row = db.execute(
        "SELECT number, reverse_path, given_reverse_path, ret, envid, is_8bitmime, is_smtputf8, size, "
        "header_size, body_is_8bit, received_at, client, is_report, message_id, subject, is_warned, "
        "finished_at "
        "FROM message WHERE number = ?",
        (number,),
    ).fetchone()
    if row is None:
        return None
    recipients = tuple(
        _recipient(row)
        for row in db.execute(
            "SELECT idx, address, original, orcpt, notify, state, attempts, next_attempt_at, next_hop, "
            "is_reported, attempted_at, code, enhanced, text, scope, host, command, is_remote, "
            "is_possible_duplicate, passes_dsn FROM recipient WHERE message = ? ORDER BY idx",
            (number,),
        )
    )
    return Entry(_message(row, recipients), bool(row[15]), row[16], recipients)


def narrow(message: Message, recipients: Iterable[Recipient]) -> Message:
    """Return a message with just the given recipients."""
    return replace(message, envelope=replace(message.envelope, recipients=tuple(recipients)))


def _message(row: tuple[Any, ...], recipients: Iterable[QueuedRecipient]) -> Message:
    envelope = Envelope(
        reverse_path=unpack(row[1]),
        recipients=tuple(recipient.recipient for recipient in recipients),
        given_reverse_path=unpack(row[2]),
        ret=row[3],
        envid=unpack(row[4]),
        is_8bitmime=bool(row[5]),
        is_smtputf8=bool(row[6]),
    )
    return Message(
        number=row[0],
        envelope=envelope,
        size=row[7],
        header_size=row[8],
        body_is_8bit=bool(row[9]),
        received_at=row[10],
        client=unpack(row[11]),
        is_report=bool(row[12]),
        message_id=unpack(row[13]),
        subject=unpack(row[14]),
    )


def _recipient(row: tuple[Any, ...]) -> QueuedRecipient:
    return QueuedRecipient(
        Recipient(unpack(row[1]), unpack(row[2]), unpack(row[3]), row[4], row[0]),
        state=State(row[5]),
        attempts=row[6],
        next_attempt_at=row[7],
        next_hop=unpack(row[8]),
        is_reported=bool(row[9]),
        attempted_at=row[10],
        attempt=None if row[11] is None else _attempt(unpack(row[8]), row[11:]),
    )


def _attempt(next_hop: str, row: tuple[Any, ...]) -> Attempt:
    code, enhanced, text, scope, host, command, is_remote, is_possible_duplicate, passes_dsn = row
    return Attempt(
        Reply(code, enhanced, unpack(text)),
        Scope(scope),
        host=unpack(host),
        command=command,
        is_remote=bool(is_remote),
        is_possible_duplicate=bool(is_possible_duplicate),
        passes_dsn=bool(passes_dsn),
        next_hop=next_hop,
    )
