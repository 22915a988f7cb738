"""Lines: their length on the wire (RFC 5321 section 4.5.3.1.6), their ends in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

LINE_LENGTH_LIMIT = 998
"""Bytes of a line without its CRLF (postconf(5), smtp_line_length_limit)."""


class LineBreaker:
    """Breaks lines that are too long by CRLF and a space, while content with CRLF line ends streams."""

    def __init__(self) -> None:
        self._room = LINE_LENGTH_LIMIT

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the content and return what is to be sent for them."""
        pieces = []
        start = position = 0
        while True:
            # The last line end that the room allows for: whatever lies before it is short enough.
            line_end = chunk.rfind(b"\n", position, position + self._room + 2) + 1
            if line_end:
                position, self._room = line_end, LINE_LENGTH_LIMIT
                continue
            break_at = position + self._room
            if chunk[break_at : break_at + 1] in {b"", b"\r"}:
                self._room -= min(self._room, len(chunk) - position)
                break
            pieces.append(chunk[start:break_at])
            start = position = break_at
            self._room = LINE_LENGTH_LIMIT - 1
        return b"\r\n ".join([*pieces, chunk[start:]])


def end_lines_in_lf(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield content with its CRLF line ends turned into LF, as in files; chunks may be cut anywhere."""
    held = b""
    for chunk in chunks:
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        yield data.removesuffix(held).replace(b"\r\n", b"\n")
    yield held
