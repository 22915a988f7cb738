"""The durable queue, as the rest of the program sees it (docs/queue.md)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType

from relay.files import sync_folder
from relay.mail.attempt import Claim, Failed, Outcome, State
from relay.mail.dsn import Report
from relay.mail.envelope import LARGEST_NUMBER, format_queue_id, parse_queue_id
from relay.mail.learned import LearnedRoute
from relay.queue import claims, condition, history, learned, log, recording, rows, schema, selection
from relay.queue.claims import Retry
from relay.queue.condition import Condition
from relay.queue.contents import Contents
from relay.queue.errors import QueueError, explain, explain_os
from relay.queue.history import Trace
from relay.queue.incoming import BLOCK_SIZE, Incoming, Memory
from relay.queue.recording import Unreported
from relay.queue.room import Room
from relay.queue.rows import Entry
from relay.queue.selection import Selection
from relay.queue.writer import Writer

_PURGE_BATCH = 200


class Store:
    """One queue, open. Every method but new_number may raise QueueError."""

    def __init__(
        self,
        path: Path,
        writer: Writer,
        room: Room,
        contents: Contents,
        lock: int,
        retry: Retry,
        last: int,
        routes: dict[str, LearnedRoute],
    ) -> None:
        self.path = path
        self.learned: Mapping[str, LearnedRoute] = MappingProxyType(routes)
        """The learned routes by domain, as they are in the database."""
        self._routes = routes
        self._writer = writer
        self._room = room
        self._contents = contents
        self._memory = Memory()
        self._lock = lock
        self._retry = retry
        self._last_number = last

    @classmethod
    async def open(cls, path: Path, *, retry: Retry) -> Store:
        """Open the queue for this process alone, making it where there is none; sweep what was half-received.

        ``retry`` gives the epoch second of the next attempt: (attempt number, now, message number).
        """
        lock, db, room, contents = await asyncio.to_thread(_open, path)
        writer = Writer(db, path, room)
        try:
            last = await writer.run(_last_number)
            routes = await writer.run(learned.select_learned)
            await writer.run(lambda db: contents.sweep(partial(rows.is_unfinished, db)))
        except QueueError:
            await writer.close()
            os.close(lock)
            raise
        return cls(path, writer, room, contents, lock, retry, last, routes)

    async def close(self) -> None:
        """Finish what was begun and leave the queue to others."""
        await self._writer.close()
        os.close(self._lock)

    # Arrival

    def new_number(self, now: float) -> int:
        """Return a message number that was never given before; it tells the microsecond of arrival."""
        self._last_number = max(int(now * 1e6), self._last_number + 1)
        return self._last_number

    def incoming(self, number: int) -> Incoming:
        """Begin to take in a message."""
        return Incoming(self._writer, self._room, self._contents, self._memory, number)

    # Delivery

    async def claim(
        self,
        now: float,
        limit: int,
        *,
        caps: Mapping[str, int],
        in_flight: Collection[int],
        overdue_before: float,
        late_before: float,
    ) -> list[Claim]:
        """Hand out at most ``limit`` messages that are due, earliest first, their retries booked.

        ``caps`` limits the messages per next hop; 0 leaves out its recipients. Messages received before
        ``overdue_before``, and those received before ``late_before`` that were not yet warned about, come
        first and regardless of caps, when they are due. A claim has all recipients of its message that are
        due.
        """
        live_caps, live_numbers = dict(caps), frozenset(in_flight)
        return await self._writer.run(
            lambda db: claims.claim(
                db,
                self._retry,
                now,
                limit,
                caps=live_caps,
                in_flight=live_numbers,
                overdue_before=overdue_before,
                late_before=late_before,
            )
        )

    async def next_due_at(self, now: float, caps: Mapping[str, int]) -> float | None:
        """Return when something is due whose next hop is not capped to 0: ``now`` at the earliest."""
        live_caps = dict(caps)
        due_at = await self._writer.run(lambda db: claims.next_due_at(db, live_caps))
        return None if due_at is None else max(now, due_at)

    async def read(self, number: int) -> AsyncGenerator[bytes, None]:
        """Yield the content of a message in blocks; raises QueueError where it is gone or damaged.

        Also in the middle: what was yielded is then not the whole.
        """
        if not self._contents.has(number):
            content = await self._writer.run(lambda db: rows.select_content(db, number))
            if content is None:
                raise _gone(number)
            yield content
            return
        entry = await self.show(number)
        if entry is None:
            raise _gone(number)
        reader = self._contents.open(number, entry.message.size)
        try:
            while block := await asyncio.to_thread(reader.read, BLOCK_SIZE):
                yield block
        except FileNotFoundError:
            raise _gone(number) from None
        except OSError as error:
            raise explain_os(error, self._contents.folder) from error
        finally:
            await asyncio.to_thread(reader.close)

    async def record(
        self,
        outcomes: Sequence[Outcome],
        *,
        reports: Sequence[Report] = (),
        reported: Sequence[tuple[int, int]] = (),
        warned: Sequence[int] = (),
    ) -> Sequence[int]:
        """Record outcomes and the reports that they cause, in one transaction; return what is finished by it.

        ``reported`` has the failures (number, index) that need no report any more, ``warned`` the messages
        whose lateness needs none. Reports are due at once. Outcomes of deleted recipients are ignored.
        """
        now = time.time()
        finished = await self._writer.run(
            lambda db: recording.record(db, now, outcomes, reports, reported, warned), is_outcome=True
        )
        await self._delete_files(finished)
        return finished

    async def give_back(self, number: int, indexes: Sequence[int]) -> None:
        """Make recipients of a claim due again that were not attempted after all."""
        now = time.time()
        await self._writer.run(lambda db: recording.give_back(db, now, number, indexes), is_outcome=True)

    async def failures(self, number: int) -> tuple[Failed, ...]:
        """Return the failed recipients of a message whose report is still due."""
        return await self._writer.run(lambda db: recording.select_failures(db, number))

    async def unreported(self, in_flight: Collection[int]) -> list[Unreported]:
        """Return all failures whose report is still due, but for those of messages in flight."""
        excluded = frozenset(in_flight)
        return await self._writer.run(lambda db: recording.select_unreported(db, excluded))

    async def bring_forward(self, after: float, now: float) -> int:
        """Make due now what is booked for later than ``after``: the clock was wrong when that was done."""
        return await self._writer.run(lambda db: selection.bring_forward(db, after, now))

    async def rejuvenate(self, before: float, jump: float) -> int:
        """Let messages received before a time be so many seconds younger: the clock was set forward since."""
        return await self._writer.run(lambda db: selection.rejuvenate(db, before, jump))

    async def purge(self, before: float) -> int:
        """Forget messages that were finished before a time; returns how many."""
        total = 0
        while deleted := await self._writer.run(lambda db: recording.purge(db, before, _PURGE_BATCH)):
            total += deleted
        return total

    # Learned routes

    async def learn(self, route: LearnedRoute) -> None:
        """Remember a learned route in the place of what was known about its domain."""
        await self._writer.run(lambda db: learned.replace_learned(db, route), is_outcome=True)
        self._routes[route.domain] = route

    async def forget(self, domains: Iterable[str]) -> list[LearnedRoute]:
        """Forget what was learned about domains; return what it was."""
        known = [self._routes[domain] for domain in domains if domain in self._routes]
        if known:
            names = [route.domain for route in known]
            await self._writer.run(lambda db: learned.delete_learned(db, names), is_outcome=True)
            for name in names:
                self._routes.pop(name, None)
        return known

    # The owner's commands

    async def list_messages(self, after: int, limit: int, filters: Selection) -> list[Entry]:
        """Return the next unfinished messages with numbers above ``after``."""
        return await self._writer.run(lambda db: selection.select_entries(db, after, limit, filters))

    async def show(self, number: int) -> Entry | None:
        """Return a message of the queue or of its history."""
        return await self._writer.run(lambda db: rows.select_entry(db, number))

    async def trace(self, text: str, limit: int, before: int = LARGEST_NUMBER) -> list[Trace]:
        """Return the newest messages with numbers below ``before`` that match (history.search).

        Where the text is the queue id of a message, it is the only one.
        """
        named = parse_queue_id(text)
        if named is not None and (trace := await self._trace(named)) is not None:
            return [trace] if named < before else []
        found: list[Trace] = []
        position = before if len(text) <= history.LONGEST_TEXT else None
        while position is not None and len(found) < limit:
            numbers, position = await self._search(text, position)
            for number in numbers[: limit - len(found)]:
                trace = await self._trace(number)
                if trace is not None:
                    found.append(trace)
        return found

    async def oldest(self) -> float | None:
        """Return when the oldest message of the queue and its history came in; None where there is none."""
        return await self._writer.run(history.oldest)

    async def read_header(self, entry: Entry) -> bytes:
        """Return the header block of a message; as much of it as is in the first block, and can be read."""
        with suppress(QueueError):  # its attempts tell why
            async with aclosing(self.read(entry.message.number)) as blocks:
                return (await anext(blocks, b""))[: entry.message.header_size]
        return b""

    async def counts(self) -> dict[State, int]:
        """Return how many recipients of unfinished messages are in each state."""
        return await self._writer.run(selection.count)

    async def examine(self, after: int) -> Condition:
        """Return what waits, of messages with numbers above ``after``, and the room on the disk."""
        return await self._writer.run(lambda db: condition.examine(db, self.path, after))

    async def size(self) -> tuple[int, float | None]:
        """Return how many messages are unfinished, and when the oldest of them came."""
        return await self._writer.run(selection.size)

    @property
    def commits(self) -> tuple[int, float]:
        """How many transactions were fsynced, and the seconds that this took altogether."""
        return self._writer.commits, self._writer.commit_seconds

    async def hold(self, chosen: Selection) -> int:
        """Attempt no more until released; returns how many messages are concerned, as do the next three."""
        return await self._writer.run(lambda db: selection.hold(db, chosen), is_outcome=True)

    async def release(self, chosen: Selection) -> int:
        """Make held recipients due now."""
        now = time.time()
        return await self._writer.run(lambda db: selection.release(db, chosen, now), is_outcome=True)

    async def retry(self, chosen: Selection) -> int:
        """Make waiting recipients due now."""
        now = time.time()
        return await self._writer.run(lambda db: selection.retry(db, chosen, now), is_outcome=True)

    async def delete(self, chosen: Selection) -> int:
        """Forget recipients that are not final, and their messages where nobody else is left."""
        now = time.time()
        count, gone = await self._writer.run(lambda db: selection.delete(db, chosen, now), is_outcome=True)
        await self._delete_files(gone)
        return count

    async def _search(self, text: str, before: int) -> tuple[list[int], int | None]:
        return await self._writer.run(lambda db: history.search(db, text, before))

    async def _trace(self, number: int) -> Trace | None:
        return await self._writer.run(lambda db: history.select_trace(db, number))

    async def _delete_files(self, numbers: Iterable[int]) -> None:
        """Delete the large contents of finished messages; the next start does it where this fails."""
        for number in filter(self._contents.has, numbers):
            with suppress(OSError):
                await asyncio.to_thread(self._contents.delete, number)


def _gone(number: int) -> QueueError:
    return QueueError(f"the content of message {format_queue_id(number)} is no longer in the queue")


def _open(path: Path) -> tuple[int, sqlite3.Connection, Room, Contents]:
    """Lock and open the files of a queue."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        try:
            room, contents = Room(path), Contents(path)
            return lock, _connect(path, room, contents), room, contents
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise QueueError(
            f"the queue {path} can't be opened ({error.strerror}): see that this user may write its folder "
            f"(this user: {os.geteuid()})"
        ) from error


def _lock(path: Path) -> int:
    """Keep other processes away for as long as the returned descriptor is open."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise QueueError(f"the queue {path} is already in use by process {holder}") from None
    with suppress(OSError):  # a full disk: the number is just for the sentence above
        os.pwrite(lock, f"{os.getpid():<10}\n".encode(), 0)
    return lock


def _connect(path: Path, room: Room, contents: Contents) -> sqlite3.Connection:
    """Open the database and the folder beside it; their directory entries are on disk when this returns."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    log.check(path)
    try:
        db = schema.connect(path, log_size=room.margin // 2)
    except sqlite3.Error as error:
        raise explain(error, path) from error
    db.create_function("matches", 2, selection.matches, deterministic=True)
    try:
        contents.prepare()
        sync_folder(path.parent)
        room.note_files()
    except OSError:
        db.close()
        raise
    return db


def _last_number(db: sqlite3.Connection) -> int:
    """Return the highest message number ever given."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'message'").fetchone()
    return row[0] if row else 0
