"""``relay send``, also ``sendmail``: takes a message of a program into the maildrop (sendmail(1)).

It needs no running relay, and no right but to write to the maildrop.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from relay.cli.drop import Drop, TooLargeError
from relay.config.lenient import read_queue
from relay.config.loading import USUAL_PATHS, load_config
from relay.config.model import Config
from relay.config.problems import ConfigError
from relay.mail.address import quote_address
from relay.mail.envelope import Envelope, Recipient
from relay.mail.headers import HeaderReader, HeaderTooLongError
from relay.mail.maildrop import check_envelope, write_envelope
from relay.mail.path import parse_path
from relay.mail.submission import (
    find_addresses,
    find_recipients,
    full_name_of,
    lacks_from,
    make_from,
)
from relay.mail.xtext import encode_xtext
from relay.reception.content import ChunkReader

if TYPE_CHECKING:
    from relay.cli.options import Subparsers

EX_USAGE, EX_DATAERR, EX_UNAVAILABLE, EX_CANTCREAT, EX_TEMPFAIL, EX_NOPERM = 64, 65, 69, 73, 75, 77
HEADER_LIMIT = 1024 * 1024
"""Bytes of a header block that is read for its recipients."""

_OPTIONS = "A:B:C:EF:GIL:N:O:R:UV:X:b:ce:f:h:imno:p:r:tvx"
_NOTIFY = re.compile(r"never|(?:success|failure|delay)(?:,(?:success|failure|delay))*", re.IGNORECASE)
_HIDDEN_FROM = re.compile(rb">?From [^\n]*\n")


@dataclass(frozen=True, slots=True)
class Request:
    """What the options ask for."""

    mode: str = "m"
    """``m`` a message, ``s`` SMTP on standard input, ``p`` show the queue, ``q`` run it, ``i`` aliases."""
    sender: str | None = None
    """As given with -f; None where it was not."""
    full_name: str | None = None
    takes_from_header: bool = False
    ignores_dots: bool = False
    notify: str = ""
    ret: str = ""
    envid: str = ""
    recipients: tuple[str, ...] = ()


class UsageError(Exception):
    """The options make no sense; the text says why."""


def add_parser(subparsers: Subparsers) -> None:
    """Name the command in the help; its options are not argparse's."""
    subparsers.add_parser(
        "send",
        help="send a message as sendmail does: relay send -t < message",
        description="Takes the options of sendmail(1); docs/sendmail.md tells which count.",
    )


def main(arguments: Sequence[str], run: Callable[[Sequence[str]], int]) -> int:
    """Do what sendmail's options ask for and return an exit status of sysexits.h.

    ``run`` runs another ``relay`` command.
    """
    try:
        request = parse_options(arguments)
        match request.mode:
            case "p":
                return run(["queue", "list", "--config", str(_find_config())])
            case "q":
                with suppress(FileNotFoundError):  # no queue yet
                    run(["queue", "retry", "--all", "--config", str(_find_config())])
                return 0  # an empty queue is no failure here
            case "h":
                return 0  # there is no host status to show or forget
            case "i":
                return 0  # aliases are in relay.toml: there is nothing to build
            case "s":
                from relay.cli.smtp import talk  # noqa: PLC0415 - few need it

                return talk(*find_settings())
        # Who closes standard input has no message to give, but an envelope.
        return _submit(request, sys.stdin.buffer if sys.stdin else BytesIO())
    except UsageError as error:
        return _fail(EX_USAGE, str(error))
    except TooLargeError:
        return _fail(EX_UNAVAILABLE, "the message is larger than the relay takes: limits.message_size")
    except PermissionError:
        return _fail(EX_NOPERM, "only root and the user that the relay runs as may see and run the queue")
    except HeaderTooLongError:
        return _fail(EX_DATAERR, "the header of the message is too long")


def parse_options(arguments: Sequence[str]) -> Request:
    """Return what options and recipients ask for; options without a meaning here are ignored.

    Raises UsageError.
    """
    request, rest = Request(), list(arguments)
    # None behind the first recipient: programs put addresses there that strangers gave them.
    while rest and rest[0].startswith("-"):
        letters = rest.pop(0)[1:]
        if letters == "-":
            break
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter == "q":  # an interval or a choice may follow
                request, letters = replace(request, mode="q"), ""
                continue
            if letter == ":" or letter not in _OPTIONS:
                raise UsageError(f"-{letter}: there is no such option")
            value = ""
            if f"{letter}:" in _OPTIONS:
                if not (letters or rest):
                    raise UsageError(f"-{letter}: something is missing behind it")
                value, letters = letters or rest.pop(0), ""
            request = _obey(request, f"-{letter}", value)
    return replace(request, recipients=tuple(rest))


def _obey(request: Request, option: str, value: str) -> Request:
    match option:
        case "-b":
            if value not in set("hHimps"):
                raise UsageError(f"-b{value} is not known; the relay itself runs with: relay serve")
            return replace(request, mode=value.lower())
        case "-I":
            return replace(request, mode="i")
        case "-f" | "-r":
            return replace(request, sender=value)
        case "-F":
            return replace(request, full_name=value)
        case "-t":
            return replace(request, takes_from_header=True)
        case "-i":
            return replace(request, ignores_dots=True)
        case "-o" if value == "i":
            return replace(request, ignores_dots=True)
        case "-N":
            if not _NOTIFY.fullmatch(value):
                raise UsageError(f"-N {value}: it is never, or of success, failure and delay, with commas")
            return replace(request, notify=value.upper())
        case "-R":
            if value.lower() not in {"full", "hdrs"}:
                raise UsageError(f"-R {value}: it is full or hdrs")
            return replace(request, ret=value.upper())
        case "-V":
            return replace(request, envid=value)
    return request


def find_settings() -> tuple[Path, int]:
    """Return the maildrop and the size of the largest message.

    Who sends may often not read relay.toml, or it is broken just now: then as much as can be read counts.
    """
    found = _find_config()
    try:
        config = load_config(found, os.environ) if found.exists() else Config()
    except (ConfigError, OSError):
        config = Config(queue=read_queue(found))
    return config.queue.maildrop, config.limits.message_size


def _find_config() -> Path:
    """Return the file that counts for whoever sends; one in the present folder could be anybody's."""
    return Path(os.environ.get("RELAY_CONFIG") or USUAL_PATHS[-1])


def _submit(request: Request, source: BinaryIO) -> int:
    folder, limit = find_settings()
    account = _account()
    sender = account.pw_name if request.sender is None else _parse_sender(request.sender)
    content = _content(source, ends_with_dot=not request.ignores_dots)
    headers, rest = _read_header(content)
    recipients = [address for text in request.recipients for address in find_addresses(text)]
    if request.takes_from_header:
        recipients += find_recipients(headers)
    for address in filter(None, (sender, *recipients)):
        if parse_path(f"<{quote_address(address)}>", is_smtputf8=True) is None:
            return _fail(EX_DATAERR, f"this is no mail address: {address}")
    if not recipients:
        raise UsageError("no recipient is named: give addresses, or -t with a To header")
    if lacks_from(headers) and sender:
        usual = full_name_of(account.pw_gecos, account.pw_name)
        headers.insert(0, make_from(usual if request.full_name is None else request.full_name, sender))
    envelope = Envelope(
        sender,
        tuple(Recipient(address, notify=request.notify) for address in dict.fromkeys(recipients)),
        ret=request.ret,
        envid=encode_xtext(request.envid),
    )
    lines = write_envelope(envelope)
    try:
        check_envelope(lines)
    except ValueError as error:
        return _fail(EX_DATAERR, f"the relay could not read what is asked for: {error}")
    try:
        drop = Drop(folder, limit)
        try:
            drop.begin(lines)
            drop.write(b"".join(headers) + rest)
            for chunk in content:
                drop.write(chunk)
            drop.commit()
        finally:
            drop.discard()
    except FileNotFoundError:
        return _fail(EX_TEMPFAIL, f"there is no {folder}, which the relay makes when it starts{_doubt()}")
    except PermissionError:
        return _fail(EX_CANTCREAT, f"{folder} can't be reached: the folders above it must have the right o+x")
    except OSError as error:
        return _fail(EX_TEMPFAIL, f"{folder}: {error.strerror}")
    return 0


def _doubt() -> str:
    """Return why the maildrop may be elsewhere, where the configuration cannot tell."""
    found = _find_config()
    try:
        found.read_bytes()
    except FileNotFoundError:
        return ""
    except OSError:
        return f"; {found} can't be read: let everybody read it, with passwords in files of their own"
    return ""


def _content(source: BinaryIO, *, ends_with_dot: bool) -> Iterator[bytes]:
    """Yield the message with CRLF line ends, up to a line with a lone dot where that ends it."""
    reader = ChunkReader()
    is_line_start = is_start = True
    while line := source.readline(65536):
        if is_line_start and ends_with_dot and line.rstrip(b"\r\n") == b".":
            break
        is_start = is_start and _HIDDEN_FROM.fullmatch(line) is not None
        if not is_start:  # of an mbox
            yield reader.feed(line)
        is_line_start = line.endswith(b"\n")
    yield reader.finish()


def _read_header(content: Iterator[bytes]) -> tuple[list[bytes], bytes]:
    """Return the headers, and what was read beyond them. Raises HeaderTooLongError."""
    reader = HeaderReader(HEADER_LIMIT)
    for chunk in content:
        if reader.feed(chunk):
            break
    return reader.finish()


def _parse_sender(text: str) -> str:
    """Return the address that -f gives; "" is the null one."""
    if text.strip() in {"", "<>"}:
        return ""
    found = find_addresses(text)
    if len(found) != 1:
        raise UsageError(f"-f {text}: it is no address")
    return found[0]


def _account() -> pwd.struct_passwd:
    """Return the account of the user, made up where the machine knows none."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return pwd.struct_passwd((str(uid), "", uid, os.getgid(), "", "/", ""))


def _fail(status: int, message: str) -> int:
    print(f"sendmail: {message}", file=sys.stderr)
    return status
