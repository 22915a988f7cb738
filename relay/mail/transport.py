"""The routing decision: transport table, relayhost, else the recipient's own domain (transport(5))."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from relay.mail.address import fold, join_address, split_address
from relay.mail.rewrite import Home
from relay.mail.route import ByLocal, ByMx, NextHop, Route, Tls, TransportEntry

ANY = "*"
"""The table key that matches every address."""


def route(
    recipient: str,
    transport: Mapping[str, TransportEntry],
    relayhost: NextHop | None,
    home: Home,
    *,
    sender: str = "",
    sender_relayhost: Mapping[str, NextHop] = MappingProxyType({}),
) -> Route:
    """Return the way to a recipient: its table entry, else the relayhost, else its domain by MX.

    An entry of ``sender_relayhost`` for the sender, after rewriting, comes before the relayhost; the null
    sender has none.
    """
    key = _key_for(recipient, transport, home)
    via = None if key is None else transport[key].via
    if key is None or via is None or isinstance(via, ByLocal):
        sender_key = _sender_key(sender, sender_relayhost, home)
        if sender_key is not None:
            return Route(sender_relayhost[sender_key], rule=("sender_relayhost", sender_key))
        if relayhost is not None:
            return Route(relayhost, rule=("relayhost",))
        return Route(_next_hop_of(recipient))
    is_internal, rule = transport[key].internal, ("transport", key)
    return Route(_next_hop_of(recipient, via.tls) if isinstance(via, ByMx) else via, is_internal, rule)


def entry_for(address: str, transport: Mapping[str, TransportEntry], home: Home) -> TransportEntry | None:
    """Return the table entry of an address, or None where no key matches it; keys are folded."""
    key = _key_for(address, transport, home)
    return None if key is None else transport[key]


def _key_for(address: str, transport: Mapping[str, TransportEntry], home: Home) -> str | None:
    if not transport:
        return None
    return next((key for key in _keys(address, home) if key in transport), None)


def _keys(address: str, home: Home) -> Iterator[str]:
    """Yield what an address is looked up as, most specific first."""
    whole = fold(address)
    yield whole
    local, domain = split_address(whole)
    user, extension = home.divide_local(local)
    if extension:
        yield join_address(user, domain)
    yield domain
    dot = domain.find(".")
    while dot >= 0:
        yield domain[dot:]
        dot = domain.find(".", dot + 1)
    yield ANY


def _sender_key(sender: str, table: Mapping[str, NextHop], home: Home) -> str | None:
    """Return the key for a sender: its address, else that without extension, else its @domain."""
    if not table or not sender:
        return None
    local, domain = split_address(fold(sender))
    user, _ = home.divide_local(local)
    keys = (join_address(local, domain), join_address(user, domain), f"@{domain}")
    return next((key for key in keys if key in table), None)


def _next_hop_of(recipient: str, tls: Tls = "opportunistic") -> NextHop:
    """Return the recipient's domain as a next hop; an address literal (RFC 5321 section 4.1.3) has no MX."""
    domain = split_address(recipient)[1].lower()
    if domain.startswith("[") and domain.endswith("]"):
        return NextHop(domain[1:-1].removeprefix("ipv6:"), tls=tls)
    return NextHop(domain, use_mx=True, tls=tls)
