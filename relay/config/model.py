"""What relay.toml says, as immutable values with their defaults; ``relay.config.loading`` makes them.

A field's name is its key in the file. Durations are seconds, sizes are bytes. Defaults that depend on the
machine or on other keys are filled in by the loader, so a ``Config`` in use is always complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from relay.config.secrets import Secret
from relay.mail.aliases import Aliases
from relay.mail.dkim import SigningKey
from relay.mail.header_checks import HeaderCheck
from relay.mail.rewrite import Canonical
from relay.mail.route import Family, NextHop, Rate, Tls, TransportEntry

Network = IPv4Network | IPv6Network

AUTO = "auto"
"""The ``helo_name`` that follows the public address."""

PRIVATE_NETWORKS: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


@dataclass(frozen=True, slots=True)
class Listen:
    """One listening address."""

    host: str = "0.0.0.0"
    port: int = 25
    tls: Literal["none", "starttls", "implicit"] = "none"
    tls_minimum: Literal["1.0", "1.1", "1.2", "1.3"] = "1.2"
    auth: Literal["none", "optional", "required", "any"] = "none"
    clear_password: bool = False


@dataclass(frozen=True, slots=True)
class Access:
    """Who may relay."""

    networks: tuple[Network, ...] = PRIVATE_NETWORKS
    open_relay: bool = False


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """The certificate of the listeners."""

    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Smarthost:
    """A named server that takes mail for everywhere, and the account there."""

    host: str
    port: int = 465
    tls: Tls = "implicit"
    provider: str = ""
    username: str = ""
    password: Secret | None = None
    auth: Literal["auto", "plain", "login", "cram-md5", "xoauth2"] = "auto"
    clear_password: bool = False
    connections: int = 4
    rate: Rate | None = None
    client_id: str = ""
    client_secret: Secret | None = None
    tenant: str = "common"
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Which copies sender_canonical changes."""

    scope: Literal["external", "all"] = "external"


@dataclass(frozen=True, slots=True)
class Local:
    """The domains whose mail stays here, and the mailboxes of the house."""

    domains: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    """Who has a mailbox, as written; ``("*",)``: whom the LMTP server knows."""
    accept: Literal["networks", "anyone"] = "networks"
    maildir: str = ""
    """The path of a user's Maildir, with ``{user}`` for the name; "" where there is none."""
    lmtp: NextHop | None = None
    """The server that keeps the mailboxes."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The durable queue and its clock."""

    path: Path = Path("/var/lib/relay/queue.db")
    retry: tuple[float, ...] = (300, 600, 1200, 2400, 3600)
    lifetime: float = 5 * 86400
    warn_after: float = 4 * 3600
    history: float = 14 * 86400
    history_subjects: bool = False

    @property
    def maildrop(self) -> Path:
        """The folder into which programs of this machine put their messages."""
        return self.path.parent / "maildrop"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may ask for."""

    message_size: int = 50_000_000
    recipients: int = 1000
    connections: int = 1000
    connections_per_client: int = 200
    messages_per_hour: int = 0


@dataclass(frozen=True, slots=True)
class Dns:
    """Name servers as (address, port); none: the system's."""

    nameservers: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Dkim:
    """The key that signs the mail of a domain."""

    selector: str
    key_file: Path
    key: SigningKey
    """As it was in the file when relay.toml was read."""


@dataclass(frozen=True, slots=True)
class Web:
    """The status page, /healthz and /metrics."""

    host: str = "127.0.0.1"
    """An IP address; "" where the page is off."""
    port: int = 8025
    password: Secret | None = None


@dataclass(frozen=True, slots=True)
class Alerts:
    """Who is told what mail cannot tell."""

    command: tuple[str, ...] = ()
    """A program and its arguments; empty where there is none."""
    webhook: Secret | None = None
    """An address, which may hold a token."""
    form: Literal["auto", "ntfy", "gotify", "json"] = "auto"
    """What is sent there; ``auto``: the address shows it."""


@dataclass(frozen=True, slots=True)
class Log:
    """The log on standard output."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """All of relay.toml."""

    hostname: str = ""
    helo_name: str = ""
    """A name, or ``AUTO``."""
    address_notice: bool = False
    """Whether the postmaster is told when the public address or its name changes."""
    domain: str = ""
    postmaster: str = ""
    relayhost: NextHop | None = None
    fallback: NextHop | None = None
    """Where mail by MX goes on when a site refuses it because of us."""
    prefer: Family = "ipv6"
    """Which addresses of a server are tried first."""
    listen: tuple[Listen, ...] = (Listen(),)
    access: Access = Access()
    tls: ListenerTls = ListenerTls()
    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    """Name to scrypt hash."""
    smarthost: Mapping[str, Smarthost] = field(default_factory=lambda: MappingProxyType({}))
    transport: Mapping[str, TransportEntry] = field(default_factory=lambda: MappingProxyType({}))
    sender_relayhost: Mapping[str, NextHop] = field(default_factory=lambda: MappingProxyType({}))
    """Folded sender address or ``@domain`` to next hop."""
    sender_canonical: Canonical = field(default_factory=Canonical)
    recipient_canonical: Canonical = field(default_factory=Canonical)
    rewrite: Rewrite = Rewrite()
    header_checks: tuple[HeaderCheck, ...] = ()
    aliases: Aliases = field(default_factory=Aliases)
    local: Local = Local()
    queue: Queue = Queue()
    limits: Limits = Limits()
    dkim: Mapping[str, Dkim] = field(default_factory=lambda: MappingProxyType({}))
    """By domain."""
    dns: Dns = Dns()
    web: Web = Web()
    alerts: Alerts = Alerts()
    log: Log = Log()
