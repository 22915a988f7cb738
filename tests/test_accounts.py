"""The whole relay with passwords: clients that log in, and an account at a smarthost for each sender."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from pathlib import Path

import pytest

from relay.mail.passwords import make_hash
from tests.support.authority import Authority
from tests.support.rig import commands_at, messages_at
from tests.support.service import Service, run
from tests.support.smtp_server import Script, ScriptedServer, offer

SECRETS = ("house-password", "orange-password", "gmail-password")
ENCODED = "AGNocmlzAG9yYW5nZS1wYXNzd29yZA=="
"""PLAIN's form of chris and his password at the first provider."""
LOGIN = Script().but(EHLO=offer("STARTTLS", "AUTH PLAIN LOGIN"), AUTH=b"235 2.7.0 Welcome\r\n")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    return Authority.trusted(tmp_path, monkeypatch)


def configuration(folder: Path, authority: Authority, orange: int, gmail: int) -> str:
    certificate, key = authority.files("localhost")
    (folder / "gmail-secret").write_text(SECRETS[2] + "\n")
    return f"""
        relayhost = "orange"
        [[listen]]
        address = "127.0.0.1:0"
        tls = "starttls"
        auth = "required"
        [access]
        networks = []
        [tls]
        certificate = "{certificate}"
        key = "{key}"
        [users]
        printer = "{make_hash(SECRETS[0].encode(), b"salt")}"
        [smarthost.orange]
        host = "localhost"
        port = {orange}
        tls = "starttls"
        username = "chris"
        password = "{SECRETS[1]}"
        [smarthost.gmail]
        host = "localhost"
        port = {gmail}
        tls = "starttls"
        username = "chris@gmail.test"
        password_file = "gmail-secret"
        [sender_relayhost]
        "@gmail.test" = "gmail"
    """


def send(port: int, authority: Authority, sender: str, password: str = SECRETS[0]) -> None:
    """Send a message as a mail program does that logs in."""
    trust = ssl.create_default_context(cafile=str(authority.folder / "authority.pem"))
    with smtplib.SMTP("localhost", port) as client:
        client.starttls(context=trust)
        client.login("printer", password)
        client.sendmail(sender, ["you@example.org"], f"From: {sender}\r\nSubject: hello\r\n\r\nhello\r\n")


def assert_no_secret(*shown: str) -> None:
    for secret in (*SECRETS, ENCODED):
        assert not [text for text in shown if secret in text]


async def test_each_sender_has_its_account_and_no_secret_is_ever_shown(
    tmp_path: Path, authority: Authority
) -> None:
    tls = authority.context("localhost")
    async with (
        ScriptedServer(LOGIN, tls=tls) as orange,
        ScriptedServer(LOGIN, tls=tls) as gmail,
        Service(tmp_path, configuration(tmp_path, authority, orange.port, gmail.port)) as relay,
    ):
        await asyncio.to_thread(send, relay.port, authority, "me@house.test")
        await asyncio.to_thread(send, relay.port, authority, "chris@gmail.test")
        with pytest.raises(smtplib.SMTPAuthenticationError):
            await asyncio.to_thread(send, relay.port, authority, "me@house.test", "guessed")
        await relay.logged("status=sent", 2)
        assert len(messages_at(orange)) == len(messages_at(gmail)) == 1
        assert commands_at(orange, b"AUTH") == [f"AUTH PLAIN {ENCODED}".encode()]
        assert commands_at(gmail, b"MAIL")[0].startswith(b"MAIL FROM:<chris@gmail.test>")
        assert b"with ESMTPSA id" in messages_at(orange)[0]
        await relay.logged("sasl_username=printer", 2)
        arguments = Path(f"/proc/{relay.pid}/cmdline").read_bytes().decode()
    checked = await run("check", "--config", relay.config)
    assert_no_secret(relay.log, arguments, checked.out, checked.err)


async def test_a_refused_login_keeps_the_mail_and_the_secret(tmp_path: Path, authority: Authority) -> None:
    tls = authority.context("localhost")
    refusing = LOGIN.but(AUTH=f"535 5.7.8 {SECRETS[1]} is wrong\r\n".encode())
    async with (
        ScriptedServer(refusing, tls=tls) as orange,
        Service(tmp_path, configuration(tmp_path, authority, orange.port, 1)) as relay,
    ):
        await asyncio.to_thread(send, relay.port, authority, "me@house.test")
        await relay.logged(r"status=deferred .*check username and password of \[smarthost.orange\]")
        [waiting] = await relay.queue()
        assert waiting["sender"] == "me@house.test"
        orange.script = LOGIN
        await relay.command("queue", "retry", "--all")
        await relay.logged("status=sent")
    assert_no_secret(relay.log)


async def test_a_smarthost_whose_certificate_is_for_another_name_gets_neither_mail_nor_password(
    tmp_path: Path, authority: Authority
) -> None:
    async with (
        ScriptedServer(LOGIN, tls=authority.context("other.test")) as orange,
        Service(tmp_path, configuration(tmp_path, authority, orange.port, 1)) as relay,
    ):
        await asyncio.to_thread(send, relay.port, authority, "me@house.test")
        await relay.logged(r"status=deferred .*other\.test")
        assert not commands_at(orange, b"AUTH")
        assert not messages_at(orange)
