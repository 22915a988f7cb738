"""What can go wrong with the queue, in words for its owner."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from relay.mail.reply import Reply


class QueueError(Exception):
    """The queue can't do what was asked now; the text says why, and what to do."""


class NoRoom(QueueError):  # noqa: N818 - a condition to wait out, not a mistake
    """There is no room on the disk; it ends by itself when there is."""


class DiskError(QueueError):
    """The disk failed: what was to be committed may be on it or not, and the next start finds out."""


def explain(error: sqlite3.Error, path: Path) -> QueueError:
    """Return the QueueError that tells a failure of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    match code:
        case sqlite3.SQLITE_FULL:
            return NoRoom(f"no room on the disk for the queue {path}: free some space there")
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return damaged(path, str(error))
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return QueueError(
                f"the queue {path} can't be written ({error}): see that this user may write the file and its "
                f"folder, and that the disk is not mounted read-only"
            )
        case sqlite3.SQLITE_IOERR:
            return DiskError(
                f"the disk of the queue {path} failed ({error}): see the system's log, check the disk"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return QueueError(f"the queue {path} is in use by another program ({error}): close that program")
        case _:
            return QueueError(f"the queue {path} failed: {error}")


def explain_os(error: OSError, path: Path) -> QueueError:
    """Return the QueueError that tells a failure with the files of large contents, in the folder ``path``."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoRoom(f"no room on the disk for the queue's files in {path}: free some space there")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return QueueError(
            f"the queue's files in {path} can't be written ({error.strerror}): see that this user may write "
            f"that folder, and that the disk is not mounted read-only"
        )
    return QueueError(f"the queue's files in {path} failed ({error}): see the system's log, check the disk")


def damaged(path: Path, reason: str) -> QueueError:
    """Return the QueueError of a queue whose files are not as they were written."""
    return QueueError(
        f"the queue {path} is damaged ({reason}): stop the relay, move it and all beside it "
        f"whose name begins like its own away, and start again with an empty queue; "
        f"'sqlite3 {path.name} .recover' may save mail from the file that was moved"
    )


def damaged_log(path: Path, reason: str) -> QueueError:
    """Return the QueueError of a queue whose write-ahead log is not as it was written."""
    return QueueError(
        f"the log of the queue {path} is damaged ({reason}), and mail that stood there is lost: copy it and "
        f"all beside it whose name begins like its own to a safe place; after "
        f"'sqlite3 {path} \"PRAGMA wal_checkpoint(TRUNCATE)\"' the relay starts with the mail that is left"
    )


def damaged_content(path: Path, size: int, right_size: int) -> QueueError:
    """Return the QueueError of a message whose content has not the size that it had, in bytes."""
    return QueueError(
        f"its file {path} is damaged ({size} bytes, not {right_size}): put back the right file, or delete "
        f"the message with 'relay queue delete {path.name}'"
    )


def refusal(error: Exception) -> Reply:
    """Return what a client is told whose message could not be stored."""
    if isinstance(error, NoRoom):
        return Reply(
            452, "4.3.1", "This server's disk is full, so the message was not taken: send it again later."
        )
    return Reply(
        451, "4.3.0", "This server could not store the message, and its log says why: send it again later."
    )
