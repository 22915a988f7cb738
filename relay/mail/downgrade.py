"""Conversion of 8-bit content to 7 bits for a next hop without 8BITMIME (RFC 6152 section 3).

Like Postfix, it goes by the labels: an entity whose Content-Transfer-Encoding says 8bit or binary becomes
quoted-printable, a multipart or an attached message becomes 7bit, and its parts are judged on their own.
Unlabelled bytes and 8-bit header fields pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from relay.mail.mime import Entity, Form, Kind, MimeParser, Piece, field_name

_UNSAFE = re.compile(rb"[^\t\r\n -<>-~]")
_LAST_SPACE = re.compile(rb"[ \t](?=\r?\Z)")
_FULL_LINE = re.compile(rb"[^\r]{71}(?>=..|.=..|..)(?=[^\r])")
"""An output line that has to be broken: 73 to 75 bytes, no escape divided."""


class Downgrader:
    """Converts a message while its body streams; ``headers`` is the converted main header.

    It is fed what follows the main header: the empty line, then the body.
    """

    def __init__(self, headers: Sequence[bytes]) -> None:
        self._parser = MimeParser(headers)
        self._encoder = _QuotedPrintable()
        converted = (self._convert(piece) for piece in self._parser.head)
        self.headers = [header for header in converted if header]

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the body and return what can be sent of the converted body."""
        return b"".join(map(self._convert, self._parser.feed(chunk)))

    def finish(self) -> bytes:
        """Return the rest of the converted body."""
        return b"".join(map(self._convert, self._parser.finish())) + self._encoder.finish()

    def _convert(self, piece: Piece) -> bytes:
        if not piece.entity.is_8bit:
            return piece.text
        match piece.kind:
            case Kind.FIELD if field_name(piece.text) == b"content-transfer-encoding":
                return b""
            case Kind.HEADER_END:
                return _label(piece.entity)
            case Kind.TEXT:
                return self._encoder.feed(piece.text)
        return piece.text


class _QuotedPrintable:
    """Encodes text with CRLF line ends, while it streams (RFC 2045 section 6.7)."""

    def __init__(self) -> None:
        self._line = b""

    def feed(self, text: bytes) -> bytes:
        *lines, last = (self._line + _UNSAFE.sub(_escape, text)).split(b"\n")
        *full, self._line = _break(last)
        encoded = [b"=\r\n".join(_break(_LAST_SPACE.sub(_escape, line))) + b"\n" for line in lines]
        return b"".join([*encoded, *(piece + b"=\r\n" for piece in full)])

    def finish(self) -> bytes:
        return _LAST_SPACE.sub(_escape, self._line)


def _break(line: bytes) -> list[bytes]:
    pieces = []
    position = 0
    while full := _FULL_LINE.match(line, position):
        pieces.append(full[0])
        position = full.end()
    return [*pieces, line[position:]]


def _label(entity: Entity) -> bytes:
    encoding = b"quoted-printable" if entity.form is Form.LEAF else b"7bit"
    return b"Content-Transfer-Encoding: " + encoding + b"\r\n"


def _escape(match: re.Match[bytes]) -> bytes:
    return b"=%02X" % match[0][0]
