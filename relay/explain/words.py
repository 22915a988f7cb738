"""The words of an explanation: its steps, and how rules and addresses are named in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.config.places import Places
from relay.config.problems import format_path
from relay.mail.address import quote_address
from relay.texts import make_line

_TABLES = frozenset({"aliases", "recipient_canonical", "sender_canonical", "sender_relayhost", "transport"})
"""Their keys are the owner's, not ours."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of relay.toml, as a person finds it."""

    rule: str
    """Such as ``aliases "family"``."""
    file: str
    """"" where no line is known."""
    line: int | None

    def __str__(self) -> str:
        """Return its name with its line: ``aliases "family", relay.toml:31``."""
        return f"{self.rule}, {Path(self.file).name}:{self.line}" if self.line else self.rule


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the way; its texts are fit for a terminal."""

    step: str
    """``access``, ``sender``, ``recipient``, ``headers``, ``message`` or ``delivery``."""
    about: str
    """The address, header or client that it is about."""
    what: str
    rules: tuple[Rule, ...] = ()
    is_obstacle: bool = False
    """Whether the message, or the copy for the recipient, gets no further."""


class Citing:
    """Names rules, and keeps those that a step names."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._cited: list[Rule] = []

    def has(self, *path: str | int) -> bool:
        """Whether a rule stands in the file."""
        return self._places.find(path) is not None

    def cite(self, *path: str | int) -> Rule:
        """Return the rule at a path of relay.toml, for the step that comes next."""
        line = self._places.find(path)
        rule = Rule(make_line(_name(path)), self._places.file if line else "", line)
        if rule not in self._cited:
            self._cited.append(rule)
        return rule

    def cite_first(self, *paths: Sequence[str | int]) -> Rule:
        """Return the rule at the first path that stands in the file, else at the first of all."""
        return self.cite(*next((path for path in paths if self.has(*path)), paths[0]))

    def step(self, step: str, about: str, what: str, *, is_obstacle: bool = False) -> Step:
        """Return a step with the rules that were cited since the last one."""
        cited, self._cited = tuple(self._cited), []
        return Step(step, make_line(about), make_line(what), cited, is_obstacle)


def show(address: str) -> str:
    """Return an address as people write it."""
    return quote_address(address) or "<>"


def _name(path: Sequence[str | int]) -> str:
    section, *keys = path
    if section == "header_checks":
        return f"{section} {int(keys[0]) + 1}"
    if section in _TABLES:
        return f'{section} "{keys[0]}"'
    return format_path(tuple(path))
