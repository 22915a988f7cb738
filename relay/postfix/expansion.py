"""The values of other parameters inside a value: ``$name``, ``${name?text}`` and the like (postconf(5))."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

Lookup = Callable[[str], str]
"""Returns the value of a parameter; "" where there is none."""

LONGEST = 100_000
"""Characters that a value may come to."""
IsSet = Callable[[str], bool]
"""Whether anything is written behind the "=" of a parameter, whatever that comes to: what "?" and ":" ask."""
DEEPEST = 50
"""Braces in braces."""

_NAME = re.compile(r"[A-Za-z0-9_]+")
_CLOSERS = {"{": "}", "(": ")"}
_OPERATOR = re.compile(r"\s*(==|!=|<=|>=|<|>)(level)?\s*(?=\{)")
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = MappingProxyType(
    {
        "==": operator.eq,
        "!=": operator.ne,
        "<": operator.lt,
        "<=": operator.le,
        ">": operator.gt,
        ">=": operator.ge,
    }
)


def expand(text: str, lookup: Lookup, is_set: IsSet, depth: int = 0) -> str:
    """Return a value with the values of others filled in. Raises ValueError where that cannot be done."""
    if depth > DEEPEST:
        raise ValueError("too many braces in braces")
    parts: list[str] = []
    place = size = 0
    while (dollar := text.find("$", place)) >= 0:
        parts.append(text[place:dollar])
        part, place = _expand_at(text, dollar + 1, lookup, is_set, depth)
        parts.append(part)
        size += len(part)
        if size > LONGEST:
            raise ValueError(f"comes to more than {LONGEST} characters")
    return "".join(parts) + text[place:]


def find_names(text: str) -> set[str]:
    """Return the names of the parameters that a value may ask for."""
    return set(re.findall(r"\$[{(]?\s*([A-Za-z0-9_]+)", text)) | set(re.findall(r"\{\$([A-Za-z0-9_]+)", text))


def _expand_at(text: str, place: int, lookup: Lookup, is_set: IsSet, depth: int) -> tuple[str, int]:
    """Return what stands for the expression behind a "$", and where the text goes on."""
    if text.startswith("$", place):
        return "$", place + 1
    if text[place : place + 1] in _CLOSERS:
        content, end = _take_braces(text, place)
        return _evaluate(content, lookup, is_set, depth + 1), end
    name = _NAME.match(text, place)
    if name is None:
        raise ValueError('has a "$" without a name behind it; a dollar sign itself is written $$')
    return lookup(name[0]), name.end()


def _take_braces(text: str, place: int) -> tuple[str, int]:
    """Return what stands between the brace at a place and the one that closes it, and the place behind."""
    opener = text[place]
    closer, depth = _CLOSERS[opener], 0
    for index in range(place, len(text)):
        depth += (text[index] == opener) - (text[index] == closer)
        if not depth:
            return text[place + 1 : index], index + 1
    raise ValueError(f'has a "{opener}" that is not closed')


def _evaluate(content: str, lookup: Lookup, is_set: IsSet, depth: int) -> str:
    """Return the value of what stands in ``${ }``: a name or a comparison, and what depends on it."""
    if content.lstrip().startswith("{"):
        is_true, rest = _compare(content.lstrip(), lookup, is_set, depth)
        value = "bool" if is_true else ""
    else:
        name = _NAME.match(content)
        if name is None:
            raise ValueError(f'has "${{{content[:30]}}}", which is no name')
        rest = content[name.end() :].strip()
        if not rest:
            return lookup(name[0])
        value = "set" if is_set(name[0]) else ""
    if not rest:
        return value
    chosen, other = _divide(rest[1:])
    if rest[0] == "?":
        return expand(chosen if value else other, lookup, is_set, depth)
    if rest[0] == ":":
        return "" if value else expand(chosen, lookup, is_set, depth)
    raise ValueError(f'has "{rest[:30]}" where "?" or ":" belongs')


def _divide(text: str) -> tuple[str, str]:
    """Return both texts of ``{this}:{other}``; without braces there is one."""
    if not text.lstrip().startswith("{"):
        return text, ""
    text = text.lstrip()
    first, place = _take_braces(text, 0)
    rest = text[place:].strip()
    if not rest:
        return first.strip(), ""
    if not rest.startswith(":"):
        raise ValueError(f'has "{rest[:30]}" where ":" belongs')
    other = rest[1:].strip()
    return first.strip(), _take_braces(other, 0)[0].strip() if other.startswith("{") else other


def _compare(content: str, lookup: Lookup, is_set: IsSet, depth: int) -> tuple[bool, str]:
    """Return the outcome of ``{this} == {that}`` and what stands behind."""
    left, place = _take_braces(content, 0)
    sign = _OPERATOR.match(content, place)
    if sign is None:
        raise ValueError("has a comparison without its sign, such as ==")
    right, end = _take_braces(content, sign.end())
    values = [expand(side.strip(), lookup, is_set, depth) for side in (left, right)]
    compare = _COMPARISONS[sign[1]]
    if sign[2]:
        outcome = compare(*map(_level, values))
    elif all(re.fullmatch(r"[0-9]{1,18}", value) for value in values):
        outcome = compare(*map(int, values))
    else:
        outcome = compare(*values)
    return outcome, content[end:].strip()


def _level(text: str) -> tuple[int, int, int]:
    """Return a compatibility level, "3.6" or "2", in a form that can be compared."""
    numbers = [int(part) for part in re.findall(r"[0-9]{1,9}", text)[:3]]
    first, second, third = (*numbers, 0, 0, 0)[:3]
    return first, second, third
