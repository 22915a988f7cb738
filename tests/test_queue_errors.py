"""What the owner and a client are told when a message could not be stored."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from relay.queue.errors import NoRoom, QueueError, explain_os, refusal


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, NoRoom, "no room on the disk"),
        (errno.EDQUOT, NoRoom, "no room on the disk"),
        (errno.EROFS, QueueError, "can't be written (Read-only file system)"),
        (errno.EACCES, QueueError, "can't be written (Permission denied)"),
        (errno.EIO, QueueError, "see the system's log, check the disk"),
    ],
)
def test_failures_of_files_are_told_in_words(code: int, kind: type[QueueError], words: str) -> None:
    explained = explain_os(OSError(code, os.strerror(code)), Path("/q/queue.db.content"))
    assert type(explained) is kind
    assert words in str(explained)
    assert "/q/queue.db.content" in str(explained)


def test_a_full_disk_is_told_as_such() -> None:
    assert str(refusal(NoRoom("/queue.db"))) == (
        "452 4.3.1 This server's disk is full, so the message was not taken: send it again later."
    )


@pytest.mark.parametrize("error", [QueueError("/queue.db"), ZeroDivisionError()])
def test_anything_else_is_temporary_and_for_the_owner_to_look_up(error: Exception) -> None:
    assert str(refusal(error)) == (
        "451 4.3.0 This server could not store the message, and its log says why: send it again later."
    )
