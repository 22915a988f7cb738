"""What is different at each run, made the same."""

from __future__ import annotations

import re

ISO_DATE = "2026-05-11T15:21:22+0200"
MAIL_DATE = "Mon, 11 May 2026 15:21:22 +0200"
STAMP = "20260511132122"
"""That moment in a Message-ID; the time zone of the world is that of Marseille."""
SECONDS = "1778505682"
"""That moment since the epoch."""
DOVECOT_ID = "kPgSGbnWAWoMGAAAXGTzsA"
FIRST_ID = 0x651A3F29C4D07
ID_STEP = 0x1D4F8E3
VERSION = "0.1.0"

_QUEUE_ID = re.compile(r"(?<![0-9A-Za-z])[0-9A-F]{13}(?![0-9A-Za-z])")
_RULES = (
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}\b", ISO_DATE),
    (r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\b", MAIL_DATE),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d(?=; over)", "2026-05-11 15:21"),
    (r"\buntil \d{4}-\d\d-\d\d \d\d:\d\d\b", "until 2026-06-10 15:21"),
    (r"<\d{14}(?=\.)", f"<{STAMP}"),
    (r"(?<==_)([0-9A-F]{13})\.\d{10}\b", rf"\1.{SECONDS}"),
    (r"(?<= )[\w+/]{22}(:T\d+)?(?= Saved\b)|(?<=\bid )[\w+/]{22}(:T\d+)?$", DOVECOT_ID),
    (r"\bdelay=\d+\.\d\d\b", "delay=0.12"),
    (r"\b\d+ s ago\b", "0 s ago"),
    (r"\bnext attempt in \d+ min\b", "next attempt in 5 min"),
    (r"\brelay \d+\.\d+\S*", f"relay {VERSION}"),
)


class Steady:
    """Makes texts the same at each run: dates, durations, versions, and queue ids as they come up."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """Return a text that does not change."""
        text = _QUEUE_ID.sub(lambda found: self._number(found[0]), text)
        for pattern, sample in _RULES:
            text = re.sub(pattern, sample, text, flags=re.MULTILINE)
        return text.expandtabs()

    def _number(self, queue_id: str) -> str:
        return self._ids.setdefault(queue_id, f"{FIRST_ID + len(self._ids) * ID_STEP:X}")
