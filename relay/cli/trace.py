"""``relay trace``: what became of a message, with the service up or down."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from relay.cli.control import ask
from relay.cli.options import add_config_option, find_queue
from relay.cli.words import describe_due, format_duration, format_size
from relay.texts import make_plain

if TYPE_CHECKING:
    from pathlib import Path

    from relay.cli.options import Subparsers

_LIMIT = 20
_PAGE = 50


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "trace",
        help="tell what became of a message",
        description="Tell what became of messages, the newest first: each attempt at each recipient.",
    )
    parser.add_argument(
        "text",
        metavar="TEXT",
        help="queue id, address, @DOMAIN, '<>', Message-ID, or part of the subject where subjects are kept",
    )
    parser.add_argument(
        "--limit", type=_number, default=_LIMIT, metavar="N", help=f"at most N messages (default: {_LIMIT})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)
    parser.set_defaults(run=_trace)


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _trace(args: argparse.Namespace) -> int:
    path = find_queue(args)
    messages = list(islice(_messages(path, args.text), args.limit + 1))
    shown = messages[: args.limit]
    if args.json:
        print(json.dumps(shown, indent=2))
    elif shown:
        now = time.time()
        print("\n\n".join("\n".join(_lines(message, now)) for message in shown))
        if len(messages) > len(shown):
            print(f"\nThere are older ones: --limit {10 * args.limit} shows more.")
    if not shown:
        since = ask(path, {"command": "trace", "text": args.text, "limit": 0})["since"]
        print(f"relay: {_explain_nothing(args.text, since)}", file=sys.stderr)
    return 0 if shown else 1


def _messages(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """Yield the messages that match, page by page."""
    before = None
    while True:
        page = ask(path, {"command": "trace", "text": text, "limit": _PAGE, "before": before})["messages"]
        yield from page
        if len(page) < _PAGE:
            return
        before = page[-1]["id"]


# Words


def _lines(message: dict[str, Any], now: float) -> Iterator[str]:
    """Yield what there is to say about a message."""
    origin = f" by {message['client']}" if message["client"] else ""
    if message["is_report"]:
        origin = ", a report by this relay"
    sender = f"from <{message['sender']}>{_given(message['original_sender'])}{origin}"
    facts = message["id"], _moment(message["received_at"]), format_size(message["size"]), make_plain(sender)
    yield "  ".join(facts)
    if message["message_id"]:
        yield make_plain(f"    Message-ID: {message['message_id']}")
    if message["subject"]:
        yield make_plain(f"    Subject: {message['subject']}")
    for recipient in message["recipients"]:
        address = f"<{recipient['address']}>{_given(recipient['original'])}"
        yield make_plain(f"    to {address}: {recipient['state']}{describe_due(recipient, now)}")
        for attempt in recipient["history"]:
            yield f"        {make_plain(_describe(attempt))}"
        if recipient["reply"] and recipient["attempted_at"] is None:  # it waits for its turn
            yield f"        {make_plain(recipient['reply'])}"


def _given(original: str) -> str:
    return f" (given as <{original}>)" if original else ""


def _describe(attempt: dict[str, Any]) -> str:
    host, reply = attempt["host"], attempt["reply"]
    words = reply if host.rpartition(":")[0] in reply else f"{host}: {reply}"
    return f"{_moment(attempt['at'])}  after {format_duration(attempt['delay']):<6}  {words}"


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _explain_nothing(text: str, since: float | None) -> str:
    if since is None:
        return "the queue is empty, and so is its history"
    return (
        f"no message since {_moment(since)} matches {make_plain(text)}; what was finished longer ago than "
        "history under [queue] says is forgotten, and subjects are kept only where history_subjects is true"
    )
