"""Conversion to 7 bits: what the labels become, that nothing is lost, and what Postfix did."""

import email
import email.policy
import hashlib
import json
import quopri
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.downgrade import Downgrader
from relay.mail.headers import split_content
from relay.mail.mime import HEADER_SIZE_LIMIT

CASES = Path(__file__).parent / "vectors" / "cases" / "headers.json"
LABEL = b"Content-Transfer-Encoding: 8bit\r\n"
QUOTED = b"Content-Transfer-Encoding: quoted-printable\r\n"
SEVEN = b"Content-Transfer-Encoding: 7bit\r\n"
MIXED = b"Content-Type: multipart/mixed; boundary=bb\r\n"


def downgrade(headers: list[bytes], body: bytes, size: int = 0) -> tuple[list[bytes], bytes]:
    """Return the converted headers, and the converted body without the empty line before it."""
    downgrader = Downgrader(headers)
    body = b"\r\n" + body
    chunks = [body[i : i + size] for i in range(0, len(body), size)] if size else [body]
    converted = b"".join(map(downgrader.feed, chunks)) + downgrader.finish()
    assert converted.startswith(b"\r\n")
    return downgrader.headers, converted[2:]


def encode(text: bytes) -> bytes:
    return downgrade([LABEL], text)[1]


class TestLabels:
    def test_leaf_becomes_quoted_printable(self) -> None:
        headers = [b"A: 1\r\n", LABEL, b"Content-Type: text/plain\r\n"]
        assert downgrade(headers, b"\xe9\r\n") == ([headers[0], headers[2], QUOTED], b"=E9\r\n")

    def test_binary_and_types_other_than_text_too(self) -> None:
        headers = [b"Content-Type: application/x\r\n", b"content-transfer-encoding : BINARY\r\n"]
        assert downgrade(headers, b"\x00\r\n") == ([headers[0], QUOTED], b"=00\r\n")

    @pytest.mark.parametrize("label", [b"7bit", b"base64", b"quoted-printable", b"unknown"])
    def test_anything_else_is_left_alone(self, label: bytes) -> None:
        headers = [b"Content-Transfer-Encoding: " + label + b"\r\n"]
        assert downgrade(headers, b"a=\xe9 \r\n") == (headers, b"a=\xe9 \r\n")

    def test_no_label_is_left_alone(self) -> None:
        assert downgrade([b"A: \xe9\r\n"], b"\xe9\r\n") == ([b"A: \xe9\r\n"], b"\xe9\r\n")

    def test_multipart_becomes_7bit_and_its_parts_are_judged_on_their_own(self) -> None:
        body = (
            b"pre\xe9\r\n--bb\r\n" + LABEL + b"X: \xe9\r\n\r\n\xe9\r\n"
            b"--bb\r\nContent-Type: text/plain\r\n\r\n=\r\n--bb\r\n"
            + SEVEN
            + b"\r\n=\r\n--bb--\r\npost\xe9\r\n"
        )
        headers, converted = downgrade([MIXED, LABEL], body)
        assert headers == [MIXED, SEVEN]
        assert converted == (
            b"pre\xe9\r\n--bb\r\nX: \xe9\r\n" + QUOTED + b"\r\n=E9\r\n"
            b"--bb\r\nContent-Type: text/plain\r\n\r\n=\r\n--bb\r\n"
            + SEVEN
            + b"\r\n=\r\n--bb--\r\npost\xe9\r\n"
        )

    def test_attached_message_becomes_7bit_and_its_content_is_judged_on_its_own(self) -> None:
        type_ = b"Content-Type: message/rfc822\r\n"
        body = b"Subject: \xe9\r\n" + LABEL + b"\r\n\xe9\r\n"
        headers, converted = downgrade([type_, LABEL], body)
        assert headers == [type_, SEVEN]
        assert converted == b"Subject: \xe9\r\n" + QUOTED + b"\r\n=E9\r\n"

    @pytest.mark.parametrize("type_", [b"message/partial", b"message/global"])
    def test_other_message_types_are_leaves(self, type_: bytes) -> None:
        headers = [b"Content-Type: " + type_ + b"\r\n", LABEL]
        assert downgrade(headers, b"A: \xe9\r\n\r\n") == ([headers[0], QUOTED], b"A: =E9\r\n\r\n")

    def test_header_without_a_body_gets_its_label(self) -> None:
        assert downgrade([MIXED], b"--bb\r\n" + LABEL)[1] == b"--bb\r\n" + QUOTED
        assert (
            downgrade([MIXED], b"--bb\r\n" + LABEL + b"--bb--\r\n")[1] == b"--bb\r\n" + QUOTED + b"--bb--\r\n"
        )

    def test_long_header_field_stays_whole(self) -> None:
        body = b"--bb\r\n" + LABEL + b"X: " + b"x" * HEADER_SIZE_LIMIT + b"\r\n\r\n\xe9"
        assert downgrade([MIXED], body)[1] == body.replace(LABEL, b"").replace(
            b"\r\n\r\n\xe9", b"\r\n" + QUOTED + b"\r\n=E9"
        )


class TestQuotedPrintable:
    @pytest.mark.parametrize(
        ("text", "encoded"),
        [
            (b"a\tb <c> ~\r\n", b"a\tb <c> ~\r\n"),
            (b"\x00\x1f\x7f\xff=\r\n", b"=00=1F=7F=FF=3D\r\n"),
            (b"a \r\nb\t\r\n \r\n", b"a=20\r\nb=09\r\n=20\r\n"),
            (b"\r\n\r\n", b"\r\n\r\n"),
            (b"no line end ", b"no line end=20"),
        ],
    )
    def test_bytes(self, text: bytes, encoded: bytes) -> None:
        assert encode(text) == encoded

    @pytest.mark.parametrize(
        ("text", "lengths"),
        [
            (b"a" * 73, [73]),
            (b"a" * 74, [74, 1]),
            (b"a" * 72 + b" ", [75]),
            (b"a" * 73 + b" ", [74, 3]),
            (b"a" * 72 + b"\xe9", [75]),
            (b"a" * 72 + b"\xe9a", [76, 1]),
            (b"a" * 71 + b"\xe9a", [75, 1]),
            (b"a" * 70 + b"\xe9a", [74, 1]),
            (b"\xe9" * 50, [76, 75]),
        ],
    )
    def test_long_lines_are_broken_where_postfix_breaks_them(self, text: bytes, lengths: list[int]) -> None:
        lines = encode(text + b"\r\n").split(b"\r\n")
        assert [len(line) for line in lines] == [*lengths, 0]


def recorded(case_id: str) -> dict[str, Any]:
    cases: dict[str, dict[str, Any]] = {case["id"]: case for case in json.loads(CASES.read_text())}
    return cases[case_id]


@pytest.mark.parametrize("case_id", ["headers-050", "headers-051"])
def test_recorded_case(case_id: str) -> None:
    case = recorded(case_id)
    content = next(
        s["send"] for s in case["input"]["sessions"][0]["steps"] if "MIME-Version" in s.get("send", "")
    )
    headers, rest = split_content(content.encode("latin-1").removesuffix(b".\r\n"))
    converted, body = downgrade(headers, rest.removeprefix(b"\r\n"))
    [message] = case["expected"]["relayed"]
    added = {"Received", "Message-Id", "Date", "From"}
    assert [header.decode() for header in converted] == [
        f"{name}: {value}\r\n" for name, value in message["headers"] if name not in added
    ]
    assert hashlib.sha256(body).hexdigest() == message["body_sha256"]


TEXTS = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.integers(60, 90).map(lambda n: b"x" * n),
        st.sampled_from([b" ", b"\t", b"="]),
    ),
    max_size=12,
).map(lambda words: b"".join(words).replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n")


@given(TEXTS)
def test_encoded_text_is_7_bits_in_short_lines_and_decodes_to_the_same(text: bytes) -> None:
    encoded = encode(text)
    assert encoded.isascii()
    assert max(map(len, encoded.split(b"\r\n"))) <= 76
    assert quopri.decodestring(encoded.replace(b"\r\n", b"\n")) == text.replace(b"\r\n", b"\n")


@given(TEXTS, st.sampled_from([1, 2, 70, 75]))
def test_whole_and_in_chunks_are_the_same(text: bytes, size: int) -> None:
    body = b"--bb\r\n" + LABEL + b"\r\n" + text + b"--bb\r\n\r\n" + text
    assert downgrade([MIXED], body, size) == downgrade([MIXED], body)


def test_long_lines_in_chunks() -> None:
    text = (b"x\xe9 " * 10_000 + b"\r\n") * 2
    assert downgrade([LABEL], text, 1500)[1] == encode(text)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_the_email_package_reads_the_same_parts(texts: list[bytes]) -> None:
    parts = b"".join(
        b"--bb\r\nContent-Type: application/x\r\n" + LABEL + b"\r\n" + t + b"\r\n" for t in texts
    )
    headers, body = downgrade([MIXED, LABEL], parts + b"--bb--\r\n")
    assert body.isascii()
    message = email.message_from_bytes(b"".join(headers) + b"\r\n" + body, policy=email.policy.default)
    assert [part.get_payload(decode=True) for part in message.iter_parts()] == texts
