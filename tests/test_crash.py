"""The real program, killed and stopped: no acknowledged message is lost, none is repeated without need."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.reception import Peer
from tests.support.service import Service, deliveries
from tests.support.smtp_server import DROP, HANG, RESET, Script, ScriptedServer, Step

KILLS = 15
STOPS = 6
SESSIONS = 4
SEED = 20000522
LONGEST_LIFE = 0.7
"""Seconds between the start of the relay and its end."""
UP = Script()
SHAKY = (
    UP,
    UP,
    Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP)),
    UP.but(MAIL=HANG),
    UP.but(RCPT=b"450 4.2.1 mailbox busy\r\n", DATA=b"554 5.5.1 no valid recipients\r\n"),
    UP.but(DOT=[b"250 2.0.0 taken\r\n", RESET]),
)
"""What one of the next hops is like, from one life of the relay to the next."""
RECIPIENTS = ("a@steady.test", "b@steady.test", "c@shaky.test", "d@shaky.test")
LINE = 78

Pair = tuple[str, str]
"""A message, called by its sender, and one of its recipients."""


@dataclass
class Load:
    """Clients that send messages of all sizes: what they sent, and what they were promised."""

    chance: random.Random
    contents: dict[str, bytes] = field(default_factory=dict)
    promised: set[Pair] = field(default_factory=set)
    _clients: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._text = base64.encodebytes(self.chance.randbytes(1_500_000)).replace(b"\n", b"\r\n")

    async def press(self, relay: Service) -> None:
        """Let the clients send for a while, and go on."""
        self._clients = [asyncio.create_task(self._send_until_the_end(relay)) for _ in range(SESSIONS)]
        await asyncio.sleep(self.chance.uniform(0, LONGEST_LIFE))

    async def ended(self) -> None:
        """Wait until all clients have found the relay gone."""
        await asyncio.gather(*self._clients)

    async def _send_until_the_end(self, relay: Service) -> None:
        """Send one message after another until the relay is gone."""
        with suppress(ConnectionError):
            async with relay.client(greet=False) as peer:
                await peer.reply()
                await peer.ask("EHLO load")
                while await self._send(peer):
                    pass

    async def _send(self, peer: Peer) -> bool:
        sender = f"m{len(self.contents)}@load.test"
        recipients = self.chance.sample(RECIPIENTS, self.chance.randint(1, len(RECIPIENTS)))
        content = self.contents[sender] = self._make_content(sender)
        await peer.ask(f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{r}>" for r in recipients), "DATA")
        peer.send(content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        is_promised = (await peer.reply()).startswith("250 ")
        if is_promised:
            self.promised |= {(sender, recipient) for recipient in recipients}
        return is_promised

    def _make_content(self, sender: str) -> bytes:
        """Return a message of 1 kB to 1 MB, small ones being as frequent as large ones."""
        size = LINE * int(10 ** self.chance.uniform(1.1, 4.1))
        start = LINE * self.chance.randrange((len(self._text) - size) // LINE)
        header = f"Message-ID: <{sender}>\r\nDate: Mon, 22 May 2000 20:27:59 +0200\r\nFrom: {sender}\r\n\r\n"
        return header.encode() + b".begins with a dot\r\n" + self._text[start : start + size]


@dataclass
class Copies:
    """What the next hops took."""

    contents: dict[str, set[bytes]] = field(default_factory=dict)
    counts: Counter[Pair] = field(default_factory=Counter)

    async def collect(self, server: ScriptedServer) -> None:
        """Take over what a server has, once its sessions are over."""
        await server.wait_ended()
        for delivery in deliveries(server):
            self.contents.setdefault(delivery.reverse_path, set()).add(delivery.without_trace)
            self.counts.update((delivery.reverse_path, recipient) for recipient in delivery.recipients)
        server.sessions.clear()


def make_relay(folder: Path, steady: ScriptedServer, shaky: ScriptedServer) -> Service:
    return Service(
        folder,
        f"""
        queue = {{ retry = ["200ms"] }}
        [transport]
        "steady.test" = "[127.0.0.1]:{steady.port}"
        "shaky.test" = "[127.0.0.1]:{shaky.port}"
        """,
    )


async def waiting_pairs(relay: Service) -> set[Pair]:
    return {
        (message["sender"], recipient["address"])
        for message in await relay.queue()
        for recipient in message["recipients"]
        if recipient["state"] != "delivered"
    }


async def test_kills_under_load_lose_nothing_and_repeat_only_what_was_in_flight(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    load, copies = Load(chance), Copies()
    settled: dict[Pair, int] = {}
    async with ScriptedServer() as steady, ScriptedServer() as shaky:
        async with make_relay(tmp_path, steady, shaky) as relay:
            for condition in [*chance.choices(SHAKY, k=KILLS - 1), UP]:
                await load.press(relay)
                await relay.kill()
                await load.ended()
                for server in (steady, shaky):
                    await copies.collect(server)
                for pair in load.promised - await waiting_pairs(relay):
                    settled.setdefault(pair, copies.counts[pair])
                shaky.script = condition
                await relay.start()
            await relay.command("queue", "retry", "--all")
            await relay.emptied()
        for server in (steady, shaky):
            await copies.collect(server)
    assert len(load.promised) > KILLS
    assert load.promised <= copies.counts.keys(), "lost"
    assert {pair: copies.counts[pair] for pair in settled} == settled, "repeated though it was settled"
    assert settled
    assert 0 not in settled.values(), "settled without a copy"
    for sender, contents in copies.contents.items():
        assert contents == {load.contents[sender]}


async def test_stops_under_load_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    load, copies = Load(chance), Copies()
    async with ScriptedServer() as steady, ScriptedServer() as shaky:
        async with make_relay(tmp_path, steady, shaky) as relay:
            for _ in range(STOPS):
                await load.press(relay)
                assert await relay.stop() == 0
                await load.ended()
                await relay.start()
            await relay.command("queue", "retry", "--all")
            await relay.emptied()
        for server in (steady, shaky):
            await copies.collect(server)
    assert len(load.promised) > STOPS
    assert load.promised <= copies.counts.keys(), "lost"
    assert set(copies.counts.values()) == {1}


CONTENT = b"Subject: hello\r\n\r\nworld\r\n"


@asynccontextmanager
async def hanging_servers() -> AsyncIterator[tuple[dict[str, ScriptedServer], asyncio.Event]]:
    """Yield servers that hang at some point each, by name, and what is set when the last of them does.

    The one called "second" hangs at the second message of a connection.
    """
    has_hung = asyncio.Event()

    def hang(_: bytes) -> Step:
        has_hung.set()
        return HANG

    scripts = {point.lower(): UP.but(**{point: HANG}) for point in ("greeting", "MAIL", "BODY", "DOT")}
    scripts["second"] = UP.but(DATA=[b"354 go ahead\r\n", hang])
    async with AsyncExitStack() as stack:
        servers = {
            name: await stack.enter_async_context(ScriptedServer(script)) for name, script in scripts.items()
        }
        yield servers, has_hung


async def test_sigterm_ends_within_eight_seconds_whatever_hangs(tmp_path: Path) -> None:
    async with hanging_servers() as (servers, has_hung):
        routes = [f'"{name}.test" = "[127.0.0.1]:{server.port}"' for name, server in servers.items()]
        async with Service(tmp_path, "\n".join(["[transport]", *routes])) as relay:
            assert (await relay.send(CONTENT, "first@second.test")).startswith("250 ")
            await relay.logged("to=<first@second.test>, .*status=sent")
            for name in servers:
                assert (await relay.send(CONTENT, f"user@{name}.test")).startswith("250 ")
            for point in ("greeting", "MAIL", "BODY", "DOT"):
                await servers[point.lower()].wait_for(point)
            await has_hung.wait()
            async with relay.client() as idle, relay.client() as silent, relay.client() as busy:
                for peer in (silent, busy):
                    commands = ("EHLO x", "MAIL FROM:<a@free.fr>", "RCPT TO:<late@second.test>", "DATA")
                    assert (await peer.ask(*commands)).startswith("354 ")
                    peer.send(CONTENT)
                async with asyncio.timeout(8):
                    stopping = asyncio.create_task(relay.stop())
                    assert (await idle.reply()).startswith("421 4.3.2 ")
                    busy.send(b"the end\r\n.\r\n")
                    assert (await busy.reply()).startswith("250 2.0.0 Ok: queued as ")
                    assert (await busy.reply()).startswith("421 4.3.2 ")
                    assert await stopping == 0
                assert await silent.reply() == ""

        left = {r["address"] for message in await relay.queue() for r in message["recipients"]}
        assert left == {"late@second.test", *(f"user@{name}.test" for name in servers)}
        for server in servers.values():
            server.script = UP
        async with relay:
            await relay.command("queue", "retry", "--all")
            await relay.emptied()
        taken = {
            name: Counter(recipient for delivery in deliveries(server) for recipient in delivery.recipients)
            for name, server in servers.items()
        }
        assert taken.pop("second") == {"first@second.test": 1, "user@second.test": 1, "late@second.test": 1}
        assert taken.pop("dot") == {"user@dot.test": 2}
        assert taken == {name: {f"user@{name}.test": 1} for name in taken}


@pytest.mark.needs("strace")
async def test_no_message_is_acknowledged_before_the_disk_has_it(tmp_path: Path) -> None:
    record = tmp_path / "calls"
    calls = "trace=fdatasync,fsync,pwrite64,write,writev,sendto,sendmsg"
    strace = ("strace", "-f", "-qq", "-y", "-e", calls, "-o", record)
    hold = "[[header_checks]]\npattern = '^Subject:'\naction = 'HOLD'"
    async with Service(tmp_path, hold, under=strace) as relay:
        for lines in (1, 100, 3000):
            assert (await relay.send(CONTENT + b"line\r\n" * lines, "marc@machin.com")).startswith("250 ")
    steps = "".join(_steps(record.read_text()))
    assert re.fullmatch("[ws]*(>[ws]*ws!){3}[ws]*", steps), steps


def _steps(calls: str) -> Iterator[str]:
    """Yield what was done: ">" content asked for, "w" the log written, "s" synced, "!" acknowledged."""
    for call in calls.splitlines():
        if re.search(r"pwrite64\(\d+<\S+queue\.db-wal>", call):
            yield "w"
        elif re.search(r"(fdatasync|fsync)(\(\d+<\S+queue\.db-wal>\)| resumed>\)) += 0$", call):
            yield "s"
        elif '"354 ' in call:
            yield ">"
        elif '"250 2.0.0 Ok: queued as ' in call:
            yield "!"
