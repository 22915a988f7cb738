"""Aliases: what stands in the place of an address (aliases(5), virtual(5))."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from relay.mail.address import fold, join_address, split_address
from relay.mail.rewrite import Home
from relay.mail.route import Refuse

ANYBODY = "*"
"""The key for whoever has neither an alias nor a mailbox in a local domain."""

Targets = tuple[str, ...]
"""Addresses, names of local users, or one ``@domain``, which keeps the local part."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """A table of aliases; keys are ``user@domain``, ``user`` (in a local domain), ``@domain`` and ``*``."""

    entries: Mapping[str, Targets | Refuse] = field(default_factory=lambda: MappingProxyType({}))
    """Under folded keys."""

    def find(self, address: str, home: Home) -> Targets | Refuse | None:
        """Return what an address stands for, one step; None where no key but ``*`` matches it."""
        match = self.match(address, home)
        return None if match is None else match[1]

    def match(self, address: str, home: Home) -> tuple[str, Targets | Refuse] | None:
        """Return the key that matches an address, and what it stands for; None where there is but ``*``.

        Keys are looked for in Postfix's order. An extension (``user+extension``) that a key leaves out is
        passed on to the targets of a ``user@domain``, as virtual(5) has it, and dropped for a bare ``user``,
        as aliases(5) has it.
        """
        if not self.entries:
            return None
        for key, extension in _keys(address, home):
            found = self.entries.get(key)
            if found is not None:
                return key, found if isinstance(found, Refuse) else _apply(found, address, extension)
        return None

    @property
    def of_anybody(self) -> Targets | Refuse | None:
        """What takes the place of users that there are not."""
        return self.entries.get(ANYBODY)


def _keys(address: str, home: Home) -> Iterator[tuple[str, str]]:
    """Yield the keys to look for, each with the extension that is passed on."""
    whole = fold(address)
    yield whole, ""
    local, domain = split_address(whole)
    user, _ = home.divide_local(local)
    if user != local:
        yield join_address(user, domain), home.divide_local(split_address(address)[0])[1]
    if domain in home.local_domains:
        yield local, ""
        yield user, ""
    yield f"@{domain}", ""


def _apply(targets: Targets, address: str, extension: str) -> Targets:
    """Return targets for this address: its local part in front of an ``@domain``, its extension added."""
    if not extension and not any(target.startswith("@") for target in targets):
        return targets
    applied = []
    for target in targets:
        local, domain = split_address(target)
        applied.append(join_address((local or split_address(address)[0]) + extension, domain))
    return tuple(applied)
