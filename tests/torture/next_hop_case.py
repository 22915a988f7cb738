"""One misbehaviour of a next hop: how its server acts, and what exactly must come of it."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.support.smtp_server import Script

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"


class Fate(StrEnum):
    """What becomes of a recipient."""

    SENT = "sent"
    """Delivered by the first attempt."""
    DEFERRED = "deferred"
    """Deferred once, and delivered when the server has been mended."""
    BOUNCED = "bounced"
    """Refused for good: the sender gets the reply."""
    HANGING = "hanging"
    """Neither delivered nor lost while the server is silent; delivered by the relay's next life."""
    SLOW = "slow"
    """Delivered by the first attempt, once the server goes on."""


SENT, DEFERRED, BOUNCED, HANGING, SLOW = Fate


@dataclass(frozen=True)
class Case:
    """A server that misbehaves, and the exact outcome of one message to some recipients there."""

    name: str
    script: Script
    fates: Sequence[Fate]
    """Of each recipient."""
    words: str = ""
    """What the log says of the recipients that are deferred or bounced, and the bounce too: a pattern."""
    at: str = ""
    """The point of the dialogue at which it hangs or is slow."""
    repeats: int = 0
    """Whole contents that the server got and did not acknowledge."""
    copies: int = 1
    """Whole contents that it acknowledged for each recipient that did not bounce."""
    tls: str = ""
    """``tls`` of the smarthost; "": an entry of the transport table without one."""
    context: ssl.SSLContext | None = None
    mended: Script = field(default_factory=Script)
    mended_context: ssl.SSLContext | None = None
    content: bytes = CONTENT
    password: str = ""
    """Of the account there; "": none."""
    is_second: bool = False
    """Whether another message went well just before, over the connection that is kept."""
    is_up: bool = True
    """Whether there is a server at all before it is mended."""

    @property
    def domain(self) -> str:
        """The domain of the recipients."""
        return f"{self.name}.test"

    @property
    def sender(self) -> str:
        """Who gets the bounce."""
        return f"{self.name}@home.test"

    @property
    def recipients(self) -> list[str]:
        """The addresses, in the order of ``fates``."""
        return [f"user{number}@{self.domain}" for number in range(len(self.fates))]

    @property
    def first(self) -> str:
        """Whom the message just before went to."""
        return f"first@{self.domain}"
