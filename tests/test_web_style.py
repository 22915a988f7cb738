"""The colours can be told apart: WCAG 2.2, contrast of at least 4.5 to 1 for text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import relay.web

STYLE = (Path(relay.web.__path__[0]) / "static" / "page.css").read_text(encoding="utf-8")
PAIRS = [
    *((ink, ground) for ink in ("ink", "faint", "accent", "wait", "bad") for ground in ("ground", "card")),
    *((tone, f"{tone}-ground") for tone in ("good", "busy", "wait", "bad")),
    *(("ink", f"{tone}-ground") for tone in ("good", "busy", "wait", "bad")),
    ("accent-ink", "accent"),
    ("card", "bad"),
]


def palette(theme: str) -> dict[str, str]:
    """Return the colours of a theme by name."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6});", light if theme == "light" else dark))


def luminance(colour: str) -> float:
    channels = (int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_text_can_be_read(theme: str, ink: str, ground: str) -> None:
    colours = palette(theme)
    darker, lighter = sorted((luminance(colours[ink]), luminance(colours[ground])))
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_nothing_comes_from_elsewhere() -> None:
    for path in Path(relay.web.__path__[0]).glob("[st]*/*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace("// ", "")), path
        assert not re.search(r"<style|style=|onclick|javascript:|\|\s*safe", text), path
