"""Reading our own documentation: its pages, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    [ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "bench/README.md")]
    + [*(ROOT / "docs").rglob("*.md")]
)

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>```+)(?P<language>.*)")
_ROW = re.compile(r"(?m)^\|(.*)\|\n\|(?:[ :-]+\|)+\n((?:\|.*\|\n)+)")
_CELL_END = re.compile(r"(?<!\\)\|")
_SPAN = re.compile(r"(`+)(.+?)\1", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code."""

    line: int
    """The number of its first line in the page."""
    language: str
    text: str


def name(page: Path) -> str:
    """Return the name of a page, for the names of tests."""
    return str(page.relative_to(ROOT))


def read(path: str) -> str:
    """Return the text of a page."""
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of code between fences, and those that are indented by four, in order."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        start = number
        if fence := _FENCE.fullmatch(lines[number]):
            number += 1
            while number < len(lines) and lines[number].strip() != fence["fence"]:
                number += 1
            body = [line.removeprefix(fence["indent"]) for line in lines[start + 1 : number]]
            yield Block(start + 2, fence["language"].strip(), "\n".join(body) + "\n")
            number += 1
        elif lines[number].startswith("    ") and (number == 0 or not lines[number - 1].strip()):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            yield Block(start + 1, "", "\n".join(line[4:] for line in lines[start:number]) + "\n")
        else:
            number += 1


def prose(text: str) -> str:
    """Return a page without the blocks between fences, whose lines are left empty."""
    kept, ends_with = [], ""
    for line in text.splitlines():
        fence = _FENCE.fullmatch(line)
        if fence and not ends_with:
            ends_with = fence["fence"]
        elif ends_with and line.strip() == ends_with:
            ends_with = ""
        elif not ends_with:
            kept.append(line)
            continue
        kept.append("")
    return "\n".join(kept) + "\n"


def spans(text: str) -> list[str]:
    """Return what stands between backquotes, on one line each."""
    return [" ".join(span.split()) for _, span in _SPAN.findall(prose(text))]


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one that is not lower."""
    marks = heading.partition(" ")[0]
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"there is no heading: {heading}"
    return re.split(rf"(?m)^#{{1,{len(marks)}}} ", rest)[0]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the rows of all tables, without their headings, as cells."""
    for _, body in _ROW.findall(text):
        for line in body.splitlines():
            yield [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(line.strip()[1:-1])]
