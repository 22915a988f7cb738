"""Canonical rewriting of addresses, in envelopes and headers (canonical(5), generic(5))."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from relay.mail.address import complete, fold, join_address, split_address
from relay.mail.fields import rewrite_addresses
from relay.mail.headers import header_name

SENDER_HEADERS = frozenset(
    {
        "disposition-notification-to",
        "errors-to",
        "from",
        "mail-followup-to",
        "reply-to",
        "resent-from",
        "resent-sender",
        "return-receipt-to",
        "sender",
    }
)
RECIPIENT_HEADERS = frozenset({"apparently-to", "cc", "resent-cc", "resent-reply-to", "resent-to", "to"})

_MAX_STEPS = 10


@dataclass(frozen=True, slots=True)
class Home:
    """What an address without a domain means, and which domains are ours."""

    domain: str
    """Completes addresses that have none."""
    local_domains: frozenset[str] = frozenset()
    """Folded; address literals of our own interfaces ("[127.0.0.1]") too. ``domain`` need not be there."""
    recipient_delimiter: str = ""
    """Characters that divide a user from an address extension (``user+extension``); "": there is none."""

    def is_local(self, domain: str) -> bool:
        """Whether a user of this domain may stand in a table by local part alone."""
        folded = fold(domain)
        return folded in self.local_domains or folded == fold(self.domain)

    def divide_local(self, local: str) -> tuple[str, str]:
        """Return user and extension of a local part; the extension keeps its delimiter, "" is none."""
        for index, character in enumerate(local[1:], 1):
            if character in self.recipient_delimiter:
                return local[:index], local[index:]
        return local, ""


@dataclass(frozen=True, slots=True)
class Canonical:
    """A canonical table: folded key to replacement address, with an optional display name."""

    entries: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))
    """Key (``user@domain``, ``user``, ``@domain``) to (address or ``@domain``, display name or "")."""

    def rewrite_once(self, address: str, home: Home) -> tuple[str, str]:
        """Return the internal address that replaces an address, with its display name or "".

        An address that no entry is for is returned as it is. A replacement without a domain gets
        ``home.domain``.
        """
        match = self.match(address, home)
        return (address, "") if match is None else match[1:]

    def match(self, address: str, home: Home) -> tuple[str, str, str] | None:
        """Return the folded key that matches an address, with what ``rewrite_once`` returns; else None."""
        if not self.entries:
            return None
        for key, extension in _keys(address, home):
            entry = self.entries.get(fold(key))
            if entry:
                local, domain = split_address(complete(entry[0], home.domain))
                if not local:
                    local = split_address(address)[0].removesuffix(extension)
                return fold(key), join_address(local + extension, domain), entry[1]
        return None

    def rewrite(self, address: str, home: Home) -> tuple[str, str]:
        """Return what repeated rewriting makes of an address: until nothing changes, at most 10 times."""
        name = ""
        for _, rewritten, new_name in self.steps(address, home):
            address, name = rewritten, new_name or name
        return address, name

    def steps(self, address: str, home: Home) -> Iterator[tuple[str, str, str]]:
        """Yield what ``match`` returns in each round of ``rewrite``."""
        for _ in range(_MAX_STEPS):
            match = self.match(address, home)
            if match is None:
                return
            yield match
            if fold(match[1]) == fold(address):
                return
            address = match[1]


def rewrite_headers(headers: Iterable[bytes], table: Canonical, home: Home) -> list[bytes]:
    """Return the headers of a copy that leaves for the outside, each address rewritten once (generic(5))."""
    if not table.entries:
        return list(headers)
    names = SENDER_HEADERS | RECIPIENT_HEADERS
    return [
        rewrite_addresses(header, lambda address: table.rewrite_once(address, home))
        if header_name(header) in names
        else header
        for header in headers
    ]


def rewrite_address(address: str, table: Canonical, home: Home) -> str:
    """Return an envelope address of such a copy; the null reverse-path stays as it is."""
    return table.rewrite_once(address, home)[0] if address else ""


def _keys(address: str, home: Home) -> Iterator[tuple[str, str]]:
    """Yield the keys to look for, each with the extension that it leaves out."""
    yield address, ""
    local, domain = split_address(address)
    user, extension = home.divide_local(local)
    if extension:
        yield join_address(user, domain), extension
    if not domain:
        return
    if home.is_local(domain):
        yield local, ""
        if extension:
            yield user, extension
    yield f"@{domain}", ""
