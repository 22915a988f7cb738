"""Tables of regular expressions (regexp_table(5), pcre_table(5)): from Postfix's form to the relay's.

The relay's header checks have Postfix's defaults: capitals don't count, "." is a line end too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from relay.postfix.logical_lines import SPACE, is_stray, logical_lines

_IF = re.compile(r"(if|endif)(?![A-Za-z0-9])\s*(.*)", re.DOTALL | re.IGNORECASE)
_INLINE_FLAGS = re.compile(r"\(\?([a-zA-Z]+)\)")
_BACK_REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*(?:\\[1-9]|\(\?P?[<=>&])")
_WORD_EDGES = re.compile(r"(\\\\)|\\[<>]")
_FLAGS = {"regexp": "imx", "pcre": "imsxAEUX"}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One ``/pattern/flags``, negated with "!" in front."""

    text: str
    """A regular expression of the relay."""
    is_negated: bool = False

    @property
    def condition(self) -> str:
        """A look ahead, from the start of the header, that tells whether this matches."""
        return f"(?{'!' if self.is_negated else '='}.*?(?:{self.text}))"


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern and its result, or the reason why there is none."""

    place: str
    """Where it stands: the line, and the file once that is known."""
    pattern: Pattern | None
    conditions: tuple[Pattern, ...]
    """Those of the ``if`` lines that it stands under."""
    result: str
    reason: str = ""

    @property
    def whole(self) -> str:
        """One regular expression that matches when the pattern does and all conditions hold.

        The pattern comes first, so that $1 is its own first group.
        """
        if self.pattern is None:
            return ""
        if not self.conditions and not self.pattern.is_negated:
            return self.pattern.text
        return r"\A" + "".join(part.condition for part in (self.pattern, *self.conditions))


def read_rules(text: str, kind: str) -> Iterator[Rule]:
    """Yield the rules of a table of a kind, ``regexp`` or ``pcre``, in order."""
    conditions: list[tuple[Pattern | None, str]] = []
    for number, line in logical_lines(text):
        if is_stray(line):
            continue
        flow = _IF.fullmatch(line)
        if flow and flow[1].lower() == "endif":
            if not conditions:
                yield Rule(str(number), None, (), line, "endif without its if")
            conditions[-1:] = []
        elif flow:
            pattern, _, reason = _read_pattern(flow[2], kind)
            if pattern and _BACK_REFERENCE.search(pattern.text):
                pattern, reason = None, "an if whose pattern refers to its own groups"
            conditions.append((pattern, reason))
        else:
            pattern, result, reason = _read_pattern(line, kind)
            lost = next((why for condition, why in conditions if condition is None), "")
            if lost:
                pattern, reason = None, f"stands under an if that can't be used: {lost}"
            kept = tuple(condition for condition, _ in conditions if condition)
            yield Rule(str(number), pattern, kept, result, reason)


def _read_pattern(line: str, kind: str) -> tuple[Pattern | None, str, str]:
    """Return pattern, result and, where there is no pattern, the reason."""
    is_negated = False
    while line.startswith("!"):
        is_negated, line = not is_negated, line[1:].lstrip(SPACE)
    delimiter = line[:1]
    if not delimiter or delimiter.isalnum() or delimiter in SPACE:
        return None, line, "no pattern between two delimiters such as / /"
    end = _find_end(line, delimiter)
    if end < 0:
        return None, line, f'its pattern has no second "{delimiter}"'
    flags, _, result = line[end + 1 :].replace("\t", " ").partition(" ")
    text, reason = _translate(line[1:end], flags, kind)
    result = result.strip(SPACE)
    return (None if reason else Pattern(text, is_negated)), result, reason


def _find_end(line: str, delimiter: str) -> int:
    """Return where the pattern ends, -1 for nowhere; a delimiter behind a backslash does not end it."""
    place = 1
    while place < len(line):
        if line[place] == "\\":
            place += 1
        elif line[place] == delimiter:
            return place
        place += 1
    return -1


def _translate(text: str, flags: str, kind: str) -> tuple[str, str]:
    """Return the relay's form of a pattern, and the reason why there is none."""
    unknown = [flag for flag in flags if flag not in _FLAGS[kind]]
    if unknown:
        return "", f'the flag "{unknown[0]}", which {kind}_table(5) does not know'
    odd = {flag for flag in flags if flags.count(flag) % 2}
    if refused := sorted(odd & ({"x"} if kind == "regexp" else {"E", "U"})):
        return "", f'the flag "{refused[0]}" has no equivalent'
    if kind == "regexp":
        text = _WORD_EDGES.sub(lambda found: found[1] or r"\b", text)
    inline = _INLINE_FLAGS.match(text)
    if inline:
        text = f"(?{inline[1]}:{text[inline.end() :]})"
    on = "".join(sorted(odd & {"m", "x"}))
    off = "".join(sorted(odd & {"i", "s"}))
    if on or off:
        text = f"(?{on}{'-' if off else ''}{off}:{text})"
    return (rf"\A(?:{text})" if "A" in odd else text), ""
