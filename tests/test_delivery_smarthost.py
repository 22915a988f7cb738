"""A lane to a smarthost: its account is not put at risk, its limits are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from relay.delivery.agent import Endpoint
from relay.delivery.login import Account
from relay.mail.route import NextHop
from tests.support.queue import NOW
from tests.support.rig import ServerAt, commands_at, messages_at, next_hop_of, settle, until
from tests.support.site import Site, unused_port
from tests.support.smtp_server import DROP, HANG, Script, ScriptedServer, Step, Wait, offer

TAKEN = b"250 2.0.0 taken\r\n"
ACCEPTED = b"235 2.7.0 Welcome\r\n"
REFUSED = b"535 5.7.8 wrong\r\n"
ADVICE = "login refused: check username and password of [smarthost.isp]"
ACCOUNT = Account("chris", lambda: "secret", "plain", allows_clear=True)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Site.opened() as made:
        made.account = ACCOUNT
        yield made


def script(auth: Step = ACCEPTED, **steps: Step) -> Script:
    return Script().but(**{"EHLO": offer("AUTH PLAIN"), "AUTH": auth, "DOT": TAKEN, **steps})


def smarthost(server: ScriptedServer, connections: int = 0) -> NextHop:
    return replace(next_hop_of(server), smarthost="isp", connections=connections)


async def test_a_refused_login_is_not_repeated_for_each_message(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedServer(script(REFUSED)) as server:
        site.reopen(smarthost(server))
        for _ in range(5):
            site.submit()
        await site.until_reported(5)
        await settle()
        site.submit()
        assert len(set(site.replies)) == 1
        assert site.replies[0].startswith(
            f"454 4.7.8 {ADVICE}; host mx.test[127.0.0.1] said: 535 5.7.8 wrong"
        )
        assert len(commands_at(server, b"AUTH")) == 1
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].getMessage() == (
        f"isp=[mx.test]:{server.port}: no session; its mail waits 300 s before the next login: "
        f"{ADVICE}; host mx.test[127.0.0.1] said: 535 5.7.8 wrong"
    )
    assert "secret" not in caplog.text


async def test_a_refused_login_is_not_repeated_at_another_address(site: Site) -> None:
    port = unused_port()
    async with (
        ServerAt("127.0.0.1", port, script(REFUSED)) as first,
        ServerAt("127.0.0.2", port, script(REFUSED)) as second,
    ):
        site.endpoints = [Endpoint("mx.test", "127.0.0.1"), Endpoint("mx.test", "127.0.0.2")]
        site.reopen(smarthost(first))
        site.submit()
        await site.until_reported()
        assert len(first.sessions) == 1
        assert not second.sessions


@pytest.mark.parametrize("failure", [REFUSED, b"454 4.7.0 too many logins\r\n", DROP])
async def test_the_next_login_waits_at_least_five_minutes(site: Site, failure: Step) -> None:
    async with ScriptedServer(script(failure)) as server:
        site.reopen(smarthost(server))
        site.submit()
        await site.until_reported()
        assert site.lane.blocked_until == NOW + 300, "though other failures pause for 100 s"
        site.lane.probe_now()
        server.script = script()
        site.submit()
        await site.until_reported(2)
        assert site.replies[1] == "250 2.0.0 taken"
        assert not site.lane.is_blocked(NOW)


async def test_a_long_pause_stays_as_long_as_it_is(site: Site) -> None:
    async with ScriptedServer(script(REFUSED)) as server:
        site.reopen(smarthost(server))
        for count in range(1, 5):
            site.lane.probe_now()
            site.submit()
            await site.until_reported(count)
        assert site.lane.blocked_until == NOW + 400


async def test_the_first_login_is_alone(site: Site) -> None:
    release = asyncio.Event()
    async with ScriptedServer(script((Wait(release), ACCEPTED))) as server:
        site.reopen(smarthost(server))
        for _ in range(10):
            site.submit()
        await server.wait_for("AUTH")
        await settle()
        assert len(server.sessions) == 1
        release.set()
        await site.until_reported(10)


async def test_a_login_refused_while_another_session_goes_on_blocks_too(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()
    async with ScriptedServer(script([ACCEPTED, REFUSED], DOT=(Wait(release), TAKEN))) as server:
        site.reopen(smarthost(server))
        for _ in range(6):
            site.submit()
        await site.until_reported(5)
        release.set()
        await site.until_reported(6)
        assert site.replies[5] == "250 2.0.0 taken"
        assert all(ADVICE in reply for reply in site.replies[:5])
        assert site.lane.is_blocked(NOW)
    assert caplog.text.count("before the next login") == 1


@pytest.mark.parametrize("connections", [1, 3, 8])
async def test_no_more_connections_than_the_smarthost_allows(site: Site, connections: int) -> None:
    async with ScriptedServer(script(DOT=HANG)) as server:
        site.reopen(smarthost(server, connections))
        for _ in range(20):
            site.submit()
        await until(lambda: len(commands_at(server, b"DATA")) == connections)
        await settle()
        assert len(server.sessions) == connections


async def test_a_kept_session_needs_no_second_login(site: Site) -> None:
    async with ScriptedServer(script()) as server:
        site.reopen(smarthost(server))
        for count in (1, 2, 3):
            site.submit()
            await site.until_reported(count)
            await settle()
        assert len(commands_at(server, b"AUTH")) == 1
        assert len(messages_at(server)) == 3


async def test_a_kept_session_that_died_is_replaced_with_a_new_login(site: Site) -> None:
    async with ScriptedServer(script(DOT=[(TAKEN, b"421 4.4.2 idle\r\n", DROP), TAKEN])) as server:
        site.reopen(smarthost(server))
        site.submit()
        await site.until_reported()
        await server.wait_ended()
        site.submit()
        await site.until_reported(2)
        assert site.replies == ["250 2.0.0 taken"] * 2
        assert len(commands_at(server, b"AUTH")) == 2


async def test_a_session_that_ends_after_the_login_is_a_failure_of_the_message(site: Site) -> None:
    async with ScriptedServer(script(MAIL=(b"421 4.7.0 too much mail\r\n", DROP))) as server:
        site.reopen(smarthost(server))
        site.submit()
        await site.until_reported()
        assert site.replies == ["421 4.7.0 too much mail"]
        assert not site.lane.is_blocked(NOW)
