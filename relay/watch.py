"""Noticing that a file was changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 4.0
"""How often the file is looked at: the kernel would not tell of changes over every kind of mount."""
SETTLE_SECONDS = 0.3
"""How long a changed file must stay as it is: an editor may empty it before it writes."""


class Watch:
    """Watches a file, from the moment at which this is made; it may vanish and come back."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._seen = self._stamp()

    async def changes(self, asked: asyncio.Event) -> AsyncIterator[None]:
        """Yield each time that the file has changed, or ``asked`` was set."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await asked.wait()
            if asked.is_set() or await self._has_changed():
                asked.clear()
                self._seen = self._stamp()
                yield

    async def _has_changed(self) -> bool:
        """Whether the file is another than it was, and there; returns once it stays as it is."""
        before = self._seen
        while (now := self._stamp()) != self._seen:
            self._seen = now
            await asyncio.sleep(SETTLE_SECONDS)
        return now is not None and now != before

    def _stamp(self) -> tuple[int, int, int] | None:
        """Return what changes with the file; None where it is not there."""
        if self.file is None:
            return None
        try:
            status = self.file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino
