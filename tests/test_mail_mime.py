"""The MIME structure of a body: which headers are found in it, in what time, and that no byte is lost."""

import email
import email.message
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.mime import HEADER_SIZE_LIMIT, Entity, Form, Kind, MimeParser, PartScanner, Piece, field_name

MIXED = b'Content-Type: multipart/mixed; boundary="bb"\r\n'


def scan(body: bytes, *headers: bytes) -> list[bytes]:
    scanner = PartScanner(headers)
    return scanner.feed(b"\r\n" + body) + scanner.finish()


def parse(body: bytes, *headers: bytes, size: int = 0) -> list[Piece]:
    """Parse the body in chunks of a size; return the pieces behind the empty line."""
    parser = MimeParser(headers)
    body = b"\r\n" + body
    chunks = [body[i : i + size] for i in range(0, len(body), size)] if size else [body]
    pieces = [piece for chunk in chunks for piece in parser.feed(chunk)] + parser.finish()
    return pieces[1:]


def joined(pieces: list[Piece]) -> list[Piece]:
    """Put neighbouring pieces of one kind together, as far as their division depends on the chunks."""
    result: list[Piece] = []
    for piece in pieces:
        is_same = result and (result[-1].kind, result[-1].entity) == (piece.kind, piece.entity)
        if is_same and piece.kind in {Kind.TEXT, Kind.EXCESS}:
            result[-1] = piece._replace(text=result[-1].text + piece.text)
        else:
            result.append(piece)
    return result


class TestScanner:
    def test_plain_text_has_no_part_headers(self) -> None:
        assert scan(b"--bb\r\nX: 1\r\n\r\n", b"Subject: x\r\n") == []

    def test_parts_and_attached_messages(self) -> None:
        body = (
            b"Preamble: x\r\n"
            b"--bb\r\nContent-Type: application/x;\r\n\tname=a.exe\r\nX-Part: 1\r\n\r\nText: x\r\n"
            b"--bb\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nNo: header\r\n"
            b"--bb--\r\nEpilogue: x\r\n"
        )
        assert scan(body, MIXED) == [
            b"Content-Type: application/x;\r\n\tname=a.exe\r\n",
            b"X-Part: 1\r\n",
            b"Content-Type: message/rfc822\r\n",
            b"Subject: inner\r\n",
        ]

    def test_headers_are_returned_as_soon_as_they_are_complete(self) -> None:
        scanner = PartScanner([MIXED])
        assert scanner.feed(b"\r\n--bb\r\nX: 1\r\n") == []
        assert scanner.feed(b" 2\r\nY: 1\r\n") == [b"X: 1\r\n 2\r\n"]
        assert scanner.feed(b"Z: 1") == []
        assert scanner.finish() == [b"Y: 1\r\n", b"Z: 1"]

    def test_nested_multipart_and_return_to_the_outer_one(self) -> None:
        body = (
            b'--bb\r\nContent-Type: multipart/alternative; boundary="in"\r\n\r\n'
            b"--in\r\nA: 1\r\n\r\n--in--\r\nNot: here\r\n--bb\r\nB: 1\r\n\r\n--in\r\nNot: here\r\n"
        )
        assert scan(body, MIXED)[1:] == [b"A: 1\r\n", b"B: 1\r\n"]

    def test_outer_delimiter_ends_an_inner_multipart_that_was_not_closed(self) -> None:
        inner = b"Content-Type: multipart/x; boundary=in\r\n"
        body = b"--bb\r\n" + inner + b"\r\n--in\r\n\r\n--bb\r\nB: 1\r\n\r\n--in\r\nN: 1\r\n"
        assert scan(body, MIXED)[1:] == [b"B: 1\r\n"]

    def test_message_rfc822_as_the_whole_message(self) -> None:
        assert scan(b"Subject: in\r\n\r\nx: y\r\n", b"Content-Type: message/rfc822\r\n") == [
            b"Subject: in\r\n"
        ]

    def test_parts_of_a_digest_are_messages(self) -> None:
        header = b"Content-Type: multipart/digest; boundary=bb\r\n"
        assert scan(b"--bb\r\n\r\nSubject: in\r\n\r\nx: y\r\n", header) == [b"Subject: in\r\n"]

    def test_part_of_a_digest_that_is_no_message(self) -> None:
        header = b"Content-Type: multipart/digest; boundary=bb\r\n"
        body = b"--bb\r\nContent-Type: text/plain\r\n\r\nSubject: in\r\n"
        assert scan(body, header) == [b"Content-Type: text/plain\r\n"]

    @pytest.mark.parametrize(
        "type_", [b"message/delivery-status", b"text/rfc822-headers", b"", b"message", b"/"]
    )
    def test_other_types_hold_no_headers(self, type_: bytes) -> None:
        assert scan(b"X-Secret: 1\r\n\r\n", b"Content-Type: " + type_ + b"\r\n") == []

    def test_encoded_attached_message_is_not_looked_into(self) -> None:
        header = b"Content-Type: message/rfc822\r\n"
        assert scan(b"U3ViamVjdDogaW5uZXI=\r\nX: 1\r\n", header) == []

    def test_line_that_is_no_header_ends_the_header_of_a_part(self) -> None:
        assert scan(b"--bb\r\nA: 1\r\nno header\r\nB: 1\r\n", MIXED) == [b"A: 1\r\n"]
        assert scan(b"--bb\r\n A: 1\r\n", MIXED) == []

    def test_delimiter_ends_the_header_of_a_part(self) -> None:
        assert scan(b"--bb\r\nA: 1\r\n--bb\r\nB: 1\r\n--bb--\r\nC: 1\r\n", MIXED) == [
            b"A: 1\r\n",
            b"B: 1\r\n",
        ]

    def test_space_before_the_colon(self) -> None:
        assert scan(b"--bb\r\nA \t: 1\r\n", MIXED) == [b"A \t: 1\r\n"]

    def test_delimiter_is_recognised_by_its_beginning(self) -> None:
        assert scan(b"--bbx \r\nA: 1\r\n", MIXED) == [b"A: 1\r\n"]
        assert scan(b"x--bb\r\nA: 1\r\n", MIXED) == []

    @pytest.mark.parametrize(
        "parameters",
        [
            b"boundary=bb",
            b"BOUNDARY = bb ; x=y",
            b'\r\n\tcharset="a;b";\r\n\tboundary="bb"',
            b'boundary="\\b\\b"',
            b"(a (nested; \\) comment) boundary=no) boundary=bb",
            b"boundary=other; boundary=bb",
            b"boundary=bb=cc",
            b'boundary="bb',
            b"x; boundary; =; boundary=bb",
            b"boundary=bb (comment that does not end",
        ],
    )
    def test_ways_to_write_the_boundary(self, parameters: bytes) -> None:
        header = b"content-TYPE : MultiPart/Mixed; " + parameters + b"\r\n"
        assert scan(b"--bb\r\nA: 1\r\n", header) == [b"A: 1\r\n"]

    def test_empty_boundary_matches_every_delimiter(self) -> None:
        assert scan(b"--x\r\nA: 1\r\n", b'Content-Type: multipart/mixed; boundary=""\r\n') == [b"A: 1\r\n"]

    def test_empty_body(self) -> None:
        assert PartScanner([b"Content-Type: message/rfc822\r\n"]).finish() == []

    def test_body_without_the_empty_line_is_no_attached_message(self) -> None:
        assert PartScanner([b"Content-Type: message/rfc822\r\n"]).feed(b"text\r\nA: 1\r\nB: 1\r\n") == []


class TestLimits:
    def test_long_header_field_is_cut(self) -> None:
        field = b"A: " + b"x" * HEADER_SIZE_LIMIT + b"\r\n y\r\n"
        assert scan(b"--bb\r\n" + field + b"B: 1\r\n", MIXED) == [field[:HEADER_SIZE_LIMIT], b"B: 1\r\n"]

    def test_field_that_folds_for_ever_is_cut(self) -> None:
        body = b"--bb\r\nA: 1\r\n" + b" x\r\n" * HEADER_SIZE_LIMIT + b"B: 1\r\n"
        assert [len(field) for field in scan(body, MIXED)] == [HEADER_SIZE_LIMIT, 6]

    def test_nesting_is_followed_to_a_depth(self) -> None:
        levels = 10_000
        body = b"".join(
            b"--b%d.\r\nContent-Type: multipart/x; boundary=b%d.\r\n\r\n" % (i, i + 1) for i in range(levels)
        )
        assert len(scan(body, b"Content-Type: multipart/x; boundary=b0.\r\n")) == 100

    def test_messages_attached_to_one_another_are_all_followed(self) -> None:
        header = b"Content-Type: message/rfc822\r\n"
        assert len(scan((header + b"\r\n") * 10_000, header)) == 10_000

    def test_long_line_is_not_kept(self) -> None:
        parser = MimeParser([MIXED])
        line = b"x" * 10_000
        assert [piece.text for piece in parser.feed(b"\r\n" + line)] == [b"\r\n", line]

    @pytest.mark.parametrize(
        ("start", "is_header_next"),
        [(b"--bb", True), (b"--bb\r\n", False), (b"--bb\r\nA:", True), (b"--bb\r\n\r\n", False)],
    )
    def test_long_line_is_one_line(self, start: bytes, is_header_next: bool) -> None:
        body = start + b"x" * 5000 + b"--bb\r\nB: 1\r\n"
        assert joined(parse(body, MIXED, size=1000)) == joined(parse(body, MIXED))
        assert (b"B: 1\r\n" in scan(body, MIXED)) == is_header_next


class TestEntity:
    @pytest.mark.parametrize(
        ("headers", "entity"),
        [
            ([], Entity()),
            ([b"Content-Transfer-Encoding: 8BIT\r\n"], Entity(is_8bit=True)),
            ([b"Content-Transfer-Encoding: (x) binary (y)\r\n"], Entity(is_8bit=True)),
            ([b"Content-Transfer-Encoding: base64\r\n"], Entity()),
            (
                [b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Transfer-Encoding:\r\n"],
                Entity(is_8bit=True),
            ),
            ([b"Content-Transfer-Encoding: 8bit\r\n", b"Content-Transfer-Encoding: 7bit\r\n"], Entity()),
            ([b"Content-Transfer-Encoding: x-8bit\r\n"], Entity()),
            ([MIXED, b"Content-Transfer-Encoding: 8bit\r\n"], Entity(Form.MULTIPART, is_8bit=True)),
            ([b"Content-Type: message/RFC822\r\n"], Entity(Form.MESSAGE)),
        ],
    )
    def test_is_read_from_the_header(self, headers: list[bytes], entity: Entity) -> None:
        assert MimeParser(headers).head[-1] == Piece(Kind.HEADER_END, b"", entity)


def test_field_name() -> None:
    assert field_name(b"Content-Type \t: x:y\r\n") == b"content-type"


LINES = st.sampled_from(
    [
        *(
            b"--bb",
            b"--bb--",
            b"--in",
            b"--in--",
            b"--",
            b"-",
            b"",
            b" ",
            b" folded",
            b"text",
            b"A: 1",
            b"B : 2",
        ),
        *(b"Content-Type: multipart/mixed; boundary=in", b"Content-Type: multipart/digest;", b" boundary=bb"),
        *(b"Content-Type: message/rfc822", b"Content-Transfer-Encoding: 8bit", b"Content-Type: text/plain"),
    ]
)
BODIES = st.lists(LINES, max_size=30).map(b"\r\n".join)


@given(BODIES)
def test_pieces_make_up_the_body(body: bytes) -> None:
    assert b"".join(piece.text for piece in parse(body, MIXED)) == body


@given(BODIES, st.sampled_from([1, 2, 7]))
def test_whole_and_in_chunks_are_the_same(body: bytes, size: int) -> None:
    assert joined(parse(body, MIXED, size=size)) == joined(parse(body, MIXED))


@given(st.binary(max_size=200))
def test_garbage_in_a_content_type_does_no_harm(value: bytes) -> None:
    MimeParser([b"Content-Type: " + value])
    MimeParser([b"Content-Type: multipart/mixed;" + value])


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> email.message.EmailMessage:
    """Draw a message whose parts have numbered headers."""
    message = email.message.EmailMessage(email.policy.SMTP)
    message["X-Number"] = str(draw(st.integers(0, 99)))
    form = draw(st.sampled_from(["text", "mixed", "message"])) if depth else "text"
    if form == "text":
        message.set_content(draw(st.text(alphabet="ab-: \n", max_size=20)))
    elif form == "message":
        message.set_content(draw(trees(depth - 1)))
    else:
        message.make_mixed()
        for part in draw(st.lists(trees(depth - 1), min_size=1, max_size=3)):
            message.attach(part)
    return message


@given(trees())
def test_finds_the_headers_that_the_email_package_wrote(tree: email.message.EmailMessage) -> None:
    head, _, body = tree.as_bytes().partition(b"\r\n\r\n")
    headers = [line + b"\r\n" for line in head.replace(b"\r\n ", b"").split(b"\r\n")]
    found = [field for field in scan(body, *headers) if field.startswith(b"X-Number")]
    numbers = [part["X-Number"] for part in tree.walk()][1:]
    assert found == [f"X-Number: {number}\r\n".encode() for number in numbers]
