"""``relay queue``: look at the queue and act on it, with the service up or down."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.cli.options import add_config_option, find_queue
from relay.queue.control import NotRunningError, perform, request
from relay.queue.errors import QueueError
from relay.queue.store import Store

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

_PAGE = 1000
_EMPTY = "the queue is empty (no queue at {} yet)"
_EVERYTHING = {"ids": None, "to": None, "from": None}
_ACTIONS = {
    "retry": ("try waiting messages now", "due now"),
    "hold": ("keep messages from being tried until they are released", "held"),
    "release": ("let held messages go", "released"),
    "delete": ("forget messages that were not delivered", "deleted"),
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "queue", help="look at the queue and act on it", description="Look at the queue and act on it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="list the messages that wait")
    _add_selection(listing)
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="show one message: envelope, attempts, header")
    show.add_argument("id", metavar="ID")
    _add_common(show)
    show.set_defaults(run=_show)

    for name, (purpose, _) in _ACTIONS.items():
        action = commands.add_parser(name, help=purpose)
        _add_selection(action)
        action.add_argument("--all", action="store_true", help="all messages")
        action.set_defaults(run=_act, command=name, usage_error=action.error)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", help="queue id of a message")
    parser.add_argument(
        "--to", type=_address, metavar="ADDRESS", help="only recipients ADDRESS, or in @DOMAIN"
    )
    parser.add_argument(
        "--from", dest="sender", type=_address, metavar="ADDRESS", help="only from ADDRESS, @DOMAIN or '<>'"
    )
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)


def _address(text: str) -> str:
    return text.removeprefix("<").removesuffix(">")


# Commands


def _list(args: argparse.Namespace) -> int:
    path = find_queue(args)
    if args.json:
        print(json.dumps(list(_messages(path, args)), indent=2))
        return 0
    now, count, size = time.time(), 0, 0
    for message in _messages(path, args):
        print(*_lines(message, now), sep="\n")
        count, size = count + 1, size + message["size"]
    if count:
        print(f"{_messages_in_words(count)}, {_size(size)}")
    elif path.exists():
        print("the queue is empty" if _selection(args) == _EVERYTHING else "no message matches")
    else:
        print(_EMPTY.format(path))
    return 0


def _show(args: argparse.Namespace) -> int:
    message = _ask(find_queue(args), {"command": "show", "id": args.id})["message"]
    if args.json:
        print(json.dumps(message, indent=2))
        return 0
    print(*_lines(message, time.time()), sep="\n")
    if message["header"]:
        print("", *map(_plain, message["header"].replace("\t", " ").splitlines()), sep="\n")
    return 0


def _act(args: argparse.Namespace) -> int:
    chosen = _selection(args)
    if chosen == _EVERYTHING and not args.all:
        args.usage_error("say which messages: queue ids, --to, --from or --all")
    reply = _ask(find_queue(args), {"command": args.command, **chosen})
    if args.json:
        print(json.dumps(reply, indent=2))
    else:
        for queue_id in reply["unknown"]:
            print(f"relay: no message {_plain(queue_id)} in the queue", file=sys.stderr)
        print(f"{_messages_in_words(reply['changed'])} {_ACTIONS[args.command][1]}")
    return 0 if reply["changed"] and not reply["unknown"] else 1


def _selection(args: argparse.Namespace) -> dict[str, Any]:
    return {"ids": args.ids or None, "to": args.to, "from": args.sender}


def _messages(path: Path, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the chosen messages, page by page."""
    page = [{"id": "0"}] if path.exists() else []
    while page:
        asked = {"command": "list", "after": page[-1]["id"], "limit": _PAGE, **_selection(args)}
        page = _ask(path, asked)["messages"]
        yield from page


def _ask(path: Path, message: dict[str, Any]) -> dict[str, Any]:
    """Have the running service do it, or do it ourselves where none runs; raises OSError where it fails."""
    try:
        reply = request(path, message)
    except NotRunningError:
        if not path.exists():
            raise FileNotFoundError(_EMPTY.format(path)) from None
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


# Words


def _lines(message: dict[str, Any], now: float) -> Iterator[str]:
    """Yield what there is to say about a message."""
    age = _duration(now - message["received_at"])
    origin = f" by {message['client']}" if message["client"] else ""
    sender = _plain(f"from <{message['sender']}>{origin}")
    yield f"{message['id']}  {_size(message['size'])}  {age} ago  {sender}"
    for recipient in message["recipients"]:
        original = recipient["original"]
        yield _plain(
            f"    to <{recipient['address']}>"
            + (f" (given as <{original}>)" if original else "")
            + f": {_state(recipient, now)}"
        )
        if recipient["reply"]:
            yield f"        {_plain(recipient['reply'])}"


def _state(recipient: dict[str, Any], now: float) -> str:
    words = str(recipient["state"])
    attempts = recipient["attempts"]
    if attempts:
        words += f" after {attempts} attempt{'s' if attempts > 1 else ''}"
    due_at = recipient["next_attempt_at"]
    if due_at is not None:
        words += ", due now" if due_at <= now else f", next attempt in {_duration(due_at - now)}"
    return words


def _messages_in_words(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _size(count: int) -> str:
    for unit, length in (("MB", 1_000_000), ("kB", 1000)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def _plain(text: str) -> str:
    """Return text without what could disturb a terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
