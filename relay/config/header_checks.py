"""The list of header checks, ``[[header_checks]]``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import regex

from relay.config.problems import suggest
from relay.config.sections import Section
from relay.config.values import one_of, parse_mail_address, parse_text
from relay.mail.header_checks import Action, HeaderCheck

Scope = Literal["all", "external"]

_HEADER = re.compile(r"[!-9;-~]+[ \t]*:")
_REFERENCE = re.compile(r"\$(?:\$|(\d+)|\{(\d+)\}|\((\d+)\))?", re.ASCII)
_EXTERNAL_ACTIONS = (Action.IGNORE, Action.REPLACE, Action.PREPEND, Action.STRIP)
_ACTION_NEEDS = {
    Action.REPLACE: 'a whole header behind it, such as "REPLACE Subject: new text"',
    Action.PREPEND: 'a whole header behind it, such as "PREPEND X-Seen: yes"',
    Action.REDIRECT: 'a full mail address behind it, such as "REDIRECT chris@example.org"',
    Action.BCC: 'a full mail address behind it, such as "BCC chris@example.org"',
}


def read_header_checks(sections: list[Section]) -> tuple[HeaderCheck, ...]:
    """Return the header checks in order, compiled (header_checks(5), pcre_table(5))."""
    checks: list[HeaderCheck] = []
    for section in sections:
        pattern = section.require("pattern", _parse_pattern)
        action = section.require("action", _parse_action)
        scope: Scope = section.read("scope", one_of("all", "external"), "all")
        section.reject_unknown()
        if pattern is None or action is None:
            continue
        check = HeaderCheck(pattern, *action, scope)
        if any((other.pattern.pattern, other.scope) == (pattern.pattern, scope) for other in checks):
            section.reject("stands in an earlier check already; the first one decides", "pattern")
        for message in _find_mistakes(check):
            section.reject(message, "action")
        checks.append(check)
    return tuple(checks)


def _parse_pattern(value: object) -> regex.Pattern[str]:
    """Return a pattern with the flags that Postfix gives to its own (pcre_table(5))."""
    try:
        return regex.compile(parse_text(value), regex.IGNORECASE | regex.DOTALL)
    except (regex.error, ValueError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None


def _parse_action(value: object) -> tuple[Action, str]:
    word, *rest = parse_text(value).split(maxsplit=1) or [""]
    actions = [action.value for action in Action]
    if word.upper() not in actions:
        hint = suggest(word.upper(), actions) or f"; known are {', '.join(actions)}"
        raise ValueError(f'"{word}" is not an action{hint}')
    action = Action(word.upper())
    text = "".join(rest).rstrip()
    if not _has_its_text(action, text):
        raise ValueError(f"{action} needs {_ACTION_NEEDS[action]}")
    return action, text


def _has_its_text(action: Action, text: str) -> bool:
    if action in (Action.REPLACE, Action.PREPEND):
        return bool(_HEADER.match(text))
    if action in (Action.REDIRECT, Action.BCC):
        try:
            parse_mail_address(text)
        except ValueError:
            return False
    return True


def _find_mistakes(check: HeaderCheck) -> Iterator[str]:
    """Yield what is wrong with a check whose parts are right."""
    if check.scope == "external" and check.action not in _EXTERNAL_ACTIONS:
        known = ", ".join(_EXTERNAL_ACTIONS)
        yield f'{check.action} can\'t have scope = "external"; only {known} can'
    groups = check.pattern.groups
    for reference in _REFERENCE.finditer(check.text):
        if reference[0] == "$":
            yield 'a "$" stands before a number, as in $1; a dollar sign itself is written $$'
        elif reference[0] != "$$" and not 0 < int(next(filter(None, reference.groups()))) <= groups:
            yield f"{reference[0]} stands for nothing; groups in ( ) that the pattern has: {groups}"
