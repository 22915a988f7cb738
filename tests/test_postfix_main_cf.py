"""main.cf and master.cf: what is read is what Postfix reads; nothing in them makes the reader fail."""

from __future__ import annotations

import os
import re
import socket
import string
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.postfix.expansion import expand
from relay.postfix.logical_lines import logical_lines, split_list
from relay.postfix.main_cf import Settings, read_defaults, read_main_cf
from relay.postfix.master_cf import read_master_cf
from tests.conftest import SEARCH_PATH
from tests.support.postfix_import import NAMES, folder_of

POOL = (
    "relayhost",
    "mydestination",
    "myorigin",
    "smtpd_banner",
    "relay_domains",
    "home_mailbox",
    "virtual_alias_domains",
)
"""Parameters that may have any text, all of them without a default that matters here."""


def postconf(folder: Path, *options: str) -> dict[str, str]:
    """Return what Postfix says the parameters of a folder are; white space is shown as one space."""
    for file in folder.iterdir():
        os.utime(file, (1, 1))  # Postfix waits until a file that is new has settled
    command = ["postconf", "-c", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": SEARCH_PATH}, check=True)
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name.strip(): " ".join(value.split()) for name, _, value in pairs}


def settings_of(text: str) -> Settings:
    return Settings(read_main_cf(text)[0], "gw1")


def value(text: str, name: str = "x") -> str:
    return settings_of(text).get(name)


@pytest.mark.needs("postconf")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "hostile"])
def test_the_values_are_those_that_postfix_has(name: str, tmp_path: Path) -> None:
    text = (folder_of(name) / "main.cf").read_text()
    # Postfix itself would not start with the lines that it cannot read.
    readable = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("xxgdb"))
    (tmp_path / "main.cf").write_text(readable)
    (tmp_path / "master.cf").touch()
    given, _ = read_main_cf(text)
    ours = Settings(given, socket.gethostname())
    names = sorted(given.keys() & read_defaults().keys())
    theirs = {
        key: shown.replace(str(tmp_path), "/etc/postfix")
        for key, shown in postconf(tmp_path, "-x", *names).items()
        # What has a "$" is filled in for each message; NIS is Debian's own default.
        if key in read_defaults() and not re.search(r"\$|nis:mail|Postfix \d|127\.0\.0\.0/8 \d", shown)
    }
    assert len(theirs) > (2 if names else 600)
    assert {key: " ".join(ours.get(key).split()) for key in theirs} == theirs


@pytest.mark.needs("postconf")
def test_the_defaults_are_those_that_postfix_has(tmp_path: Path) -> None:
    (tmp_path / "main.cf").touch()
    (tmp_path / "master.cf").touch()
    theirs = postconf(tmp_path, "-d")
    known = {name: " ".join(parameter.value.split()) for name, parameter in read_defaults().items()}
    version = theirs["mail_version"]
    if not version.startswith("3.7."):
        pytest.skip(f"these are the defaults of Postfix 3.7, and here is {version}")
    del known["alias_maps"]  # Debian's own has NIS, which nobody misses
    assert {name: theirs.get(name) for name in known} == known


EXPRESSIONS = [
    ("x = a\nx = b", "b"),
    ("x=  spaced   out  ", "spaced   out"),
    ("x = a\n  b\n# no\n\n\tc", "a  b\tc"),
    ("y = 1\nx = $y-${y}-$(y)-$$y", "1-1-1-$y"),
    ("y = 1\nx = ${y?yes}${y:no}${z?yes}${z:no}", "yesno"),
    ("y = 1\nx = ${y?{ a }:{b}} ${z?{a}:{ b }} ${z?{a}}.${y ? {c} : d}", "a b .c"),
    ("y = 1\nx = ${{$y} == {1} ? {one} : {other}}", "one"),
    ("x = ${{3} < {20} ? {as numbers} : {as text}} ${{b} < {a} ? {1} : {2}}", "as numbers 2"),
    ("x = ${{3.10} >=level {3.9} ? {newer}}", "newer"),
    ("x = ${{a} != {b}}", "bool"),
    ("x = $none.", "."),
    ("y = $none\nx = ${y?written}", "written"),
    ("y = ${z}\nz = ok\nx = $y", "ok"),
    ("x = $myhostname $mydomain", "gw1.localdomain localdomain"),
    ("myhostname = a.b.c\nx = $mydomain", "b.c"),
    ("mydomain = my.lan\nx = $myhostname", "gw1.my.lan"),
    ("x = $mail_name", "Postfix"),
]


@pytest.mark.parametrize(("text", "expected"), EXPRESSIONS)
def test_expressions(text: str, expected: str) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = ${y", "not closed"),
        ("x = $(y", "not closed"),
        ("x = $", "without a name"),
        ("x = a $ b", "without a name"),
        ("x = ${}", "is no name"),
        ("x = ${ y }", "is no name"),
        ("x = ${y!z}", "belongs"),
        ("x = ${y?{a}b}", "belongs"),
        ("x = ${{a} {b}?c}", "without its sign"),
        ("x = $x", "refers to itself"),
        ("x = $y\ny = ${z}\nz = $x", "refers to itself"),
        ("x = " + "${x1:" * 60 + "}" * 60, "too many braces"),
        ("y = " + "a" * 60_000 + "\nx = $y$y", "more than 100000 characters"),
        ("\n".join(f"y{n} = $y{n + 1}" for n in range(2000)) + "\nx = $y0", "recursion"),
    ],
)
def test_what_has_no_value(text: str, reason: str) -> None:
    ours = settings_of(text)
    assert ours.get("x") == ""
    assert reason in ours.mistakes["x"]
    assert "x" not in ours.taken


def test_values_that_double_each_other_take_no_time() -> None:
    lines = "\n".join(f"y{n} = $y{n + 1}$y{n + 1}" for n in range(60))
    assert value(f"{lines}\ny60 =\nx = $y0") == ""
    assert "more than" in next(iter(settings_mistakes(f"{lines}\ny60 = a\nx = $y0")))


def settings_mistakes(text: str) -> Iterator[str]:
    ours = settings_of(text)
    ours.get("x")
    return iter(ours.mistakes.values())


def test_what_is_left_over() -> None:
    ours = settings_of(
        "own = 1\nrelayhost = $own\nbiff = yes\nbounce_size_limit = 1\nslip = 2\nmydestination = a"
    )
    ours.get("relayhost")
    assert ours.taken == ["relayhost"]
    assert [parameter.name for parameter in ours.left_over()] == [
        "bounce_size_limit",
        "slip",
        "mydestination",
    ]
    ours.leave("relayhost")
    assert ours.taken == []


def test_lines_that_cannot_be_read_are_told() -> None:
    parameters, mistakes = read_main_cf(" stray\nname\n= value\nx = 1\n")
    assert [*parameters] == ["x"]
    assert mistakes == (
        'main.cf:1: "stray" is not "name = value"',
        'main.cf:2: "name" is not "name = value"',
        'main.cf:3: "= value" is not "name = value"',
    )


def test_services() -> None:
    text = (
        "smtp inet n - y - - smtpd\n"
        "# comment\n"
        "[::1]:submission inet n - y - - smtpd\n"
        "  -o syslog_name=postfix/x -v -oa=b,c\n"
        "  -o { mua = permit, reject } -o\n"
        "127.0.0.1:70000 inet n - - - - smtpd\n"
        "short inet\n"
        "  stray\n"
    )
    services, mistakes = read_master_cf(" stray\n" + text)
    assert [(service.host, service.port) for service in services] == [
        ("", 25),
        ("[::1]", 587),
        ("127.0.0.1", 0),
    ]
    assert services[1].options == {
        "syslog_name": "postfix/x",
        "a": "b,c",
        "mua": "permit, reject",
        "": "",
    }
    assert mistakes == (
        'master.cf:1: "stray" is not a service',
        'master.cf:8: "short inet  stray" is not a service',
    )


def test_lists() -> None:
    assert split_list(" a, b\tc,,{ d, e } f:{{x y}}} ,") == ["a", "b", "c", "{ d, e }", "f:{{x y}}}"]
    assert split_list("") == []


@given(st.text())
def test_no_text_makes_the_readers_fail(text: str) -> None:
    parameters, _ = read_main_cf(text)
    ours = Settings(parameters, "gw1")
    for name in parameters:
        ours.get(name)
    read_master_cf(text)
    for _, line in logical_lines(text):
        assert line.strip(" \t\r\v\f")


@given(st.text("ab$ {}()?:=<>!"))
def test_an_expression_has_a_value_or_a_reason(text: str) -> None:
    with suppress(ValueError):
        assert expand(text, str.upper, bool) == text or "$" in text


names = st.sampled_from(POOL)
words = st.text(string.ascii_letters + string.digits + ".:[]/@-", min_size=1, max_size=8)
references = st.builds("${}".format, names) | st.builds("${{{}}}".format, names)
choices = st.builds(
    "${{{}{}{}}}".format, names, st.sampled_from("?:"), words.filter(lambda word: ":" not in word)
)
pieces = st.lists(words | references | choices, max_size=4).map(" ".join)
lines = st.builds("{} = {}\n{}".format, names, pieces, st.sampled_from(["", "# comment\n", "\n", "  more\n"]))


@pytest.mark.needs("postconf")
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=8).map("".join))
def test_generated_values_are_those_that_postfix_has(tmp_path: Path, text: str) -> None:
    text = f"compatibility_level = 3.6\n{text}"
    (tmp_path / "main.cf").write_text(text)
    (tmp_path / "master.cf").touch()
    ours = Settings(read_main_cf(text)[0], socket.gethostname())
    values = {name: " ".join(ours.get(name).split()) for name in POOL}
    if not ours.mistakes:  # Postfix shows what goes round in a circle as it is written
        assert values == postconf(tmp_path, "-x", *POOL)
