"""The one thread that touches the database: all jobs that wait go into one transaction, and share its fsync.

SQLite would stall the event loop, and its commits cost an fsync each. Reads go the same way: they cost no
fsync, wait for one at most, and see all that was written before; a second connection would need shared
memory beside the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from relay.queue.errors import NoRoom, QueueError, explain
from relay.queue.room import Room

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]
"""Statements of one transaction. It may be run again after a rollback, and is run in the writer's thread."""


@dataclass(frozen=True, slots=True)
class _Order:
    job: Job[Any]
    is_outcome: bool
    answer: asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Writer:
    """Runs jobs in a thread of its own, in the order in which they come."""

    def __init__(self, db: sqlite3.Connection, path: Path, room: Room) -> None:
        self._db = db
        self._path = path
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._is_closed = False
        self.commits = 0
        """Transactions that changed something, and so were fsynced; and the seconds that this took in all."""
        self.commit_seconds = 0.0
        self._thread = Thread(target=self._work, name="queue writer", daemon=True)
        self._thread.start()

    async def run(self, job: Job[T], *, is_outcome: bool = False) -> T:
        """Run a job in a transaction and return its result once that is committed and fsynced.

        A job goes on when its caller is cancelled. ``is_outcome``: where the disk is full, the reserve is
        given up for it. Raises QueueError for what SQLite says, and whatever else the job raises.
        """
        if self._is_closed:
            raise QueueError(f"the queue {self._path} is closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._orders.put(_Order(job, is_outcome, answer))
        return await answer

    async def close(self) -> None:
        """Finish what waits, then close the database."""
        self._is_closed = True
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        is_open = True
        while is_open:
            group = [self._orders.get()]
            with suppress(Empty):
                while group[-1] is not None:
                    group.append(self._orders.get_nowait())
            if group[-1] is None:
                group.pop()
                is_open = False
            orders = [order for order in group if order is not None]
            results = self._run_group(orders)
            with suppress(RuntimeError):  # the loop is gone: nobody waits
                self._loop.call_soon_threadsafe(_answer, orders, results)
        self._db.close()

    def _run_group(self, orders: Sequence[_Order]) -> list[Any]:
        try:
            return self._commit(orders)
        except Exception:
            # Whoever is to blame hears of it, the others don't.
            return [self._run_alone(order) for order in orders]

    def _run_alone(self, order: _Order) -> Any:
        try:
            try:
                return self._commit([order])[0]
            except NoRoom:
                if not (order.is_outcome and self._room.give_up_reserve()):
                    raise
                return self._commit([order])[0]
        except Exception as error:
            return _Failure(error)

    def _commit(self, orders: Sequence[_Order]) -> list[Any]:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            before = db.total_changes
            results = [order.job(db) for order in orders]
            started_at = time.monotonic()
            db.execute("COMMIT")
            if db.total_changes != before:
                self.commits += 1
                self.commit_seconds += time.monotonic() - started_at
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")
        return results


def _answer(orders: Sequence[_Order], results: Sequence[Any]) -> None:
    for order, result in zip(orders, results, strict=True):
        if order.answer.done():  # cancelled
            continue
        if isinstance(result, _Failure):
            order.answer.set_exception(result.error)
        else:
            order.answer.set_result(result)
