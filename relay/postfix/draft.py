"""What comes out of an import: the settings of relay.toml, words beside them, and what has no equivalent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from relay.config.problems import KeyPath

Table = dict[str, object]


class Lack(NamedTuple):
    """Something of Postfix's files that the relay does not have."""

    what: str
    """``name = value``, or the place of a line."""
    reason: str


@dataclass(slots=True)
class Draft:
    """A relay.toml that grows."""

    document: Table = field(default_factory=dict)
    remarks: dict[KeyPath, list[str]] = field(default_factory=dict)
    """Sentences above a table, or above a key at the top; () is the head of the file."""
    offers: dict[KeyPath, list[str]] = field(default_factory=dict)
    """Lines of TOML that stand under a table as a comment, for the owner to complete."""
    lacks: dict[Lack, None] = field(default_factory=dict)
    """In order, each once."""

    def put(self, value: object, *path: str) -> None:
        """Set the value at a path; tables on the way are made."""
        table = self.document
        for key in path[:-1]:
            inner = table.setdefault(key, {})
            if not isinstance(inner, dict):
                raise TypeError(f"{key} is no table")
            table = inner
        table[path[-1]] = value

    def table(self, *path: str) -> Table:
        """Return the table at a path; an empty one that is not part of the document if there is none."""
        table: object = self.document
        for key in path:
            table = table.get(key, {}) if isinstance(table, dict) else {}
        return table if isinstance(table, dict) else {}

    def blocks(self, key: str) -> list[Table]:
        """Return the list of tables under a key."""
        blocks = self.document.setdefault(key, [])
        if not isinstance(blocks, list):
            raise TypeError(f"{key} is no list")
        return blocks

    def remark(self, sentence: str, *path: str | int) -> None:
        """Say something about a table or a key at the top, once."""
        said = self.remarks.setdefault(path, [])
        if sentence not in said:
            said.append(sentence)

    def offer(self, line: str, *path: str | int) -> None:
        """Offer a line to complete under a table."""
        self.offers.setdefault(path, []).append(line)

    def lack(self, what: str, reason: str) -> None:
        """Note that something has no equivalent."""
        self.lacks[Lack(what, reason)] = None

    def find(self, *path: str | int) -> object:
        """Return what stands at a path; None where there is nothing."""
        value: object = self.document
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and key < len(value):
                value = value[key]
            else:
                return None
        return value

    def drop(self, *path: str | int) -> None:
        """Take out what stands at a path; what is said about the blocks behind it stays with them."""
        parent, key = self.find(*path[:-1]), path[-1]
        if isinstance(parent, dict):
            parent.pop(key, None)
            if not parent and len(path) > 1:
                self.drop(*path[:-1])
        elif isinstance(parent, list) and isinstance(key, int):
            del parent[key]
            self.remarks = _move_up(self.remarks, path[:-1], key)
            self.offers = _move_up(self.offers, path[:-1], key)
            if not parent:
                self.drop(*path[:-1])


def _move_up(said: dict[KeyPath, list[str]], path: KeyPath, place: int) -> dict[KeyPath, list[str]]:
    """Return sentences about the blocks of a list after one of them is gone."""
    moved = {}
    for key, sentences in said.items():
        if len(key) == len(path) + 1 and key[:-1] == path and isinstance(key[-1], int):
            if key[-1] == place:
                continue
            if key[-1] > place:
                key = (*path, key[-1] - 1)  # noqa: PLW2901 - the same block
        moved[key] = sentences
    return moved
