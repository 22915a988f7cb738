"""Numbered letters, clients that press them on the relay, and what they were promised."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.reception import Peer
from tests.support.service import Service

SESSIONS = 20
SMALLEST, LARGEST = 1_000, 2_000_000
"""Bytes of a letter; each doubling of the size is as frequent as the next."""
LINE = 78

Pair = tuple[str, str]
"""A letter, called by its sender, and one of its recipients."""


@dataclass(frozen=True)
class Letter:
    """What a client sent."""

    recipients: tuple[str, ...]
    digest: str
    """Of the content."""


@dataclass
class Load:
    """Clients that send letters of all sizes to some of the recipients each."""

    chance: random.Random
    addresses: Sequence[str]
    letters: dict[str, Letter] = field(default_factory=dict)
    promised: set[Pair] = field(default_factory=set)
    ids: dict[str, str] = field(default_factory=dict)
    """Queue ids that clients were told, and the letters that have them."""
    smallest: int = SMALLEST
    largest: int = LARGEST
    _clients: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._text = base64.encodebytes(self.chance.randbytes(LARGEST)).replace(b"\n", b"\r\n")

    def press(self, relay: Service, sessions: int = SESSIONS) -> None:
        """Let clients send until the relay is gone."""
        self._clients = [asyncio.create_task(self._send_until_the_end(relay)) for _ in range(sessions)]

    async def ended(self) -> None:
        """Wait until all clients have found the relay gone."""
        await asyncio.gather(*self._clients)

    async def send(self, peer: Peer) -> str:
        """Send one letter and return the last reply."""
        recipients = self.chance.sample(self.addresses, self.chance.randint(1, len(self.addresses)))
        sender, content = self.write(recipients)
        reply = await peer.ask(f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{r}>" for r in recipients), "DATA")
        if reply.startswith("354 "):
            peer.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
            with suppress(ConnectionError):
                await peer.writer.drain()
            reply = await peer.reply()
        if reply.startswith("250 "):
            self.note(sender, reply)
        return reply

    def write(self, recipients: Sequence[str]) -> tuple[str, bytes]:
        """Write a letter to these recipients; return its sender, which no other one has, and its content."""
        number = len(self.letters)
        sender = f"m{number}@load.test"
        size = int(self.smallest * (self.largest / self.smallest) ** self.chance.random())
        start = LINE * self.chance.randrange((len(self._text) - size) // LINE)
        header = (
            f"Message-ID: <{number}@load.test>\r\nDate: Mon, 22 May 2000 20:27:59 +0200\r\nFrom: {sender}\r\n"
        )
        text = self._text[start : start + size // LINE * LINE]
        content = f"{header}\r\n.letter {number}\r\n".encode() + text + f".end of {number}\r\n".encode()
        self.letters[sender] = Letter(tuple(recipients), digest(content))
        return sender, content

    def begin(self) -> list[str]:
        """Return the commands that begin a letter which is never finished."""
        return ["EHLO load", "MAIL FROM:<never@load.test>", f"RCPT TO:<{self.addresses[0]}>", "DATA"]

    def note(self, sender: str, reply: str) -> None:
        """Note a promise of the relay; an id that it gave before is a failure."""
        queue_id = re.fullmatch(r"250 2\.0\.0 Ok: queued as ([0-9A-F]+)", reply)
        assert queue_id, reply
        assert self.ids.setdefault(queue_id[1], sender) == sender, f"an id given twice: {queue_id[1]}"
        self.promised |= {(sender, recipient) for recipient in self.letters[sender].recipients}

    async def _send_until_the_end(self, relay: Service) -> None:
        with suppress(ConnectionError):
            async with relay.client(greet=False) as peer:
                await peer.reply()
                await peer.ask("EHLO load")
                while (await self.send(peer)).startswith("250 "):
                    pass


def digest(content: bytes) -> str:
    """Return the hash by which contents are compared."""
    return hashlib.sha256(content).hexdigest()
