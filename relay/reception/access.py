"""Who may relay, and how much one client may ask for."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from ipaddress import IPv4Address, ip_address
from pathlib import Path

from relay.config.model import Limits, Network
from relay.mail.address import fold, quote_address, split_address
from relay.mail.destinations import POSTMASTER
from relay.mail.envelope import Client, Recipient
from relay.mail.reply import Reply

HOUR = 3600.0
MOST_CLIENTS = 10_000
"""Clients whose messages of the last hour are remembered."""
MOST_ADDRESSES = 1000
"""Addresses of which it is remembered whether they may send to anywhere."""

_FURTHER_ROUTE = re.compile(r"[@%!]")
_CONTAINER_MARKS = (".dockerenv", "run/.containerenv")
_CONTAINER_VARIABLE = "container"
"""Set by this project's image, and by podman, whose mark is not to be seen with ``--read-only``."""
_ROUTE_IS_GATEWAY = 0x2


def plain_address(peer: str) -> str:
    """Return a peer's IP address as it is shown and judged: an IPv4-mapped one as IPv4, without a zone."""
    address = ip_address(peer.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)


class Access:
    """Who may send mail to anywhere: clients in one of the ``networks``, save the ``gateway``."""

    def __init__(
        self, networks: Sequence[Network], gateway: str = "", open_domains: Set[str] = frozenset()
    ) -> None:
        """``gateway`` is a container's default gateway where it is to be kept out, else "".

        ``open_domains`` are the folded domains that anyone may write to.
        """
        self._networks = networks
        self._gateway = gateway
        self._open_domains = open_domains
        self._is_near = lru_cache(maxsize=MOST_ADDRESSES)(self._look_up)

    def is_ours(self, client: Client) -> bool:
        """Whether a client may send mail to anywhere; whoever has logged in may."""
        return client.user != "" or self._is_near(client.address)

    def network_of(self, address: str) -> Network | None:
        """Return the first network that lets an address send to anywhere, None where none does."""
        client = ip_address(plain_address(address))
        if str(client) == self._gateway:
            return None
        return next((network for network in self._networks if client in network), None)

    def _look_up(self, address: str) -> bool:
        return self.network_of(address) is not None

    def judge(self, client: Client, recipient: Recipient) -> Reply | None:
        """Return why a client may not send to a recipient, with the remedy; None where it may."""
        if self.is_ours(client) or self._is_open(recipient.address):
            return None
        address = client.address
        denial = f"<{quote_address(recipient.address)}>: relay access denied; your address is {address}"
        if address == self._gateway:
            return Reply(
                554,
                "5.7.1",
                f"{denial}, the gateway of the relay's container, behind which all clients look alike. "
                "The owner of the relay can run the container in the host's network, where it sees their "
                "real addresses, or, if nobody on the internet can reach it, "
                f'add "{address}" to networks in [access] of relay.toml.',
            )
        return Reply(
            554,
            "5.7.1",
            f"{denial}, and this server sends mail only for clients that it knows. The owner of the relay "
            f'can add "{address}" to networks in [access] of relay.toml.',
        )

    def _is_open(self, recipient: str) -> bool:
        """Whether anyone may write to a recipient: in an open domain, or the postmaster without any.

        Not where the local part names another host as well (postconf(5), allow_untrusted_routing).
        """
        local, domain = split_address(fold(recipient))
        if not domain:
            return bool(self._open_domains) and local == POSTMASTER
        return domain in self._open_domains and not _FURTHER_ROUTE.search(local)


def default_gateway(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> str:
    """Return the IPv4 address of a container's default gateway; "" outside a container.

    Port forwarding into a container makes every client, from the internet too, appear under this address.
    """
    if _CONTAINER_VARIABLE not in environ and not any((root / mark).exists() for mark in _CONTAINER_MARKS):
        return ""
    try:
        lines = (root / "proc/net/route").read_text().splitlines()[1:]
    except OSError:
        return ""
    for line in lines:
        _, destination, gateway, flags, *_ = line.split()
        if int(destination, 16) == 0 and int(flags, 16) & _ROUTE_IS_GATEWAY:
            return str(IPv4Address(int(gateway, 16).to_bytes(4, "little")))
    return ""


class ClientLimits:
    """Counts what clients do. ``limits`` may be replaced at any time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._connections: Counter[str] = Counter()
        self._sent: dict[str, deque[float]] = {}

    def admit(self, address: str) -> Reply | None:
        """Count a new connection; where it is one too many, count nothing and return the refusal."""
        if self._connections.total() >= self.limits.connections:
            return Reply(
                421,
                "4.3.2",
                "This server has too many connections at the moment: try again in a few minutes.",
            )
        if self._connections[address] >= self.limits.connections_per_client:
            return Reply(
                421,
                "4.7.0",
                f"Your address {address} has {self._connections[address]} connections open, which is the "
                "most that this server allows one client: close some, or try again in a few minutes.",
            )
        self._connections[address] += 1
        return None

    def leave(self, address: str) -> None:
        """Forget a connection that was admitted."""
        self._connections[address] -= 1
        if not self._connections[address]:
            del self._connections[address]

    def refuse_message(self, client: str, now: float) -> Reply | None:
        """Return the refusal of a client's next message, where it sent too many within the last hour."""
        most = self.limits.messages_per_hour
        if not most or self._count_sent(client, now) < most:
            return None
        return Reply(
            450,
            "4.7.1",
            f"You sent {most} messages within the last hour, which is the most that this server takes from "
            "one client: try again later.",
        )

    def count_message(self, client: str, now: float) -> None:
        """Count a message that a client has begun to send, at ``now`` in seconds of any steady clock."""
        if not self.limits.messages_per_hour:
            return
        times = self._sent.pop(client, None) or deque()
        times.append(now)
        self._sent[client] = times  # behind all others: the first of them has been silent longest
        silent = next(iter(self._sent))
        if len(self._sent) > MOST_CLIENTS or self._sent[silent][-1] <= now - HOUR:
            del self._sent[silent]

    def _count_sent(self, client: str, now: float) -> int:
        times = self._sent.get(client, deque())
        while times and times[0] <= now - HOUR:
            times.popleft()
        return len(times)
