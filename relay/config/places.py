"""Where the rules of a configuration stand in its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from relay.config.problems import KeyPath, find_lines
from relay.mail.address import fold, unquote_address


@dataclass(frozen=True, slots=True)
class Places:
    """The lines of keys and tables in one file."""

    file: str = ""
    """"" where there is none, and all is default."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict)
    """By the keys as written."""
    folded: Mapping[KeyPath, int] = field(default_factory=dict)
    """By the keys as they are looked up, where one line has them."""

    @classmethod
    def of(cls, file: str, text: str) -> Self:
        """Return the places in a valid TOML text."""
        lines = find_lines(text)
        found: dict[KeyPath, set[int]] = {}
        for path, line in lines.items():
            found.setdefault(_fold_path(path), set()).add(line)
        return cls(file, lines, {path: min(them) for path, them in found.items() if len(them) == 1})

    def find(self, path: Sequence[str | int]) -> int | None:
        """Return the line on which a key begins, counted from 1; None where it is not found for certain."""
        exact = tuple(path)
        return self.lines.get(exact) or self.folded.get(_fold_path(exact))


def _fold_path(path: KeyPath) -> KeyPath:
    """Return a path under which an address is found however it is written."""
    return tuple(part if isinstance(part, int) else fold(unquote_address(part)) for part in path)
