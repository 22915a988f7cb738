"""``relay queue``: look at the queue and act on it, with the service up or down."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.cli.control import EMPTY, ask, request
from relay.cli.follow import choose, follow, summarize
from relay.cli.options import add_config_option, find_queue
from relay.cli.words import describe_due, format_duration, format_size
from relay.queue.rows import pack
from relay.queue.selection import matches
from relay.texts import make_plain

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

_PAGE = 1000
_EVERYTHING = {"ids": None, "to": None, "from": None}
_ACTIONS = {
    "retry": ("try waiting messages now", "due now"),
    "hold": ("keep messages from being tried until they are released", "held"),
    "release": ("let held messages go", "released"),
    "delete": ("throw away messages that wait; nobody is told", "deleted"),
}


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "queue", help="look at the queue and act on it", description="Look at the queue and act on it."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser(
        "list",
        help="list the messages that wait",
        description="List the messages that wait: for whom, what the last attempt met, when the next one is.",
    )
    _add_selection(listing)
    listing.set_defaults(run=_list)

    show = commands.add_parser(
        "show",
        help="show one message: envelope, attempts, header",
        description="Show one message: who gets it, each attempt so far, and its header.",
    )
    show.add_argument("id", metavar="ID", help="queue id of the message, as `relay queue list` shows it")
    _add_common(show)
    show.set_defaults(run=_show)

    for name, (purpose, _) in _ACTIONS.items():
        action = commands.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.")
        _add_selection(action)
        action.add_argument("--all", action="store_true", help="all messages")
        action.set_defaults(run=_act, command=name, usage_error=action.error, wait=False)
        if name == "retry":
            action.add_argument(
                "--wait", action="store_true", help="show how it goes on until none of them waits to be tried"
            )


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "ids", metavar="ID", nargs="*", help="queue id of a message, as `relay queue list` shows it"
    )
    parser.add_argument(
        "--to", type=_address, metavar="ADDRESS", help="only mail for ADDRESS, or for @DOMAIN"
    )
    parser.add_argument(
        "--from",
        dest="sender",
        type=_address,
        metavar="ADDRESS",
        help="only mail from ADDRESS or @DOMAIN, or reports ('<>')",
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
    now, count, total = time.time(), 0, 0
    for message in _messages(path, args):
        print(*_lines(message, now), sep="\n")
        count, total = count + 1, total + message["size"]
    if count:
        print(f"{_messages_in_words(count)}, {format_size(total)}")
    elif path.exists():
        print("the queue is empty" if _selection(args) == _EVERYTHING else "no message matches")
    else:
        print(EMPTY.format(path))
    return 0


def _show(args: argparse.Namespace) -> int:
    message = ask(find_queue(args), {"command": "show", "id": args.id})["message"]
    if args.json:
        print(json.dumps(message, indent=2))
        return 0
    print(*_lines(message, time.time()), sep="\n")
    if message["header"]:
        print("", *map(make_plain, message["header"].splitlines()), sep="\n")
    return 0


def _act(args: argparse.Namespace) -> int:
    chosen = _selection(args)
    if chosen == _EVERYTHING and not args.all:
        args.usage_error("say which messages: queue ids, --to, --from or --all")
    if args.wait:
        return _retry_and_wait(find_queue(args), args)
    reply = ask(find_queue(args), {"command": args.command, **chosen})
    if args.json:
        print(json.dumps(reply, indent=2))
    else:
        _tell(reply, args)
    return 0 if reply["changed"] and not reply["unknown"] else 1


def _retry_and_wait(path: Path, args: argparse.Namespace) -> int:
    ask(path, {"command": "ping"}, needs_service=True)
    wanted = None if args.to is None else pack(args.to)
    pursuit = choose(_messages(path, args), lambda address: wanted is None or matches(pack(address), wanted))
    reply = ask(path, {"command": "retry", **_selection(args)}, needs_service=True)
    if not args.json:
        _tell(reply, args)
    try:
        follow(
            pursuit,
            lambda: _messages(path, args, needs_service=True),
            lambda message: request(path, message),
            None if args.json else sys.stdout,
        )
    except KeyboardInterrupt:
        print("relay: no longer watching; the relay goes on sending", file=sys.stderr)
        raise
    if args.json:
        print(json.dumps({**reply, **pursuit.outcomes}, indent=2))
    else:
        print(*summarize(pursuit), sep="\n")
    return 0 if reply["changed"] and not reply["unknown"] and pursuit.is_success else 1


def _tell(reply: dict[str, Any], args: argparse.Namespace) -> None:
    for queue_id in reply["unknown"]:
        print(f"relay: no message {make_plain(queue_id)} in the queue", file=sys.stderr)
    print(f"{_messages_in_words(reply['changed'])} {_ACTIONS[args.command][1]}", flush=True)


def _selection(args: argparse.Namespace) -> dict[str, Any]:
    return {"ids": args.ids or None, "to": args.to, "from": args.sender}


def _messages(
    path: Path, args: argparse.Namespace, *, needs_service: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield the chosen messages, page by page."""
    page = [{"id": "0"}] if path.exists() else []
    while page:
        asked = {"command": "list", "after": page[-1]["id"], "limit": _PAGE, **_selection(args)}
        page = ask(path, asked, needs_service=needs_service)["messages"]
        yield from page


# Words


def _lines(message: dict[str, Any], now: float) -> Iterator[str]:
    """Yield what there is to say about a message."""
    age = format_duration(now - message["received_at"])
    origin = f" by {message['client']}" if message["client"] else ""
    sender = make_plain(f"from <{message['sender']}>{origin}")
    yield f"{message['id']}  {format_size(message['size'])}  {age} ago  {sender}"
    for recipient in message["recipients"]:
        original = recipient["original"]
        yield make_plain(
            f"    to <{recipient['address']}>"
            + (f" (given as <{original}>)" if original else "")
            + f": {_state(recipient)}{describe_due(recipient, now)}"
        )
        if recipient["reply"]:
            yield f"        {make_plain(recipient['reply'])}"


def _state(recipient: dict[str, Any]) -> str:
    attempts = recipient["attempts"]
    counted = f" after {attempts} attempt{'s' if attempts > 1 else ''}" if attempts else ""
    return f"{recipient['state']}{counted}"


def _messages_in_words(count: int) -> str:
    return "1 message" if count == 1 else f"{count} messages"
