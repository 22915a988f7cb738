from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from relay.config.problems import ConfigError, Problems, find_lines, format_path, suggest

TEXT = '''\
hostname = "gw1"

a.b = 1
[queue] # a comment
retry = [
    "5m", # [not.a.table]
    "10m",
]
path = """
[still.text]
"""
[smarthost."my.isp"]
host = "smtp"
[[listen]]
address = "0.0.0.0:25"
[[listen]]
"address" = "[::]:25"
tls.minimum = 1
[transport]
"x.org" = { via = "isp", internal = true }
'''


def test_keys_and_tables_are_found() -> None:
    lines = find_lines(TEXT)
    assert lines["hostname",] == 1
    assert lines["a", "b"] == 3
    assert lines["queue",] == 4
    assert lines["queue", "retry"] == 5
    assert lines["queue", "retry", 1] == 5
    assert lines["queue", "path"] == 9
    assert lines["smarthost", "my.isp"] == 12
    assert lines["smarthost", "my.isp", "host"] == 13
    assert lines["listen",] == 14
    assert lines["listen", 0] == 14
    assert lines["listen", 0, "address"] == 15
    assert lines["listen", 1] == 16
    assert lines["listen", 1, "address"] == 17
    assert lines["listen", 1, "tls", "minimum"] == 18
    assert lines["transport", "x.org", "internal"] == 20


def test_line_ends_of_windows_count_once() -> None:
    assert find_lines(TEXT.replace("\n", "\r\n")) == find_lines(TEXT)


SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8"))
TABLES = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=3), inner),
    ),
    max_size=5,
)


@given(TABLES, st.booleans())
def test_every_key_of_any_file_has_a_line_that_holds_it(table: dict[str, object], multiline: bool) -> None:
    text = tomli_w.dumps(table, multiline_strings=multiline)
    lines = find_lines(text)
    document = tomllib.loads(text)
    assert all((key,) in lines or isinstance(document[key], (dict, list)) for key in document)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("hostname",), "hostname"),
        (("queue", "retry", 0), "queue.retry[1]"),
        (("listen", 1, "address"), "listen[2].address"),
        (("transport", "x.org"), 'transport."x.org"'),
        (("sender_canonical", "é"), 'sender_canonical."é"'),
    ],
)
def test_a_path_is_written_as_in_the_file(path: tuple[str | int, ...], text: str) -> None:
    assert format_path(path) == text


def test_errors_come_in_the_order_of_the_file_and_those_without_a_line_last() -> None:
    problems = Problems("a.toml", "x = 1\ny = 2\n")
    problems.add(("z",), "third")
    problems.add(("y",), "second")
    problems.add(("x", "inside"), "first")
    with pytest.raises(ConfigError) as caught:
        problems.raise_any()
    assert caught.value.errors == ("a.toml:1: x.inside: first", "a.toml:2: y: second", "a.toml: z: third")
    assert str(caught.value) == "\n".join(caught.value.errors)


def test_without_problems_nothing_is_raised() -> None:
    Problems("a.toml", "").raise_any()


def test_only_a_near_word_is_suggested() -> None:
    assert suggest("relayhots", ["relayhost", "hostname"]) == '; did you mean "relayhost"?'
    assert suggest("colour", ["relayhost", "hostname"]) == ""
