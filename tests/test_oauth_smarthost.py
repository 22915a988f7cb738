"""Mail through a smarthost that takes OAuth tokens, with a provider and an SMTP server on loopback."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relay.delivery.client import Connection
from relay.delivery.login import Account
from relay.mail.attempt import Attempt
from relay.mail.route import NextHop
from relay.oauth.account import OAuthAccount
from relay.oauth.token_file import Token, write_token
from relay.oauth.tokens import RECENT_SECONDS, Tokens
from tests.support.authority import Authority
from tests.support.delivery import CONTENT, content, message, settings
from tests.support.oauth_server import CLIENT_ID, SECRET_MARK, OAuthServer
from tests.support.smtp_server import Script, ScriptedServer, offer

USER = "me@isp.test"


class Household:
    """A relay's account, its tokens and their clock."""

    def __init__(self, folder: Path, provider: OAuthServer) -> None:
        self.provider = provider
        self.now = 1_800_000_000.0
        self.account = OAuthAccount(
            "isp",
            CLIENT_ID,
            None,
            token_endpoint=provider.url("token"),
            device_endpoint="",
            authorize_endpoint="",
            scope="mail",
            token_file=folder / "isp.json",
        )
        self.tokens = Tokens({"isp": self.account}, lambda: self.now)

    def log_in(self) -> None:
        self.now += 1
        token = Token("expired", self.provider.issue_refresh_token(), self.now, self.now)
        write_token(self.account.token_file, token)

    async def connect(self, server: ScriptedServer) -> Connection | Attempt:
        account = Account(
            USER,
            method="xoauth2",
            token=lambda is_refused: self.tokens.access_token("isp", is_refused=is_refused),
        )
        next_hop = NextHop("mx.test", server.port, tls="starttls", smarthost="isp")
        with_account = replace(settings(), account_of=lambda _: account)
        return await Connection.open("mx.test", "127.0.0.1", next_hop, with_account)

    async def send(self, server: ScriptedServer) -> None:
        connection = await self.connect(server)
        assert isinstance(connection, Connection), connection
        await connection.transfer(message(), content())
        await connection.quit()


@pytest.fixture
def household(tmp_path: Path) -> Iterator[Household]:
    with OAuthServer() as provider:
        household = Household(tmp_path, provider)
        household.log_in()
        yield household


def judge(provider: OAuthServer) -> Callable[[bytes], bytes]:
    """Return the AUTH step of a server that knows which tokens are good."""

    def judge(line: bytes) -> bytes:
        said = base64.b64decode(line.removeprefix(b"AUTH XOAUTH2 ")).decode()
        credentials = re.fullmatch(rf"user={USER}\x01auth=Bearer (.+)\x01\x01", said)
        assert credentials
        if provider.accepts(credentials[1]):
            return b"235 2.7.0 Accepted\r\n"
        return b"334 " + base64.b64encode(b'{"status":"400","schemes":"Bearer"}') + b"\r\n"

    return judge


@pytest.fixture
def smarthost(household: Household, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedServer:
    authority = Authority.trusted(tmp_path, monkeypatch)
    steps = {"": b"535 5.7.8 Username and Password not accepted\r\n", "AUTH": judge(household.provider)}
    script = Script().but(EHLO=offer("STARTTLS", "AUTH PLAIN LOGIN XOAUTH2"), **steps)
    return ScriptedServer(script, tls=authority.context("mx.test"))


def messages(server: ScriptedServer) -> list[bytes]:
    return [content for session in server.sessions for content in session.messages]


async def test_mail_leaves_with_a_token_that_is_renewed_when_it_expires(
    household: Household, smarthost: ScriptedServer
) -> None:
    async with smarthost:
        await household.send(smarthost)
        await household.send(smarthost)
        household.now += 3600
        await household.send(smarthost)
    assert messages(smarthost) == [CONTENT] * 3
    assert household.provider.grants == ["refresh_token"] * 2
    assert all(session.is_encrypted for session in smarthost.sessions)


async def test_a_token_that_the_smarthost_refuses_is_renewed_and_tried_once_more(
    household: Household, smarthost: ScriptedServer
) -> None:
    async with smarthost:
        await household.send(smarthost)
        household.provider.expire_access_tokens()
        household.now += RECENT_SECONDS
        await household.send(smarthost)
    assert messages(smarthost) == [CONTENT] * 2
    verbs = [line.split(b" ")[0] for line in smarthost.sessions[1].commands]
    assert verbs[3:6] == [b"AUTH", b"", b"AUTH"]


async def test_a_withdrawn_login_defers_mail_until_the_owner_has_logged_in(
    household: Household, smarthost: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with smarthost:
        await household.send(smarthost)
        household.provider.revoke()
        household.now += RECENT_SECONDS
        attempt = await household.connect(smarthost)
        assert isinstance(attempt, Attempt)
        assert 400 <= attempt.reply.code < 500
        assert "log in again: relay login isp" in attempt.reply.text
        assert list(household.tokens.problems) == ["isp"]
        household.log_in()
        await household.send(smarthost)
    assert household.tokens.problems == {}
    assert messages(smarthost) == [CONTENT] * 2
    assert SECRET_MARK not in f"{attempt!r} {caplog.text}"
    assert "relay login isp" in caplog.text
