"""The Internet of the pages: its names, and the mail servers that stand in for the sites of the tutorial."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import Mapping
from typing import Self

import trustme

from tests.support.smtp_server import TLS, Script, ScriptedServer, Step, offer

PUBLIC, NEXT_PUBLIC = "203.0.113.152", "203.0.113.77"
"""The address that the gateway has from its provider, and the one that it gets later."""
GATEWAY_ADDRESS, PC_ADDRESS = "192.168.0.253", "192.168.0.10"
"""In the house."""
ROUTER, NAME_SERVER, STRANGER, NOBODY = "203.0.113.1", "192.0.2.53", "198.51.100.66", "192.0.2.1"
"""On the Internet: the provider's router, a name server, somebody, and where the relay expects nobody."""
ZONE: Mapping[str, Mapping[str, list[str]]] = {
    "enprovence.example": {"MX": ["0 mail.monaco.example.", "1 dns2.monaco.example."]},
    "mail.monaco.example": {"A": ["192.0.2.9"]},
    "dns2.monaco.example": {"A": ["192.0.2.2"]},
    "free.example": {"MX": ["10 mx.free.example."]},
    "mx.free.example": {"A": ["192.0.2.13"]},
    "aol.example": {"MX": ["15 mx.aol.example."]},
    "mx.aol.example": {"A": ["192.0.2.71"]},
    "wanadoo.example": {"MX": ["10 smtp.wanadoo.example."]},
    "smtp.wanadoo.example": {"A": ["192.0.2.150"]},
    "152.113.0.203.in-addr.arpa": {"PTR": ["ca-marseille-36-152.abo.wanadoo.example."]},
    "ca-marseille-36-152.abo.wanadoo.example": {"A": [PUBLIC]},
    "77.113.0.203.in-addr.arpa": {"PTR": ["ca-marseille-36-77.abo.wanadoo.example."]},
    "ca-marseille-36-77.abo.wanadoo.example": {"A": [NEXT_PUBLIC]},
    "resolver1.opendns.com": {"A": [NAME_SERVER]},
    "myip.opendns.com": {"A": [PUBLIC]},
}
HOUSE_ZONE: Mapping[str, Mapping[str, list[str]]] = {
    "gw1.maison.mrs": {"MX": ["10 gw1.maison.mrs."], "A": [GATEWAY_ADDRESS]},
}
"""What a name server of the house, which asks the Internet's for all else, knows."""


class Site(ScriptedServer):
    """A mail server of the Internet, under its own address and port."""

    def __init__(self, name: str, script: Script, port: int = 25, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(script, tls=tls)
        self.name = name
        self._place = (ZONE[name]["A"][0], port)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._start, *self._place)
        return self

    async def hang_up(self) -> None:
        """End the sessions of clients that have said nothing for a while."""
        for task in self._tasks:
            task.cancel()
        await self.wait_ended()


def _accepting(name: str, taken: str) -> Script:
    return Script(
        f"220 {name} ESMTP\r\n".encode(),
        {"EHLO": offer("8BITMIME", "SIZE 10000000", name=name), "DOT": f"250 2.0.0 {taken}\r\n".encode()},
    )


def _judge_sender(command: bytes) -> Step:
    """What Free did in the tutorial: refuse a sender whose domain the Internet does not know."""
    domain = command.partition(b"@")[2].partition(b">")[0].decode().lower()
    if domain in ZONE or not domain:
        return b"250 2.1.0 Ok\r\n"
    return b"553 sorry, your envelope sender domain must exist (#5.7.1)\r\n"


def _judge_login(command: bytes) -> Step:
    """Let chris in with the password that the pages put into a file."""
    is_right = b64decode(command.split()[-1]) == b"\0chris@wanadoo.example\0un mot de passe"
    return b"235 2.7.0 Welcome\r\n" if is_right else b"535 5.7.8 Who are you?\r\n"


def hello_of_monaco(client: str) -> bytes:
    """Return the reply to EHLO of a Sendmail, which tells clients their address."""
    name = f"mail.monaco.example Hello [{client}], pleased to meet you"
    return offer("8BITMIME", "SIZE 10000000", name=name)


def make_sites(ca: trustme.CA) -> list[Site]:
    """Return the mail servers that the pages write to."""
    monaco = _accepting("mail.monaco.example", "LAA13742 Message accepted for delivery")
    free = _accepting("mx.free.example", "Ok: queued as 7C10D5A4E01").but(MAIL=_judge_sender)
    refusal = f"(RTR:DU) {PUBLIC} is a dynamic (residential) IP address: we take no mail from it"
    provider = _accepting("smtp.wanadoo.example", "Ok: queued as 2D8B9F40C2").but(
        greeting=(TLS, b"220 smtp.wanadoo.example ESMTP\r\n"),
        EHLO=offer("8BITMIME", "SIZE 20000000", "AUTH PLAIN LOGIN", name="smtp.wanadoo.example"),
        AUTH=_judge_login,
    )
    vouched = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("smtp.wanadoo.example").configure_cert(vouched)
    return [
        Site("mail.monaco.example", monaco.but(EHLO=hello_of_monaco(PUBLIC))),
        Site("mx.free.example", free),
        Site("mx.aol.example", Script(f"554 5.7.1 {refusal}\r\n".encode())),
        Site("smtp.wanadoo.example", provider, 465, vouched),
    ]
