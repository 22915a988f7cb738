"""master.cf: the services of a Postfix and their options (master(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from relay.postfix.logical_lines import is_stray, logical_lines, split_list

_FIELDS = re.compile(r"(\S+)\s+(\S+)\s+(?:\S+\s+){5}(\S+)(.*)", re.DOTALL)
_PORTS = {"smtp": 25, "submission": 587, "smtps": 465, "submissions": 465, "mail": 25, "lmtp": 24}


@dataclass(frozen=True, slots=True)
class Service:
    """One service."""

    name: str
    """Of "inet": ``smtp``, ``587``, ``127.0.0.1:smtp`` or ``[::1]:25``."""
    kind: str
    """``inet``, ``unix`` and so on."""
    command: str
    options: Mapping[str, str]
    """Parameters that main.cf says otherwise, as written."""
    line: int

    @property
    def host(self) -> str:
        """The address before the port, with its brackets; "" where none is named."""
        return self.name.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port, 0 where it is none."""
        return port_of(self.name.rpartition(":")[2])


def port_of(name: str) -> int:
    """Return the number of a port that may have a name; 0 for what is none."""
    if re.fullmatch(r"[0-9]{1,5}", name):
        return int(name) if int(name) < 65536 else 0
    return _PORTS.get(name, 0)


def read_master_cf(text: str) -> tuple[tuple[Service, ...], tuple[str, ...]]:
    """Return the services, and what can't be read."""
    services, mistakes = list[Service](), list[str]()
    for number, line in logical_lines(text):
        fields = None if is_stray(line) else _FIELDS.fullmatch(line)
        if fields:
            name, kind, command, arguments = fields.groups()
            services.append(Service(name, kind, command, dict(_read_options(arguments)), number))
        else:
            mistakes.append(f'master.cf:{number}: "{line.strip()[:60]}" is not a service')
    return tuple(services), tuple(mistakes)


def _read_options(arguments: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters of ``-o name=value`` and ``-o {name = value}``."""
    words = iter(split_list(arguments.replace(",", "\0")))
    for word in words:
        if word.startswith("-o"):
            option = (word[2:] or next(words, "")).replace("\0", ",")
            if option.startswith("{"):
                option = option[1:].removesuffix("}")
            name, _, value = option.partition("=")
            yield name.strip(), value.strip()
