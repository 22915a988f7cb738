"""``relay queue retry --wait``: what becomes of recipients that are tried anew, told while it goes on."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from relay.cli.progress import showing_progress
from relay.texts import make_plain

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
MOST_REPLIES = 10
_WAITING = ("queued", "deferred")
_OUTCOMES = {"delivered": "sent", "bounced": "returned", "expired": "returned", "held": "held"}
_WORDS = {
    "sent": "sent",
    "refused": "refused for now and tried again later",
    "returned": "returned to the sender",
    "held": "held",
    "gone": "deleted by somebody",
}

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""Sends a request to the running service and returns its reply; raises OSError."""
Name = tuple[str, str]
"""A recipient of a message: its address, and the address as given."""


@dataclass
class Pursuit:
    """The recipients that were chosen, and what has become of them."""

    waiting: dict[str, dict[Name, float | None]]
    """When each recipient that still waits was last tried before, by queue id."""
    outcomes: Counter[str] = field(default_factory=Counter)
    replies: Counter[str] = field(default_factory=Counter)
    """What was said to those that were not taken."""
    last_reply: str = ""
    down: dict[str, str] = field(default_factory=dict)
    """Why there is no session with a next hop, by its name."""

    @property
    def left(self) -> int:
        """The number of recipients that wait."""
        return sum(map(len, self.waiting.values()))

    @property
    def is_success(self) -> bool:
        """Whether all are sent."""
        return not self.waiting and set(self.outcomes) <= {"sent"}

    def look_at(self, message: dict[str, Any]) -> None:
        """Note what has become of the recipients of a message, which may be finished."""
        recipients = {_name(recipient): recipient for recipient in message["recipients"]}
        for name, tried_before in [*self.waiting.get(message["id"], {}).items()]:
            recipient = recipients.get(name)
            if recipient is None:
                self._settle(message["id"], name, "gone")
            elif outcome := self._judge(recipient, tried_before):
                self._settle(message["id"], name, outcome, recipient["reply"])

    def give_up(self, message: dict[str, Any]) -> None:
        """Settle recipients that are not tried, for there is no session with their next hop."""
        for recipient in message["recipients"]:
            name, next_hop = _name(recipient), recipient["next_hop"]
            if name in self.waiting.get(message["id"], {}) and next_hop in self.down:
                self._settle(message["id"], name, "refused", self.down[next_hop])

    def _judge(self, recipient: dict[str, Any], tried_before: float | None) -> str:
        """Return what has become of a recipient, "" if nothing yet."""
        if recipient["state"] not in _WAITING:
            return _OUTCOMES[recipient["state"]]
        tried_at = recipient["attempted_at"]
        if recipient["state"] == "queued" or tried_at is None or tried_at == tried_before:
            return ""
        if recipient["scope"] == "site":
            self.down[recipient["next_hop"]] = recipient["reply"]
        return "refused"

    def _settle(self, queue_id: str, name: Name, outcome: str, reply: str = "") -> None:
        del self.waiting[queue_id][name]
        if not self.waiting[queue_id]:
            del self.waiting[queue_id]
        self.outcomes[outcome] += 1
        if outcome != "sent" and reply:
            self.last_reply = make_plain(reply)
            self.replies[self.last_reply] += 1


def choose(messages: Iterable[dict[str, Any]], is_chosen: Callable[[str], bool]) -> Pursuit:
    """Return a pursuit of the recipients that wait; ``is_chosen`` says whether an address was meant."""
    waiting: dict[str, dict[Name, float | None]] = {}
    for message in messages:
        for recipient in message["recipients"]:
            if recipient["state"] in _WAITING and is_chosen(recipient["address"]):
                waiting.setdefault(message["id"], {})[_name(recipient)] = recipient["attempted_at"]
    return Pursuit(waiting)


def follow(
    pursuit: Pursuit, list_messages: Callable[[], Iterator[dict[str, Any]]], ask: Ask, out: TextIO | None
) -> None:
    """Look until nothing of what was chosen waits any more, and tell how it goes on; raises OSError.

    What waits for a next hop with which there is no session counts as refused: it is not tried now. ``out``
    gets a line every few seconds where no terminal shows it; None: none.
    """
    total, told_at = pursuit.left, time.monotonic()
    has_lines = out is not None and not (out.isatty() and sys.stderr.isatty())
    with showing_progress() as show:
        while left := pursuit.left:
            line = describe(pursuit, total)
            show(line, total - left, total)
            if has_lines and time.monotonic() - told_at >= LINE_SECONDS:
                told_at = time.monotonic()
                print(line, file=out, flush=True)
            time.sleep(POLL_SECONDS)
            started_at = time.monotonic()
            present = {message["id"]: message for message in list_messages()}
            for queue_id in [*pursuit.waiting]:
                pursuit.look_at(present.get(queue_id) or _find_finished(queue_id, ask))
            if pursuit.left == left:
                for message in present.values():
                    pursuit.give_up(message)
            time.sleep(min(3 * (time.monotonic() - started_at), 10.0))  # the relay has other work


def describe(pursuit: Pursuit, total: int) -> str:
    """Return how far it is, in one line."""
    counts = [f"{pursuit.left} of {total} wait", f"{pursuit.outcomes['sent']} sent"]
    if others := pursuit.outcomes.total() - pursuit.outcomes["sent"]:
        counts.append(f"{others} not")
    return ", ".join(counts) + (f"; last reply: {pursuit.last_reply}" if pursuit.last_reply else "")


def summarize(pursuit: Pursuit) -> Iterator[str]:
    """Yield lines that tell what has become of all."""
    counts = [f"{pursuit.outcomes[name]} {words}" for name, words in _WORDS.items() if pursuit.outcomes[name]]
    yield "recipients: " + (", ".join(counts) or "none")
    for reply, count in pursuit.replies.most_common(MOST_REPLIES):
        yield f"    {count}: {reply}"


def _find_finished(queue_id: str, ask: Ask) -> dict[str, Any]:
    """Return a message that waits no more; without recipients where it was deleted."""
    reply = ask({"command": "show", "id": queue_id})
    return reply["message"] if reply["ok"] else {"id": queue_id, "recipients": []}


def _name(recipient: dict[str, Any]) -> Name:
    return recipient["address"], recipient["original"]
