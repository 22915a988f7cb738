"""Lookup tables in their source form (postmap(1), postalias(1), DATABASE_README)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from relay.postfix.logical_lines import is_stray, logical_lines, split_list

ReadFile = Callable[[str], str]
"""Returns the text of a file that Postfix's files name; raises OSError."""

INDEXED = frozenset({"hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash"})
"""Types whose source is a text file with a key and a value on each line."""
PATTERNS = frozenset({"regexp", "pcre"})

_ENTRY = re.compile(r'((?:"(?:\\.|[^"\\])*"|\S)+)\s+(.*)', re.DOTALL)
_ALIAS = re.compile(r'("(?:\\.|[^"\\])*"|[^:\s][^:]*?)\s*:\s*(.*)', re.DOTALL)
_TARGET = re.compile(r'(?:"(?:\\.|[^"\\])*"|\\.|[^,"\\])+')
_INLINE = re.compile(r"\{(.*)\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TableName:
    """How main.cf names a table."""

    kind: str
    """Its type, "" for a file of lines."""
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}" if self.kind else self.path


def parse_table_name(text: str) -> TableName:
    """Return the type and the path of ``hash:/etc/postfix/transport``."""
    kind, colon, path = text.removeprefix("proxy:").partition(":")
    if not colon or "/" in kind:
        return TableName("", text)
    return TableName(kind.lower(), path.removesuffix(".db") if kind.lower() in INDEXED else path)


def read_entries(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, key and value of each entry; a key without a value has ""."""
    for number, line in logical_lines(text):
        if not is_stray(line):
            entry = _ENTRY.fullmatch(line)
            yield (number, entry[1], entry[2]) if entry else (number, line, "")


def read_alias_entries(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield line, name and targets of each alias (aliases(5)); no targets where it can't be read."""
    for number, line in logical_lines(text):
        if not is_stray(line):
            entry = _ALIAS.fullmatch(line)
            yield (number, _unquote(entry[1]), split_targets(entry[2])) if entry else (number, line, [])


def split_targets(text: str) -> list[str]:
    """Return what commas divide, without the quotes around ``"|program"``."""
    targets = (target.strip() for target in _TARGET.findall(text))
    return [_unquote(target) for target in targets if target]


def read_inline(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the entries of ``{ key=value, { key = text with spaces } }``, each on line 0."""
    content = _INLINE.fullmatch(text.strip())
    for item in split_list(content[1]) if content else []:
        inner = _INLINE.fullmatch(item)
        key, _, value = (inner[1] if inner else item).partition("=")
        yield 0, key.strip(), value.strip()


def first_of_each(entries: Iterator[tuple[int, str, str]]) -> Mapping[str, str]:
    """Return values by key in small letters; the first one of a key counts, as for postmap(1)."""
    table: dict[str, str] = {}
    for _, key, value in entries:
        table.setdefault(key.lower(), value)
    return table


def _unquote(text: str) -> str:
    is_quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if is_quoted and "@" not in text[-2:] else text
