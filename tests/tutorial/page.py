"""The pages: blocks of code between prose, and the file relay.toml that they build up."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (DOCS / "tutorial.md", DOCS / "tutoriel.md")
"""The first is the one that is done; the other has the same blocks."""

_BLOCK = re.compile(
    r"^```(?P<info>[a-z][^\n`]*)\n(?P<text>.*?)^```$|^<!-- world: (?P<event>.*?) -->$",
    re.MULTILINE | re.DOTALL,
)
_HEADER = re.compile(r"^(\[.*\])", re.MULTILINE)
_KEY = re.compile(r"^(#?)(\w+|\".*?\") *=", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: its kind, what else stands behind the backticks, and its text with its line feeds."""

    kind: str
    about: str
    text: str
    line: int
    """Where it begins in its page, from 1."""


def read_blocks(page: str) -> list[Block]:
    """Return the blocks of a page, and what happens in the world, in order."""
    blocks = []
    for found in _BLOCK.finditer(page):
        line = page.count("\n", 0, found.start()) + 1
        if found["event"]:
            blocks.append(Block("world", found["event"], "", line))
        else:
            kind, _, about = found["info"].partition(" ")
            blocks.append(Block(kind, about, found["text"], line))
    return blocks


def revise(page: str, seen: Sequence[str]) -> str:
    """Return a page that shows what was seen; relay.toml stays as the page itself has it."""
    pieces: list[str] = []
    texts = []
    for block, text in zip(read_blocks(page), seen, strict=True):
        if block.kind != "toml":
            texts.append(text)
        elif block.about.endswith(" whole"):
            texts.append(compose(pieces))
        else:
            texts.append(block.text)
            pieces.append(block.text)
    return _replace_texts(page, texts)


def compose(pieces: Iterable[str]) -> str:
    """Return the file that edits one after the other make, each as ``toml relay.toml`` says it."""
    file: dict[str, list[str]] = {"": []}
    for piece in pieces:
        top, *tables = _HEADER.split(piece)
        file[""] = _edit(file[""], top)
        bodies = list(zip(tables[::2], tables[1::2], strict=True))
        for header in dict.fromkeys(header for header, _ in bodies):
            texts = [f"{header}{body.rstrip()}\n" for name, body in bodies if name == header]
            file[header] = texts if re.search(r"(?m)^[^#\s]", "".join(texts).replace(header, "")) else []
    parts = ["".join(file.pop("")), *("\n".join(tables) for tables in file.values() if tables)]
    return "\n".join(part for part in parts if part)


def _edit(lines: list[str], piece: str) -> list[str]:
    """Replace the lines of top-level keys by those of a piece, and add the others."""
    edited = {_name(line): line for line in lines}
    for line in piece.splitlines(keepends=True):
        if line.strip():
            edited[_name(line)] = line
    return [line for line in edited.values() if not line.startswith("#")]


def _name(line: str) -> str:
    found = _KEY.match(line)
    return found[2] if found else line


def _replace_texts(page: str, texts: Sequence[str]) -> str:
    """Return a page with other texts in its blocks."""
    waiting = iter(texts)

    def replace(found: re.Match[str]) -> str:
        text = next(waiting)
        return found[0] if found["event"] else f"```{found['info']}\n{text}```"

    return _BLOCK.sub(replace, page)
