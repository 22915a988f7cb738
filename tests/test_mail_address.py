from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import (
    complete,
    fold,
    join_address,
    quote_address,
    quote_local,
    split_address,
    unquote_address,
    unquote_local,
)

DOMAINS = st.from_regex(r"[a-z0-9-]{1,10}(\.[a-z]{1,5})?", fullmatch=True)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("joe@dest.test", ("joe", "dest.test")),
        ("a@b@dest.test", ("a@b", "dest.test")),
        ("joe", ("joe", "")),
        ("joe@", ("joe", "")),
        ("@dest.test", ("", "dest.test")),
        ("", ("", "")),
    ],
)
def test_the_last_at_divides_an_address(address: str, parts: tuple[str, str]) -> None:
    assert split_address(address) == parts


def test_a_local_part_alone_is_an_address() -> None:
    assert join_address("joe", "") == "joe"
    assert join_address("joe", "dest.test") == "joe@dest.test"


@pytest.mark.parametrize(
    ("address", "external"),
    [
        ("joe.r+x@dest.test", "joe.r+x@dest.test"),
        ("jörg@dest.test", "jörg@dest.test"),
        ("a b@dest.test", '"a b"@dest.test'),
        ("a@b@dest.test", '"a@b"@dest.test'),
        ('a"\\b@dest.test', '"a\\"\\\\b"@dest.test'),
        (".a@dest.test", '".a"@dest.test'),
        ("a.@dest.test", '"a."@dest.test'),
        ("a..b@dest.test", '"a..b"@dest.test'),
        ("@dest.test", '""@dest.test'),
        ("a b", '"a b"'),
        ("joe@[127.0.0.1]", "joe@[127.0.0.1]"),
        ("", ""),
    ],
)
def test_only_a_local_part_that_is_no_dot_string_is_quoted(address: str, external: str) -> None:
    assert quote_address(address) == external
    assert unquote_address(external) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ('"joe"@dest.test', "joe@dest.test"),
        ("a\\ b@dest.test", "a b@dest.test"),
        ('"a@b"', "a@b"),
        ('"', '"'),
        ('"a@dest.test', '"a@dest.test'),
    ],
)
def test_quotes_that_are_not_needed_come_off(text: str, address: str) -> None:
    assert unquote_address(text) == address


@given(st.text())
def test_a_quoted_local_part_can_be_unquoted(local: str) -> None:
    assert unquote_local(quote_local(local)) == local


@given(st.text(), DOMAINS)
def test_a_quoted_address_can_be_unquoted(local: str, domain: str) -> None:
    address = f"{local}@{domain}"
    assert unquote_address(quote_address(address)) == address


def test_case_does_not_count_in_tables() -> None:
    assert fold("Joe@DEST.Test") == fold("jOE@dest.test") == "joe@dest.test"
    assert fold("Ü@dest.test") == "ü@dest.test"


@pytest.mark.parametrize(
    ("address", "whole"),
    [
        ("joe", "joe@gw.test"),
        ("joe@dest.test", "joe@dest.test"),
        ("joe@DEST.test.", "joe@DEST.test"),
        ("joe@dest.test..", "joe@dest.test.."),
        ("joe@.", "joe@."),
        ("joe@", "joe@"),
        ("@", ""),
        ("", ""),
        ("joe%dest.test", "joe@dest.test"),
        ("a%b%dest.test", "a%b@dest.test"),
        ("dest.test!joe", "joe@dest.test"),
        ("dest.test!other!joe", "other!joe@dest.test"),
        ("joe%a@b", "joe%a@b"),
        ("joe%dest.test.", "joe@dest.test"),
        ("dest.test.!joe", "joe@dest.test"),
        ("%", ""),
    ],
)
def test_an_incomplete_address_is_completed_as_postfix_does(address: str, whole: str) -> None:
    assert complete(address, "gw.test") == whole
