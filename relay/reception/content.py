"""The content of a message as a client sends it, decoded while it streams.

Only the bytes CR LF . CR LF end a message. The rule for line ends is Postfix's: an LF ends a line, with or
without CRs before it, and leaves as CRLF; any other CR is a space. So no bare CR or LF ever leaves, and what
a next hop might take for an end cannot be smuggled through: what goes out by DATA has its dots stuffed anew.
"""

from __future__ import annotations

import re

_END = b"\r\n.\r\n"
_MOST_CRS = 9
"""CRs before an LF that count as one line end with it. Any before those are spaces: little is held back."""
_LINE_END = re.compile(rb"\r{0,%d}\n" % _MOST_CRS)
_OPEN_CRS = re.compile(rb"\r{0,%d}\Z" % _MOST_CRS)
_OPEN_LINE_END = re.compile(rb"(?:\r{0,%d}\n\.?)?\r{0,%d}\Z" % (_MOST_CRS, _MOST_CRS))
_LONGEST_OPEN = 2 * _MOST_CRS + 2


class DotReader:
    """Decodes the content behind DATA: line ends as above, and a dot that starts a line is taken off.

    A dot is taken off behind a bare LF too, as Postfix does: who sends bare LFs stuffs the dots there.
    """

    def __init__(self) -> None:
        self.is_complete = False
        """Whether the end of the content was met."""
        self.rest = b""
        """The bytes that came behind the end: the next commands."""
        # The start of the content is the start of a line: it is read as if behind this line end.
        self._open = b"\r\n"
        self._is_first = True

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes from the client, and return the content that is certain by now."""
        data = self._open + data
        end = data.find(_END)
        if end >= 0:
            self.is_complete = True
            self.rest = data[end + len(_END) :]
            data = data[: end + 2]
        else:
            data, self._open = _split(data, _OPEN_LINE_END)
        content = _normalise(data).replace(b"\r\n.", b"\r\n")
        if self._is_first and content:
            self._is_first = False
            return content[2:]
        return content


class ChunkReader:
    """Decodes the chunks behind BDAT: line ends as above, dots as they are (RFC 3030 section 2)."""

    def __init__(self) -> None:
        self._open = b""
        self._is_line_start = True

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the chunks, and return the content that is certain by now."""
        data, self._open = _split(self._open + data, _OPEN_CRS)
        content = _normalise(data)
        if content:
            self._is_line_start = content.endswith(b"\n")
        return content

    def finish(self) -> bytes:
        """Return the content that is left at the end of the last chunk: a line end, where there was none."""
        return b"" if self._is_line_start and not self._open else b"\r\n"


def _split(data: bytes, open_end: re.Pattern[bytes]) -> tuple[bytes, bytes]:
    """Divide what is certain from what the next bytes decide about."""
    match = open_end.search(data, max(0, len(data) - _LONGEST_OPEN))
    assert match
    return data[: match.start()], match[0]


def _normalise(data: bytes) -> bytes:
    """Return data with CRLF line ends only; its edges must not divide a line end."""
    others = data.replace(b"\r\n", b"")
    if b"\r" not in others and b"\n" not in others:
        return data
    return _LINE_END.sub(b"\n", data).replace(b"\r", b" ").replace(b"\n", b"\r\n")
