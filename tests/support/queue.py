"""Messages and outcomes for tests of the queue, and a look into its files."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from relay.mail.attempt import Attempt, Claim, Outcome, State
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply
from relay.queue.control import ControlServer
from relay.queue.incoming import SMALL_SIZE
from relay.queue.store import Store
from relay.queue.writer import Writer

T = TypeVar("T")

NOW = 1_800_000_000.0
CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
LARGE = CONTENT * (8 * SMALL_SIZE // len(CONTENT))
"""Content that stands in a file of its own."""
ISP = "[smtp.orange.fr]:465"
OTHER = "aol.com:25"

REFUSED = Attempt(
    Reply(550, "5.1.1", "no such user"), host="mx[1.2.3.4]:25", command="RCPT TO", is_remote=True
)
SENT = Attempt(Reply(250, "2.0.0", "taken"), host="mx[1.2.3.4]:25", command="end of DATA", is_remote=True)


def retry_in_five_minutes(_attempt: int, now: float, _number: int) -> float:
    return now + 300


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = await Store.open(path, retry=retry_in_five_minutes)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def filled(path: Path, fill: Callable[[Store], Awaitable[T]], *, is_up: bool) -> AsyncIterator[T]:
    """Give what ``fill`` put into a queue, whose service is up meanwhile, or down."""
    async with opened(path) as store:
        given = await fill(store)
        if is_up:
            server = ControlServer(store, lambda: None)
            await server.start()
            yield given
            await server.close()
            return
    yield given


def make_message(number: int, recipients: Sequence[Recipient] | int = 1, **changes: Any) -> Message:
    """Return a message; ``recipients`` may be just how many."""
    if isinstance(recipients, int):
        recipients = [Recipient(f"u{index}@example.net", index=index) for index in range(recipients)]
    envelope = changes.pop("envelope", None) or Envelope(
        changes.pop("reverse_path", "chris@free.fr"), tuple(recipients)
    )
    return Message(
        **{
            "number": number,
            "envelope": envelope,
            "size": len(CONTENT),
            "header_size": CONTENT.index(b"\r\n\r\n") + 2,
            "body_is_8bit": False,
            "received_at": NOW,
            **changes,
        }
    )


async def accept(
    store: Store,
    recipients: Sequence[Recipient] | int = 1,
    *,
    content: bytes = CONTENT,
    retry_at: float | None = None,
    is_held: bool = False,
    now: float = NOW,
    **changes: Any,
) -> Message:
    """Put a message into the queue, as reception does."""
    given = {"received_at": now, "size": len(content), **changes}
    message = make_message(store.new_number(now), recipients, **given)
    incoming = store.incoming(message.number)
    for start in range(0, len(content), 65536):
        await incoming.write(content[start : start + 65536])
    await incoming.commit(message, retry_at=retry_at, is_held=is_held)
    return message


async def claim(store: Store, now: float = NOW, limit: int = 100, **options: Any) -> list[Claim]:
    defaults: dict[str, Any] = {"caps": {}, "in_flight": (), "overdue_before": 0.0, "late_before": 0.0}
    return await store.claim(now, limit, **{**defaults, **options})


def failed(next_hop: str, text: str = "try later") -> Attempt:
    return Attempt(
        Reply(451, "4.3.0", text), host="mx[1.2.3.4]:25", command="DATA", is_remote=True, next_hop=next_hop
    )


def deferred(message: Message, next_hop: str, at: float = NOW, index: int = 0) -> Outcome:
    return Outcome(message.number, index, State.DEFERRED, failed(next_hop), next_attempt_at=at)


def outcome(message: Message, state: State, index: int = 0) -> Outcome:
    return Outcome(message.number, index, state, SENT if state is State.DELIVERED else REFUSED)


async def states(store: Store, message: Message) -> list[State]:
    entry = await store.show(message.number)
    return [] if entry is None else [recipient.state for recipient in entry.recipients]


async def content_of(store: Store, message: Message) -> bytes:
    return b"".join([chunk async for chunk in store.read(message.number)])


def content_files(path: Path) -> list[str]:
    """Return the names of the files of a queue's large contents."""
    return sorted(file.name for file in path.with_name(f"{path.name}.content").iterdir())


class Gate:
    """A job that keeps the writer busy until it is let go."""

    def __init__(self, writer: Writer) -> None:
        self._entered, self._go = threading.Event(), threading.Event()
        self._job = asyncio.ensure_future(writer.run(self._wait))

    def _wait(self, db: sqlite3.Connection) -> None:
        self._entered.set()
        self._go.wait()

    async def entered(self) -> None:
        await asyncio.to_thread(self._entered.wait)

    async def let_go(self) -> None:
        self._go.set()
        await self._job


def query(path: Path, statement: str) -> list[Any]:
    """Ask the database of a closed queue."""
    db = sqlite3.connect(path)
    try:
        return db.execute(statement).fetchall()
    finally:
        db.close()
