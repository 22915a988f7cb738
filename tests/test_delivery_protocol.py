"""The reply parser and the dot-stuffer on their own, fed whole and byte by byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.protocol import MAX_REPLY, NOT_SMTP, DotStuffer, ReplyParser
from tests.support.smtp_server import (
    unstuff,
)


def parse(chunks: Iterable[bytes]) -> list[tuple[int, str]]:
    parser = ReplyParser()
    replies = []
    for chunk in chunks:
        parser.feed(chunk)
        while (reply := parser.take()) is not None:
            replies.append((reply.code, reply.message))
    return replies


pieces = st.sampled_from(
    [
        b"250",
        b"-",
        b" ",
        b"ok",
        b"\r\n",
        b"\n",
        b"\r",
        b"354 go\r\n",
        b"550-no\r\n",
        b"250-a\r\n",
        b"250 b\r\n",
        b"\0",
        b"\xff",
        b"x",
    ]
)


@given(st.lists(pieces, max_size=30).map(b"".join))
def test_replies_are_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    whole = parse([data])
    assert parse(data[i : i + 1] for i in range(len(data))) == whole
    for code, text in whole:
        assert code == NOT_SMTP or 200 <= code < 600
        assert all(char == "\n" or char.isprintable() for char in text)


@given(st.binary(max_size=200))
def test_the_reply_parser_survives_any_bytes(data: bytes) -> None:
    assert parse([data]) == parse(data[i : i + 1] for i in range(len(data)))


@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_a_reply_is_cut_at_its_limit_however_it_arrives(excess: int) -> None:
    data = b"250-ok\r\n" + b"250 " + b"x" * (MAX_REPLY - 14 + excess) + b"\r\n"
    assert len(data) == MAX_REPLY + excess
    for chunks in ([data], [data[:-1], data[-1:]]):
        parser = ReplyParser()
        for chunk in chunks:
            parser.feed(chunk)
        reply = parser.take()
        assert reply is not None
        assert reply.code == 250
        assert parser.is_overrun is (excess > 0)
        assert parser.unread == 0
    parser.feed(b"250 more\r\n")
    assert (parser.take() is None) is parser.is_overrun


@given(
    st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"\r\n.\r\n"]), max_size=30).map(b"".join),
    st.lists(st.integers(0, 60), max_size=8),
)
def test_stuffing_and_unstuffing_is_the_identity_for_any_cut(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    stuffer = DotStuffer()
    wire = b"".join(stuffer.stuff(data[a:b]) for a, b in itertools.pairwise(places)) + stuffer.end()
    assert wire.endswith(b".\r\n")
    stuffed = wire.removesuffix(b".\r\n")
    assert b"\r\n.\r\n" not in b"\r\n" + stuffed
    assert unstuff(stuffed) == (data if not data or data.endswith(b"\r\n") else data + b"\r\n")
