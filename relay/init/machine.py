"""What of this machine matters for a first relay.toml: its networks, its ports, its folders."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import chain, count
from pathlib import Path

from relay.config.model import PRIVATE_NETWORKS
from relay.config.values import parse_network

LOCAL_QUEUE = "queue/queue.db"
"""Where the queue is, seen from relay.toml, if its usual place is closed to this user."""

_REASONS = {
    errno.EADDRINUSE: "another program has it already; another mail server?",
    errno.EACCES: "only root may open it",
    errno.EADDRNOTAVAIL: "this machine has no such address",
}


def find_networks(root: Path = Path("/")) -> list[str]:
    """Return the networks that this machine is in, those of its own programs apart (Linux only)."""
    routes = _read(root / "proc/net/route").splitlines()[1:]
    addresses = _read(root / "proc/net/if_inet6").splitlines()
    found = [*_networks_v4(routes), *_networks_v6(addresses)]
    return list(dict.fromkeys(str(network) for network in found))


def is_private(network: str) -> bool:
    """Whether a network is part of a private one, whose devices may send by default."""
    inner = parse_network(network)
    return any(inner[0] in outer and inner[-1] in outer for outer in PRIVATE_NETWORKS)


def _networks_v4(lines: list[str]) -> Iterator[IPv4Network]:
    for line in lines:
        _, destination, gateway, *_, mask, _, _, _ = line.split()
        if int(gateway, 16) or not int(mask, 16):
            continue
        # The kernel shows the bytes of an address as a number of this machine.
        address, bits = (struct.pack("=L", int(text, 16)) for text in (destination, mask))
        network = IPv4Network((address, int.from_bytes(bits).bit_count()), strict=False)
        if not (network.is_loopback or network.is_link_local):
            yield network


def _networks_v6(lines: list[str]) -> Iterator[IPv6Network]:
    for line in lines:
        address, _, length, *_ = line.split()
        network = ip_network((bytes.fromhex(address), int(length, 16)), strict=False)
        if isinstance(network, IPv6Network) and network.prefixlen < 128 and not network.is_link_local:
            yield network


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except OSError:
        return ""


def why_closed(host: str, port: int) -> str:
    """Return why this user can't listen there; "" where nothing stands against it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return _REASONS.get(error.errno or 0, error.strerror or str(error))
    return ""


def choose_queue(usual: Path) -> str:
    """Return where the queue goes, as relay.toml says it; "" if this user may write to the usual place."""
    folder = next(parent for parent in usual.parents if parent.exists())
    return "" if os.access(folder, os.W_OK | os.X_OK) else LOCAL_QUEUE


def choose_name(folder: Path, name: str) -> str:
    """Return the name, or the first like it that no file in the folder has."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(each for each in names if not os.path.lexists(folder / each))
