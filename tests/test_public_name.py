"""``helo_name = "auto"`` in the whole program, with a small internet: name server and mail exchangers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.dns_server import DnsServer, Failure, Records
from tests.support.namespace import run_apart
from tests.support.rig import ServerAt
from tests.support.service import PATIENCE, Service, deliveries
from tests.support.smtp_server import DROP, Script, offer

pytestmark = [pytest.mark.needs_root, pytest.mark.needs("ip")]

OLD, NEW = "203.0.113.5", "203.0.113.77"
NAME_SERVER, EXCHANGER, OF_POSTMASTER = "203.0.113.53", "198.51.100.25", "198.51.100.26"
NAMES: dict[str, Records | Failure] = {
    "resolver1.opendns.com": {"A": [NAME_SERVER]},
    "myip.opendns.com": {"A": [OLD]},
    "5.113.0.203.in-addr.arpa": {"PTR": ["h5.isp.example."]},
    "h5.isp.example": {"A": [OLD]},
    "77.113.0.203.in-addr.arpa": {"PTR": ["h77.isp.example."]},
    "h77.isp.example": {"A": [NEW]},
    "machin.example": {"MX": ["10 mx.machin.example."]},
    "mx.machin.example": {"A": [EXCHANGER]},
    "free.example": {"MX": ["10 mx.free.example."]},
    "mx.free.example": {"A": [OF_POSTMASTER]},
}
AUTO = 'helo_name = "auto"\n'
NOTICE = f'{AUTO}address_notice = true\npostmaster = "chris@free.example"\n'
DNS = f'[dns]\nnameservers = ["{NAME_SERVER}"]\n'
LETTER = b"Subject: hello\r\nFrom: chris@free.example\r\n\r\nworld\r\n"


@dataclass
class Internet:
    """What is out there."""

    dns: DnsServer
    exchanger: ServerAt
    of_postmaster: ServerAt

    async def mail(self, relay: Service) -> str:
        """Send a letter, and return the name that its mail exchanger was given."""
        count = len(self.exchanger.sessions)
        assert (await relay.send(LETTER, "marc@machin.example", sender="chris@free.example")).startswith(
            "250 "
        )
        async with asyncio.timeout(PATIENCE):
            while len(self.exchanger.acknowledged) <= count:
                await asyncio.sleep(0.01)
        assert len(self.exchanger.sessions) == count + 1
        return self.exchanger.sessions[-1].commands[0].decode().removeprefix("EHLO ")

    async def notices(self, count: int) -> list[str]:
        """Return the mail that the postmaster got, once there is so much."""
        async with asyncio.timeout(PATIENCE):
            while len(deliveries(self.of_postmaster)) < count:
                await asyncio.sleep(0.01)
        return [delivery.content.decode() for delivery in deliveries(self.of_postmaster)]

    def shows(self, address: str) -> None:
        """Let the mail exchanger show an address from now on."""
        self.exchanger.script = showing(address)


def showing(address: str) -> Script:
    """Return a server that takes one letter in each session."""
    hello = offer("8BITMIME", name=f"mx.machin.example Hello gw1 [{address}], pleased to meet you")
    return Script().but(EHLO=hello, DOT=(b"250 2.0.0 Ok\r\n", DROP))


@asynccontextmanager
async def internet() -> AsyncIterator[Internet]:
    async with (
        DnsServer(NAMES, ttl=0, negative_ttl=0, at=(NAME_SERVER, 53)) as dns,
        ServerAt(EXCHANGER, 25, showing(OLD)) as exchanger,
        ServerAt(OF_POSTMASTER, 25) as of_postmaster,
    ):
        yield Internet(dns, exchanger, of_postmaster)


def test_the_name_follows_the_address_and_the_postmaster_is_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with internet() as world:
            async with Service(tmp_path, NOTICE + DNS) as relay:
                assert await world.mail(relay) == "h5.isp.example"
                [first] = await world.notices(1)
                world.dns.names["myip.opendns.com"] = {"A": [NEW]}
                world.shows(NEW)
                assert await world.mail(relay) == "h5.isp.example"
                assert await world.mail(relay) == "h77.isp.example"
                [_, second] = await world.notices(2)
                await relay.emptied()
            async with Service(tmp_path, NOTICE + DNS) as relay:
                assert await world.mail(relay) == "h77.isp.example"
                await relay.emptied()
                assert len(await world.notices(2)) == 2
        assert "Subject: gw1.maison.mrs: the public address is 203.0.113.5\r\n" in first
        assert "To: chris@free.example\r\nAuto-Submitted: auto-generated\r\n" in first
        assert "    address: 203.0.113.77 (before: 203.0.113.5)\r\n" in second
        assert "    name:    h77.isp.example (before: h5.isp.example)\r\n" in second
        assert [delivery.reverse_path for delivery in deliveries(world.of_postmaster)] == ["", ""]

    run_apart(scenario, NAME_SERVER, EXCHANGER, OF_POSTMASTER)


def test_a_mail_exchanger_tells_where_name_servers_dont(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with internet() as world:
            del world.dns.names["resolver1.opendns.com"]
            async with Service(tmp_path, AUTO + DNS) as relay:
                assert await world.mail(relay) == "gw1.maison.mrs"
                assert await world.mail(relay) == "h5.isp.example"
                await relay.configure('helo_name = "fixed.example"\n' + DNS)
                assert await world.mail(relay) == "fixed.example"
                await relay.configure(AUTO + DNS)
                assert await world.mail(relay) == "h5.isp.example"

    run_apart(scenario, NAME_SERVER, EXCHANGER, OF_POSTMASTER)


@pytest.mark.parametrize("hostname", ["localhost", "0123456789ab"])
def test_without_a_name_it_is_never_localhost_or_a_container_id(tmp_path: Path, hostname: str) -> None:
    async def scenario() -> None:
        async with internet() as world:
            world.dns.names["5.113.0.203.in-addr.arpa"] = {"PTR": [f"{hostname}."]}
            async with Service(tmp_path, f'hostname = "{hostname}"\n{AUTO}{DNS}') as relay:
                assert await world.mail(relay) == f"[{OLD}]"

    run_apart(scenario, NAME_SERVER, EXCHANGER, OF_POSTMASTER)


def test_the_commands_know_the_name(tmp_path: Path) -> None:
    letter = ("explain", "chris@free.example", "marc@machin.example")

    async def scenario() -> None:
        async with internet() as world:
            relay = Service(tmp_path, AUTO + DNS)
            told = (await relay.command(*letter, "--json")).out
            assert "with EHLO gw1.maison.mrs (helo_name" in told
            assert "the public address is not known yet)" in told
            report = (await relay.command("doctor", "--json")).out
            assert "the EHLO name h5.isp.example leads to 203.0.113.5" in report
            async with relay:
                assert await world.mail(relay) == "h5.isp.example"
            told = (await relay.command(*letter, "--json")).out
            assert re.search(
                r"with EHLO h5\.isp\.example \(helo_name, relay\.toml:\d+: the name of 203\.0\.113\.5\)", told
            )
            world.dns.names["5.113.0.203.in-addr.arpa"] = {"PTR": ["localhost."]}
            report = (await relay.command("doctor", "--json")).out
            assert "the EHLO name gw1.maison.mrs does not exist in DNS" in report
            async with relay:
                await relay.logged("203.0.113.5 has no name that leads back to it")
            told = (await relay.command(*letter, "--json")).out
            assert "with EHLO gw1.maison.mrs (helo_name" in told
            assert "203.0.113.5 has no name that leads back to it" in told

    run_apart(scenario, NAME_SERVER, EXCHANGER, OF_POSTMASTER)
