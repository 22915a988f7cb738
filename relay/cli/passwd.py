"""``relay passwd``: make the hash of a password, for [users]."""

from __future__ import annotations

import argparse
import getpass
import secrets
import sys
from typing import TYPE_CHECKING

import tomli_w

from relay.mail.passwords import SALT_SIZE, make_hash

if TYPE_CHECKING:
    from relay.cli.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "passwd",
        help="make a line for [users] from a password",
        description="Ask for a password and print its hash: with NAME, the line to put under [users] of "
        "relay.toml. Where standard input is not a terminal, its first line is the password.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the name that the user logs in with")
    parser.set_defaults(run=_passwd)


def _passwd(args: argparse.Namespace) -> int:
    password = _ask() if sys.stdin.isatty() else sys.stdin.buffer.readline().rstrip(b"\r\n")
    if not password:
        print("relay: no password was given, or not the same one twice", file=sys.stderr)
        return 1
    text = str(make_hash(password, secrets.token_bytes(SALT_SIZE)))
    print(tomli_w.dumps({args.name: text}).rstrip() if args.name else text)
    return 0


def _ask() -> bytes:
    """Return a password that was typed twice, empty where the two differ."""
    first, second = getpass.getpass("Password: "), getpass.getpass("The same again: ")
    return first.encode("utf-8", "surrogateescape") if first == second else b""
