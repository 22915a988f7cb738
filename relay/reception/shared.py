"""What a session is given by the reception that it belongs to."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.config.model import Listen
from relay.reception.access import ClientLimits
from relay.reception.logins import Logins
from relay.reception.reverse import ReverseNames
from relay.reception.tls import Certificate

if TYPE_CHECKING:
    from relay.reception.session import Session


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """What sessions are told of the configuration."""

    hostname: str
    message_size: int = 50_000_000
    """Bytes of content, at most."""
    recipients: int = 1000
    """Recipients of one message, at most."""
    idle_seconds: float = 300.0
    """How long a client may be silent (RFC 5321 section 4.5.3.2.7)."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The listening address that a client came to."""

    listen: Listen
    certificate: Certificate

    @property
    def tls_context(self) -> ssl.SSLContext:
        """What a handshake with a client needs."""
        return self.certificate.context(self.listen.tls_minimum)


@dataclass(slots=True)
class Shared:
    """What all sessions share, the list of them among it."""

    limits: ClientLimits
    names: ReverseNames
    logins: Logins
    sessions: set[Session] = field(default_factory=set)
    """Those that are open."""
    handshakes: set[asyncio.Task[None]] = field(default_factory=set)
    """Of connections that will be sessions."""
    is_closing: bool = False
    """Whether nobody is served any more."""
