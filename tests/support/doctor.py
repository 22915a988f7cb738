"""What tests of the doctor share: asking a DNS server on loopback, and sessions with scripted servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from relay.config.loading import parse_config
from relay.config.model import Config
from relay.delivery.agent import Endpoint
from relay.delivery.client import ClientSettings
from relay.delivery.dialogue import Timeouts
from relay.delivery.login import Account
from relay.doctor.finding import Finding
from relay.doctor.trial import Open, opener
from relay.mail.reply import Reply
from relay.routing.lookup import Ask, Lookup
from tests.support.dns_server import DnsServer, Failure, Records

PUBLIC = "203.0.113.5"
"""The relay's public address."""
PATIENT = Timeouts()


@asynccontextmanager
async def dns(names: Mapping[str, Records | Failure], *, timeout: float = 30.0) -> AsyncIterator[Ask]:
    """Yield what asks a DNS server that knows these names."""
    async with DnsServer(names) as server:
        yield Lookup([server.address], timeout=timeout).ask


def kinds(findings: Iterable[Finding]) -> list[str]:
    """Return the names of findings with their severity: ``dns.lies problem``."""
    return [f"{finding.name} {finding.severity}" for finding in findings]


def config(toml: str = "") -> Config:
    """Return a configuration whose relay is gw1.example.net."""
    return parse_config(f'hostname = "gw1.example.net"\n{toml}', machine_name="gw1")


@dataclass
class World:
    """Opens sessions with servers on loopback, and keeps what they said to EHLO."""

    addresses: tuple[str, ...] = ("127.0.0.1",)
    account: Account | None = None
    timeouts: Timeouts = PATIENT
    hellos: list[Reply] = field(default_factory=list)

    @property
    def open(self) -> Open:
        async def locate(_: object) -> list[Endpoint]:
            return [Endpoint("mx.test", address) for address in self.addresses]

        settings = ClientSettings("helo.test", "relay.test", self.timeouts, lambda _: self.account)
        return opener(locate, settings, self.hellos.append)
