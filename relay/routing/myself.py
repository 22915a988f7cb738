"""Where the relay itself can be reached, so that it never sends mail to itself."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from relay.config.model import Listen

SMTP_PORT = 25


@dataclass(frozen=True, slots=True)
class Myself:
    """The relay as seen from outside: its name and its listening addresses."""

    hostname: str
    listen: tuple[Listen, ...]

    def is_at(self, name: str, addresses: Sequence[str], port: int) -> bool:
        """Return whether a server of that name, with those addresses, is this relay.

        The name counts on port 25 too: behind NAT the world sees the relay under an address and a port
        that are not its own.
        """
        ports = {SMTP_PORT, *(listen.port for listen in self.listen)}
        if port in ports and name.lower() == self.hostname.lower():
            return True
        return any(self._listens_on(address, port) for address in addresses)

    def _listens_on(self, address: str, port: int) -> bool:
        hosts = [listen.host for listen in self.listen if listen.port == port]
        return address in hosts or (any(map(_is_wildcard, hosts)) and is_local(address))


def is_local(address: str) -> bool:
    """Return whether an IP address belongs to this machine at this moment."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_wildcard(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False
