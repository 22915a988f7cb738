"""What each page shows: facts, put into the words and shapes of the templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from relay.mail.encoded_words import read_subject
from relay.mail.headers import header_name, split_content
from relay.mail.learned import ANYWHERE
from relay.web import words
from relay.web.charts import draw_delays, draw_deliveries
from relay.web.checkup import Checkup
from relay.web.counts import HOURS, Counts
from relay.web.facts import Facts

QUEUE_ROWS = 20
RECENT_ROWS = 10
SEARCH_ROWS = 50
MOST_RECIPIENTS = 5
"""Recipients of a message that a list shows."""

View = dict[str, Any]
Record = Mapping[str, Any]

_WAITING = {"queued", "deferred"}
_WORST_FIRST = ("bounced", "expired", "held", "deferred", "queued", "delivered")
_BADGES = {
    "queued": "busy",
    "deferred": "wait",
    "held": "wait",
    "delivered": "good",
    "bounced": "bad",
    "expired": "bad",
}


class AskError(Exception):
    """The queue gives no answer; the text is a sentence."""


class MissingError(Exception):
    """There is no such message."""


async def ask(facts: Facts, request: dict[str, Any]) -> Record:
    """Return the reply to a request of the control socket. Raises AskError."""
    reply = await facts.ask(request)
    if not reply["ok"]:
        raise AskError(reply["error"])
    return reply


async def show_house(facts: Facts, counts: Counts, checkup: Checkup, now: float, *, after: str) -> View:
    """Return what the first page shows; its part of the queue comes after a queue id. Raises AskError."""
    numbers = await ask(facts, {"command": "count"})
    next_hops = sorted(facts.next_hops(), key=lambda hop: (hop["state"] != "blocked", hop["name"]))
    problems = list(facts.problems())
    listing = await ask(facts, {"command": "list", "limit": QUEUE_ROWS + 1, "after": after or "0"})
    queue = listing["messages"]
    recent = await ask(facts, {"command": "trace", "text": "", "limit": RECENT_ROWS})
    learned = await ask(facts, {"command": "routes"})
    hours = counts.hours(now)
    age = max(0.0, now - counts.started_at)
    since = (
        f"Since the start {words.distance(-age, 0)}" if age < HOURS * 3600 else f"In the last {HOURS} hours"
    )
    return {
        "summary": words.summarise(numbers["messages"], numbers["recipients"], next_hops, problems),
        "problems": problems,
        "recipients": numbers["recipients"],
        "messages": numbers["messages"],
        "oldest": numbers["oldest"],
        "queue": [show_message(message) for message in queue[:QUEUE_ROWS]],
        "after": queue[QUEUE_ROWS - 1]["id"] if len(queue) > QUEUE_ROWS else "",
        "is_first": not after,
        "recent": [show_message(message) for message in recent["messages"]],
        "next_hops": [_show_next_hop(hop) for hop in next_hops],
        "learned": [_show_learned(route) for route in learned["routes"]],
        "logins": [_show_login(login, now) for login in facts.logins()],
        "deliveries": draw_deliveries(hours, since),
        "delays": draw_delays(hours),
        "started_at": counts.started_at,
        "checkup": checkup,
    }


async def show_search(facts: Facts, text: str, before: str) -> View:
    """Return the messages that a search finds, from below a queue id on. Raises AskError."""
    request = {"command": "trace", "text": text, "limit": SEARCH_ROWS + 1, "before": before or None}
    found = await ask(facts, request)
    messages = found["messages"]
    return {
        "text": text,
        "found": [show_message(message) for message in messages[:SEARCH_ROWS]],
        "before": messages[SEARCH_ROWS - 1]["id"] if len(messages) > SEARCH_ROWS else "",
        "is_first": not before,
        "since": found.get("since"),
    }


async def show_one(facts: Facts, queue_id: str) -> View:
    """Return one message with the history of its attempts. Raises AskError, MissingError."""
    traced = await ask(facts, {"command": "trace", "text": queue_id, "limit": 1})
    found = [message for message in traced["messages"] if message["id"] == queue_id]
    if not found:
        raise MissingError
    shown = await facts.ask({"command": "show", "id": queue_id})
    block = shown["message"]["header"].encode("utf-8", "surrogateescape") if shown["ok"] else b""
    headers, _ = split_content(block)
    subject = next((read_subject(header) for header in headers if header_name(header) == "subject"), "")
    message = show_message(found[0], most_recipients=None)
    return {
        "message": {**message, "subject": message["subject"] or subject},
        "header": block.decode("utf-8", "replace").splitlines(),
    }


def show_message(message: Record, *, most_recipients: int | None = MOST_RECIPIENTS) -> View:
    """Return a message as lists and its own page show it."""
    recipients: Sequence[Record] = message["recipients"]
    states = {recipient["state"] for recipient in recipients}
    worst = next((state for state in _WORST_FIRST if state in states), "delivered")
    shown = sorted(recipients, key=lambda r: _WORST_FIRST.index(r["state"]))[:most_recipients]
    return {
        **message,
        "subject": message.get("subject", ""),
        "state": worst,
        "tone": _BADGES[worst],
        "is_waiting": not _WAITING.isdisjoint(states),
        "is_held": "held" in states,
        "recipients": [_show_recipient(recipient) for recipient in shown],
        "others": len(recipients) - len(shown),
        "next_attempt_at": min(
            (r["next_attempt_at"] for r in recipients if r["next_attempt_at"] is not None), default=None
        ),
    }


def _show_recipient(recipient: Record) -> View:
    history = recipient.get("history", ())
    return {
        **recipient,
        "tone": _BADGES[recipient["state"]],
        "said": words.explain(recipient["reply"]),
        "history": [{**attempt, "said": words.explain(attempt["reply"])} for attempt in history],
    }


def _show_next_hop(hop: Record) -> View:
    return {**hop, "called": words.name_next_hop(hop["name"]), "said": words.explain(hop["failure"])}


def _show_learned(route: Record) -> View:
    called = "All sites" if route["domain"] == ANYWHERE else route["domain"]
    over = words.name_next_hop(route["via"])
    return {**route, "called": called, "over": over, "said": words.explain(route["reply"])}


def _show_login(login: Record, now: float) -> View:
    expires_at = login["expires_at"]
    return {**login, "is_over": expires_at is not None and expires_at <= now}
