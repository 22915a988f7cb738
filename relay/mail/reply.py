"""SMTP replies: the one form in which a refusal, a success or a remote's words travel through the program."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?: +|$)")


@dataclass(frozen=True, slots=True)
class Reply:
    """One SMTP reply (RFC 5321 section 4.2), ours or a remote's.

    ``enhanced`` is the enhanced status code (RFC 3463), "" where there is none; ``text`` has the lines
    without codes, joined by a line feed.
    """

    code: int
    enhanced: str
    text: str

    @property
    def is_positive(self) -> bool:
        """Whether the command was done (2xx)."""
        return 200 <= self.code < 300

    @property
    def is_permanent(self) -> bool:
        """Whether repeating the command unchanged is pointless (5xx). Whatever is neither is temporary."""
        return 500 <= self.code < 600

    @property
    def dsn(self) -> str:
        """The status for logs and reports: the enhanced code, else its class followed by ``.0.0``.

        An enhanced code whose class contradicts the reply code is replaced, as Postfix does.
        """
        reply_class = "5" if self.is_permanent else "2" if self.is_positive else "4"
        return self.enhanced if self.enhanced.startswith(reply_class) else f"{reply_class}.0.0"

    def encode(self) -> bytes:
        """Return the bytes that go on the wire, each line with code, enhanced code and CRLF."""
        prefix = f"{self.enhanced} " if self.enhanced else ""
        lines = self.text.split("\n")
        last = len(lines) - 1
        return b"".join(
            f"{self.code}{' ' if i == last else '-'}{prefix}{line}\r\n".encode("utf-8", "surrogateescape")
            for i, line in enumerate(lines)
        )

    def __str__(self) -> str:
        """Return the reply on one line, as logs and reports quote it."""
        words = (str(self.code), self.enhanced, self.text.replace("\n", " "))
        return " ".join(word for word in words if word)


def parse_text(code: int, text: str) -> Reply:
    """Return the Reply of a code and the text after it; an enhanced code is taken off each line."""
    lines = text.split("\n")
    first = _ENHANCED.match(lines[0])
    if first is None:
        return Reply(code, "", text)
    enhanced = ".".join(first.groups())
    stripped = [line[m.end() :] if (m := _ENHANCED.match(line)) else line for line in lines]
    return Reply(code, enhanced, "\n".join(stripped))
