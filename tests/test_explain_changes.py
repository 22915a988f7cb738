"""What is different between two header blocks."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from relay.explain.changes import Changes, find_changes
from relay.mail.header_checks import Action, Decision, HeaderCheck, Inspection

HEADERS = st.lists(
    st.tuples(st.sampled_from(["A", "b", "B", "To"]), st.sampled_from("123")).map(
        lambda parts: "{}: {}\r\n".format(*parts).encode()
    ),
    max_size=8,
)


def check(pattern: str, action: Action, text: str = "") -> HeaderCheck:
    return HeaderCheck(regex.compile(pattern), action, text)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ([], [], Changes((), (), ())),
        ([b"A: 1", b"A: 2"], [b"A: 2", b"A: 1"], Changes((), (), ())),
        ([b"A: 1", b"a: 2"], [b"A: 3", b"B: 1"], Changes(((b"A: 1", b"A: 3"),), (b"a: 2",), (b"B: 1",))),
        ([b"A: 1", b"A: 1"], [b"A: 1"], Changes((), (b"A: 1",), ())),
    ],
)
def test_headers_are_matched_by_name(before: list[bytes], after: list[bytes], changes: Changes) -> None:
    assert find_changes(before, after, ()) == changes


@given(HEADERS, HEADERS)
def test_every_header_is_accounted_for_once(before: list[bytes], after: list[bytes]) -> None:
    changes = find_changes(before, after, ())
    kept = sorted(before)
    for header in [*(old for old, _ in changes.edited), *changes.dropped]:
        kept.remove(header)
    rebuilt = [*kept, *(new for _, new in changes.edited), *changes.added]
    assert sorted(rebuilt) == sorted(after)


@given(HEADERS)
def test_what_checks_do_is_no_change(headers: list[bytes]) -> None:
    rules = (
        check("^A: 1", Action.IGNORE),
        check("^[bB]: 2", Action.REPLACE, "C: new"),
        check("^To", Action.PREPEND, "D: more"),
    )
    inspection = Inspection(rules)
    kept: list[bytes] = []
    for header in headers:
        inspected = inspection.inspect(header)
        kept += [*inspected.prepended, *([inspected.header] if inspected.header else [])]
    assert find_changes(headers, kept, inspection.decisions) == Changes((), (), ())


def test_a_decision_about_another_header_changes_nothing() -> None:
    inspection = Inspection([check("^Received", Action.IGNORE)])
    inspection.inspect(b"Received: ours\r\n")
    assert [type(decision) for decision in inspection.decisions] == [Decision]
    assert find_changes([b"A: 1\r\n"], [b"A: 1\r\n"], inspection.decisions) == Changes((), (), ())
