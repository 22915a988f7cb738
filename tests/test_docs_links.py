"""Every link of the documentation leads somewhere; those to the outside are not followed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from docs.forms import FORMS, draw
from tests.support.documents import PAGES, ROOT, name, prose

_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_ADDRESS = re.compile(r"<([a-z]+:[^>\s]+)>|(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"(?m)^#{1,6} (.*)$")
_HTML_ANCHOR = re.compile(r'<a (?:id|name)="([^"]+)"')
_OURS = ("http://127.0.0.1", "http://gw1.")


def find_links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text(encoding="utf-8")))
    return [*_LINK.findall(text), *(one or other for one, other in _ADDRESS.findall(text))]


def anchors(page: Path) -> set[str]:
    """Return where links into a page may lead, as GitHub names headings."""
    text = prose(page.read_text(encoding="utf-8"))
    seen: Counter[str] = Counter()
    found = {*_HTML_ANCHOR.findall(text)}
    for heading in _HEADING.findall(text):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def explain(page: Path, link: str) -> str:
    """Return what is wrong with a link, "" if nothing is."""
    if re.match("[a-z]+:", link):
        return "" if link.startswith(("https://", *_OURS)) else "leaves the house, but not by https"
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return "leads to nothing"
    if not target.is_relative_to(ROOT):
        return "leads out of the project"
    if anchor and anchor not in anchors(target):
        return "leads to no heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = {link: reason for link in find_links(page) if (reason := explain(page, link))}
    assert not wrong


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        waiting += [
            (page.parent / link.partition("#")[0]).resolve() for link in find_links(page) if ":" not in link
        ]
    assert {*map(name, PAGES)} - {*map(name, reached)} == set()


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in find_links(page) if ":" not in link}
    pictures = {path for kind in ("png", "svg") for path in (ROOT / "docs").rglob(f"*.{kind}")}
    assert {*map(name, pictures - shown)} == set()


def test_drawings_are_those_of_their_script() -> None:
    for drawing, form in FORMS.items():
        assert (ROOT / f"docs/pictures/form-{drawing}.svg").read_text(encoding="utf-8") == draw(form)
