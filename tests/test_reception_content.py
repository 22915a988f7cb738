"""Decoding of content: what ends a message, what becomes of line ends, and that chunks do not matter."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.reception.content import ChunkReader, DotReader

BYTES = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\r\n.", b"\0", b"\xff"]), max_size=40
).map(b"".join)
LINES = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"abc", b"a.b", b"\0", b"\xe9"]), max_size=12)


def read(data: bytes, *cuts: int) -> tuple[bytes, bool, bytes]:
    """Return content, whether it is complete, and the rest."""
    reader = DotReader()
    content = b""
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        if reader.is_complete:
            return content, True, reader.rest + data[start:]
        content += reader.feed(data[start:end])
    return content, reader.is_complete, reader.rest


def read_bytewise(data: bytes) -> tuple[bytes, bool, bytes]:
    return read(data, *range(1, len(data)))


def read_chunks(*chunks: bytes) -> bytes:
    reader = ChunkReader()
    return b"".join(map(reader.feed, chunks)) + reader.finish()


@pytest.mark.parametrize(
    ("data", "content", "rest"),
    [
        (b".\r\n", b"", b""),
        (b"a\r\n.\r\n", b"a\r\n", b""),
        (b"\r\n.\r\nQUIT\r\n", b"\r\n", b"QUIT\r\n"),
        (b"a\r\n..\r\n...b\r\n.c\r\n.\r\n.\r\n", b"a\r\n.\r\n..b\r\nc\r\n", b".\r\n"),
        (b"..\r\n.\r\n", b".\r\n", b""),
        (b"a\0b\r\n\0\r\n.\r\n", b"a\0b\r\n\0\r\n", b""),
        (b"one\rtwo\r\r\nend\r\n.\r\n", b"one two\r\nend\r\n", b""),
        (b"1\r\r\r\n2\r\r3\r\n\r.\r\n\r\n.\r\n", b"1\r\n2  3\r\n .\r\n\r\n", b""),
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n", b""),
        (b"a\n.b\n..c\r\n.\r\n", b"a\r\nb\r\n.c\r\n", b""),
        (b"a\r\r\n.\r\n", b"a\r\n", b""),
    ],
)
def test_content_is_decoded(data: bytes, content: bytes, rest: bytes) -> None:
    assert read(data) == (content, True, rest)
    assert read_bytewise(data) == (content, True, rest)


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\n\r", b"\n\n"])
@pytest.mark.parametrize("last", [b"\n", b"\r", b"\r\n", b"\r\r\n", b"\r\r"])
def test_nothing_but_the_exact_end_ends_a_message(line_end: bytes, last: bytes) -> None:
    attempt = b"hello" + line_end + b"." + last
    if attempt.endswith(b"\r\n.\r\n"):
        return
    data = attempt + b"MAIL FROM:<evil@a>\r\nRCPT TO:<b@c>\r\nDATA\r\n"
    content, is_complete, _ = read(data)
    assert not is_complete
    assert read_bytewise(data) == (content, False, b"")
    content, is_complete, rest = read(data + b"\r\n.\r\nQUIT\r\n")
    assert (is_complete, rest) == (True, b"QUIT\r\n")
    assert content.endswith(b"DATA\r\n\r\n")
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")
    assert b"\r\n.\r\n" not in stuffed
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)


def test_a_cr_far_before_a_line_end_is_a_space() -> None:
    data = b"a" + b"\r" * 1000 + b"\n\r\n.\r\n"
    content, is_complete, _ = read(data)
    assert is_complete
    assert content == b"a" + b" " * 991 + b"\r\n\r\n"
    assert read_bytewise(data)[0] == content


def test_little_is_held_back() -> None:
    reader = DotReader()
    assert reader.feed(b"a" * 1000) == b"a" * 1000
    assert len(reader.feed(b"\r" * 1000)) > 980


@given(BYTES, st.lists(st.integers(0, 80), max_size=6))
def test_chunks_do_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = read(data)
    assert read_bytewise(data) == whole
    assert read(data, *(min(cut, len(data)) for cut in cuts)) == whole


@given(BYTES)
def test_the_end_is_where_the_bytes_say_so(data: bytes) -> None:
    end = (b"\r\n" + data).find(b"\r\n.\r\n")
    _, is_complete, rest = read(data)
    assert is_complete == (end >= 0)
    assert rest == (data[end + 3 :] if is_complete else b"")


@given(BYTES)
def test_no_bare_cr_or_lf_comes_out(data: bytes) -> None:
    content, _, _ = read(data + b"\r\n.\r\n")
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)


@given(LINES)
def test_what_was_stuffed_by_the_book_comes_out_as_it_was(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    stuffed = b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines)
    assert read(stuffed + b".\r\nNOOP\r\n") == (content, True, b"NOOP\r\n")


@pytest.mark.parametrize(
    ("chunks", "content"),
    [
        ((), b""),
        ((b"",), b""),
        ((b"a\r\n.b\r\n",), b"a\r\n.b\r\n"),
        ((b"a\r\n", b".\r\n"), b"a\r\n.\r\n"),
        ((b"a\r", b"\nb"), b"a\r\nb\r\n"),
        ((b"a\r", b"b\n"), b"a b\r\n"),
        ((b"a", b"\r\r"), b"a\r\n"),
        ((b"a\n", b"\r"), b"a\r\n\r\n"),
        ((b"a\rb\nc",), b"a b\r\nc\r\n"),
    ],
)
def test_chunks_keep_their_dots_and_get_line_ends(chunks: tuple[bytes, ...], content: bytes) -> None:
    assert read_chunks(*chunks) == content


@given(BYTES)
def test_chunks_may_be_cut_anywhere(data: bytes) -> None:
    content = read_chunks(data)
    assert read_chunks(*(data[i : i + 1] for i in range(len(data)))) == content
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", content)
    assert content.endswith(b"\r\n") or not data


@given(LINES)
def test_clean_chunks_stay_as_they_are(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    assert read_chunks(content) == content
