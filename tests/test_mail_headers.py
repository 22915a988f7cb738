from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.headers import (
    HeaderReader,
    HeaderTooLongError,
    header_name,
    header_value,
    split_content,
    unfold,
)

LIMIT = 1000
LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"", b"Subject: x", b" folded", b"\tfolded", b"no header", b"From x", b">From x", b"a :b"]
        ),
        st.binary(max_size=20).map(lambda line: line.replace(b"\r", b" ").replace(b"\n", b" ")),
    ),
    max_size=12,
)
CONTENTS = LINES.map(lambda lines: b"".join(line + b"\r\n" for line in lines))


def read(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], bytes]:
    """Feed a reader as its user does; return the headers and all the rest of the content."""
    reader = HeaderReader(limit)
    left = list(chunks)
    while left and not reader.feed(left.pop(0)):
        pass
    headers, rest = reader.finish()
    return headers, rest + b"".join(left)


def test_a_header_keeps_its_folded_lines() -> None:
    headers, rest = split_content(b"A: 1\r\n\t2\r\n \r\nB:\r\n\r\nbody\r\n")
    assert headers == [b"A: 1\r\n\t2\r\n \r\n", b"B:\r\n"]
    assert rest == b"\r\nbody\r\n"


@pytest.mark.parametrize(
    ("content", "headers", "rest"),
    [
        (b"", [], b""),
        (b"\r\nbody\r\n", [], b"\r\nbody\r\n"),
        (b"A: 1\r\n", [b"A: 1\r\n"], b""),
        (b"A: 1", [b"A: 1\r\n"], b""),
        (b"A: 1\r\n 2", [b"A: 1\r\n 2\r\n"], b""),
        (b"A: 1\r\nnone\r\n\r\nx\r\n", [b"A: 1\r\n"], b"\r\nnone\r\n\r\nx\r\n"),
        (b"A: 1\r\n: none\r\n", [b"A: 1\r\n"], b"\r\n: none\r\n"),
        (b"A: 1\r\nX Y: 2\r\n", [b"A: 1\r\n"], b"\r\nX Y: 2\r\n"),
        (b"A: 1\r\nX-\xe9: 2\r\n", [b"A: 1\r\n"], b"\r\nX-\xe9: 2\r\n"),
        (b" folded\r\nA: 1\r\n\r\n", [], b"\r\n folded\r\nA: 1\r\n\r\n"),
        (b"A \t: 1\r\n", [b"A: 1\r\n"], b""),
        (b"A : 1\r\n a : b\r\n", [b"A: 1\r\n a : b\r\n"], b""),
        (b"From x\r\nA: 1\r\n", [b"X-Mailbox-Line: From x\r\n", b"A: 1\r\n"], b""),
        (b"From x\r\n>>From\r\n", [b"X-Mailbox-Line: From x\r\n"], b"\r\n>>From\r\n"),
        (b">>From x\r\nFrom y", [b"X-Mailbox-Line: >>From x\r\n", b"X-Mailbox-Line: From y\r\n"], b""),
        (b"From x\r\n folded\r\nA: 1\r\n", [b"X-Mailbox-Line: From x\r\n"], b"\r\n folded\r\nA: 1\r\n"),
        (b"A: 1\r\nFrom x\r\n", [b"A: 1\r\n"], b"\r\nFrom x\r\n"),
    ],
)  # fmt: skip
def test_the_header_block_ends_where_postfix_ends_it(
    content: bytes, headers: list[bytes], rest: bytes
) -> None:
    assert split_content(content) == (headers, rest)
    assert read([content[i : i + 1] for i in range(len(content))]) == (headers, rest)


@given(CONTENTS)
def test_nothing_is_lost_but_the_ways_that_postfix_normalises(content: bytes) -> None:
    headers, rest = split_content(content)
    assert all(header.endswith(b"\r\n") for header in headers)
    assert not rest or rest.startswith(b"\r\n")
    again = b"".join(headers) + rest
    assert split_content(again) == (headers, rest)
    assert bare(again) == bare(content)


def bare(content: bytes) -> bytes:
    """Return the content without what the reader may put in or leave out."""
    return re.sub(rb"X-Mailbox-Line: |[ \t\r\n]", b"", content)


@given(CONTENTS, st.integers(1, 7))
def test_chunks_make_no_difference(content: bytes, size: int) -> None:
    chunks = [content[i : i + size] for i in range(0, len(content), size)]
    assert read(chunks) == split_content(content)


def test_a_header_block_beyond_the_limit_is_refused() -> None:
    with pytest.raises(HeaderTooLongError):
        read([b"A: 1\r\n"] * 200)
    with pytest.raises(HeaderTooLongError):
        read([b"A: ", b"x" * 2 * LIMIT])


@pytest.mark.parametrize(
    "content",
    [
        b"no header " * 200,
        b"A: 1\r\n" + b"no header " * 200,
        b"x y:" + b"z" * 2000,
        b" " * 2000,
        b"\xe9" * 2000,
    ],
)
def test_a_line_beyond_the_limit_that_can_be_no_header_is_body(content: bytes) -> None:
    assert read([content[i : i + 10] for i in range(0, len(content), 10)]) == split_content(content)


def test_a_name_beyond_the_limit_may_be_one_of_a_header() -> None:
    for line in (b"x" * 2 * LIMIT, b"A: 1\r\n" + b"x" * 2 * LIMIT, b"x" + b" " * 2 * LIMIT):
        with pytest.raises(HeaderTooLongError):
            read([line])


def test_a_body_without_empty_line_before_it_may_go_beyond_the_limit() -> None:
    chunks = [b"A: 1\r\n", *[b"body line\r\n"] * 200]
    headers, rest = read(chunks)
    assert headers == [b"A: 1\r\n"]
    assert rest == b"\r\n" + b"body line\r\n" * 200


def test_a_header_block_up_to_the_limit_is_taken() -> None:
    block = b"A: " + b"x" * (LIMIT - 5) + b"\r\n"
    assert len(block) == LIMIT
    assert read([block, b"\r\nbody\r\n"]) == ([block], b"\r\nbody\r\n")


def test_name_and_value_are_read_without_white_space() -> None:
    assert header_name(b"Message-ID: <x>\r\n") == "message-id"
    assert header_name(b"Subject : x\r\n") == "subject"
    assert header_value(b"Subject: \r\n a:\r\n\tb \r\n") == "a:\tb"
    assert header_value(b"Subject: \xc3\xa9 \xe9\r\n") == "é \udce9"


def test_unfolding_keeps_the_white_space() -> None:
    assert unfold(b"A: 1\r\n  2\r\n\t3\r\n") == b"A: 1  2\t3\r\n"
