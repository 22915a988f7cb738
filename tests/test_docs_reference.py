"""docs/reference.md has every key of relay.toml, every command and option, and nothing else."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from relay.cli.main import _build_parser
from relay.config.loading import ConfigError, parse_config
from relay.config.providers import ADDRESS, LOCAL, PROVIDERS, UNKNOWN
from relay.config.rendering import render
from relay.config.sections import Section
from tests.support.documents import ROOT, read, rows, section

PAGE = read("docs/reference.md")
KEYS = section(PAGE, "## relay.toml")
COMMANDS = section(PAGE, "## Commands")
TOP = "top"
_HEADING = re.compile(r"(?m)^### (.*)$")
_CODE = re.compile(r"`([^`]+)`")
_OPTION = re.compile(r"--?[a-z][a-z-]*")

NEEDED: dict[str, list[dict[str, Any]]] = {
    "smarthost": [
        {"smarthost": {"isp": {"host": "smtp.example.com"}}},
        {
            "smarthost": {
                "isp": {"provider": "gmail", "username": "c@gmail.com", "auth": "xoauth2", "client_id": "1"}
            }
        },
    ],
    "transport": [{"transport": {"example.org": {"via": "mx"}}}],
    "header_checks": [{"header_checks": [{"pattern": "^X:", "action": "IGNORE"}]}],
    "alerts": [{"alerts": {"webhook": "https://ntfy.sh/topic"}}],
}
"""What must be there for the other keys of a section to make sense."""


def documented() -> Iterator[tuple[str, str, str]]:
    """Yield section, key and default of every key of the page, as it has them."""
    for heading in _HEADING.findall(KEYS):
        name = re.match(r"`\[+([a-z_]+)", heading)
        for first, _, default, *_ in rows(section(KEYS, f"### {heading}")):
            for key in _CODE.findall(first):
                yield name[1] if name else TOP, key, default


def read_keys(monkeypatch: pytest.MonkeyPatch, folder: Path) -> set[tuple[str, str]]:
    """Return section and key of all that the loader asks for, as it reads the example with all its keys."""
    asked: dict[tuple[str | int, ...], list[str]] = {}
    original = Section.reject_unknown

    def record(self: Section) -> None:
        asked[self.path] = self._known
        original(self)

    monkeypatch.setattr(Section, "reject_unknown", record)
    example = re.sub(r"(?m)^#(?=\S)", "", read("relay.toml.example"))
    with pytest.raises(ConfigError):  # the files that it names are not there
        parse_config(example, machine_name="gw1", folder=folder)
    top = asked.pop(())
    sections = {str(path[0]) for path in asked}
    free = {key for key in top if key not in sections and isinstance(tomllib.loads(example).get(key), dict)}
    found = {(TOP, key) for key in top if key not in sections | free}
    return found | {(str(path[0]), key) for path, keys in asked.items() for key in keys}


def with_key(needed: dict[str, Any], name: str, key: str, value: object) -> dict[str, Any]:
    """Return a document with one more key."""
    if name == TOP:
        return {**needed, key: value}
    table = needed.get(name, [{}] if name == "listen" else {})
    if isinstance(table, list):
        return {**needed, name: [{**table[0], key: value}]}
    if name in ("smarthost", "transport"):
        ((entry, inner),) = table.items()
        return {**needed, name: {entry: {**inner, key: value}}}
    return {**needed, name: {**table, key: value}}


def is_default(name: str, key: str, value: object) -> bool:
    """Whether a key with this value says no more than a file without it."""
    for needed in NEEDED.get(name, [{}]):
        plain = tomli_w.dumps(needed)
        try:
            config = parse_config(tomli_w.dumps(with_key(needed, name, key, value)), machine_name="gw1")
        except ConfigError:
            continue
        if config == parse_config(plain, machine_name="gw1"):
            return True
    return False


def test_every_key_stands_there_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keys = [(name, key) for name, key, _ in documented()]
    assert sorted(set(keys)) == sorted(keys)
    assert set(keys) == read_keys(monkeypatch, tmp_path)


def test_defaults_are_those_of_the_program() -> None:
    literals = [(name, key, code[1]) for name, key, text in documented() if (code := _CODE.fullmatch(text))]
    assert len(literals) > 30
    wrong = [
        f"{name}.{key} = {code}"
        for name, key, code in literals
        if not is_default(name, key, tomllib.loads(f"value = {code}")["value"])
    ]
    assert not wrong


def test_what_has_a_default_of_its_own_says_so() -> None:
    """A default is told in words only where there is none, or where it depends on the machine."""
    here, there = (render(parse_config("", machine_name=name)) for name in ("gw1", "other"))
    for name, key, text in documented():
        if _CODE.fullmatch(text) or name in NEEDED:
            continue
        one, other = (table if name == TOP else table.get(name, {}) for table in (here, there))
        if isinstance(one, list):
            one, other = one[0], other[0]
        assert key not in one or one[key] != other[key], f"{name}.{key} has the default {one[key]!r}"


def commands() -> dict[str, set[str]]:
    """Return the commands, and the options of each."""

    def walk(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, set[str]]]:
        inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        options = {option for action in parser._actions for option in action.option_strings}
        if not any(action.required for action in inner):
            yield name, options - {"-h", "--help"}
        for action in inner:
            for word, subparser in action.choices.items():
                yield from walk(f"{name} {word}", subparser)

    return dict(walk("relay", _build_parser([])))


def test_every_command_and_option_stands_there() -> None:
    shown = {}
    for heading in _HEADING.findall(COMMANDS):
        names = [code for code in _CODE.findall(heading) if code.startswith("relay")]
        options = {
            option
            for first, *_ in rows(section(COMMANDS, f"### {heading}"))
            for code in _CODE.findall(first)
            for option in _OPTION.findall(code)
        }
        shown |= dict.fromkeys(names, options)
    assert shown == commands()


def test_the_example_and_the_page_have_the_same_sections() -> None:
    example = tomllib.loads(
        re.sub(r"(?m)^#(?=\S)", "", (ROOT / "relay.toml.example").read_text(encoding="utf-8"))
    )
    tables = {key for key, value in example.items() if isinstance(value, dict | list)}
    headed = {name[1] for heading in _HEADING.findall(KEYS) if (name := re.match(r"`\[+([a-z_]+)", heading))}
    assert headed == tables


def test_the_table_of_providers_is_that_of_the_program() -> None:
    words = {ADDRESS: "your address", LOCAL: "what stands before its @", UNKNOWN: "as the provider tells you"}
    known = []
    for row in PROVIDERS.values():
        server = f"`{row.host}:{row.port}`" if row.host else "one for each region"
        special = "app password" if row.needs_app_password else "OAuth" if row.auth == "xoauth2" else ""
        names = ", ".join(f"`{each}`" for each in (row.name, *row.other_names))
        known.append([names, server, f"`{row.tls}`", words.get(row.username, f"`{row.username}`"), special])
    shown = section(read("docs/through-my-isp.md"), "## The providers that relay knows")
    assert list(rows(shown)) == known
