"""The keys that mail is signed with: ``[dkim.DOMAIN]``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from relay.config.model import Dkim
from relay.config.sections import Section
from relay.config.values import parse_domain, parse_text
from relay.mail.dkim import SigningKey

LARGEST_KEY = 100_000
"""Bytes of a key file; what is larger is something else."""

_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")
_EXAMPLE = '[dkim."example.org"]'


def read_dkim(section: Section) -> Mapping[str, Dkim]:
    """Return the keys by domain; each is read from its file."""
    entries = {}
    for domain, table, selector, path in read_places(section):
        try:
            entries[domain] = Dkim(selector, path, load_key(path))
        except ValueError as error:
            table.reject(f"{path} can't be used: {error}", "key_file")
        except FileNotFoundError:
            table.reject(f"{path} is not there; `relay dkim {domain}` makes it", "key_file")
        except OSError as error:
            table.reject(f"{path} can't be read: {error.strerror}", "key_file")
    return MappingProxyType(entries)


def read_places(section: Section) -> Iterator[tuple[str, Section, str, Path]]:
    """Yield domain, table, selector and key file of each table in which they are right."""
    for written, domain in section.own_keys(parse_domain):
        if not section.has_table(written):
            section.reject(f"belongs into a table for a domain, {_EXAMPLE}", written)
            continue
        table = section.table(written)
        if inner := [key for key, _ in table.own_keys(str) if table.has_table(key)]:
            table.reject(f"a domain with dots stands in quotes, {_EXAMPLE}", inner[0])
            continue
        selector = table.require("selector", parse_selector)
        path = table.read_path("key_file", None)
        if not table.has("key_file"):
            table.reject('needs the key "key_file"')
        table.reject_unknown()
        if selector and path:
            yield domain, table, selector, path


def load_key(path: Path) -> SigningKey:
    """Return the key in a file. Raises OSError, and ValueError with words for the owner of the file."""
    from relay.mail.dkim_key import parse_key  # noqa: PLC0415 - big, and needed only where a key is

    with path.open("rb") as file:
        return parse_key(file.read(LARGEST_KEY))


def parse_selector(value: object) -> str:
    """Return a selector in lower case (RFC 6376 section 3.1)."""
    text = parse_text(value)
    if not _SELECTOR.fullmatch(text.lower()):
        raise ValueError(f'"{text}" is not a selector: letters, digits and hyphens, such as "home"')
    return text.lower()
