"""``tls`` in [transport]: encrypted to a server that proves its name, or the mail waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.dns_server import DnsServer
from tests.support.service import Service, deliveries
from tests.support.smtp_server import Script, ScriptedServer, offer

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
SECURE = Script().but(EHLO=[offer("PIPELINING", "STARTTLS"), offer("PIPELINING")])
MX = {"MX": ["10 mx.bank.test."]}


async def test_mail_waits_for_a_mail_exchanger_that_proves_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.trusted(tmp_path, monkeypatch)
    names = {"bank.test": MX, "plain.test": MX, "other.test": MX, "mx.bank.test": {"A": ["127.0.0.1"]}}
    async with (
        DnsServer(names) as dns,
        ScriptedServer(SECURE, tls=authority.context("mx.bank.test")) as bank,
        ScriptedServer() as plain,
        ScriptedServer(SECURE, tls=authority.context("other.test")) as other,
    ):
        toml = f"""
            dns = {{ nameservers = ["{dns.address[0]}:{dns.address[1]}"] }}
            [transport]
            "bank.test" = {{ via = "bank.test:{bank.port}", tls = "verify" }}
            "plain.test" = {{ via = "plain.test:{plain.port}", tls = "verify" }}
            "other.test" = {{ via = "other.test:{other.port}", tls = "verify" }}
        """
        async with Service(tmp_path, toml) as relay:
            for domain in ("bank", "plain", "other"):
                await relay.send(CONTENT, f"a@{domain}.test", sender="chris@bank.test")
            await relay.logged("to=<a@bank.test>, .*status=sent")
            await relay.logged(
                r"to=<a@plain.test>, .*dsn=4\.7\.4, status=deferred"
                r" \(TLS is required, but was not offered by host mx.bank.test\[127.0.0.1\]"
            )
            await relay.logged(
                r"to=<a@other.test>, .*dsn=4\.7\.5, status=deferred"
                r" \(TLS with mx.bank.test\[127.0.0.1\] failed: its certificate is for another name"
            )
        assert [session.is_encrypted for session in bank.sessions] == [True]
        assert len(deliveries(bank)) == 1
        assert deliveries(plain) == deliveries(other) == []
