"""Subjects as people read them."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.mail.encoded_words import LONGEST_SUBJECT, decode_words, read_subject


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"Subject: hello\r\n", "hello"),
        (b"subject:hello", "hello"),
        (b"Subject:\r\n", ""),
        (b"Subject: =?utf-8?q?L=27=C3=A9t=C3=A9?=\r\n\tau bord  de la mer \r\n", "L'été au bord de la mer"),
        (b"Subject: =?utf-8?b?w6k=?=\r\n =?utf-8?b?dMOp?=\r\n", "été"),
        (b"Subject: =?iso-8859-1?Q?=E9t=E9?=\r\n", "été"),
        (b"Subject: voil\xc3\xa0\r\n", "voilà"),
        (b"Subject: voil\xe0\r\n", "voilà"),
        (b"Subject: =?utf-8?q?=1B[2J=0D=0AX:_no=00?=\r\n", "[2J X: no"),
        (b"Subject: a\x1b[2J\x07b \xe2\x80\xae c\r\n", "a [2J b c"),
        (b"Subject: =?nonsense?q?a=3F?=\r\n", "=?nonsense?q?a=3F?="),
        (b"Subject: =?utf-8?b?A?=\r\n", "=?utf-8?b?A?="),
        (b"Subject: =?a\0b?q?x?=\r\n", "=?a b?q?x?="),
        (b"Subject: =?idna?q?.a?=\r\n", "=?idna?q?.a?="),
        (b"Subject: =?utf-7?q?a+2AA-b?=\r\n", "a b"),
        (b"Subject: " + b"x" * 1_000_000 + b"\r\n", "x" * LONGEST_SUBJECT),
    ],
)
def test_a_subject_is_decoded_and_made_fit_to_show(header: bytes, subject: str) -> None:
    assert read_subject(header) == subject


@given(st.binary(max_size=300))
@example(b"=?utf-16?b?2AA=?=")
@example(b"=?" * 1000)
def test_any_bytes_give_a_line_that_can_be_shown(value: bytes) -> None:
    subject = read_subject(b"Subject: " + value + b"\r\n")
    assert subject.isprintable()
    assert len(subject) <= LONGEST_SUBJECT
    assert isinstance(decode_words(value), str)
