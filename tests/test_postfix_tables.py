"""Tables of Postfix: keys and values, aliases, regular expressions, as postmap reads them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from relay.postfix.patterns import Rule, read_rules
from relay.postfix.tables import (
    TableName,
    first_of_each,
    parse_table_name,
    read_alias_entries,
    read_entries,
    read_inline,
    split_targets,
)
from tests.conftest import SEARCH_PATH
from tests.support.postfix_import import IMPORTS


def postmap(table: str, *queries: str) -> dict[str, str]:
    """Return what Postfix finds in a table for each query."""
    folder = Path(table.partition(":")[2]).parent
    (folder / "main.cf").write_text("compatibility_level = 3.6\n")
    for file in folder.iterdir():
        os.utime(file, (1, 1))  # Postfix waits until a file that is new has settled
    command = ["postmap", "-c", str(folder), "-q", "-", table]
    given = "".join(f"{query}\n" for query in queries)
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, env={"PATH": SEARCH_PATH}, check=False
    )
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


def test_names_of_tables() -> None:
    assert parse_table_name("hash:/etc/postfix/x") == TableName("hash", "/etc/postfix/x")
    assert parse_table_name("proxy:lmdb:/x.db") == TableName("lmdb", "/x")
    assert str(parse_table_name("/etc/postfix/networks:x")) == "/etc/postfix/networks:x"
    assert parse_table_name("static:{a:b}") == TableName("static", "{a:b}")


TABLE = """# comment
Key@Example.ORG   value one
  and more
  stray

key@example.org   second
alone
"quoted key"@x    yes
tab\there
"""


@pytest.mark.needs("postmap")
def test_entries_are_those_that_postmap_finds(tmp_path: Path) -> None:
    (tmp_path / "table").write_text(TABLE)
    ours = first_of_each(read_entries(TABLE))
    theirs = postmap(f"texthash:{tmp_path}/table", "key@example.org", "tab", "alone")
    assert ours["key@example.org"] == "value one  and more  stray"
    assert {key: ours[key] for key in theirs} == theirs
    assert theirs.keys() == {"key@example.org", "tab"}
    assert ours["alone"] == ""
    assert ours['"quoted key"@x'] == "yes"


def test_aliases() -> None:
    text = (
        '  stray\nroot: chris, "|/bin/prog a,b"\n"two words" : x\nFamily:\n  a@b.c,\n'
        "  :include:/f\nodd\n: x\n"
    )
    assert [*read_alias_entries(text)] == [
        (2, "root", ["chris", "|/bin/prog a,b"]),
        (3, "two words", ["x"]),
        (4, "Family", ["a@b.c", ":include:/f"]),
        (7, "odd", []),
        (8, ": x", []),
    ]
    assert split_targets(r'"a b"@x, c\,d') == ['"a b"@x', r"c\,d"]


def test_inline_tables() -> None:
    assert [*read_inline("{ a=b, { c = d e }, f }")] == [(0, "a", "b"), (0, "c", "d e"), (0, "f", "")]
    assert [*read_inline("no braces")] == []


def apply(rules: list[Rule], header: str) -> str:
    """Return the result of the first rule that matches, as the relay applies its checks."""
    for rule in rules:
        if rule.pattern and (found := regex.search(rule.whole, header, regex.IGNORECASE | regex.DOTALL)):
            return rule.result.replace("$1", found[1] if found.re.groups else "").replace("$$", "$")
    return ""


HEADERS = [
    "Subject: [SPAM] cheap",
    "Subject: ONLY CAPITALS",
    "SUBJECT: ONLY",
    "subject: buy Viagra",
    "Subject: hello",
    "X-Spam-Flag: YES",
    "x-spam-flag:  yes",
    "List-Id:     <news.example>",
    "X-Note: a secret word",
    "From: X-a: secret",
    "Received: from chris by x",
    "Received: from christine by x",
    "From: chose@public.com",
    "From: chose@public.com.au",
    "X-Slash: /a",
    "X-Cost: 7",
    "Precedence: bulk",
    "Content-Type: text/plain; name=a.exe",
    "Nothing: here",
    "To: x@filter.example",
]


@pytest.mark.needs("postmap")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("header_checks", "pcre"), ("more_checks", "regexp"), ("mime_checks", "pcre"), ("outgoing", "pcre")],
)
def test_rules_match_what_postfix_matches(name: str, kind: str, tmp_path: Path) -> None:
    text = (IMPORTS / "header-checks" / name).read_text()
    rules = [*read_rules(text, kind)]
    # What cannot be carried over is no part of the comparison.
    lines = [
        line for line in text.splitlines() if not line.startswith(("/^X-Ungreedy", "/^X-Broken", "/^X-Paren"))
    ]
    stop = next((place for place, line in enumerate(lines) if line.startswith("if /^(A)")), len(lines))
    lines = lines[:stop]
    if name == "header_checks":
        lines.pop()  # the endif without its if
    (tmp_path / "table").write_text("\n".join(lines) + "\n")
    usable = [rule for rule in rules if rule.pattern and "X-Paren" not in rule.whole]
    theirs = postmap(f"{kind}:{tmp_path}/table", *HEADERS)
    assert {header: result for header in HEADERS if (result := apply(usable, header))} == theirs
    assert name == "outgoing" or theirs


FLAGS = [
    ("pcre", "/a.c/", "A-c"),
    ("pcre", "/a.c/i", "aXc"),
    ("pcre", "/a.c/s", "abc"),
    ("pcre", "/^b/m", "a b"),
    ("pcre", "/a b/x", "ab"),
    ("pcre", "/b/A", "ab"),
    ("pcre", "/b|a/A", "ab"),
    ("pcre", "/a(?i)/ii", "A"),
    ("pcre", "/(?-i)a/", "A"),
    ("pcre", "!/a/", "b"),
    ("pcre", "!!/a/", "a"),
    ("pcre", "! /a/i", "A"),
    ("regexp", "/[[:digit:]]+x{2}/", "12xx"),
    ("regexp", "/A/i", "a"),
    ("regexp", "#a/b#", "a/b"),
    ("regexp", r"/a\/b/", "a/b"),
    ("regexp", r"/\\/", "a\\b"),
    ("regexp", "/x|y$/", "ay"),
]


@pytest.mark.needs("postmap")
@pytest.mark.parametrize(("kind", "pattern", "text"), FLAGS)
def test_flags_mean_what_they_mean_to_postfix(kind: str, pattern: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "table").write_text(f"{pattern} yes\n")
    for query in (text, text.upper(), text.lower(), f"b{text}"):
        expected = bool(postmap(f"{kind}:{tmp_path}/table", query))
        assert bool(apply([*read_rules(f"{pattern} yes", kind)], query)) == expected, query


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no pattern", "no pattern between"),
        ("", ""),
        ("/open", 'no second "/"'),
        ("/a/q x", 'the flag "q", which pcre_table(5) does not know'),
        ("/a/U x", 'the flag "U" has no equivalent'),
        ("endif", "endif without its if"),
        ("if nothing\n/a/ x", "stands under an if that can't be used: no pattern between"),
        (r"if /(a)\1/" + "\n/a/ x", "refers to its own groups"),
    ],
)
def test_what_is_no_rule(text: str, reason: str) -> None:
    rules = [*read_rules(f"  stray\n{text}", "pcre")]
    assert [rule.whole for rule in rules] == [""] * len(rules)
    assert "".join(rule.reason for rule in rules).find(reason) >= 0
    assert bool(rules) == bool(text)


@given(st.text())
def test_no_text_makes_the_readers_fail(text: str) -> None:
    for rule in (*read_rules(text, "pcre"), *read_rules(text, "regexp")):
        assert bool(rule.whole) or rule.pattern is None or not rule.pattern.text
    first_of_each(read_entries(text))
    first_of_each(read_inline(text))
    for _, name, targets in read_alias_entries(text):
        assert name or not targets
