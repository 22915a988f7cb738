"""By which ways mail leaves under a configuration, and with which senders: what is worth a look."""

from __future__ import annotations

from collections.abc import Iterator

from relay.config.house import destinations_of
from relay.config.model import Config
from relay.config.smarthosts import next_hop_of
from relay.mail.address import fold, join_address, split_address
from relay.mail.rewrite import rewrite_address
from relay.mail.route import ByMx, NextHop
from relay.mail.transport import ANY

SOMEBODY = "somebody@relay-doctor.invalid"
"""A recipient for whom no transport entry is but "*"."""


def goes_direct(config: Config) -> bool:
    """Whether some mail has no other way than to the recipients' own mail exchangers."""
    if any(isinstance(entry.via, ByMx) for entry in config.transport.values()):
        return True
    return config.relayhost is None and config.fallback is None and ANY not in config.transport


def hops_of(config: Config) -> dict[str, NextHop]:
    """Return every SMTP server that the configuration names, under the title that its owner knows it by."""
    named = {
        f"smarthost {name}": next_hop_of(name, smarthost) for name, smarthost in config.smarthost.items()
    }
    others = (
        config.relayhost,
        config.fallback,
        *config.sender_relayhost.values(),
        *(entry.via for entry in config.transport.values()),
    )
    known = {hop.key for hop in named.values()}
    for hop in others:
        if isinstance(hop, NextHop) and not hop.is_lmtp and hop.key not in known:
            known.add(hop.key)
            named[f"next hop {hop.key}"] = hop
    return named


def senders_of(config: Config) -> list[str]:
    """Return the addresses with which mail probably leaves, the likeliest first.

    Where a rule keeps the local part, ``postmaster`` stands for it.
    """
    home = destinations_of(config).home
    given = (f"root@{config.domain}", config.postmaster)
    made = [rewrite_address(address, config.sender_canonical, home) for address in given]
    made += [address for address, _ in config.sender_canonical.entries.values()]
    made += [key for key in config.sender_relayhost if not key.startswith("@")]
    complete = (
        address if split_address(address)[0] else f"postmaster{address}" for address in made if address
    )
    with_domain = (
        address if "@" in address else join_address(address, config.domain) for address in complete
    )
    return list({fold(address): address for address in with_domain}.values())


def sender_for(config: Config, hop: NextHop) -> str:
    """Return the sender with whom mail probably goes to a next hop."""
    senders = senders_of(config)
    for sender in senders:
        if hop_of(config, sender) == hop:
            return sender
    smarthost = config.smarthost.get(hop.smarthost)
    return smarthost.username if smarthost and "@" in smarthost.username else senders[0]


def recipient_for(config: Config, hop: NextHop, sender: str) -> str:
    """Return somebody of the household to whom a next hop should take mail; not one whose mail stays here."""
    smarthost = config.smarthost.get(hop.smarthost)
    destinations = destinations_of(config)
    for address in (config.postmaster, smarthost.username if smarthost else ""):
        if "@" in address and not destinations.is_local(address) and not destinations.route(address).internal:
            return address
    return sender


def domains_of(config: Config) -> Iterator[tuple[str, str, NextHop | None]]:
    """Yield each sender domain with a sender in it and where its mail goes; None: to everybody's own MX."""
    seen = set()
    for sender in senders_of(config):
        domain = fold(split_address(sender)[1])
        if domain not in seen:
            seen.add(domain)
            yield domain, sender, hop_of(config, sender)


def hop_of(config: Config, sender: str) -> NextHop | None:
    """Return where mail of a sender to somebody outside goes; None: to the recipient's own MX."""
    via = destinations_of(config).route(SOMEBODY, sender).via
    if not isinstance(via, NextHop) or via.host == split_address(SOMEBODY)[1]:
        return None
    return via
