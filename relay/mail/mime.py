"""The structure of a MIME body, followed while it streams (RFC 2045, RFC 2046).

As lenient as Postfix: MIME-Version is not asked for, a boundary is recognised by its beginning, and whatever
is not a header field ends a header block. What is held back is one line, one header field and the boundaries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import NamedTuple

HEADER_SIZE_LIMIT = 102400
"""Bytes of one header field that are looked at (postconf(5), header_size_limit)."""

_NESTING_LIMIT = 100
_BOUNDARY_LIMIT = 2048
_LINE_LIMIT = 4096

_FIELD_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_TOKEN = re.compile(rb'\s+|"((?:[^"\\]|\\.)*)"?|[^\s()<>@,;:\\"/\[\]?=]+|.', re.DOTALL)
_COMMENT_MARK = re.compile(rb"\\.|[()]", re.DOTALL)
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ENCODINGS = {b"7bit": False, b"8bit": True, b"binary": True, b"base64": False, b"quoted-printable": False}


class Form(Enum):
    """What an entity holds, as far as its structure is concerned."""

    LEAF = auto()
    MULTIPART = auto()
    MESSAGE = auto()
    """message/rfc822, whose body begins with a header block of its own."""


@dataclass(frozen=True, slots=True)
class Entity:
    """The message, an attached message or a body part (RFC 2045 section 2.4)."""

    form: Form = Form.LEAF
    is_8bit: bool = False
    """Whether its Content-Transfer-Encoding says 8bit or binary."""


class Kind(Enum):
    """What a piece is."""

    FIELD = auto()
    """A header field; the part within the size limit where it is longer."""
    EXCESS = auto()
    """What a header field has beyond the size limit."""
    HEADER_END = auto()
    """The end of a header block, before the empty line. Has no text."""
    TEXT = auto()
    """Anything else."""


class Piece(NamedTuple):
    """A stretch of a body, with the entity that it belongs to as it is known so far."""

    kind: Kind
    text: bytes
    entity: Entity


class _Multipart(NamedTuple):
    delimiter: bytes
    default: Entity
    """What its parts are where they do not say."""


class _State(Enum):
    HEADER = auto()
    FIELD = auto()
    EXCESS = auto()
    SEPARATOR = auto()
    """The empty line that ends a header block is to come."""
    BODY = auto()


class MimeParser:
    """Divides a body, from the empty line before it on, into pieces whose texts make it up again.

    ``head`` has the pieces of the main header, given as whole fields.
    """

    def __init__(self, headers: Iterable[bytes]) -> None:
        self._entity = Entity()
        self._multiparts: list[_Multipart] = []
        self._delimiters: tuple[bytes, ...] = ()
        self._state = _State.HEADER
        self._field = bytearray()
        self._line = b""
        self._is_mid_line = False
        self.head = [self._complete_field(header) for header in headers]
        self.head.append(self._end_header())

    def feed(self, chunk: bytes) -> list[Piece]:
        """Take the next bytes of the body and return the pieces that they complete."""
        data = self._line + chunk
        end = data.rfind(b"\n") + 1
        if len(data) - end > _LINE_LIMIT:
            end = len(data)
        self._line = data[end:]
        return list(self._read(data[:end]))

    def finish(self) -> list[Piece]:
        """Return the last pieces of the body."""
        pieces = list(self._read(self._line))
        if self._state is _State.FIELD:
            pieces.append(self._complete_field(bytes(self._field)))
        if self._is_in_header:
            pieces.append(self._end_header())
        return pieces

    @property
    def _is_in_header(self) -> bool:
        return self._state not in (_State.SEPARATOR, _State.BODY)

    def _read(self, data: bytes) -> Iterator[Piece]:
        position = 0
        if self._is_mid_line:
            position = data.find(b"\n") + 1 or len(data)
            yield from self._continue_line(data[:position])
        while position < len(data):
            start = position
            if self._state is _State.BODY:
                position = self._find_delimiter(data, start)
            if position > start:
                yield Piece(Kind.TEXT, data[start:position], self._entity)
            else:
                position = data.find(b"\n", start) + 1 or len(data)
                yield from self._read_line(data[start:position])
        if data:
            self._is_mid_line = not data.endswith(b"\n")

    def _find_delimiter(self, data: bytes, line_start: int) -> int:
        """Return where the next delimiter line of an open multipart begins; the end where there is none."""
        if not self._delimiters:
            return len(data)
        while not data.startswith(self._delimiters, line_start):
            line_start = data.find(b"\n--", line_start) + 1
            if not line_start:
                return len(data)
        return line_start

    def _read_line(self, line: bytes) -> Iterator[Piece]:
        """Read a line of a header block, or a delimiter line."""
        if self._state in (_State.FIELD, _State.EXCESS) and line.startswith((b" ", b"\t")):
            yield from self._extend_field(line)
            return
        if self._state is _State.FIELD:
            yield self._complete_field(bytes(self._field))
        if self._is_in_header:
            if _FIELD_NAME.match(line, 0, _LINE_LIMIT):
                self._state = _State.FIELD
                self._field.clear()
                yield from self._extend_field(line)
                return
            yield self._end_header()
        if self._state is _State.SEPARATOR:
            self._enter_body(line)
        if line.startswith(self._delimiters):
            self._pass_delimiter(line)
        yield Piece(Kind.TEXT, line, self._entity)

    def _continue_line(self, text: bytes) -> Iterator[Piece]:
        """Read the rest of a line that was too long to wait for its end."""
        if self._state in (_State.FIELD, _State.EXCESS):
            yield from self._extend_field(text)
        else:
            yield Piece(Kind.TEXT, text, self._entity)

    def _extend_field(self, text: bytes) -> Iterator[Piece]:
        if self._state is _State.FIELD:
            room = HEADER_SIZE_LIMIT - len(self._field)
            self._field += text[:room]
            text = text[room:]
            if text:
                yield self._complete_field(bytes(self._field))
                self._state = _State.EXCESS
        if text:
            yield Piece(Kind.EXCESS, text, self._entity)

    def _complete_field(self, field: bytes) -> Piece:
        name = field_name(field)
        if name == b"content-type":
            self._note_type(field)
        elif name == b"content-transfer-encoding":
            self._note_encoding(field)
        return Piece(Kind.FIELD, field, self._entity)

    def _note_type(self, field: bytes) -> None:
        media_type, *parameters = _split(field)
        words = [word.lower() for word in media_type[:3]]
        if words[:1] == [b"multipart"]:
            form = Form.MULTIPART
            default = Entity(Form.MESSAGE if words[1:] == [b"/", b"digest"] else Form.LEAF)
            # Several boundaries are not allowed, but a client may honour any of them.
            for boundary in _boundaries(parameters):
                if len(self._multiparts) < _NESTING_LIMIT:
                    self._multiparts.append(_Multipart(b"--" + boundary[:_BOUNDARY_LIMIT], default))
            self._delimiters = tuple(multipart.delimiter for multipart in self._multiparts)
        else:
            form = Form.MESSAGE if words == [b"message", b"/", b"rfc822"] else Form.LEAF
        self._entity = replace(self._entity, form=form)

    def _note_encoding(self, field: bytes) -> None:
        words = next(_split(field))
        is_8bit = _ENCODINGS.get(words[0].lower()) if words else None
        if is_8bit is not None:
            self._entity = replace(self._entity, is_8bit=is_8bit)

    def _end_header(self) -> Piece:
        self._state = _State.SEPARATOR
        return Piece(Kind.HEADER_END, b"", self._entity)

    def _enter_body(self, separator: bytes) -> None:
        self._state = _State.BODY
        if separator not in {b"\r\n", b"\n"}:
            return  # No empty line: this is text already, and nothing more is known about it.
        if self._entity.form is Form.MESSAGE:
            self._state = _State.HEADER
        if self._entity.form is not Form.LEAF:
            self._entity = Entity()

    def _pass_delimiter(self, line: bytes) -> None:
        """Leave the multiparts inside the delimited one; begin its next part, or leave it too."""
        depth = max(i for i, delimiter in enumerate(self._delimiters) if line.startswith(delimiter))
        multipart = self._multiparts[depth]
        is_last = line.startswith(b"--", len(multipart.delimiter))
        del self._multiparts[depth if is_last else depth + 1 :]
        self._delimiters = self._delimiters[: len(self._multiparts)]
        self._state = _State.BODY if is_last else _State.HEADER
        self._entity = Entity() if is_last else multipart.default


class PartScanner:
    """Finds the header fields of body parts and attached messages, while the body of a message streams.

    It is fed what follows the main header: the empty line, then the body.
    """

    def __init__(self, headers: Iterable[bytes]) -> None:
        self._parser = MimeParser(headers)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes of the body and return the header fields that they complete."""
        return _fields(self._parser.feed(chunk))

    def finish(self) -> list[bytes]:
        """Return the header fields at the end of the body."""
        return _fields(self._parser.finish())


def field_name(field: bytes) -> bytes:
    """Return the name of a header field in lower case."""
    return field.partition(b":")[0].rstrip().lower()


def _fields(pieces: list[Piece]) -> list[bytes]:
    return [piece.text for piece in pieces if piece.kind is Kind.FIELD]


def _boundaries(parameters: Iterable[list[bytes]]) -> list[bytes]:
    return [words[2] for words in parameters if len(words) == 3 and words[0].lower() == b"boundary"]


def _split(field: bytes) -> Iterator[list[bytes]]:
    """Yield what stands between the semicolons of a field body: the first three words, without comments."""
    words: list[bytes] = []
    position = field.find(b":") + 1
    while token := _TOKEN.match(field, position):
        position = token.end()
        if token[0] == b"(":
            position = _end_of_comment(field, position)
        elif token[0] == b";":
            yield words
            words = []
        elif len(words) < 3 and not token[0].isspace():
            words.append(token[0] if token[1] is None else _ESCAPE.sub(rb"\1", token[1]))
    yield words


def _end_of_comment(field: bytes, position: int) -> int:
    depth = 1
    for mark in _COMMENT_MARK.finditer(field, position):
        depth += {b"(": 1, b")": -1}.get(mark[0], 0)
        if not depth:
            return mark.end()
    return len(field)
