"""Senders whose domains DNS does not know: refused when mail for the outside is sent, not hours later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay import wiring as module
from relay.config.loading import parse_config
from relay.oauth.tokens import Tokens
from relay.routing.resolver import Resolver
from relay.wiring import Wiring
from tests.support.dns_server import DnsServer, Failure, Records
from tests.support.service import Service, deliveries
from tests.support.smtp_server import ScriptedServer

NAMES: dict[str, Records | Failure] = {
    "free.fr": {"MX": ["10 mx.free.fr."]},
    "broken.test": Failure.SERVFAIL,
    "mute.test": Failure.SILENCE,
}
CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
REFUSAL = (
    "550 5.1.8 <{0}@gw1.maison.mrs>: nobody outside could answer this sender, as the domain gw1.maison.mrs"
    ' does not exist. In relay.toml, put {0} = "your real address" under [sender_canonical].'
)


class TestVerifySender:
    """What wiring asks DNS, and for how long."""

    @staticmethod
    async def ask(dns: DnsServer, toml: str, *senders: str) -> list[str]:
        text = f'hostname = "gw1.maison.mrs"\n{toml}\n[dns]\nnameservers = ["{{}}:{{}}"]'.format(*dns.address)
        wiring = Wiring.of(parse_config(text, machine_name=""), Tokens({}))
        replies = [await wiring.verify_sender(sender, "anna@free.fr") for sender in senders]
        return [str(reply) if reply else "" for reply in replies]

    async def test_what_dns_does_not_know_is_refused(self) -> None:
        async with DnsServer(NAMES) as dns:
            replies = await self.ask(
                dns, "", "chris", "chris@gw1.maison.mrs", "chris@Free.fr", "chris@fre.fr"
            )
        assert replies[:3] == [REFUSAL.format("chris"), REFUSAL.format("chris"), ""]
        assert replies[3].startswith("550 5.1.8 <chris@fre.fr>: ")

    @pytest.mark.parametrize("scope", ["external", "all"])
    async def test_the_rewritten_sender_counts(self, scope: str) -> None:
        toml = f"""
            rewrite.scope = "{scope}"
            [sender_canonical]
            root = "chris@free.fr"
            "marc@free.fr" = "marc@fre.fr"
        """
        async with DnsServer(NAMES) as dns:
            replies = await self.ask(dns, toml, "root", "marc@free.fr")
        assert replies[0] == ""
        assert 'mend the entry "marc@free.fr" under [sender_canonical]' in replies[1]

    async def test_name_servers_that_deny_the_whole_world_are_not_believed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def know_nothing(*_: str) -> bool:
            return False

        monkeypatch.setattr(Resolver, "knows_the_world", know_nothing)
        async with DnsServer({}) as dns:
            assert await self.ask(dns, "", "chris@fre.fr") == [""]

    async def test_an_address_without_a_name_is_not_looked_up(self) -> None:
        async with DnsServer(NAMES) as dns:
            assert await self.ask(dns, "", "chris@[192.0.2.1]", "chris@") == ["", ""]
            assert not dns.queries

    async def test_a_temporary_failure_lets_it_pass_and_is_not_asked_about_again_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with DnsServer(NAMES) as dns:
            assert await self.ask(dns, "", "a@broken.test", "b@Broken.test") == ["", ""]
            once = dns.queries["broken.test", "MX"]
            monkeypatch.setattr(module, "SILENCE_SECONDS", -1.0)
            assert await self.ask(dns, "", "a@broken.test", "b@broken.test") == ["", ""]
        assert dns.queries["broken.test", "MX"] == 3 * once

    async def test_dns_that_fails_for_one_domain_is_asked_about_others(self) -> None:
        async with DnsServer(NAMES) as dns:
            replies = await self.ask(dns, "", "a@broken.test", "a@fre.fr", "a@broken.test")
        assert [bool(reply) for reply in replies] == [False, True, False]

    async def test_dns_that_fails_for_two_domains_holds_nobody_else_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        senders = ("a@broken.test", "a@lame.test", "a@fre.fr")
        async with DnsServer({**NAMES, "lame.test": Failure.SERVFAIL}) as dns:
            assert await self.ask(dns, "", *senders) == ["", "", ""]
            assert ("fre.fr", "MX") not in dns.queries
            monkeypatch.setattr(module, "SILENCE_SECONDS", -1.0)
            assert [bool(reply) for reply in await self.ask(dns, "", *senders)] == [False, False, True]

    async def test_a_name_server_that_is_silent_holds_nobody_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LOOKUP_SECONDS", 0.05)
        async with DnsServer(NAMES) as dns:
            assert await self.ask(dns, "", "a@mute.test", "b@mute.test") == ["", ""]
        assert dns.queries == {("mute.test", "MX"): 1}


@asynccontextmanager
async def relaying(folder: Path, toml: str = "") -> AsyncIterator[tuple[Service, ScriptedServer]]:
    """Run a relay for a house whose name the world's DNS does not know, and the outside."""
    async with DnsServer(NAMES) as dns, ScriptedServer() as outside:
        text = f"""
            postmaster = "chris@free.fr"
            relayhost = "[127.0.0.1]:{outside.port}"
            {toml}
            [dns]
            nameservers = ["{dns.address[0]}:{dns.address[1]}"]
            [local]
            users = ["marc"]
            maildir = "{folder}/{{user}}"
        """
        async with Service(folder, text) as service:
            yield service, outside


async def test_a_client_is_told_at_once_and_mail_in_the_house_is_its_own_affair(tmp_path: Path) -> None:
    async with relaying(tmp_path) as (relay, outside):
        sender = "chris@gw1.maison.mrs"
        assert await relay.send(CONTENT, "anne@machin.com", sender=sender) == REFUSAL.format("chris")
        assert (await relay.send(CONTENT, "marc", sender=sender)).startswith("250 ")
        assert (await relay.send(CONTENT, "anne@machin.com", sender="")).startswith("250 ")
        await relay.configure(relay.config.read_text() + '\n[sender_canonical]\nchris = "chris@free.fr"\n')
        assert (await relay.send(CONTENT, "anne@machin.com", sender=sender)).startswith("250 ")
        await relay.logged("status=sent", 3)
    assert {delivery.reverse_path for delivery in deliveries(outside)} == {"", "chris@free.fr"}


async def test_what_a_program_sends_comes_back_at_once(tmp_path: Path) -> None:
    async with relaying(tmp_path) as (relay, outside):
        for sender in ("marc", "backup"):
            subprocess.run(
                [sys.executable, "-m", "relay", "send", "-f", sender, "anne@machin.com"],
                input=CONTENT,
                env={**os.environ, "RELAY_CONFIG": str(relay.config)},
                check=True,
            )
        await relay.logged("status=sent", 2)
        await relay.emptied()
    (to_marc,) = (path.read_bytes() for path in (tmp_path / "marc/new").iterdir())
    (to_postmaster,) = deliveries(outside)
    assert to_postmaster.recipients == ("chris@free.fr",)
    for sender, report in (("marc", to_marc), ("backup", to_postmaster.content)):
        words = " ".join(report.decode().replace("\n    > ", " ").split())
        assert f'put {sender} = "your real address" under [sender_canonical]' in words
        assert "Subject: hello world --=" in words
        assert "It is the address that you send from that has to be mended." in words
