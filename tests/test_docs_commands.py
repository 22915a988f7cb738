"""Every command that the documentation shows is one that the program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.cli.main import COMMANDS, _build_parser
from relay.cli.send import UsageError, parse_options
from tests.support.documents import PAGES, blocks, name, spans

_PROGRAM = re.compile(r"(?:\S*/)?relay")
_CONSOLE = {"", "sh", "console", "bash"}
_PROMPT = "$ "
_END = re.compile(r"[|;&]+|[<>]|\)")
_PLACEHOLDER = re.compile(r"[|…]|\.\.\.|^\*.*\*$")


@dataclass(frozen=True)
class Shown:
    """A line that runs the program."""

    line: str
    arguments: list[str]
    is_name: bool
    """Whether it stands within a sentence, where the name of a command is enough."""


def find_commands(page: Path) -> Iterator[Shown]:
    """Yield all commands of a page."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        for line in find_lines(block.text) if block.language in _CONSOLE else ():
            yield Shown(line, find_arguments(line), is_name=False)
    for span in spans(text):
        if re.match("relay [a-z]", span):
            yield Shown(span, find_arguments(span), is_name=True)


def find_lines(block: str) -> Iterator[str]:
    """Yield what is typed: all lines or, where there are prompts, what stands behind them."""
    lines = block.replace("\\\n", " ").splitlines()
    has_prompts = any(line.startswith(_PROMPT) for line in lines)
    for line in lines:
        if not has_prompts or line.startswith(_PROMPT):
            yield line.removeprefix(_PROMPT)


def find_arguments(line: str) -> list[str]:
    """Return what a line gives to the program, which another one such as docker may run; else nothing."""
    lexer = shlex.shlex(line.strip(), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # prose, or a file of another program
        return []
    for place, word in enumerate(words[:-1]):
        is_command = place == 0 or words[place + 1] in COMMANDS or words[place - 1] == "relay"
        if _PROGRAM.fullmatch(word) and is_command and re.match("--|[a-z]", words[place + 1]):
            rest = words[place + 1 :]
            return rest[: next((i for i, each in enumerate(rest) if _END.fullmatch(each)), len(rest))]
    return []


def explain(shown: Shown, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the program has against a command, "" if nothing."""
    arguments = shown.arguments
    try:
        if arguments[:1] == ["send"]:
            parse_options(arguments[1:])
        elif arguments and not any(map(_PLACEHOLDER.search, arguments)):
            _build_parser(arguments).parse_args(arguments)
    except UsageError as error:
        return str(error)
    except SystemExit as error:
        words = capsys.readouterr().err
        is_cut = shown.is_name and "arguments are required" in words
        return words if error.code and not is_cut else ""
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_are_those_of_the_program(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {shown.line: reason for shown in find_commands(page) if (reason := explain(shown, capsys))}
    assert not wrong


def test_commands_are_found_where_they_stand() -> None:
    assert find_arguments("$ relay queue list | head") == ["queue", "list"]
    assert find_arguments("docker exec -it relay relay login work") == ["login", "work"]
    assert find_arguments("docker run -d --name relay --network host relay") == []
    assert find_arguments(".venv/bin/relay trace '<>'   # reports") == ["trace", "<>"]
    assert find_arguments("relay colour") == ["colour"]
