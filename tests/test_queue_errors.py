"""What a client is told whose message could not be stored."""

from __future__ import annotations

import pytest

from relay.queue.errors import NoRoom, QueueError, refusal


def test_a_full_disk_is_told_as_such() -> None:
    assert str(refusal(NoRoom("/queue.db"))) == (
        "452 4.3.1 This server's disk is full, so the message was not taken: send it again later."
    )


@pytest.mark.parametrize("error", [QueueError("/queue.db"), ZeroDivisionError()])
def test_anything_else_is_temporary_and_for_the_owner_to_look_up(error: Exception) -> None:
    assert str(refusal(error)) == (
        "451 4.3.0 This server could not store the message, and its log says why: send it again later."
    )
