"""Text that every room writes the same way: what others wrote does no harm where it is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.texts import is_ip, join_port, make_line, make_plain


def test_what_a_terminal_could_obey_is_a_question_mark() -> None:
    assert make_plain("a\r\nb\x1b[2J\tc\0\udcffd\u202e\x9b") == "a  b?[2J c??d??"
    assert make_plain("  été, 漢字") == "  été, 漢字"


def test_a_line_has_single_spaces_and_its_length() -> None:
    assert make_line(" a\r\n   b\x1b[2Jc ") == "a b?[2Jc"
    assert make_line("x" * 10_000) == "x" * 10_000
    assert make_line("x" * 600, 600) == "x" * 600
    assert make_line("x" * 601, 600) == "x" * 596 + " ..."


@given(st.text(st.characters()))
def test_whatever_others_wrote_is_one_printable_line(text: str) -> None:
    plain = make_plain(text)
    assert plain.isprintable()
    assert len(plain) == len(text)
    assert make_line(text).isprintable()


@pytest.mark.parametrize(("host", "text"), [("192.0.2.1", "192.0.2.1:25"), ("::1", "[::1]:25")])
def test_a_port_stands_behind_its_address(host: str, text: str) -> None:
    assert join_port(host, 25) == text


def test_addresses_are_told_from_names() -> None:
    assert is_ip("192.0.2.1")
    assert is_ip("2001:db8::1")
    assert not is_ip("[::1]")
    assert not is_ip("localhost")
    assert not is_ip("")
