"""``relay explain``: what would become of a message, and which lines of relay.toml decide. Sends nothing."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from relay.cli.control import ask
from relay.cli.options import add_config_option
from relay.config.loading import load_with_places
from relay.config.model import Config
from relay.explain.run import Explanation, explain
from relay.mail.address import quote_address
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.headers import header_name, split_content
from relay.mail.learned import NOTHING_LEARNED, Learned
from relay.mail.path import parse_path
from relay.queue.control import parse_learned
from relay.reception.access import plain_address
from relay.reception.content import ChunkReader
from relay.texts import make_line

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

WIDEST = 100
_LABEL = 11
"""Characters of the column that says what a step is about."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "explain",
        help="tell what would become of a message, and which lines of relay.toml decide it",
        description="Tell what would become of a message: access, aliases, rewriting, header checks, route,"
        " servers, TLS, login. Nothing is sent. Exit status 0 if it would be taken and every copy has a way,"
        " else 1. See docs/explain.md.",
    )
    parser.add_argument(
        "sender", type=_parse_sender, metavar="SENDER", help='an address; "" is none, as in reports'
    )
    parser.add_argument("recipient", type=_parse_recipient, metavar="RECIPIENT", help="an address")
    content = parser.add_mutually_exclusive_group()
    content.add_argument(
        "--header",
        action="append",
        type=_parse_header,
        default=[],
        metavar="HEADER",
        help="a header of the message, 'Subject: hello'; may be repeated",
    )
    content.add_argument("--message", type=Path, metavar="FILE", help="a whole message; - is standard input")
    parser.add_argument(
        "--client",
        type=_parse_client,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the IP address that it comes from (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_config_option(parser)
    parser.set_defaults(run=_explain)


def _explain(args: argparse.Namespace) -> int:
    config, places = load_with_places(args.config, os.environ)
    content = _read(args.message) if args.message else _make(args.sender, args.recipient, args.header)
    logging.basicConfig(handlers=[logging.NullHandler()])  # what there is to say stands in the explanation
    is_smtputf8 = not f"{args.sender}{args.recipient}".isascii()
    envelope = Envelope(args.sender, (Recipient(args.recipient),), is_smtputf8=is_smtputf8)
    client = Client(args.client, protocol="ESMTP")
    learned = _read_learned(config) if config.fallback else NOTHING_LEARNED
    explanation = asyncio.run(explain(config, places, client, envelope, content, learned))
    if args.json:
        print(json.dumps(explanation.as_data(), indent=2))
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # addresses may not be in the terminal's alphabet
        width = min(shutil.get_terminal_size().columns, WIDEST)
        print(*_lines(explanation, width), sep="\n")
    return 0 if explanation.is_smooth else 1


def _read_learned(config: Config) -> Learned:
    """Return the learned routes; none where the queue is not there yet, or is none of ours to read."""
    try:
        return parse_learned(ask(config.queue.path, {"command": "routes"}))
    except OSError:
        return NOTHING_LEARNED


# Input


def _parse_sender(text: str) -> str:
    address = _parse_address(text)
    if address is None:
        raise argparse.ArgumentTypeError(_refusal(text, "no address; write it as anna@example.com"))
    return address


def _parse_recipient(text: str) -> str:
    address = _parse_address(text)
    if not address:
        raise argparse.ArgumentTypeError(_refusal(text, "no address; write it as anna@example.com"))
    return address


def _parse_address(text: str) -> str | None:
    """Return an address as MAIL and RCPT take it, "" for none at all, None where it is not one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return parse_path(text, is_smtputf8=True)


def _parse_client(text: str) -> str:
    try:
        return plain_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            _refusal(text, "no IP address; write it as 192.168.0.3 or fd00::3")
        ) from None


def _parse_header(text: str) -> bytes:
    """Return a header with CRLF line ends; it may be folded."""
    headers, rest = split_content(_normalise(text.encode("utf-8", "surrogateescape")))
    if len(headers) != 1 or rest or ":" not in text:
        raise argparse.ArgumentTypeError(_refusal(text, "no header; write it as 'Subject: hello'"))
    return headers[0]


def _refusal(text: str, why: str) -> str:
    return f'"{make_line(text)}" is {why}'


def _make(sender: str, recipient: str, headers: Sequence[bytes]) -> bytes:
    """Return a message without a body: these headers, and the addresses where no header has them."""
    names = set(map(header_name, headers))
    addresses = [("From", sender), ("To", recipient)]
    more = [
        f"{name}: {quote_address(address)}\r\n".encode()
        for name, address in addresses
        if address and name.lower() not in names
    ]
    return b"".join([*headers, *more, b"\r\n"])


def _read(path: Path) -> bytes:
    return _normalise(sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes())


def _normalise(content: bytes) -> bytes:
    """Return content as reception makes it of what a client sends."""
    reader = ChunkReader()
    return reader.feed(content) + reader.finish()


# Words


def _lines(explanation: Explanation, width: int) -> Iterator[str]:
    for number, step in enumerate(explanation.steps, 1):
        yield from textwrap.wrap(
            f"{number:2} {step.step:{_LABEL}} {step.what}",
            width,
            subsequent_indent=" " * (_LABEL + 4),
            break_on_hyphens=False,
        )
    yield ""
    yield explanation.verdict
