"""What each parser promises for any bytes: a *target* takes bytes and fails where a promise is broken."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable
from email.utils import getaddresses
from itertools import pairwise
from pathlib import Path
from unicodedata import category

import tomli_w
from hypothesis import strategies as st

from relay.config.loading import parse_config
from relay.config.model import Config
from relay.config.problems import ConfigError
from relay.config.rendering import render
from relay.delivery.protocol import NOT_SMTP, ReplyParser
from relay.mail.address import quote_address, unquote_address
from relay.mail.arrival import ArrivalRules, arrange_headers
from relay.mail.commands import Chunk, Mail, parse_bdat, parse_mail, parse_rcpt, parse_vrfy, split_command
from relay.mail.envelope import Recipient
from relay.mail.fields import find_addresses
from relay.mail.headers import HeaderReader, HeaderTooLongError, split_content
from relay.mail.maildrop import read_envelope, write_envelope
from relay.mail.mime import MimeParser
from relay.mail.path import parse_path
from relay.mail.reply import Reply, parse_text
from relay.mail.rewrite import Home
from relay.reception.content import ChunkReader, DotReader
from tests.torture.fuzz_session import decode_chunks, decode_data

SEEDS = Path(__file__).parent / "seeds"
RULES = ArrivalRules("relay.test", Home("home.test"))
END = b"\r\n.\r\n"


def cuts(data: bytes) -> Iterable[list[bytes]]:
    """Yield the bytes whole, byte by byte, and in pieces whose sizes the bytes themselves say."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    places = sorted({0, len(data), *(byte % (len(data) + 1) for byte in data[:8])})
    yield [data[start:end] for start, end in pairwise(places)]


def same(results: Iterable[object]) -> object:
    """Return what all results are."""
    first, *others = results
    assert all(other == first for other in others), (first, others)
    return first


def check_content(data: bytes) -> None:
    """DATA: the end is where the bytes say so, and what comes before is decoded as the model does it."""

    def read(pieces: list[bytes]) -> tuple[bytes, bytes] | None:
        reader, content = DotReader(), b""
        for index, piece in enumerate(pieces):
            content += reader.feed(piece)
            if reader.is_complete:
                return content, reader.rest + b"".join(pieces[index + 1 :])
        return None

    found = same(read(pieces) for pieces in cuts(data))
    end = (b"\r\n" + data).find(END)
    assert found == (None if end < 0 else (decode_data(data[:end]), data[end + 3 :]))


def check_chunks(data: bytes) -> None:
    """BDAT: the same, without an end."""

    def read(pieces: list[bytes]) -> bytes:
        reader = ChunkReader()
        return b"".join([reader.feed(piece) for piece in pieces]) + reader.finish()

    assert same(read(pieces) for pieces in cuts(data)) == decode_chunks(data)


def check_command(data: bytes) -> None:
    """Commands: a value that is safe to pass on, or a reply that is fit to be sent."""
    verb, argument = split_command(data)
    assert b"\0" not in argument
    assert verb == verb.upper()
    for parse in (parse_mail, parse_rcpt, parse_vrfy, parse_bdat):
        match parse(argument):
            case Reply() as reply:
                check_reply(reply)
            case Mail(reverse_path, size=size):
                check_address(reverse_path)
                assert size >= 0
            case Recipient(address):
                assert address
                check_address(address)
            case Chunk(size):
                assert 0 <= size < 10**18


def check_reply(reply: Reply) -> None:
    """A refusal is permanent or temporary, says so twice, and is one clean line."""
    assert re.fullmatch(rb"[45][0-9]{2} ([45]\.[0-9]+\.[0-9]+) [ -~]+\r\n", reply.encode())
    assert str(reply.code)[0] == reply.enhanced[0]


def check_address(address: str) -> None:
    """An address can be written, read again, and breaks no line."""
    assert not set(address) & set("\r\n\0")
    if address:
        assert parse_path(f"<{quote_address(address)}>", is_smtputf8=True) == address
        assert unquote_address(quote_address(address)) == address


def check_path(data: bytes) -> None:
    """Addresses: as above, for the text of a path."""
    text = data.decode("utf-8", "surrogateescape")
    for is_smtputf8 in (False, True):
        address = parse_path(text, is_smtputf8=is_smtputf8)
        if address is not None:
            check_address(address)


def check_header(data: bytes) -> None:
    """The header editor: headers and rest are the content, and only what the rules name is changed."""
    content = decode_chunks(data)

    def read(pieces: list[bytes]) -> object:
        reader = HeaderReader(100_000)
        fed = 0
        try:
            for fed, piece in enumerate(pieces, 1):  # noqa: B007 - needed below
                if reader.feed(piece):
                    break
        except HeaderTooLongError:
            return "too long"
        headers, rest = reader.finish()
        return headers, rest + b"".join(pieces[fed:])

    headers, rest = split_content(content)
    assert same(read(pieces) for pieces in cuts(content)) == (headers, rest)
    arranged = arrange_headers(
        RULES, b"Received: x\r\n", headers, reverse_path="a@b.test", queue_id="1", now=0.0
    )
    assert arranged[0] == b"Received: x\r\n"
    kept = [header for header in headers if not _is_dropped(header)]
    for before, after in zip(kept, arranged[1:], strict=False):
        assert before.partition(b":")[0].lower() == after.partition(b":")[0].lower()
        assert after.endswith(b"\r\n")
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\r\n(?![ \t]|\Z)", after)
        _check_addresses(before, after)
    added = arranged[1 + len(kept) :]
    assert len(added) <= 3
    block = b"".join(arranged)
    assert split_content(block + b"\r\n" + b"x") == (arranged, b"\r\nx")
    again = arrange_headers(RULES, b"", arranged[1:], reverse_path="a@b.test", queue_id="1", now=0.0)
    assert again[1:] == arranged[1:]


def _is_dropped(header: bytes) -> bool:
    return header.partition(b":")[0].lower() in {b"bcc", b"content-length", b"resent-bcc", b"return-path"}


def _check_addresses(before: bytes, after: bytes) -> None:
    if before == after:
        return
    found = find_addresses(before)
    if {"@", "%", "!"}.isdisjoint(found):  # they may be the null address
        assert len(find_addresses(after)) == len(found)
    assert all("@" in address for address in find_addresses(after))
    getaddresses([after.decode("utf-8", "replace")])


def check_mime(data: bytes) -> None:
    """The reader of MIME parts: it loses nothing, and cuts make no difference."""
    content = decode_chunks(data)
    headers, rest = split_content(content)
    body = rest.removeprefix(b"\r\n")

    def read(pieces: list[bytes]) -> bytes:
        parser = MimeParser(headers)
        found = [piece for fed in pieces for piece in parser.feed(fed)] + parser.finish()
        return b"".join(piece.text for piece in found)

    joined = same(read(pieces) for pieces in cuts(body))
    assert joined == body


def check_replies(data: bytes) -> None:
    """The reply parser: cuts make no difference, codes are codes, texts hold no controls."""

    def read(pieces: list[bytes]) -> list[tuple[int, str]]:
        parser, found = ReplyParser(), []
        for piece in pieces:
            parser.feed(piece)
            while (taken := parser.take()) is not None:
                found.append((taken.code, taken.message))
        return found

    whole = same(read(pieces) for pieces in cuts(data))
    assert isinstance(whole, list)
    for code, text in whole:
        assert code == NOT_SMTP or 200 <= code < 600
        assert not any(category(character) in {"Cc", "Zl", "Zp"} for character in text.replace("\n", ""))
        reply = parse_text(code, text)
        assert reply.dsn[0] == ("5" if reply.is_permanent else "2" if reply.is_positive else "4")
        assert "\n" not in str(reply)


def check_maildrop(data: bytes) -> None:
    """The maildrop's envelopes: read or a ValueError; what was read is the same, written and read again."""
    try:
        envelope = read_envelope(data.splitlines(keepends=True))
    except ValueError:
        return
    lines = write_envelope(envelope).removesuffix(b"DATA\r\n").splitlines(keepends=True)
    again = read_envelope(lines)
    assert (again.reverse_path, again.ret, again.envid) == (
        envelope.reverse_path,
        envelope.ret,
        envelope.envid,
    )
    assert again.recipients == envelope.recipients


def check_config(data: bytes) -> None:
    """The configuration: understood, and shown so that it means the same, or every fault has its line."""
    text = data.decode("utf-8", "replace")
    try:
        config = parse_config(text, machine_name="gw1.lan")
    except ConfigError as error:
        faults = error.errors
    else:
        check_shown(config)
        return
    assert faults
    for line in faults:
        assert re.match(r"relay\.toml(:\d+)?: ", line), line
        assert line.isprintable(), line


def check_shown(config: Config) -> None:
    """A configuration is shown as TOML that means the same, but for secrets, which are hidden."""
    shown = tomli_w.dumps(render(config))
    tomllib.loads(shown)
    secrets = config.users or any(s.password or s.client_secret for s in config.smarthost.values())
    if not secrets:
        assert parse_config(shown, machine_name="gw1.lan") == config


TARGETS: dict[str, tuple[Callable[[bytes], None], str]] = {
    "chunks": (
        check_chunks,
        r"""
        \r\n \n \r \r\r\r\r\r\r\r\r\r \r\r\r\r\r\r\r\r\r\r a . \x00 \xff
        """,
    ),
    "command": (
        check_command,
        r"""
        MAIL\x20 RCPT\x20 FROM: TO: < > " \\ @ \x20SIZE= \x20RET=FULL xn-- \x20ENVID= +41
        \x20NOTIFY= NEVER \x20ORCPT=rfc822; \x20SMTPUTF8 BDAT\x201\x20LAST \xc3\xa9 [1.2.3.4]
        [IPv6:::1] ( ) , : \x00 % ! \xff \x20BODY= \r .
        """,
    ),
    "config": (
        check_config,
        r"""
        \n \x20=\x20 " [ ] { } true -1 "" [] {} 1e400 nan ' 2026-11-24 "\\u0000" "@" "."
        [[listen]]\n \xc3\xa9 # ''' 0x 1.5 "1s" "1/s" "a@b.test" "@b.test" "[::1]:25" "error:" (? \\
        $1
        """,
    ),
    "content": (
        check_content,
        r"""
        \r\n.\r\n \r\n \n \r . \r\r\r\r\r\r\r\r\r \r\r\r\r\r\r\r\r\r\r a \xff
        """,
    ),
    "header": (
        check_header,
        r"""
        From:\x20 To:\x20 Cc:\x20 Bcc:\x20 Subject:\x20 \r\n \r\n\x20 \n \r : ; , < > " ( ) \\ @
        a@b.test =?utf-8?q?=C3=A9?= \xc3\xa9 \xff \x00 From\x20a Resent-From:\x20 \x20: % ! [ ] .
        a\x20b Return-Path:\x20
        \x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20\x20
        """,
    ),
    "maildrop": (
        check_maildrop,
        r"""
        MAIL\x20FROM:<a@b.test> RCPT\x20TO:< > \r\n \n \x20RET=HDRS \x20ENVID= \x20NOTIFY=NEVER "
        \x20SMTPUTF8 DATA \\ @ \xc3\xa9 \xff \x0b \x85 \x20ORCPT=rfc822;x \x00
        """,
    ),
    "mime": (
        check_mime,
        r"""
        Content-Type:\x20multipart/mixed;\x20boundary=b\r\n \r\n --b --b-- -- " ( ; \n
        Content-Type:\x20message/rfc822\r\n Content-Transfer-Encoding:\x208bit\r\n boundary= \x20 =
        \xff
        """,
    ),
    "path": (
        check_path,
        r"""
        < > @ " \\ ( ) , ; : . a b.test \x20 - % ! [1.2.3.4] [IPv6:::1] xn-- \xc3\xa9 \xff \x00 \r\n
        @x: \xef\xbc\xa0 1
        """,
    ),
    "replies": (
        check_replies,
        r"""
        250 550 354 421 - \x20 \r\n \n \r 5.1.1 2.0.0\x20 \x00 \xff \xc2\x85 \xe2\x80\xa8
        250\x20ok\r\n 999\x20x\r\n x \t 250-a\r\n \xd9\xa3
        """,
    ),
}
"""By name: the target, and the words of which its bytes are made, with Python's escapes."""


def words(name: str) -> list[bytes]:
    """Return the words of a target."""
    return [word.encode().decode("unicode_escape").encode("latin-1") for word in TARGETS[name][1].split()]


def seeds(name: str) -> list[bytes]:
    """Return the bytes that a target is always tried with."""
    return [path.read_bytes() for path in sorted((SEEDS / name).iterdir())]


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """Return a seed, or nothing, with parts cut out, doubled, and replaced by words or noise."""
    pieces = st.one_of(st.sampled_from(words(name)), st.binary(max_size=3))
    data = draw(st.sampled_from([b"", *seeds(name)]))
    for _ in range(draw(st.integers(0, 8))):
        place = draw(st.integers(0, len(data)))
        removed = draw(st.sampled_from([0, 0, 0, 1, 2, 8, 40]))
        added = draw(st.lists(pieces, max_size=6).map(b"".join))
        data = data[:place] + added + data[place + removed :]
    return data
