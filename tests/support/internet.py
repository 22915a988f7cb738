"""A local internet: sites with moods, each with servers at loopback addresses, and a real DNS server."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from tests.support.dns_server import DnsServer, Records
from tests.support.rig import ServerAt
from tests.support.smtp_server import Script

SMTP_PORT = 25


@dataclass
class Internet:
    """What is there, by domain."""

    dns: DnsServer
    servers: dict[str, list[ServerAt]] = field(default_factory=dict)
    """The servers of each domain, best first."""

    def taken(self, domain: str) -> Counter[tuple[str, bytes]]:
        """Return how often the servers of a domain took which message for whom: (recipient, subject)."""
        return Counter(
            (recipient, subject_of(content))
            for server in self.servers[domain]
            for recipient, content in server.acknowledged
        )

    def contents(self, domain: str) -> list[bytes]:
        """Return all that the servers of a domain took."""
        return [content for server in self.servers[domain] for _, content in server.acknowledged]


def subject_of(content: bytes) -> bytes:
    """Return what stands behind ``Subject:``."""
    return content.partition(b"\r\nSubject: ")[2].partition(b"\r\n")[0]


@asynccontextmanager
async def online(
    sites: Mapping[str, Script | list[Script | None]], names: Mapping[str, Records]
) -> AsyncIterator[Internet]:
    """Run the sites: each domain has a server, or some, best first; None is an address where nobody answers.

    ``names`` are further records of the name server.
    """
    async with AsyncExitStack() as stack:
        records: dict[str, Records] = dict(names)
        servers: dict[str, list[ServerAt]] = {}
        addresses = (f"127.0.9.{number}" for number in range(1, 250))
        for domain, scripts in sites.items():
            exchangers = []
            servers[domain] = []
            for number, script in enumerate(scripts if isinstance(scripts, list) else [scripts], 1):
                name, address = f"mx{number}.{domain}", next(addresses)
                records[name] = {"A": [address]}
                exchangers.append(f"{10 * number} {name}.")
                if script is not None:
                    server = ServerAt(address, SMTP_PORT, script)
                    servers[domain].append(await stack.enter_async_context(server))
            records[domain] = {"MX": exchangers}
        dns = await stack.enter_async_context(DnsServer(records))
        yield Internet(dns, servers)


@contextmanager
def deaf(address: str) -> Iterator[None]:
    """Occupy an address such that nobody who connects to it gets any answer: its queue is full."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind((address, SMTP_PORT))
        listener.listen(0)
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect((address, SMTP_PORT))
        yield
