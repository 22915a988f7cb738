"""The text of a relay.toml: keys and values as TOML, sentences as comments above them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

import tomli_w

from relay.config.problems import format_path
from relay.texts import make_line

WIDTH = 116


def write_block(sentences: Iterable[str], header: str, table: Mapping[str, object]) -> list[str]:
    """Return the lines of a comment, of a table under its header in brackets, and an empty one.

    Where the header is "", the keys stand at the top of the file.
    """
    head = [header] if header else []
    return [*write_comment(sentences), *head, *write_body(table), ""]


def write_comment(sentences: Iterable[str]) -> list[str]:
    """Return sentences as comment lines that are not too long."""
    return [
        f"# {line}"
        for sentence in sentences
        for line in textwrap.wrap(make_line(sentence), WIDTH, break_long_words=False, break_on_hyphens=False)
    ]


def write_body(table: Mapping[str, object]) -> list[str]:
    """Return the lines of the keys of a table."""
    return [line for key, value in table.items() for line in write_pair(key, value)]


def write_pair(key: str, value: object) -> list[str]:
    """Return the lines of a key and its value; text with backslashes stands in single quotes where it can."""
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return [f"{format_path((key,))} = '{value}'"]
    if isinstance(value, list) and (line := _write_list(key, value)):
        return [line]
    if isinstance(value, Mapping):
        return [f"{format_path((key,))} = {{ {', '.join(write_body(value))} }}"]
    return tomli_w.dumps({key: value}).rstrip("\n").split("\n")


def _write_list(key: str, values: list[object]) -> str:
    """Return a list on one line; "" where it is too long for that."""
    items = [tomli_w.dumps({"_": value}).strip().removeprefix("_ = ") for value in values]
    line = f"{tomli_w.dumps({key: ''}).partition(' = ')[0]} = [{', '.join(items)}]"
    return line if len(line) <= WIDTH else ""
