"""The queue against a dictionary: all that reception, delivery and the owner do to it, and kills between."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.mail.attempt import Outcome, State
from relay.mail.envelope import Message, Recipient
from relay.queue.errors import QueueError
from relay.queue.incoming import Incoming
from relay.queue.selection import Selection
from relay.queue.store import Store
from tests.support.queue import REFUSED, SENT, accept, claim, content_of, failed

RETRY_SECONDS = 100.0
WAITING = {State.QUEUED, State.DEFERRED}
FAILED = {State.BOUNCED, State.EXPIRED}
SENDERS = ("chris@free.fr", "anna@orange.fr", "")
DOMAINS = ("example.net", "example.org")
HOPS = ("[isp.test]:465", "mx.test:25")
LARGE = 150_000
"""More than stays in memory until a message is whole."""

T = TypeVar("T")


@dataclass
class Copy:
    """What the model knows of a recipient."""

    recipient: Recipient
    state: State
    attempts: int
    due_at: float
    next_hop: str = ""
    is_reported: bool = False


@dataclass
class Letter:
    """What the model knows of a message."""

    message: Message
    content: bytes
    copies: dict[int, Copy]
    is_warned: bool = False
    is_finished: bool = False

    def finish(self) -> None:
        """Note whether nothing is left to do."""
        self.is_finished = self.is_finished or not any(
            copy.state in WAITING | {State.HELD} or (copy.state in FAILED and not copy.is_reported)
            for copy in self.copies.values()
        )


def due(letter: Letter, now: float) -> list[Copy]:
    return [copy for copy in letter.copies.values() if copy.state in WAITING and copy.due_at <= now]


def retry(_attempt: int, now: float, _number: int) -> float:
    return now + RETRY_SECONDS


CHOICES = st.sampled_from(
    [
        Selection(),
        Selection(sender="CHRIS@free.fr"),
        Selection(sender=""),
        Selection(recipient="@example.net"),
        Selection(sender="@orange.fr", recipient="u1@example.org"),
    ]
)
STATES = st.sampled_from([State.DELIVERED, State.DEFERRED, State.DEFERRED, State.BOUNCED, State.EXPIRED])


class Queue(RuleBasedStateMachine):
    """Each rule does the same to the queue and to the model; after each they must be equal."""

    runs = 0
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="queue"))
        self.lives = 0
        # Ahead of the clock by which the owner's commands make things due.
        self.now = time.time() + 10_000
        self.letters: dict[int, Letter] = {}
        self.claimed: dict[int, list[int]] = {}
        self.highest = 0
        self.half_received: list[Incoming] = []
        self._open()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        type(self).calls += 1
        return self.runner.run(work)

    @property
    def path(self) -> Path:
        return self.folder / str(self.lives) / "queue.db"

    def _open(self) -> None:
        self.store = self.do(Store.open(self.path, retry=retry))

    # Reception

    @rule(
        sender=st.sampled_from(SENDERS),
        domains=st.lists(st.sampled_from(DOMAINS), min_size=1, max_size=3),
        size=st.sampled_from([0, 1, 100, LARGE]),
        is_held=st.booleans(),
        is_claimed=st.booleans(),
    )
    def accept(self, sender: str, domains: list[str], size: int, is_held: bool, is_claimed: bool) -> None:
        recipients = [Recipient(f"u{i}@{domain}", index=i) for i, domain in enumerate(domains)]
        content = b"\xff" * size
        retry_at = self.now + RETRY_SECONDS if is_claimed and not is_held else None
        message = self.do(
            accept(
                self.store,
                recipients,
                content=content,
                retry_at=retry_at,
                is_held=is_held,
                now=self.now,
                reverse_path=sender,
                size=size,
            )
        )
        assert message.number > self.highest
        self.highest = message.number
        state = State.HELD if is_held else State.QUEUED
        copies = {
            r.index: Copy(r, state, 0 if retry_at is None else 1, retry_at or self.now) for r in recipients
        }
        self.letters[message.number] = Letter(message, content, copies)
        if retry_at is not None:
            self.claimed[message.number] = [*copies]

    @rule(is_abandoned=st.booleans())
    def half_receive(self, is_abandoned: bool) -> None:
        async def begin() -> None:
            incoming = self.store.incoming(self.store.new_number(self.now))
            await incoming.write(b"x" * LARGE)
            if is_abandoned:
                await incoming.abandon()
            else:
                self.half_received.append(incoming)

        self.do(begin())

    # Delivery

    @rule(limit=st.sampled_from([1, 2, 100]), closed=st.sampled_from([(), HOPS[:1], HOPS]))
    def claim(self, limit: int, closed: tuple[str, ...]) -> None:
        claims = self.do(
            claim(self.store, self.now, limit, in_flight=[*self.claimed], caps=dict.fromkeys(closed, 0))
        )
        ready = {
            number: copies
            for number, letter in self.letters.items()
            if number not in self.claimed
            and (copies := [copy for copy in due(letter, self.now) if copy.next_hop not in closed])
        }
        assert len(claims) == min(limit, len(ready))
        assert len({claimed.message.number for claimed in claims}) == len(claims)
        for claimed in claims:
            number = claimed.message.number
            copies = ready.pop(number)
            assert claimed.message.envelope.recipients == tuple(copy.recipient for copy in copies)
            assert claimed.attempt_number == 1 + max(copy.attempts for copy in copies)
            assert claimed.is_warned == self.letters[number].is_warned
            left_behind = min(
                (min(copy.due_at for copy in rest) for rest in ready.values()), default=self.now
            )
            assert min(copy.due_at for copy in copies) <= left_behind
            for copy in copies:
                copy.attempts += 1
                copy.due_at = self.now + RETRY_SECONDS
            self.claimed[number] = [copy.recipient.index for copy in copies]

    @precondition(lambda self: self.claimed)
    @rule(
        which=st.integers(0, 100),
        states=st.lists(STATES, min_size=1, max_size=3),
        hop=st.sampled_from(HOPS),
        wait=st.sampled_from([0.0, 50.0, 500.0]),
        is_reported=st.booleans(),
        is_late=st.booleans(),
    )
    def record(
        self,
        which: int,
        states: list[State],
        hop: str,
        wait: float,
        is_reported: bool,
        is_late: bool,
    ) -> None:
        number = sorted(self.claimed)[which % len(self.claimed)]
        indexes = self.claimed[number]
        done, self.claimed[number] = indexes[: len(states)], indexes[len(states) :]
        if not self.claimed[number]:
            del self.claimed[number]
        outcomes = [
            Outcome(number, index, state, self._attempt(state, hop), self.now + wait)
            for index, state in zip(done, states, strict=False)
        ]
        reported = [(o.number, o.index) for o in outcomes if is_reported and o.state in FAILED]
        warned = [number] if is_late else []
        finished = self.do(self.store.record(outcomes, reported=reported, warned=warned))
        letter = self.letters.get(number)
        if letter is None:  # deleted meanwhile
            assert not finished
            return
        was_finished = letter.is_finished
        for outcome in outcomes:
            self._note(letter, outcome, is_reported=is_reported)
        letter.is_warned = letter.is_warned or is_late
        letter.finish()
        assert [*finished] == ([number] if letter.is_finished and not was_finished else [])

    @staticmethod
    def _attempt(state: State, hop: str) -> Any:
        if state is State.DEFERRED:
            return failed(hop)
        return replace(SENT if state is State.DELIVERED else REFUSED, next_hop=hop)

    @staticmethod
    def _note(letter: Letter, outcome: Outcome, *, is_reported: bool) -> None:
        copy = letter.copies.get(outcome.index)
        if copy is None:
            return
        is_open = copy.state in WAITING | {State.HELD}
        if is_open or outcome.state is State.DELIVERED:
            is_held = copy.state is State.HELD and outcome.state is State.DEFERRED
            copy.state = State.HELD if is_held else outcome.state
            copy.due_at, copy.next_hop = outcome.next_attempt_at, outcome.attempt.next_hop
        copy.is_reported = copy.is_reported or (is_reported and outcome.state in FAILED)

    @precondition(lambda self: self.claimed)
    @rule(which=st.integers(0, 100))
    def give_back(self, which: int) -> None:
        number = sorted(self.claimed)[which % len(self.claimed)]
        indexes = self.claimed.pop(number)
        self.do(self.store.give_back(number, indexes))
        letter = self.letters.get(number)
        for copy in letter.copies.values() if letter else ():
            if copy.recipient.index in indexes and copy.state in WAITING:
                copy.attempts = max(0, copy.attempts - 1)
                copy.due_at = 0.0

    @precondition(lambda self: self.letters)
    @rule(which=st.integers(0, 100))
    def read(self, which: int) -> None:
        letter = self._some(which)
        try:
            content = self.do(content_of(self.store, letter.message))
        except QueueError:
            assert letter.is_finished
        else:
            assert content == letter.content

    # The owner

    @rule(choice=CHOICES, which=st.integers(0, 200))
    def hold(self, choice: Selection, which: int) -> None:
        def change(copy: Copy) -> None:
            copy.state = State.HELD

        self._command(self.store.hold, choice, which, WAITING, change)

    @rule(choice=CHOICES, which=st.integers(0, 200))
    def release(self, choice: Selection, which: int) -> None:
        self._command(self.store.release, choice, which, {State.HELD}, _make_due)

    @rule(choice=CHOICES, which=st.integers(0, 200))
    def retry(self, choice: Selection, which: int) -> None:
        self._command(self.store.retry, choice, which, WAITING, _make_due)

    @rule(choice=CHOICES, which=st.integers(0, 200))
    def delete(self, choice: Selection, which: int) -> None:
        chosen = self._command(self.store.delete, choice, which, WAITING | {State.HELD}, lambda _: None)
        for number, index in chosen:
            del self.letters[number].copies[index]
        for number in {number for number, _ in chosen}:
            self.letters[number].finish()
            if not self.letters[number].copies:
                del self.letters[number]

    def _command(
        self,
        command: Callable[[Selection], Coroutine[Any, Any, int]],
        choice: Selection,
        which: int,
        states: set[State],
        change: Callable[[Copy], None],
    ) -> list[tuple[int, int]]:
        """Give a command to the queue and the model; return the recipients that it was about."""
        if which < 100 and self.letters:
            choice = replace(choice, numbers=frozenset({self._some(which).message.number}))
        chosen = [
            copy
            for number, letter in self.letters.items()
            if not letter.is_finished and (choice.numbers is None or number in choice.numbers)
            for copy in letter.copies.values()
            if copy.state in states
            and _matches(letter.message.envelope.reverse_path, choice.sender)
            and _matches(copy.recipient.address, choice.recipient)
        ]
        pairs = [
            (number, index)
            for number, letter in self.letters.items()
            for index, copy in letter.copies.items()
            if any(copy is one for one in chosen)
        ]
        assert self.do(command(choice)) == len({number for number, _ in pairs})
        for copy in chosen:
            change(copy)
        return pairs

    # Time and death

    @rule(seconds=st.sampled_from([1.0, 60.0, 150.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(booked=st.sampled_from([0.0, 50.0, 200.0]))
    def bring_forward(self, booked: float) -> None:
        after = self.now + booked
        late = [
            copy
            for letter in self.letters.values()
            for copy in letter.copies.values()
            if copy.state in WAITING and copy.due_at > after
        ]
        assert self.do(self.store.bring_forward(after, self.now)) == len(late)
        for copy in late:
            copy.due_at = self.now

    @rule()
    def purge(self) -> None:
        gone = [number for number, letter in self.letters.items() if letter.is_finished]
        # All was finished by the real clock, which is far behind; numbers tell the time of arrival.
        assert self.do(self.store.purge(self.now + 1)) == len(gone)
        for number in gone:
            del self.letters[number]

    @rule(is_orderly=st.booleans())
    def die(self, is_orderly: bool) -> None:
        """End, and open the queue again: that which a kill leaves, or what an orderly end does."""
        old = self.path.parent
        self.lives += 1
        if not is_orderly:
            shutil.copytree(old, self.path.parent)
        self._close()
        if is_orderly:
            old.rename(self.path.parent)
        else:
            shutil.rmtree(old)
        self.claimed.clear()
        self._open()
        large = {letter.message.queue_id for letter in self.letters.values() if len(letter.content) == LARGE}
        finished = {letter.message.queue_id for letter in self.letters.values() if letter.is_finished}
        folder = self.path.with_name(f"{self.path.name}.content")
        assert {path.name for path in folder.iterdir()} == large - finished

    def _close(self) -> None:
        for incoming in self.half_received:
            self.do(incoming.abandon())
        self.half_received.clear()
        self.do(self.store.close())

    def teardown(self) -> None:
        self._close()
        self.runner.close()
        shutil.rmtree(self.folder)

    @invariant()
    def is_as_the_model_says(self) -> None:
        counted: dict[State, int] = {}
        for number, letter in self.letters.items():
            entry = self.do(self.store.show(number))
            assert entry is not None
            assert entry.message == replace(
                letter.message,
                envelope=replace(
                    letter.message.envelope,
                    recipients=tuple(copy.recipient for copy in letter.copies.values()),
                ),
            )
            assert entry.is_warned == letter.is_warned
            assert (entry.finished_at is not None) == letter.is_finished
            for queued, copy in zip(entry.recipients, letter.copies.values(), strict=True):
                assert (queued.state, queued.attempts, queued.next_hop, queued.is_reported) == (
                    copy.state,
                    copy.attempts,
                    copy.next_hop,
                    copy.is_reported,
                )
                assert queued.next_attempt_at == copy.due_at or (
                    not copy.due_at and queued.next_attempt_at < self.now
                )
                if not copy.due_at:
                    copy.due_at = queued.next_attempt_at  # by the real clock
                if not letter.is_finished:
                    counted[copy.state] = counted.get(copy.state, 0) + 1
        assert self.do(self.store.counts()) == counted
        waiting = [number for number, letter in self.letters.items() if not letter.is_finished]
        assert [e.message.number for e in self.do(self.store.list_messages(0, 1000, Selection()))] == waiting
        unreported = self.do(self.store.unreported(()))
        assert {(u.message.number, f.recipient.index) for u in unreported for f in u.failed} == {
            (number, index)
            for number, letter in self.letters.items()
            for index, copy in letter.copies.items()
            if copy.state in FAILED and not copy.is_reported
        }

    def _some(self, which: int) -> Letter:
        return self.letters[sorted(self.letters)[which % len(self.letters)]]


def _make_due(copy: Copy) -> None:
    copy.state, copy.due_at = State.QUEUED, 0.0


def _matches(address: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    folded, wanted = address.casefold(), pattern.casefold()
    return folded == wanted or (wanted.startswith("@") and folded.endswith(wanted))
