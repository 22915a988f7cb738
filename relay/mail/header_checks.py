"""Header checks: regular expressions over headers, and what to do on a match (header_checks(5)).

As Postfix applies them: each header is given to the checks in turn, the first that matches decides about that
header; REJECT, DISCARD, REDIRECT and PASS end the inspection of the message.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

import regex

from relay.mail.mime import HEADER_SIZE_LIMIT
from relay.mail.reply import Reply, parse_text

MATCH_SECONDS = 0.05
"""Processor time for the slow searches in one message, all together."""

_FREE_SECONDS = 0.0001
"""What a search may always take: many headers alone must not set a check aside."""
_NOTES_LIMIT = 100
_REFUSAL_SIZE = 2000
"""Bytes. A longer line of a reply is too much for many a client (postconf(5), line_length_limit)."""
_REFUSAL_TEXT = "message content rejected"
_FIELD_NAME = re.compile(rb"[!-9;-~]+[ \t]*:")
_SPACE_BEFORE_COLON = re.compile(r"^([!-9;-~]+)[ \t]+:")
_REFERENCE = re.compile(rb"\$(?:\$|(\d{1,3})|\{(\d{1,3})\}|\((\d{1,3})\))")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]+")


class Action(StrEnum):
    """What a header check does, in Postfix's words."""

    DUNNO = "DUNNO"
    WARN = "WARN"
    INFO = "INFO"
    IGNORE = "IGNORE"
    REJECT = "REJECT"
    DISCARD = "DISCARD"
    HOLD = "HOLD"
    PREPEND = "PREPEND"
    REPLACE = "REPLACE"
    REDIRECT = "REDIRECT"
    BCC = "BCC"
    STRIP = "STRIP"
    PASS = "PASS"


_PART_ACTIONS = frozenset(
    {Action.REJECT, Action.DISCARD, Action.HOLD, Action.WARN, Action.INFO, Action.REDIRECT, Action.BCC}
)
_LAST_ACTIONS = frozenset({Action.REJECT, Action.DISCARD, Action.REDIRECT, Action.PASS})


@dataclass(frozen=True, slots=True)
class HeaderCheck:
    """One entry of ``[[header_checks]]``, its pattern compiled."""

    pattern: regex.Pattern[str]
    action: Action
    text: str = ""
    scope: Literal["all", "external"] = "all"
    matcher: regex.Pattern[str] = field(init=False, repr=False, compare=False)
    """The pattern in the form that is matched: over bytes, each of them a character."""

    def __post_init__(self) -> None:
        """Derive the matcher."""
        object.__setattr__(self, "matcher", _over_bytes(self.pattern))


class Inspected(NamedTuple):
    """What takes the place of a header."""

    prepended: tuple[bytes, ...]
    header: bytes | None
    """None: it is dropped."""


class Decision(NamedTuple):
    """What a check did about a header."""

    check: HeaderCheck
    header: bytes
    """The header that it matched, as it came."""
    inspected: Inspected
    text: bytes
    """The text of the check, its groups filled in."""


class Note(NamedTuple):
    """Something for the log: a check that acted, or, under WARN, one that could not."""

    action: Action
    header: str
    """The header whole for a WARN or INFO check, lines joined by line feeds; else its name alone."""
    text: str
    """The text of the check, its groups filled in, or why it could not act."""


def arrival_checks(checks: Iterable[HeaderCheck]) -> tuple[HeaderCheck, ...]:
    """Return the checks that act once, when the message arrives."""
    return tuple(check for check in checks if check.scope == "all")


def external_checks(checks: Iterable[HeaderCheck]) -> tuple[HeaderCheck, ...]:
    """Return the checks that act in each copy for external recipients, at delivery."""
    return tuple(check for check in checks if check.scope == "external")


def act_on_parts(checks: Iterable[HeaderCheck]) -> bool:
    """Whether any of the checks has an effect on the headers of body parts and attached messages."""
    return any(check.action in _PART_ACTIONS for check in checks)


class _Found(NamedTuple):
    check: HeaderCheck
    header: str
    """The header as it was matched."""
    text: bytes
    """The check's text with the groups filled in."""


class Inspection:
    """The header checks at work on one message."""

    def __init__(self, checks: Iterable[HeaderCheck]) -> None:
        self._checks = tuple(checks)
        self._seconds = MATCH_SECONDS
        self._bcc: dict[str, None] = {}
        self.is_over = False
        """Whether nothing more will be looked at."""
        self.refusal: Reply | None = None
        self.is_discarded = False
        self.is_held = False
        self.redirect_to: str | None = None
        """The address that takes the place of all recipients."""
        self.notes: list[Note] = []
        self.decisions: list[Decision] = []
        """The first that there were, whatever was done."""

    @property
    def bcc(self) -> list[str]:
        """The further recipients, each once."""
        return list(self._bcc)

    def inspect(self, header: bytes) -> Inspected:
        """Return what takes the place of a header of the message itself."""
        found = self._find(header)
        if found is None:
            return Inspected((), header)
        return self._decide(found, header, self._act(found, header))

    def inspect_part(self, header: bytes) -> None:
        """Look at a header of a body part or an attached message: it may decide, but stays as it is."""
        found = self._find(header)
        if found and found.check.action in _PART_ACTIONS:
            self._judge(found)
            self._decide(found, header, Inspected((), header))

    def _decide(self, found: _Found, header: bytes, inspected: Inspected) -> Inspected:
        if len(self.decisions) < _NOTES_LIMIT:
            self.decisions.append(Decision(found.check, header, inspected, found.text))
        return inspected

    def _act(self, found: _Found, header: bytes) -> Inspected:
        match found.check.action:
            case Action.IGNORE:
                return Inspected((), None)
            case Action.STRIP:
                self._note(found)
                return Inspected((), None)
            case Action.PREPEND | Action.REPLACE:
                return self._edit(found, header)
        self._judge(found)
        return Inspected((), header)

    def _find(self, header: bytes) -> _Found | None:
        if self.is_over:
            return None
        text = _matched_text(header)
        for check in self._checks:
            match = self._search(check, text)
            if match:
                return _Found(check, text, _expand(check.text, match))
        return None

    def _search(self, check: HeaderCheck, header: str) -> regex.Match[str] | None:
        started_at = time.thread_time()
        match = None
        try:
            match = check.matcher.search(header, timeout=max(self._seconds, _FREE_SECONDS))
        except TimeoutError:
            self._set_aside(check, header)
        seconds = time.thread_time() - started_at
        if seconds > _FREE_SECONDS:
            self._seconds -= seconds
        return match

    def _set_aside(self, slow: HeaderCheck, header: str) -> None:
        """Do without a check for the rest of the message: a flood of such headers must not stop the relay."""
        self._checks = tuple(check for check in self._checks if check is not slow)
        self._warn(header, f"the pattern {slow.pattern.pattern} takes too long here and is left out")

    def _edit(self, found: _Found, header: bytes) -> Inspected:
        replacement = _make_field(found.text)
        if replacement is None:
            self._warn(found.header, f'{_rule(found)} is left out: a header is "Name: value"')
            return Inspected((), header)
        self._note(found)
        if found.check.action is Action.PREPEND:
            return Inspected((replacement,), header)
        return Inspected((), replacement)

    def _judge(self, found: _Found) -> None:
        action, words = found.check.action, _words(found.text)
        match action:
            case Action.DUNNO:
                return
            case Action.REDIRECT | Action.BCC if "@" not in words:
                self._warn(found.header, f"{_rule(found)} is left out: it needs user@domain")
                return
            case Action.REJECT:
                self.refusal = _make_refusal(words)
            case Action.DISCARD:
                self.is_discarded = True
            case Action.HOLD:
                self.is_held = True
            case Action.REDIRECT:
                self.redirect_to = words
            case Action.BCC:
                self._bcc[words] = None
        self.is_over = action in _LAST_ACTIONS
        self._note(found)

    def _note(self, found: _Found) -> None:
        action = found.check.action
        header = found.header if action in {Action.WARN, Action.INFO} else _name(found.header)
        self._add_note(Note(action, header, _words(found.text)))

    def _warn(self, header: str, words: str) -> None:
        self._add_note(Note(Action.WARN, _name(header), words))

    def _add_note(self, note: Note) -> None:
        if len(self.notes) < _NOTES_LIMIT:
            self.notes.append(note)


def _over_bytes(pattern: regex.Pattern[str]) -> regex.Pattern[str]:
    text = pattern.pattern.encode("utf-8", "surrogateescape").decode("latin-1")
    try:
        return regex.compile(text, pattern.flags & ~regex.UNICODE | regex.ASCII)
    except (regex.error, ValueError):
        return pattern  # it insists on characters: (?u), or a group name beyond ASCII


def _matched_text(header: bytes) -> str:
    text = header[:HEADER_SIZE_LIMIT].decode("latin-1").replace("\r\n", "\n").rstrip("\r\n")
    return _SPACE_BEFORE_COLON.sub(r"\1:", text)


def _name(header: str) -> str:
    return header.partition(":")[0]


def _rule(found: _Found) -> str:
    return f"{found.check.action} {found.check.text}".rstrip()


def _expand(template: str, match: regex.Match[str]) -> bytes:
    """Fill in the groups of a match, as bytes again."""

    def refer(reference: re.Match[bytes]) -> bytes:
        number = reference[1] or reference[2] or reference[3]
        if number is None:
            return b"$"
        groups = (match[0], *match.groups(""))
        return groups[int(number)].encode("latin-1") if int(number) < len(groups) else b""

    return _REFERENCE.sub(refer, template.encode("utf-8", "surrogateescape"))


def _words(text: bytes) -> str:
    """Return the text of a check on one line, for replies, addresses and the log."""
    return _CONTROLS.sub(" ", text.decode("utf-8", "surrogateescape")).strip()


def _make_field(text: bytes) -> bytes | None:
    """Return text as a header field, further lines as folds; None where it has no field name."""
    if not _FIELD_NAME.match(text):
        return None
    first, *rest = re.split(rb"[\r\n]+", text.rstrip(b"\r\n"))
    folds = (line if line.startswith((b" ", b"\t")) else b"\t" + line for line in rest)
    return b"\r\n".join([first, *folds]) + b"\r\n"


def _make_refusal(words: str) -> Reply:
    text = words.encode("utf-8", "replace")[:_REFUSAL_SIZE].decode("utf-8", "ignore")
    reply = parse_text(550, text)
    if not reply.enhanced or reply.enhanced.startswith("2"):
        return Reply(550, "5.7.1", text or _REFUSAL_TEXT)
    code = 451 if reply.enhanced.startswith("4") else 550
    return Reply(code, reply.enhanced, reply.text or _REFUSAL_TEXT)
