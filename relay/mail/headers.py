"""The header block as a list of header fields, lossless.

A header is ``bytes``: the whole field with its folded lines, ending in CRLF. Content is read as Postfix
reads it (cleanup(8)): the header block ends at the first line that is no header line.
"""

from __future__ import annotations

import re

QUICK_SIZE = 16 * 1024
"""Bytes of a header block that is edited in no time."""

_FIELD = re.compile(rb"([!-9;-~]++)([ \t]*+):[^\n]*+(?:\n|\Z)(?:[ \t][^\n]*+(?:\n|\Z))*+")
_MAY_BE_FIELD = re.compile(rb"\Z|[!-9;-~]++[ \t]*+(?::|\Z)")
"""The start of a line of which more is to come."""
_MAILBOX_LINE = re.compile(rb">*+From [^\n]*+(?:\n|\Z)")
_FOLD = re.compile(rb"\r\n(?=[ \t])")


class HeaderTooLongError(Exception):
    """The header block is longer than the limit."""


class HeaderReader:
    """Collects the start of a content until its header block is whole.

    Feed it until ``feed`` is true or the content ends; then call ``finish``.
    """

    def __init__(self, limit: int) -> None:
        """``limit`` is the longest header block in bytes."""
        self._limit = limit
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """Bytes that were fed."""
        return len(self._buffer)

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes of the content; return whether the header block is whole.

        Raises HeaderTooLongError.
        """
        buffer = self._buffer
        start = max(len(buffer) - 3, 0)
        buffer += chunk
        if buffer.startswith(b"\r\n") or buffer.find(b"\r\n\r\n", start) >= 0:
            return True
        if len(buffer) <= self._limit:
            return False
        _, end = _scan(bytes(buffer))
        # A line cut short by the limit looks like the end of the header block.
        if buffer.find(b"\n", end) < 0 and _MAY_BE_FIELD.match(buffer, end):
            raise HeaderTooLongError
        return True

    def finish(self) -> tuple[list[bytes], bytes]:
        """Return the headers, and the rest of what was fed: see ``split_content``."""
        return split_content(bytes(self._buffer))


def split_content(content: bytes) -> tuple[list[bytes], bytes]:
    """Return the headers and the rest of a content with CRLF line ends.

    The rest starts with the empty line, which is put in where a line that is no header ends the block, or
    is b"" where the content ends with its header block. "name :" becomes "name:"; "From " lines at the start
    become X-Mailbox-Line headers; a last header without CRLF gets it. Else headers and rest together are the
    content.
    """
    headers, end = _scan(content)
    rest = content[end:]
    if rest and not rest.startswith(b"\r\n"):
        rest = b"\r\n" + rest
    return headers, rest


def _scan(content: bytes) -> tuple[list[bytes], int]:
    headers = []
    end = 0
    while match := _MAILBOX_LINE.match(content, end):
        headers.append(b"X-Mailbox-Line: " + match[0])
        end = match.end()
    while match := _FIELD.match(content, end):
        header = match[0]
        if match[2]:
            header = match[1] + header[match.end(2) - end :]
        headers.append(header)
        end = match.end()
    if headers and not headers[-1].endswith(b"\n"):
        headers[-1] += b"\r\n"
    return headers, end


def header_name(header: bytes) -> str:
    """Return the name of a header in lower case."""
    return header.partition(b":")[0].rstrip().decode("ascii", "replace").lower()


def header_value(header: bytes) -> str:
    """Return the value of a header on one line, without white space around it."""
    value = unfold(header).partition(b":")[2]
    return value.strip().decode("utf-8", "surrogateescape")


def unfold(header: bytes) -> bytes:
    """Return the header on one line: the line breaks go, the white space that marks them stays."""
    return _FOLD.sub(b"", header)
