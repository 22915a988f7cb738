"""Where mail goes next: the values of a transport table, a relayhost and a routing decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from relay.mail.reply import Reply

Rule = tuple[str, ...]
"""Where what decided stands in relay.toml: the keys from the top, addresses folded; () is nowhere."""

Tls = Literal["implicit", "starttls", "opportunistic", "none"]
"""``implicit`` and ``starttls`` verify the certificate and its name; the others take what they get."""

Family = Literal["ipv4", "ipv6"]


@dataclass(frozen=True, slots=True)
class Rate:
    """So many messages in so many seconds, at most."""

    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NextHop:
    """An SMTP or LMTP server, or a domain whose mail exchangers are asked for."""

    host: str
    """A host name, an IP address (without brackets), or a domain; lower case; with LMTP also a socket."""
    port: int = 25
    """0 where ``host`` is the path of a socket."""
    use_mx: bool = False
    """Whether ``host`` is a domain to look up by MX (its addresses where it has none)."""
    tls: Tls = "opportunistic"
    is_relayhost: bool = False
    """Whether the owner chose it for all mail: where its name does not resolve, mail waits."""
    smarthost: str = ""
    """The NAME of its [smarthost.NAME], whose account is used there; "" where there is none."""
    connections: int = 0
    """Connections at once, at most; 0: as many as the relay thinks fit."""
    rate: Rate | None = None
    """How fast messages may leave, where the provider limits it."""
    takes_null_sender: bool = True
    """Whether reports may leave with the null reverse-path; else they leave with the postmaster's address."""
    is_lmtp: bool = False
    """Whether it is a mailbox server, which speaks LMTP (RFC 2033)."""

    @property
    def key(self) -> str:
        """The name of the next hop in the queue and in limits.

        ``[host]:port``, or ``domain:port`` by MX; ``NAME=[host]:port`` for an account at a smarthost;
        ``lmtp:[host]:port`` or ``lmtp:/path`` for a mailbox server.
        """
        if self.is_lmtp:
            return f"lmtp:[{self.host}]:{self.port}" if self.port else f"lmtp:{self.host}"
        place = f"{self.host}:{self.port}" if self.use_mx else f"[{self.host}]:{self.port}"
        return f"{self.smarthost}={place}" if self.smarthost else place


@dataclass(frozen=True, slots=True)
class ByMx:
    """Table value "mx": the mail exchangers of the recipient's own domain."""

    tls: Tls = "opportunistic"


@dataclass(frozen=True, slots=True)
class ByLocal:
    """Table value "local": as if no entry was there, for a local domain beside an entry "*"."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox that the relay itself delivers to, in Maildir format."""

    user: str
    """Its name in ``local.users``, as written there."""
    folder: Path
    """The Maildir."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Table value "discard": accept and forget."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Table value "error:": refuse with this reply, at RCPT and at delivery."""

    reply: Reply


Via = NextHop | ByMx | ByLocal | Discard | Refuse


@dataclass(frozen=True, slots=True)
class TransportEntry:
    """The right side of a transport table entry."""

    via: Via
    internal: bool = False
    """Whether the recipients count as inside for rewriting."""


@dataclass(frozen=True, slots=True)
class Route:
    """The routing decision for one recipient."""

    via: NextHop | Mailbox | Discard | Refuse
    internal: bool = False
    rule: Rule = field(default=(), compare=False)
    """What decided; routes are the same whatever led to them."""
    instead_of: NextHop | None = field(default=None, compare=False)
    """The way that the mail would take, had no route over the fallback been learned for its domain."""
