"""What the doctor finds: the kinds of findings there are, and one finding with its particulars."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.texts import make_line

LONGEST_DETAIL = 400
"""Characters of what others said that a finding quotes."""


class Severity(StrEnum):
    """How bad a finding is, in rising order."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    PROBLEM = "problem"

    @property
    def rank(self) -> int:
        """0 for ``ok``, more for what is worse."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found; its texts are fit for a terminal."""

    name: str
    """The name of its kind, such as ``dns.lies``."""
    severity: Severity
    what: str
    why: str = ""
    """Why it matters."""
    remedy: str = ""
    """How to mend it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding; "{name}" in its texts stands for a particular."""

    name: str
    severity: Severity
    what: str
    why: str = ""
    remedy: str = ""

    def found(self, *, matters: bool = True, **details: object) -> Finding:
        """Return a finding of this kind.

        ``matters`` False makes it a mere information: it is wrong, but no mail depends on it.
        """
        quoted = {name: make_line(str(detail), LONGEST_DETAIL) for name, detail in details.items()}
        severity = self.severity if matters else min(self.severity, Severity.INFO, key=lambda s: s.rank)
        texts = (text.format_map(quoted) for text in (self.what, self.why, self.remedy))
        return Finding(self.name, severity, *texts)


UNCHECKED = Kind(
    "unchecked",
    Severity.WARNING,
    "this could not be checked: {reason}",
    "Nothing is known about it, good or bad.",
    "Run `relay doctor` again; if it stays, look at the other findings first.",
)
