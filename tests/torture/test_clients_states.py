"""STARTTLS and AUTH out of turn: what is said in clear is forgotten, and confusion lets nobody in."""

from __future__ import annotations

import asyncio
import re
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from relay.mail.passwords import make_hash
from tests.support.authority import Authority
from tests.support.reception import Peer
from tests.support.service import Service, deliveries
from tests.support.smtp_server import ScriptedServer
from tests.torture.clients_rig import (
    AREA,
    PROMPT,
    STRANGER,
    bystander,
    check_log,
    connected,
    exchange,
    relaying,
    until_sent,
)
from tests.torture.conftest import Figure

MAIL = ("MAIL FROM:<chris@free.fr>", "RCPT TO:<victim@free.fr>")
DENIED = "554 5.7.1"


def plain(user: bytes = b"anna", password: bytes = b"secret", on_behalf_of: bytes = b"") -> str:
    return b64encode(b"\0".join((on_behalf_of, user, password))).decode()


@dataclass(frozen=True)
class Door:
    """A relay that knows one user and, beside her, nobody here; ``clear`` is where passwords may be read."""

    relay: Service
    next_hop: ScriptedServer
    tls: ssl.SSLContext
    clear: int

    @asynccontextmanager
    async def stranger(self, *commands: str, port: int = 0) -> AsyncIterator[Peer]:
        async with connected(self.relay, STRANGER, port=port) as peer:
            await peer.ask("EHLO x", *commands)
            yield peer


@asynccontextmanager
async def door(folder: Path) -> AsyncIterator[Door]:
    authority = Authority(trustme.CA(), folder)
    certificate, key = authority.files("localhost")
    toml = f"""
listen = [
  {{ address = "127.0.0.1:0", tls = "starttls", auth = "optional" }},
  {{ address = "0.0.0.0:0", tls = "starttls", auth = "optional", clear_password = true }},
]
[access]
networks = ["127.0.0.1/32"]
[tls]
certificate = "{certificate}"
key = "{key}"
[users]
anna = "{make_hash(b"secret", b"0123456789abcdef")}"
"""
    tls = ssl.create_default_context()
    authority.ca.configure_trust(tls)
    async with relaying(folder, toml) as (relay, next_hop):
        ports = [int(port) for port in re.findall(r"\.[01]:(\d+)", relay.log)]
        yield Door(relay, next_hop, tls, ports[1])
        check_log(relay)


async def test_what_was_said_in_clear_is_forgotten(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        async with here.stranger() as peer:
            peer.send(b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@free.fr>\r\n")  # as a man in the middle does
            assert (await peer.reply()).startswith("220 ")
            await peer.start_tls(here.tls)
            assert (await peer.ask("NOOP")).startswith("250 2.0.0")
            assert (await peer.ask("RCPT TO:<victim@free.fr>")).startswith("503 ")
            assert "STARTTLS" not in await peer.ask("EHLO x")
            assert (await peer.ask("STARTTLS")).startswith("554 ")
        async with here.stranger("MAIL FROM:<a@free.fr>", "STARTTLS") as peer:
            await peer.start_tls(here.tls)
            assert (await peer.ask("RCPT TO:<victim@free.fr>")).startswith("503 ")
        async with here.stranger("MAIL FROM:<a@free.fr>", f"AUTH PLAIN {plain()}", port=here.clear) as peer:
            assert (await peer.ask("RSET", f"AUTH PLAIN {plain()}")).startswith("235 ")
            assert (await peer.ask("STARTTLS")).startswith("220 ")
            await peer.start_tls(here.tls)
            assert (await peer.ask(*MAIL)).startswith(DENIED)
            assert (await peer.ask("RSET", f"AUTH PLAIN {plain()}")).startswith("235 ")
            assert (await peer.ask(*MAIL)).startswith("250 ")
        assert not here.next_hop.sessions


NO_TLS = [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff", b"EHLO x\r\n", b"\0" * 5000]
ODD_LOGINS: list[tuple[tuple[str, ...], str]] = [
    (("AUTH",), "501"),
    (("AUTH PLAIN a b",), "501"),
    (("AUTH NTLM",), "535"),
    (("AUTH \u017fLAIN",), "535"),
    (("AUTH PLAIN =",), "535"),
    (("AUTH PLAIN !",), "535"),
    (("AUTH PLAIN AA==AA==",), "535"),
    ((f"AUTH PLAIN {'A' * 12000}",), "535"),
    (("AUTH PLAIN", "*"), "501"),
    (("AUTH PLAIN", ""), "535"),
    (("AUTH PLAIN", "MAIL FROM:<chris@free.fr>"), "535"),
    (("AUTH PLAIN", "A" * 20000), "535"),
    (("AUTH LOGIN", "*"), "501"),
    (("AUTH LOGIN", "YW5uYQ==", "*"), "501"),
    (("AUTH LOGIN", "YW5uYQ==", "QUIT"), "535"),
    ((f"AUTH PLAIN {plain(b'anna', b'')}",), "535"),
    ((f"AUTH PLAIN {plain(b'', b'')}",), "535"),
    ((f"AUTH PLAIN {plain(b'anna', b'secret ')}",), "535"),
    ((f"AUTH PLAIN {plain(b'anna' + bytes([0]) + b'x')}",), "535"),
    ((f"AUTH PLAIN {plain(b'a' * 8000)}",), "535"),
    ((f"AUTH PLAIN {plain(bytes([255, 254]))}",), "535"),
    ((f"AUTH PLAIN {plain(b'x' + bytes([13, 10]) + b'2026-11-24T08:00:00+0000 FAKE: removed')}",), "535"),
    ((f"AUTH PLAIN {plain(bytes([27]) + b'[2J' + bytes([7]))}",), "535"),
    ((f"AUTH PLAIN {plain('anna'.replace('a', chr(0x430)).encode())}",), "535"),
    ((f"AUTH PLAIN {plain(on_behalf_of=b'root')}", "AUTH PLAIN AA=="), "503"),
    (("MAIL FROM:<a@free.fr>", f"AUTH PLAIN {plain()}"), "503"),
]
LETS_IN = {f"AUTH PLAIN {plain(on_behalf_of=b'root')}"}


async def test_what_is_no_tls_ends_the_session(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        for answer in NO_TLS:
            said = await exchange(here.relay, b"EHLO x\r\nSTARTTLS\r\n", answer, source=STRANGER, pause=0.1)
            assert b"220 2.0.0 Ready" in said
            assert b"250 " not in said.partition(b"220 2.0.0 Ready")[2]
        async with bystander(here.relay) as watch, AsyncExitStack() as stack:
            for _ in range(20):  # who begins a handshake, and says nothing
                await stack.enter_async_context(here.stranger("STARTTLS"))
            asked = watch.count
            while watch.count < asked + 20:
                await asyncio.sleep(0.01)
        assert watch.worst < PROMPT


async def test_odd_logins_let_nobody_in(tmp_path: Path, figure: Figure) -> None:
    """A wrong password is answered after a while: they are tried at once."""

    async def try_one(here: Door, commands: tuple[str, ...], code: str) -> None:
        async with here.stranger(port=here.clear) as peer:
            reply = await peer.ask(*commands)
            assert reply.startswith(code), (commands, reply)
            may = commands[0] in LETS_IN
            reply = await peer.ask("RSET", *MAIL)
            assert reply.startswith("250" if may else DENIED), (commands, reply)

    async with door(tmp_path) as here:
        async with here.stranger() as peer:
            assert "AUTH" not in await peer.ask("EHLO x")
            assert (await peer.ask(f"AUTH PLAIN {plain()}")).startswith("503 ")
            assert (await peer.ask(*MAIL)).startswith(DENIED)
        await asyncio.gather(*(try_one(here, *case) for case in ODD_LOGINS))
        async with here.stranger(f"AUTH PLAIN {plain()}", port=here.clear) as peer:
            assert (await peer.ask("EHLO y", "RSET", *MAIL, "DATA")).startswith("354")
            peer.send(b"Subject: good\r\n\r\n.\r\n")
            assert (await peer.reply()).startswith("250 ")
        await until_sent(here.relay, here.next_hop, 1)
        assert b"secret" not in deliveries(here.next_hop)[0].content
        assert "secret" not in here.relay.log
    figure(AREA, "odd logins", len(ODD_LOGINS))


async def test_a_message_that_tls_cuts_off_is_none(tmp_path: Path) -> None:
    async with door(tmp_path) as here:
        for end in (b"", b".", b".\r", b"\r\n."):
            async with here.stranger("STARTTLS") as peer:
                await peer.start_tls(here.tls)
                await peer.ask("EHLO x", f"AUTH PLAIN {plain()}", *MAIL, "DATA")
                peer.send(b"Subject: cut\r\n\r\nbody\r\n" + end)
        await here.relay.logged("lost connection after DATA", 4)
        await until_sent(here.relay, here.next_hop, 0)
