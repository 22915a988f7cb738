"""The tables that rewrite addresses: ``[sender_canonical]`` and ``[recipient_canonical]``."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

from relay.config.sections import Section
from relay.config.values import (
    parse_address_key,
    parse_named_address,
    parse_replacement,
    parse_text,
)
from relay.mail.address import fold, split_address
from relay.mail.rewrite import Canonical, Home


def read_canonical(section: Section, home: Home) -> Canonical:
    """Return a canonical table under folded keys (canonical(5)); what goes round in a circle is refused."""
    entries: dict[str, tuple[str, str]] = {}
    written_as: dict[str, str] = {}
    for written, key in section.own_keys(_parse_canonical_key):

        def parse(value: object, key: str = key) -> tuple[str, str]:
            return _parse_canonical_value(parse_text(value), key)

        if entry := section.require(written, parse):
            entries[key] = entry
            written_as[key] = written
    table = Canonical(MappingProxyType(entries))
    for key, circle in _find_circles(table, home):
        way = " → ".join(f'"{address}"' for address in (*circle, circle[0]))
        section.reject(f"goes round in a circle: {way}; take one of them out", written_as[key])
    return table


def _parse_canonical_key(key: str) -> str:
    wanted = 'matches no address; a key is "user@domain", "user" or "@domain"'
    return "" if key == '""' else parse_address_key(key, wanted)


def _parse_canonical_value(text: str, key: str) -> tuple[str, str]:
    address, name = parse_named_address(text)
    if address == text and '"' not in text:
        # Postfix takes the first of several addresses (canonical(5)).
        address = text.partition(",")[0]
    return parse_replacement(address, key), name


def _find_circles(table: Canonical, home: Home) -> Iterator[tuple[str, list[str]]]:
    """Yield a key and the addresses of each circle of rewriting."""
    seen = set()
    for key in filter(None, table.entries):
        ways = (_way_back(start, table, home) for start in _addresses_under(key, table, home))
        circle = next((way for way in ways if len(way) > 1), [])
        if circle and frozenset(circle) not in seen:
            seen.add(frozenset(circle))
            yield key, circle


def _addresses_under(key: str, table: Canonical, home: Home) -> Iterator[str]:
    """Yield addresses that between them use a key in every way that can matter."""
    local, domain = split_address(key)
    if not domain:
        yield from (
            f"{key}@{local_domain}" for local_domain in sorted({fold(home.domain), *home.local_domains})
        )
        return
    yield key
    if not local:
        known = {
            split_address(fold(text))[0]: None
            for item in table.entries.items()
            for text in (item[0], item[1][0])
        }
        yield from (f"{known_local}{key}" for known_local in known)


def _way_back(start: str, table: Canonical, home: Home) -> list[str]:
    """Return the addresses on the way from an address back to itself; none if it does not come back."""
    way = [start]
    while (address := fold(table.rewrite_once(way[-1], home)[0])) not in way:
        way.append(address)
    return way if address == start else []
