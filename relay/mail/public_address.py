"""The public address as others see it, and the name that EHLO says by it (``helo_name = "auto"``).

Addresses are text in the usual form of their IP version.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from relay.mail.notification import wrap

Echo = tuple[str, str]
"""The address of a mail server, and the address that it showed as its client's."""

FALLBACK_HOSTNAME = "relay.localdomain"
"""The name of a relay that has none to show."""

_ECHO = re.compile(r"[\[( ](?:IPv6:)?([0-9A-Fa-f:.]{2,45})(?=[\]) ,]|$)")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NOBODYS = frozenset({"arpa", "home", "internal", "invalid", "lan", "local", "localdomain", "localhost"})
"""Ends of names that the world's DNS gives to nobody: each house has its own."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the public address."""

    address: str = ""
    """"" where none has been seen yet."""
    asked: str = ""
    """The address that name servers saw last, which need not be the one that mail servers see."""
    name: str = ""
    """The reverse name that leads back to the address, "" where none does."""

    def helo_name(self, hostname: str) -> str:
        """Return the name for EHLO: the reverse name, else the relay's own, else the address itself.

        An address literal is in order where a host has no name (RFC 5321 section 4.1.3).
        """
        if self.name or is_fit(hostname):
            return self.name or hostname
        if not self.address:
            return FALLBACK_HOSTNAME
        return f"[IPv6:{self.address}]" if ":" in self.address else f"[{self.address}]"


# The address


def parse_echo(text: str, inside: Sequence[IPv4Network | IPv6Network], server: str = "") -> str:
    """Return the client's address that a reply to EHLO or HELO shows, "" where there is none that is public.

    ``text`` is the reply without its codes. RFC 5321 section 4.1.1.1 leaves it to the server whether it says
    more than its name; where it does, the client's address comes last. Some show their own, that is the
    address ``server``.
    """
    shown = (read_public(found, inside) for found in reversed(_ECHO.findall(text.partition("\n")[0])))
    last = next(filter(None, shown), "")
    return "" if last == read_public(server, inside) else last


def read_public(text: str, inside: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return an IP address, "" where the text is none, or one that belongs to networks ``inside``."""
    try:
        address = ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return "" if any(address in network for network in inside) else str(address)


def weigh(known: Known, asked: Sequence[str], heard: Iterable[Echo]) -> Known:
    """Return what is known after a look at what others see; where the address is another, the name is gone.

    ``asked`` is what name servers see, ``heard`` what the last mail servers showed. The name servers have one
    vote: for the known address where they see what they saw before, else for what they see now. Each mail
    server has one too. A draw changes nothing: so one liar changes nothing while name servers answer, and
    two mail servers are believed where mail goes out by another address than DNS. An IPv6 address counts only
    where no IPv4 address has been seen: those of a house seldom have names.
    """
    by_servers = [shown for _, shown in dict.fromkeys(heard)]
    version = min(
        (ip_address(each).version for each in (known.address, *asked, *by_servers) if each), default=4
    )
    seen = next((address for address in asked if ip_address(address).version == version), "")
    votes = [address for address in by_servers if ip_address(address).version == version]
    is_news = bool(seen) and (seen != known.asked or not known.address)
    if is_news and known.asked == known.address:  # they were right so far: what was shown is older
        votes = [address for address in votes if address != known.address]
    if seen:
        votes.insert(0, seen if is_news else known.address)
    count = Counter(votes)
    known = replace(known, asked=seen or known.asked)
    if not count or count[known.address] == max(count.values()):
        return known
    return Known(count.most_common(1)[0][0], known.asked)


# The name


def choose_name(confirmed: Sequence[str], *preferred: str) -> str:
    """Return the name to go by of those that lead back to an address, "" where none is fit.

    That is one of ``preferred``, else always the same.
    """
    fit = {name.lower() for name in confirmed if is_fit(name)}
    return next((name for name in (*preferred, *sorted(fit)) if name.lower() in fit), "")


def is_fit(name: str) -> bool:
    """Whether mail servers can make something of a name: a whole one, of a domain that the world may know.

    So neither ``localhost`` nor the id of a container is.
    """
    labels = name.lower().split(".")
    return (
        len(labels) > 1
        and len(name) <= 253
        and all(map(_LABEL.fullmatch, labels))
        and not labels[-1].isdigit()
        and labels[-1] not in _NOBODYS
    )


# The words


def write_notice(known: Known, told: tuple[str, str] | None, hostname: str) -> tuple[str, str]:
    """Return subject and text of the mail that tells of an address; ``told`` is the last, with its name.

    The lines of the text end in CRLF.
    """
    old_address, old_name = told or ("", "")
    facts = [
        f"address: {_compare(known.address, old_address)}",
        f"name:    {_compare(known.name or 'none', (old_name or 'none') if told else '')}",
        f"EHLO:    {known.helo_name(hostname)}",
    ]
    advice = (
        "The name leads back to the address, so mail servers are given it with EHLO."
        if known.name
        else "The address has no name that leads back to it. Many mail servers take no mail from such an"
        " address: ask the internet provider for a reverse name, or send over a smarthost"
        " (docs/public-name.md)."
    )
    lines = [
        *wrap(f"This is the mail relay at {hostname}. This is how the internet sees it now:"),
        "",
        *(f"    {fact}" for fact in facts),
        "",
        *wrap(advice),
        "",
        *wrap("You get this mail at each change, as relay.toml says address_notice = true."),
    ]
    subject = f"{hostname}: the public address is {known.address}"
    return subject, "".join(f"{line}\r\n" for line in lines)


def _compare(now: str, before: str) -> str:
    return f"{now} (before: {before})" if before and before != now else now
