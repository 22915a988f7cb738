"""What is wrong with a configuration file: collected, found in the text, told all at once."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

KeyPath = tuple[str | int, ...]
"""Where a value stands: the keys from the top of the file, and places in lists counted from 0."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_QUOTES_HINT = 'text, durations and sizes stand in quotes ("5d"), true and false in small letters'
_TOML_HINTS = {
    "Invalid value": _QUOTES_HINT,
    "Expected newline or end of document after a statement": _QUOTES_HINT,
    "Unescaped '\\'": "text with backslashes stands in single quotes: pattern = '^X-\\w+:'",
    "Cannot declare": "a table stands once; put its keys together",
    "Cannot overwrite a value": "a key stands once",
}


class ConfigError(Exception):
    """The configuration can't be used; ``errors`` has one line for each thing to mend."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


class Problems:
    """Collects what is wrong with one file."""

    def __init__(self, file: str, text: str, folder: Path = Path()) -> None:
        self.folder = folder
        """Where relative paths in the file start."""
        self._file = file
        self._text = text
        self._found: list[tuple[KeyPath, str]] = []

    def add(self, path: KeyPath, message: str) -> None:
        """Note that the value at ``path`` is wrong."""
        self._found.append((path, message))

    @property
    def found(self) -> tuple[tuple[KeyPath, str], ...]:
        """What was noted: the path of each wrong value, and why it is wrong."""
        return tuple(self._found)

    def raise_any(self) -> None:
        """Raise ConfigError, in the order of the file, if anything was noted."""
        if not self._found:
            return
        lines = find_lines(self._text)
        placed = [(_line_of(path, lines), path, message) for path, message in self._found]
        placed.sort(key=lambda item: item[0] or math.inf)
        raise ConfigError(
            [
                f"{_place(self._file, line)}: {format_path(path)}: {_escape(message)}"
                for line, path, message in placed
            ]
        )


def _escape(message: str) -> str:
    """Return a message as one line that is fit for a terminal, whatever the value in it holds."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


def describe_toml_error(file: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    """Return the line that tells a home user what ``tomllib`` could not read."""
    message = str(error)
    position = _TOML_POSITION.search(message)
    if position and position[1]:
        line, where = int(position[1]), f" (column {position[2]})"
    else:
        *_, (line, _) = _statements(text)
        where = ""
    what = _TOML_POSITION.sub("", message)
    hint = next((f"; {hint}" for start, hint in _TOML_HINTS.items() if what.startswith(start)), "")
    return f"{file}:{line}: not valid TOML: {what}{where}{hint}"


def suggest(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" with the nearest of the known words, or "" if none is near."""
    nearest = get_close_matches(word, known, n=1)
    return f'; did you mean "{nearest[0]}"?' if nearest else ""


def format_path(path: KeyPath) -> str:
    """Return a path as a person writes it, ``smarthost.isp.port`` or ``listen[1].address``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{key}" if text else key
    return text


def find_lines(text: str) -> dict[KeyPath, int]:
    """Return the line on which each key and table of a valid TOML text begins, counted from 1.

    The text is cut into statements: the shortest runs of lines that are TOML by themselves.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, statement in _statements(text):
        value = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _open_table(value, number, lines)
            lines.setdefault(table, number)
        else:
            lines.update((table + path, number) for path in _paths(value, ()))
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield each statement with its first line; the last one may be unfinished."""
    pending = ""
    start = 1
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        pending += line + "\n"
        try:
            tomllib.loads(pending)
        except tomllib.TOMLDecodeError:
            continue
        yield start, pending
        pending = ""
        start = number + 1
    if pending:
        yield start, pending


def _open_table(header: object, number: int, lines: dict[KeyPath, int]) -> KeyPath:
    """Return the path of a table header; one in double brackets is the next of its list."""
    path: KeyPath = ()
    while isinstance(header, dict) and header:
        key, header = next(iter(header.items()))
        path += (key,)
    if isinstance(header, list):
        lines.setdefault(path, number)
        place = sum(1 for known in lines if known[:-1] == path and isinstance(known[-1], int))
        path += (place,)
    return path


def _paths(value: object, path: KeyPath) -> Iterator[KeyPath]:
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _paths(inner, (*path, place))


def _line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _place(file: str, line: int | None) -> str:
    return f"{file}:{line}" if line else file
