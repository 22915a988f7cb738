"""Questions at a terminal, each answer checked at once."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from typing import TypeVar

from relay.doctor.finding import LONGEST_DETAIL
from relay.texts import make_line

Value = TypeVar("Value")
Parse = Callable[[str], Value]
"""Returns what an answer means; raises ValueError, which says what is wrong with it."""

_UNREADABLE = "\0"
"""In the place of what is no text in the terminal's alphabet: every parser refuses it."""


class MissingError(Exception):
    """A question is left that nobody may be asked; the text is the flag that answers it."""


class Interview:
    """Asks until an answer will do. Raises EOFError and KeyboardInterrupt, as the owner wishes."""

    def __init__(self, *, may_ask: bool, takes_defaults: bool) -> None:
        """``takes_defaults`` says that a default is the answer where nobody may be asked."""
        self.may_ask = may_ask
        self._takes_defaults = takes_defaults

    def explain(self, title: str, *lines: str) -> None:
        """Say what the next question is about, if there will be one."""
        if self.may_ask:
            print(f"\n{title}", *(f"  {make_line(line)}" for line in lines), sep="\n")

    def ask(self, prompt: str, flag: str, parse: Parse[Value], default: str = "") -> Value:
        """Return the answer, or that of the default; raises MissingError where there is neither."""
        if self.may_ask:
            shown = f" [{make_line(default)}]" if default else ""
            return self._repeat(parse, lambda: _read(f"{prompt}{shown}: ") or default)
        if default and self._takes_defaults:
            return parse(default)
        raise MissingError(flag)

    def ask_secretly(self, prompt: str, flag: str, parse: Parse[Value]) -> Value:
        """Return an answer that is not shown while it is typed."""
        if self.may_ask:
            return self._repeat(parse, lambda: _read_secret(f"{make_line(prompt)}: "))
        raise MissingError(flag)

    def confirm(self, question: str) -> bool:
        """Return whether the owner says yes; where nobody may be asked, the answer is no."""
        if not self.may_ask:
            return False
        print()
        return self._repeat(_parse_yes, lambda: _read(f"{make_line(question)} (y/n) [n]: "))

    def choose(self, question: str, choices: dict[str, Value], default: int) -> Value:
        """Return what one of several sentences stands for; ``default`` is counted from 1."""
        values = list(choices.values())
        print(f"\n{question}", *(f"  {place}  {each}" for place, each in enumerate(choices, 1)), sep="\n")

        def parse(text: str) -> Value:
            if text not in map(str, range(1, len(values) + 1)):
                raise ValueError(f"a number from 1 to {len(values)}, please")
            return values[int(text) - 1]

        return self._repeat(parse, lambda: _read(f"Number [{default}]: ") or str(default))

    def _repeat(self, parse: Parse[Value], read: Callable[[], str]) -> Value:
        while True:
            try:
                return parse(read())
            except ValueError as error:
                said = make_line(str(error), LONGEST_DETAIL)
                print(f"  That won't do: {said}{'' if said.endswith('?') else '.'}")


def _parse_yes(text: str) -> bool:
    if text.lower() not in ("y", "yes", "n", "no", ""):
        raise ValueError("y or n, please")
    return text.lower().startswith("y")


def _read(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except UnicodeDecodeError:
        return _UNREADABLE


def _read_secret(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except UnicodeDecodeError:
        return _UNREADABLE
