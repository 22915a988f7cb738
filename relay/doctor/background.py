"""Blocking work beside the event loop, in threads that the end of the program does not wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Return what blocking work returns. A disk that hangs holds up its own thread, not the program's end."""
    future: Future[T] = Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

    Thread(target=run, name="doctor", daemon=True).start()
    return await asyncio.wrap_future(future)
