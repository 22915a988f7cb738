"""Which of several addresses of a server answers first (Happy Eyeballs, RFC 8305)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol, TypeVar

from relay.mail.attempt import Attempt

HEAD_START = 0.25
"""Seconds until the next address is tried beside one that has not answered (RFC 8305 section 5)."""


class Rival(Protocol):
    """One address to connect to."""

    async def connect(self) -> Attempt | None:
        """Connect; return why that failed."""

    def abort(self) -> None:
        """Close what is open."""


AnyRival = TypeVar("AnyRival", bound=Rival)


async def race(rivals: Sequence[AnyRival]) -> tuple[AnyRival | None, list[tuple[AnyRival, Attempt]]]:
    """Return the first that is connected, None where none is, and those that failed by then.

    Each begins when the one before has failed or had its head start. Those that lose are closed.
    """
    waiting = list(rivals)
    failed: list[tuple[AnyRival, Attempt]] = []
    under_way: dict[asyncio.Task[Attempt | None], AnyRival] = {}
    winner: AnyRival | None = None
    try:
        while winner is None and (waiting or under_way):
            if waiting:
                rival = waiting.pop(0)
                under_way[asyncio.create_task(rival.connect())] = rival
            seconds = HEAD_START if waiting else None
            done, _ = await asyncio.wait(under_way, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                failure = task.result()
                rival = under_way[task]
                if failure is not None:
                    failed.append((rival, failure))
                    del under_way[task]
                elif winner is None:
                    winner = rival
                    del under_way[task]
    finally:
        for task, rival in under_way.items():
            task.cancel()
            rival.abort()
    return winner, failed
