"""Talking to the running service, or doing its work where none runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from relay.queue.control import NotRunningError, perform, request
from relay.queue.errors import QueueError
from relay.queue.store import Store

__all__ = ["EMPTY", "NotRunningError", "ask", "request"]

EMPTY = "the queue is empty (no queue at {} yet)"


def ask(path: Path, message: dict[str, Any], *, needs_service: bool = False) -> dict[str, Any]:
    """Have the running service do it, or do it ourselves where none runs; raises OSError where it fails.

    ``needs_service``: NotRunningError is raised where none runs.
    """
    try:
        reply = request(path, message)
    except NotRunningError:
        if needs_service:
            raise
        if not path.exists():
            raise FileNotFoundError(EMPTY.format(path)) from None
        if not os.access(path, os.R_OK):
            raise _forbidden(path) from None
        reply = asyncio.run(_perform(path, message))
    except PermissionError:
        raise _forbidden(path) from None
    if not reply["ok"]:
        raise OSError(reply["error"])
    return reply


def _forbidden(path: Path) -> PermissionError:
    return PermissionError(f"only root and the relay's own user may look at the queue {path}")


async def _perform(path: Path, message: dict[str, Any]) -> dict[str, Any]:
    try:
        store = await Store.open(path, retry=lambda _attempt, now, _number: now)  # nothing is claimed here
    except QueueError as error:
        return {"ok": False, "error": str(error)}
    try:
        return await perform(store, message)
    finally:
        await store.close()
