"""What a message tells of its recipients and its sender, where a program gives no envelope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.commands import parse_mail
from relay.mail.submission import (
    find_addresses,
    find_recipients,
    full_name_of,
    lacks_from,
    make_from,
)
from relay.mail.xtext import decode_xtext, encode_xtext


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("root", ["root"]),
        ("a@b.test, c", ["a@b.test", "c"]),
        ('"Doe, J." <j@b.test>, Ann <ann@b.test> (at work)', ["j@b.test", "ann@b.test"]),
        ('"odd name"@b.test', ["odd name@b.test"]),
        ("friends: a@b.test, c@b.test;, d", ["a@b.test", "c@b.test", "d"]),
        ("undisclosed recipients:;", []),
        ("<>", []),
        ("", []),
        (",, ,", []),
    ],
)
def test_addresses_are_found_as_headers_have_them(text: str, addresses: list[str]) -> None:
    assert find_addresses(text) == addresses


def test_recipients_are_in_to_cc_and_bcc() -> None:
    headers = [
        b"From: a@b.test\r\n",
        b"To: x@b.test,\r\n y\r\n",
        b"CC: z@b.test, x@b.test\r\n",
        b"Bcc: secret@b.test\r\n",
        b"Reply-To: no@b.test\r\n",
    ]
    assert find_recipients(headers) == ["x@b.test", "y", "z@b.test", "secret@b.test"]


def test_recipients_of_what_is_sent_again_are_in_its_resent_headers() -> None:
    headers = [b"To: x@b.test\r\n", b"Resent-To: y@b.test\r\n", b"Resent-Bcc: z@b.test\r\n"]
    assert find_recipients(headers) == ["y@b.test", "z@b.test"]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Christian Caleca", b"From: Christian Caleca <chris>\r\n"),
        ("", b"From: chris\r\n"),
        ("Doe, J.", b'From: "Doe, J." <chris>\r\n'),
        ("Jean Élan", b"From: =?utf-8?q?Jean_=C3=89lan?= <chris>\r\n"),
        ("two\r\nBcc: lines", b'From: "two Bcc: lines" <chris>\r\n'),
    ],
)
def test_a_from_header_has_the_name_of_a_person(name: str, header: bytes) -> None:
    assert make_from(name, "chris") == header


def test_a_from_header_may_have_an_address_beyond_ascii() -> None:
    assert make_from("Jo", "chrïs@x.test") == "From: Jo <chrïs@x.test>\r\n".encode()
    assert make_from("", "chr\udcefs") == b"From: chr\xefs\r\n"


@pytest.mark.parametrize(
    ("header", "is_lacking"),
    [(b"FROM : a\r\n", False), (b"Resent-From: a\r\n", False), (b"Sender: a\r\n", True)],
)
def test_a_from_header_is_added_where_there_is_none(header: bytes, is_lacking: bool) -> None:
    assert lacks_from([b"To: x\r\n", header]) == is_lacking


@pytest.mark.parametrize(
    ("gecos", "name"),
    [("Christian Caleca,,,", "Christian Caleca"), ("& Daemon", "Www-data Daemon"), ("", ""), (" ,x", "")],
)
def test_a_name_comes_from_the_comment_field_of_passwd(gecos: str, name: str) -> None:
    assert full_name_of(gecos, "www-data") == name


@given(st.text(max_size=20))
def test_xtext_is_what_mail_takes(text: str) -> None:
    encoded = encode_xtext(text)
    assert decode_xtext(encoded) == text
    if encoded:
        assert not isinstance(parse_mail(f"FROM:<> ENVID={encoded}".encode()), str)
    assert bytes.fromhex("".join(f"{ord(c):02x}" for c in encoded)).isascii()
