"""main.cf: parameters and their values (postconf(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from relay.postfix.expansion import expand, find_names
from relay.postfix.logical_lines import is_stray, logical_lines, split_list

_ASSIGNMENT = re.compile(r"([^\s=]+)\s*=\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One line of main.cf."""

    name: str
    value: str
    """As written."""
    line: int


def read_main_cf(text: str) -> tuple[Mapping[str, Parameter], tuple[str, ...]]:
    """Return the parameters by name, the last one where one is given twice; and what can't be read."""
    parameters: dict[str, Parameter] = {}
    mistakes = []
    for number, line in logical_lines(text):
        assignment = None if is_stray(line) else _ASSIGNMENT.fullmatch(line)
        if assignment:
            parameters.pop(assignment[1], None)
            parameters[assignment[1]] = Parameter(assignment[1], assignment[2], number)
        else:
            mistakes.append(f'main.cf:{number}: "{line.strip()[:60]}" is not "name = value"')
    return MappingProxyType(parameters), tuple(mistakes)


@cache
def read_defaults() -> Mapping[str, Parameter]:
    """Return what Postfix takes for granted."""
    return read_main_cf(files("relay.postfix").joinpath("defaults.cf").read_text("utf-8"))[0]


class Settings:
    """The parameters with the values that they have for Postfix; it remembers which were asked for."""

    def __init__(self, given: Mapping[str, Parameter], machine_name: str) -> None:
        self._given = given
        self._machine_name = machine_name
        self._options: frozenset[str] = frozenset()
        self._values: dict[str, str] = {}
        self._open: set[str] = set()
        self._taken: set[str] = set()
        self.used_by_services: set[str] = set()
        """The options of services of which something was made."""
        self.mistakes: dict[str, str] = {}
        """Why a parameter of main.cf has no value, by its name; such a one counts as empty."""

    def get(self, name: str) -> str:
        """Return the value of a parameter, "" where there is none; and note that it has its equivalent."""
        (self.used_by_services if name in self._options else self._taken).add(name)
        return self._value(name)

    def items(self, name: str) -> list[str]:
        """Return the items of a list."""
        return split_list(self.get(name))

    def is_on(self, name: str) -> bool:
        """Whether a parameter says yes."""
        return self.get(name).lower() == "yes"

    def is_given(self, name: str) -> bool:
        """Whether main.cf names a parameter."""
        return name in self._given

    def written(self, name: str) -> str:
        """Return what main.cf says of a parameter, word for word; "" where it says nothing."""
        return self._given[name].value if name in self._given else ""

    def is_default(self, name: str) -> bool:
        """Whether a parameter has the value that it has anyway."""
        if name not in self._given:
            return True
        default = Settings(
            {key: value for key, value in self._given.items() if key != name}, self._machine_name
        )
        return name in read_defaults() and default.get(name) == self._value(name)

    def leave(self, name: str) -> None:
        """Note that a parameter has no equivalent after all."""
        self._taken.discard(name)

    def refuse(self, name: str, reason: str) -> None:
        """Note that the value of a parameter is of no use."""
        if name in self._given:
            self.mistakes.setdefault(name, reason)

    @property
    def taken(self) -> list[str]:
        """The names in main.cf that have their equivalent."""
        return [name for name in self._given if name in self._taken and name not in self.mistakes]

    def left_over(self) -> Iterator[Parameter]:
        """Yield what nobody asked for, but for what says what Postfix takes for granted."""
        used = {name for parameter in self._given.values() for name in find_names(parameter.value)}
        for name, parameter in self._given.items():
            is_owners_word = name not in read_defaults() and name in used
            is_told = name in self._taken or name in self.mistakes
            if not is_told and not is_owners_word and not self.is_default(name):
                yield parameter

    def expand(self, text: str) -> str:
        """Return a text of master.cf with the values filled in. Raises ValueError."""
        return expand(text, self._value, self._is_set)

    def with_options(self, options: Mapping[str, str]) -> Settings:
        """Return the settings of a service, whose options come first; what is asked for is noted here."""
        more = {name: Parameter(name, value, 0) for name, value in options.items()}
        settings = Settings({**self._given, **more}, self._machine_name)
        settings._taken, settings.used_by_services = self._taken, self.used_by_services
        settings._options = frozenset(options)
        return settings

    def _value(self, name: str) -> str:
        if name not in self._values:
            if name in self._open:
                raise ValueError(f"refers to itself by way of ${name}")
            self._open.add(name)
            try:
                self._values[name] = self._find(name)
            except (ValueError, RecursionError) as error:
                if len(self._open) > 1:
                    raise
                self._values[name] = ""
                self.mistakes[name] = str(error)
            finally:
                self._open.discard(name)
        return self._values[name]

    def _find(self, name: str) -> str:
        parameter = self._given.get(name) or read_defaults().get(name)
        if parameter is None:
            return self._of_machine(name)
        return expand(parameter.value, self._value, self._is_set).strip()

    def _is_set(self, name: str) -> bool:
        parameter = self._given.get(name) or read_defaults().get(name)
        return bool(parameter.value if parameter else self._of_machine(name))

    def _of_machine(self, name: str) -> str:
        """Return what Postfix asks the machine for (postconf(5), myhostname and mydomain)."""
        if name == "myhostname":
            machine = self._machine_name
            return machine if "." in machine or not machine else f"{machine}.{self._value('mydomain')}"
        if name == "mydomain":
            host = self._value("myhostname") if "myhostname" in self._given else self._machine_name
            return host.partition(".")[2] or "localdomain"
        return ""
