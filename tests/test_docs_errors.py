"""docs/errors.md has every error that a person can meet; "…" stands for what differs from case to case."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.documents import ROOT, read, rows, section, spans

PAGE = "docs/errors.md"
ANYTHING = "…"
LEAST = 12
"""Characters that an entry must have to be more than chance."""

REPLIES = ("Reply",)
TROUBLE = ("QueueError", "NoRoom", "DiskError", "ListenError", "CertificateError", "SecretError")


class _Finder(ast.NodeVisitor):
    """Collects the texts of calls; what is put into them at run time becomes "…"."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.texts: set[str] = set()
        self._names = names
        self._local: list[dict[str, ast.expr]] = [{}]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._local.append({})
        self.generic_visit(node)
        self._local.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that ast looks for

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        if isinstance(node.targets[0], ast.Name):
            self._local[-1][node.targets[0].id] = node.value

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id not in self._names or not node.args:
            return
        code = node.args[0]
        if isinstance(code, ast.Constant) and isinstance(code.value, int) and code.value < 400:
            return  # no error
        text = re.sub(f"{ANYTHING}+", ANYTHING, self._read(node.args[-1])).strip()
        if text.strip(f"{ANYTHING} :"):
            self.texts.add(text)

    def _read(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(map(self._read, parts))
            case ast.FormattedValue(value=ast.Name(id=name)) | ast.Name(id=name) if name in self._local[-1]:
                return self._read(self._local[-1][name])
            case ast.IfExp(body=body):
                return self._read(body)
        return ANYTHING


def find_texts(names: tuple[str, ...], *rooms: str) -> set[str]:
    """Return the texts of all calls of these names in some packages."""
    finder = _Finder(names)
    for room in rooms:
        for path in (ROOT / "relay" / room).rglob("*.py"):
            finder.visit(ast.parse(path.read_text(encoding="utf-8")))
    return finder.texts


def entries(*headings: str) -> list[str]:
    """Return the errors in the first column of the tables below these headings."""
    page = read(PAGE)
    tables = [rows(section(page, heading)) for heading in headings]
    return [entry for table in tables for first, *_ in table for entry in spans(first)]


def covers(entry: str, text: str) -> bool:
    """Whether an entry is this text, or its beginning where the entry ends with "…"."""
    return re.fullmatch(".*".join(map(re.escape, entry.split(ANYTHING))), text, re.DOTALL) is not None


def compare(shown: list[str], real: set[str]) -> tuple[list[str], list[str]]:
    """Return the texts that no entry covers, and the entries that cover nothing."""
    lacking = [text for text in sorted(real) if not any(covers(entry, text) for entry in shown)]
    idle = [entry for entry in shown if not any(covers(entry, text) for text in real)]
    return lacking, idle


REPLY_HEADINGS = ("## What mail programs are told", "## Mail that waits or comes back")
CONFIG_HEADING = "## Mistakes in relay.toml"
START_HEADING = "## When the relay does not start, or its queue fails"


def test_replies_are_explained() -> None:
    real = find_texts(REPLIES, "reception", "mail", "queue", "routing", "delivery", "config")
    assert len(real) > 60
    assert compare(entries(*REPLY_HEADINGS), real) == ([], [])


def test_trouble_at_the_start_is_explained() -> None:
    real = find_texts(TROUBLE, "queue", "reception", "config")
    assert len(real) > 15
    assert compare(entries(START_HEADING), real) == ([], [])


def test_mistakes_in_the_configuration_are_explained() -> None:
    files = (ROOT / "tests/bad_configs").glob("*.toml")
    expected = [re.findall("(?m)^# expect: (.*)$", path.read_text(encoding="utf-8")) for path in files]
    real = {re.sub(r"^relay\.toml(:\d+)?: (\S+: )?(?=\S)", "", text) for texts in expected for text in texts}
    assert len(real) > 120
    assert compare(entries(CONFIG_HEADING), real) == ([], [])


@pytest.mark.parametrize("heading", [*REPLY_HEADINGS, CONFIG_HEADING, START_HEADING])
def test_entries_say_something(heading: str) -> None:
    shown = entries(heading)
    assert len(shown) == len(set(shown))
    assert not [entry for entry in shown if len(entry.replace(ANYTHING, "").strip()) < LEAST]
