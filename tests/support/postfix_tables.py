"""Reading of Postfix's regular-expression tables (regexp_table(5), pcre_table(5)), for the recorded cases.

What Postfix skips with a warning (an unknown flag, a pattern that does not compile, a reference to a group
that is not there) is skipped here too: such a rule never comes to a relay.toml.
"""

from __future__ import annotations

import re

import regex

Rule = tuple[str, str, str, str]
"""Pattern, flags, action in upper case, text."""

_FLAGS = "ims"
_OTHER_FLAGS = "xAEUX"
_REFERENCE = re.compile(r"\$(?:\$|(\d+)|\{(\d+)\}|\((\d+)\))")


def parse_header_checks(text: str) -> list[Rule]:
    """Return the rules of a table; a pattern that must not match begins with "!"."""
    rules = []
    for line in _logical_lines(text):
        if re.match(r"(?i)(if|endif)\b", line):
            raise ValueError(f"no form in relay.toml: {line}")
        rule = _parse_rule(line)
        if any(flag in _OTHER_FLAGS for flag in rule[1]):
            raise ValueError(f"no form in relay.toml: flags {rule[1]}")
        if _is_valid(rule):
            rules.append(rule)
    return rules


def make_pattern(pattern: str, flags: str) -> str:
    """Return the pattern for relay.toml, where case is ignored and a dot matches a line feed by default."""
    negated = pattern.startswith("!")
    body = pattern[1:] if negated else pattern
    on = "m" if "m" in flags else ""
    off = "".join(flag for flag in "is" if flag in flags)
    if on or off:
        body = f"(?{on}{'-' + off if off else ''}:{body})"
    return f"(?s:^(?!.*(?:{body})))" if negated else body


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in " \t" and lines:
            lines[-1] += line
        else:
            lines.append(line.strip())
    return lines


def _parse_rule(line: str) -> Rule:
    mark = "!" if line.startswith("!") else ""
    start = len(mark)
    delimiter = line[start]
    end = start + 1
    while line[end] != delimiter:
        end += 2 if line[end] == "\\" else 1
    flags, _, result = line[end + 1 :].partition(" ")
    action, _, text = result.strip().partition(" ")
    return mark + line[start + 1 : end], flags, action.upper(), text.strip()


def _is_valid(rule: Rule) -> bool:
    pattern, flags, _, text = rule
    if any(flag not in _FLAGS for flag in flags):
        return False
    try:
        groups = regex.compile(make_pattern(pattern, flags)).groups
    except regex.error:
        return False
    numbers = [next(filter(None, m.groups())) for m in _REFERENCE.finditer(text) if m[0] != "$$"]
    return all(0 < int(number) <= groups for number in numbers)
