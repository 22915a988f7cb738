"""``relay dkim DOMAIN``: make the key that signs a domain's mail, and tell what DNS must say of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from relay.cli.options import add_config_option
from relay.cli.words import fail
from relay.config.dkim import load_key, parse_selector
from relay.config.lenient import read_queue
from relay.config.loading import find_config, load_dkim_places
from relay.config.model import Queue
from relay.config.values import parse_domain
from relay.files import hand_over, sync_folder, write_new
from relay.mail.dkim import SigningKey

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

USUAL_SELECTOR = "home"
LONGEST_STRING = 255
"""Bytes of one string of a TXT record (RFC 1035 section 3.3)."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = subparsers.add_parser(
        "dkim",
        help="make the key that signs a domain's mail, and print its DNS record",
        description="Make the key of [dkim.DOMAIN], or take the one that is there, and print the record to"
        " put into DNS and the lines for relay.toml. Nothing is overwritten; the relay may be running. See"
        " docs/dkim.md.",
    )
    parser.add_argument(
        "domain", metavar="DOMAIN", type=_argument(parse_domain), help="what stands behind the @ of senders"
    )
    parser.add_argument(
        "--selector",
        metavar="NAME",
        type=_argument(parse_selector),
        help=f'the name of the key in DNS; default: that of relay.toml, else "{USUAL_SELECTOR}"',
    )
    parser.add_argument(
        "--type", choices=("rsa", "ed25519"), help="the kind of a new key; default: rsa, which all can verify"
    )
    add_config_option(parser)
    parser.set_defaults(run=_dkim)


def _argument(parse: Callable[[object], str]) -> Callable[[str], str]:
    """Return a parser whose words argparse shows."""

    def parse_argument(text: str) -> str:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument


def _dkim(args: argparse.Namespace) -> int:
    domain: str = args.domain
    selector, path = configured = load_dkim_places(args.config, os.environ).get(domain, ("", None))
    file = find_config(args.config, os.environ)
    folder = (read_queue(file) if file else Queue()).path.parent
    if path is None or args.selector not in (None, selector):
        selector = args.selector or USUAL_SELECTOR
        path = folder / "dkim" / f"{domain}.{selector}.pem"
    try:
        is_new = not path.exists()
        if is_new:
            _make(path, args.type or "rsa", folder)
        key = load_key(path)
    except OSError as error:
        return fail(f"{error.filename or path}: {error.strerror}; run this as the relay's user, or as root")
    except ValueError as error:
        return fail(f"{path} can't be used: {error}")
    if args.type not in (None, key.kind):
        return fail(
            f"{path} holds a key of the type {key.kind} already; a new --selector makes another one beside it"
        )
    print(f"{'This key is new' if is_new else 'The key is there already'}: {path}\n")
    print(*_tell(domain, selector, path, key, is_configured=configured == (selector, path)), sep="\n")
    return 0


def _make(path: Path, kind: str, queue_folder: Path) -> None:
    """Put a new key into a file for the user whose queue it is. Raises OSError.

    A kill leaves no file, a whole one, or one that ``load_key`` refuses; DNS knows nothing of it yet.
    """
    from relay.mail.dkim_key import make_key  # noqa: PLC0415 - big, and `relay --help` imports this module

    owner = queue_folder if queue_folder.exists() else path.parent
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700, parents=True)
        hand_over(path.parent, owner)
    write_new(path, make_key(kind).decode(), 0o600)
    hand_over(path, owner)
    sync_folder(path.parent)


def _tell(domain: str, selector: str, path: Path, key: SigningKey, *, is_configured: bool) -> Iterator[str]:
    """Yield the lines that say what is to be done with a key; what is to be copied starts at the margin."""
    name, record = f"{selector}._domainkey.{domain}", key.record
    yield f"1. Add a TXT record to the DNS of {domain}, mostly at the provider where the domain was bought."
    yield f'   Its name; many forms add ".{domain}" by themselves, then leave that out:\n'
    yield f"{name}\n"
    yield "   Its value, on one line:\n"
    yield f"{record}\n"
    yield "   Both for a zone file, should you have one:\n"
    strings = [record[start : start + LONGEST_STRING] for start in range(0, len(record), LONGEST_STRING)]
    quoted = '" "'.join(strings)
    yield f'{name}. 3600 IN TXT "{quoted}"\n'
    if is_configured:
        yield "2. relay.toml names this key; a running relay takes a new one when that file is saved again.\n"
    else:
        yield "2. Put these lines into relay.toml:\n"
        yield tomli_w.dumps({"dkim": {domain: {"selector": selector, "key_file": str(path)}}})
    yield "3. When DNS knows the record, within the hour as a rule, see whether all is well: relay doctor"
