"""The lines of Postfix's files (postconf(5), postmap(1)): without comments, continued lines in one."""

from __future__ import annotations

from collections.abc import Iterator

SPACE = " \t\r\v\f"


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each logical line with the number of its first line, counted from 1.

    A line that begins with white space goes on with the one before; empty lines and comments do not end it.
    Where there is none before it, it is yielded as it is: Postfix warns and skips it.
    """
    start, parts = 0, list[str]()
    for number, line in enumerate(text.split("\n"), 1):
        content = line.strip(SPACE)
        if not content or content.startswith("#"):
            continue
        if line[0] not in SPACE or not parts:
            if parts:
                yield start, "".join(parts).rstrip(SPACE)
            start, parts = number, []
        parts.append(line)
    if parts:
        yield start, "".join(parts).rstrip(SPACE)


def is_stray(line: str) -> bool:
    """Whether a logical line goes on with nothing."""
    return line[0] in SPACE


def split_list(text: str) -> list[str]:
    """Return the items of a list, which commas and white space divide; what stands in { } is one of them."""
    items, item, depth = [], "", 0
    for character in text:
        depth = max(0, depth + (character == "{") - (character == "}"))
        if depth or (character not in SPACE and character not in ",\n"):
            item += character
        elif item:
            items.append(item)
            item = ""
    return [*items, item] if item else items
