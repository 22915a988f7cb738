"""Reading a TOML table key by key, so that what nobody asked for can be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from relay.config.problems import KeyPath, Problems, suggest
from relay.config.values import describe, parse_path

Value = TypeVar("Value")
MaybePath = TypeVar("MaybePath", bound=Path | None)

_TOP_KEYS = (
    "hostname",
    "helo_name",
    "address_notice",
    "domain",
    "postmaster",
    "relayhost",
    "fallback",
    "prefer",
)


class Section:
    """One table of the file. What is wrong in it goes to the problems, and the default stands in."""

    def __init__(self, problems: Problems, path: KeyPath, content: object) -> None:
        self.path = path
        self._problems = problems
        self._known: list[str] = []
        self._is_table = isinstance(content, dict)
        self.has_wrong_values = not self._is_table
        """Whether what was read so far could not all be parsed: then defaults stand in, and say nothing."""
        self._content: dict[str, object] = content if isinstance(content, dict) else {}
        if not self._is_table:
            problems.add(path, f"must be a table, not {describe(content)}")

    def reject(self, message: str, *path: str | int) -> None:
        """Note that this table, or what is at ``path`` in it, is wrong."""
        self._problems.add((*self.path, *path), message)

    def read(self, key: str, parse: Callable[[object], Value], default: Value) -> Value:
        """Return the parsed value of a key."""
        self._known.append(key)
        if key not in self._content:
            return default
        return self._attempt(parse, self._content[key], default, key)

    def read_path(self, key: str, default: MaybePath) -> Path | MaybePath:
        """Return the path at a key; a relative one starts at the folder of the file that names it."""
        path = self.read(key, parse_path, None)
        return default if path is None else self._problems.folder / path

    def require(self, key: str, parse: Callable[[object], Value]) -> Value | None:
        """Return the parsed value of a key that has no default; None if it is missing or wrong."""
        if self._is_table and key not in self._content:
            self.reject(f'needs the key "{key}"')
        return self.read(key, parse, None)

    def read_list(
        self,
        key: str,
        parse: Callable[[object], Value],
        default: tuple[Value, ...],
        *,
        may_be_empty: bool = True,
    ) -> tuple[Value, ...]:
        """Return the parsed items of a list; items that are wrong are left out."""
        self._known.append(key)
        content = self._content.get(key)
        if content is None:
            return default
        if not isinstance(content, list):
            self.reject(f"must be a list in [ ], not {describe(content)}", key)
            return default
        if not content and not may_be_empty:
            self.reject("must not be empty", key)
        parsed = (self._attempt(parse, item, None, key, place) for place, item in enumerate(content))
        return tuple(item for item in parsed if item is not None)

    def table(self, key: str) -> Section:
        """Return the table under a key; one that is missing is empty."""
        self._known.append(key)
        content = self._content.get(key, {})
        if isinstance(content, list):
            self.reject(f"must be written [{key}], in single brackets", key)
            content = {}
        return Section(self._problems, (*self.path, key), content)

    def tables(self, key: str) -> list[Section]:
        """Return the tables written ``[[key]]``, in order."""
        self._known.append(key)
        content = self._content.get(key, [])
        if not isinstance(content, list):
            self.reject(f"must be written [[{key}]], in double brackets", key)
            return []
        return [Section(self._problems, (*self.path, key, place), item) for place, item in enumerate(content)]

    def own_keys(self, parse_key: Callable[[str], str]) -> Iterator[tuple[str, str]]:
        """Yield the keys that the owner chose, as written and as looked up, but no wrong or repeated ones."""
        seen: dict[str, str] = {}
        for written in self._content:
            try:
                key = parse_key(written)
            except ValueError as error:
                self.reject(str(error), written)
                continue
            if key in seen:
                self.reject(f'is the same entry as "{seen[key]}"; keep one of them', written)
                continue
            seen[key] = written
            yield written, key

    def has(self, key: str) -> bool:
        """Return whether the owner has given a key."""
        return key in self._content

    def has_table(self, key: str) -> bool:
        """Return whether the value of a key is a table."""
        return isinstance(self._content.get(key), dict)

    def reject_unknown(self) -> None:
        """Note every key that was not asked for."""
        for key in self._content:
            if key in self._known:
                continue
            if key in _TOP_KEYS:
                self.reject("belongs at the top of the file, above the first line in [ ]", key)
                continue
            hint = suggest(key, self._known) or f"; known here: {', '.join(self._known)}"
            self.reject(f"unknown key{hint}", key)

    def _attempt(
        self, parse: Callable[[object], Value], content: object, default: Value, *path: str | int
    ) -> Value:
        try:
            return parse(content)
        except ValueError as error:
            self.reject(str(error), *path)
            self.has_wrong_values = True
            return default
