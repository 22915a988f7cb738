"""Mixed traffic: clients of all kinds, next hops that come and go, an owner who looks and meddles."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.reception import Peer
from tests.support.service import Service
from tests.support.smtp_server import DROP, RESET, Script, ScriptedServer, Wait

UP = Script()
BAD_MOODS = (
    Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP)),
    Script(greeting=RESET),
    UP.but(MAIL=b"451 4.3.0 try later\r\n"),
    UP.but(RCPT=b"450 4.2.1 mailbox busy\r\n", DATA=b"554 5.5.1 no valid recipients\r\n"),
    UP.but(DOT=[b"250 2.0.0 taken\r\n", RESET]),
    UP.but(BODY=RESET),
)
RECIPIENTS = ("a@steady.test", "b@steady.test", "c@shaky.test", "d@shaky.test")
CLIENTS = 5
PAUSE = 0.02
"""Seconds between two things that a client does: the machine is not to be kept from other work."""
LARGE = 300_000

Pair = tuple[str, str]


@dataclass
class Traffic:
    """What goes through a relay, and what was promised of it."""

    relay: Service
    steady: ScriptedServer
    shaky: ScriptedServer
    tls: ssl.SSLContext
    chance: random.Random
    promised: set[Pair] = field(default_factory=set)
    arrived: set[Pair] = field(default_factory=set)
    messages: int = 0
    duplicates: int = 0
    encrypted: int = 0
    """Sessions under TLS."""
    vanished: int = 0
    hangups: int = 0
    """SIGHUPs."""
    _names: int = 0
    _calm: asyncio.Event | None = None

    async def run(self, seconds: float) -> None:
        """Keep everybody busy for so long."""
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(self._be_client())
                group.create_task(self._be_weather())
                group.create_task(self._be_owner())
        except TimeoutError:
            self._change_weather(UP)

    def collect(self) -> None:
        """Compare what arrived, when nothing waits any more, with what was promised; begin anew."""
        for server in (self.steady, self.shaky):
            for recipient, content in server.acknowledged:
                if content == b"\r\n":
                    continue  # the weather changed between a MAIL that was refused and a DATA that was not
                name = re.search(rb"^Subject: (\S+)\r$", content, re.MULTILINE)
                assert name, content[:2000]
                pair = name[1].decode(), recipient
                self.duplicates += pair in self.arrived
                self.arrived.add(pair)
            server.sessions.clear()
        assert self.promised <= self.arrived, f"lost: {self.promised - self.arrived}"
        self.promised.clear()
        self.arrived.clear()

    async def _be_client(self) -> None:
        habits: tuple[Callable[[Peer], Awaitable[None]], ...] = (
            self._send,
            self._send,
            self._send,
            self._send_chunks,
            self._vanish,
            self._reset,
            self._talk_nonsense,
        )
        while True:
            with suppress(ConnectionError):
                async with self.relay.client() as peer:
                    await peer.ask("EHLO soak")
                    if self.chance.random() < 0.3:
                        assert (await peer.ask("STARTTLS")).startswith("220 ")
                        await peer.start_tls(self.tls)
                        self.encrypted += 1
                    for _ in range(self.chance.randint(1, 6)):
                        await self.chance.choice(habits)(peer)
                        await asyncio.sleep(PAUSE)

    def _envelope(self) -> tuple[str, list[str], list[str]]:
        self._names += 1
        sender = f"m{self._names}@soak.test"
        recipients = self.chance.sample(RECIPIENTS, self.chance.randint(1, len(RECIPIENTS)))
        return sender, recipients, [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in recipients)]

    def _content(self, name: str) -> bytes:
        line = b"x" * 76 + b"\r\n"
        return f"Subject: {name}\r\n\r\n".encode() + line * (
            self.chance.choice([1, 10, 100, LARGE]) // len(line) + 1
        )

    def _promise(self, reply: str, sender: str, recipients: list[str]) -> None:
        if reply.startswith("250 "):
            self.messages += 1
            self.promised |= {(sender, recipient) for recipient in recipients}

    async def _send(self, peer: Peer) -> None:
        sender, recipients, commands = self._envelope()
        await peer.ask(*commands, "DATA")
        peer.send(self._content(sender) + b".\r\n")
        self._promise(await peer.reply(), sender, recipients)

    async def _send_chunks(self, peer: Peer) -> None:
        sender, recipients, commands = self._envelope()
        content = self._content(sender)
        await peer.ask(*commands)
        half = len(content) // 2
        peer.send(b"BDAT %d\r\n" % half + content[:half])
        peer.send(b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
        await peer.reply()
        self._promise(await peer.reply(), sender, recipients)

    async def _vanish(self, peer: Peer) -> None:
        """Break the connection in the middle of a content."""
        sender, _, commands = self._envelope()
        await peer.ask(*commands, "DATA")
        peer.send(self._content(sender))
        self.vanished += 1
        if self.chance.random() < 0.5:
            linger = struct.pack("ii", 1, 0)
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        peer.writer.transport.abort()
        raise ConnectionAbortedError

    async def _reset(self, peer: Peer) -> None:
        await peer.ask(*self._envelope()[2], "RSET", "NOOP")

    async def _talk_nonsense(self, peer: Peer) -> None:
        await peer.ask("XYZZY", "MAIL FROM:<", "VRFY a@steady.test")

    async def _be_weather(self) -> None:
        """Let the shaky next hop be bad and good by turns, so that not much waits for it."""
        while True:
            calm = asyncio.Event()
            hanging = UP.but(MAIL=(Wait(calm), DROP))
            self._change_weather(self.chance.choice([*BAD_MOODS, hanging]), calm)
            await asyncio.sleep(self.chance.uniform(0.2, 1.5))
            self._change_weather(UP)
            await asyncio.sleep(self.chance.uniform(0.5, 1.5))

    def _change_weather(self, script: Script, calm: asyncio.Event | None = None) -> None:
        """Let the shaky next hop behave so, and let go of those that it let hang."""
        self.shaky.script = script
        if self._calm:
            self._calm.set()
        self._calm = calm

    async def _be_owner(self) -> None:
        while True:
            os.kill(self.relay.pid, signal.SIGHUP)
            self.hangups += 1
            await asyncio.sleep(1.0)
            await self.relay.queue()
            for command in ("hold", "release", "retry"):
                await self.relay.command("queue", command, "--to", "c@shaky.test")
