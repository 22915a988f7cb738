"""Smarthosts: tried up to RCPT, with nothing sent, and each failure told apart."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from pathlib import Path

import pytest

from relay.config.model import Config
from relay.delivery.dialogue import Timeouts
from relay.delivery.login import Account
from relay.doctor.finding import Finding
from relay.doctor.smarthosts import check_smarthost
from relay.doctor.ways import hops_of
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from tests.support.authority import Authority
from tests.support.doctor import World, config, kinds
from tests.support.site import unused_port
from tests.support.smtp_server import DROP, HANG, TLS, Script, ScriptedServer, Step, offer

ACCOUNT = Account("chris@isp.test", lambda: "secret", "plain")
PLAIN = replace(ACCOUNT, allows_clear=True)
NOW = time.time()


def household(port: int, tls: str = "none", extra: str = "") -> Config:
    return config(
        f"""
        relayhost = "isp"
        postmaster = "chris@isp.test"
        {extra}
        [smarthost.isp]
        host = "mx.test"
        port = {port}
        tls = "{tls}"
        username = "chris@isp.test"
        password = "secret"
        clear_password = true
        [sender_canonical]
        "@gw1.example.net" = "chris@isp.test"
        """
    )


def script(**steps: Step) -> Script:
    return Script().but(
        **{"EHLO": offer("AUTH PLAIN", "SIZE 100000000"), "AUTH": b"235 2.7.0 ok\r\n", **steps}
    )


async def check(
    server: ScriptedServer | int, world: World | None = None, tls: str = "none", extra: str = ""
) -> list[Finding]:
    port = server if isinstance(server, int) else server.port
    house = household(port, tls, extra)
    hop = hops_of(house)["smarthost isp"]
    return await check_smarthost(house, hop, (world or World(account=PLAIN)).open, now=NOW)


async def test_a_smarthost_is_asked_up_to_rcpt_and_no_further() -> None:
    async with ScriptedServer(script()) as server:
        found = await check(server)
        await server.wait_ended()
        verbs = [command.split()[0] for command in server.sessions[0].commands]
        assert verbs == [b"EHLO", b"AUTH", b"MAIL", b"RCPT", b"RSET", b"QUIT"]
        assert server.sessions[0].commands[2:4] == [
            b"MAIL FROM:<chris@isp.test> SIZE=0",
            b"RCPT TO:<chris@isp.test>",
        ]
    assert kinds(found) == ["smarthost.ready ok"]
    assert found[0].what == (
        f"mx.test[127.0.0.1]:{server.port} would take mail from chris@isp.test for chris@isp.test"
        " (no TLS, logged in as chris@isp.test); nothing was sent"
    )


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
async def test_a_verified_connection_is_named(
    tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.trusted(tmp_path, monkeypatch)
    steps = {
        "implicit": script(greeting=(TLS, b"220 mx.test\r\n")),
        "starttls": script(EHLO=[offer("STARTTLS"), offer("AUTH PLAIN")]),
    }
    async with ScriptedServer(steps[tls], tls=authority.context("mx.test")) as server:
        found = await check(server, World(account=ACCOUNT), tls)
    assert kinds(found) == ["smarthost.ready ok"]
    assert "(TLSv1.3, logged in as chris@isp.test)" in found[0].what


async def test_a_certificate_that_ends_soon_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = dt.datetime.fromtimestamp(NOW + 86400, dt.UTC)
    context = Authority.trusted(tmp_path, monkeypatch).context("mx.test", not_after=end)
    async with ScriptedServer(script(greeting=(TLS, b"220 mx.test\r\n")), tls=context) as server:
        found = await check(server, World(account=ACCOUNT), "implicit")
    assert kinds(found) == ["smarthost.ready ok", "smarthost.certificate warning"]
    assert found[1].what == f"its certificate expires on {end:%Y-%m-%d}"


@pytest.mark.parametrize("flaw", ["expired", "early", "name", "stripped", "no TLS"])
async def test_tls_that_does_not_work_is_a_problem(
    flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, now = Authority.trusted(tmp_path, monkeypatch), dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    context, words, tls, greeting = {
        "expired": (
            authority.context("mx.test", not_before=now - 9 * day, not_after=now - day),
            "its certificate",
            "implicit",
            (TLS, b"220 mx.test\r\n"),
        ),
        "early": (
            authority.context("mx.test", not_before=now + day),
            "its certificate",
            "implicit",
            (TLS, b"220 mx.test\r\n"),
        ),
        "name": (authority.context("other.test"), "its certificate", "implicit", (TLS, b"220 mx.test\r\n")),
        "stripped": (None, "was STARTTLS stripped on the way?", "starttls", b"220 mx.test\r\n"),
        "no TLS": (None, "what it sends is not TLS", "implicit", b"220 mx.test\r\n"),
    }[flaw]
    async with ScriptedServer(script(greeting=greeting), tls=context) as server:
        found = await check(server, World(account=ACCOUNT), tls)
    assert kinds(found) == ["smarthost.tls problem"]
    assert words in found[0].what
    assert "[smarthost.isp]" in found[0].remedy


async def test_a_port_at_which_nobody_answers() -> None:
    found = await check(unused_port())
    assert kinds(found) == ["smarthost.unreachable problem"]
    assert found[0].what.startswith("no connection: connect to mx.test[127.0.0.1]:")


@pytest.mark.parametrize(
    ("steps", "kind", "words"),
    [
        ({"AUTH": b"535 5.7.8 wrong: \x1b]0;x\x07\r\n"}, "smarthost.login", "535 5.7.8 wrong: ?]0;x?"),
        ({"EHLO": offer("AUTH CRAM-MD5")}, "smarthost.login", "it offers CRAM-MD5, not PLAIN"),
        ({"greeting": b"554 5.7.1 go away\r\n"}, "smarthost.refused", "554 5.7.1 go away"),
        ({"greeting": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "smarthost.refused", "gave no valid reply"),
        ({"greeting": b"421 4.4.1 no\r\n"}, "smarthost.refused", "421 4.4.1 no"),
        ({"greeting": DROP}, "smarthost.refused", "lost connection"),
        ({"MAIL": b"553 5.7.1 not yours\r\n"}, "smarthost.sender", "553 5.7.1 not yours (in reply to MAIL"),
        ({"RCPT": b"550 5.7.1 no relaying\r\n"}, "smarthost.recipient", "550 5.7.1 no relaying (in reply"),
        ({"RCPT": (b"550 5.7.1 go\r\n", DROP)}, "smarthost.recipient", "550 5.7.1 go (in reply"),
        ({"RCPT": DROP}, "smarthost.broken", "lost connection with mx.test[127.0.0.1] while sending RCPT"),
        ({"RSET": DROP}, "smarthost.broken", "lost connection with mx.test[127.0.0.1] while sending RSET"),
        ({"MAIL": b"rubbish\r\n"}, "smarthost.broken", "gave no valid reply while sending MAIL FROM: rub"),
    ],
)  # fmt: skip
async def test_each_refusal_is_told_apart_and_quoted(steps: dict[str, Step], kind: str, words: str) -> None:
    async with ScriptedServer(script(**steps)) as server:
        found = await check(server)
    assert kinds(found) == [f"{kind} problem"]
    assert words in found[0].what
    assert "secret" not in str(found)
    assert all(not session.contents for session in server.sessions)


async def test_a_silent_server_is_not_waited_for() -> None:
    async with ScriptedServer(script(greeting=HANG)) as server:
        found = await check(server, World(account=PLAIN, timeouts=Timeouts(greeting=0.1)))
    assert kinds(found) == ["smarthost.refused problem"]
    assert "timed out" in found[0].what


async def test_a_login_that_only_goes_in_clear_is_not_made() -> None:
    async with ScriptedServer(script()) as server:
        found = await check(server, World(account=ACCOUNT))
    assert kinds(found) == ["smarthost.login problem"]
    assert b"AUTH" not in server.sessions[0].raw


async def test_a_smaller_limit_than_ours_is_told_with_the_line_to_write() -> None:
    async with ScriptedServer(script(EHLO=offer("AUTH PLAIN", "SIZE 35882577"))) as server:
        found = await check(server)
    assert kinds(found) == ["smarthost.ready ok", "smarthost.size warning"]
    assert found[1].what == "it takes messages up to 35MB, the relay takes 50MB"
    assert found[1].remedy == 'Set message_size = "35MB" under [limits] of relay.toml.'


@pytest.mark.parametrize("size", ["SIZE", "SIZE 0", "SIZE nonsense", "SIZE 50000000"])
async def test_no_limit_or_a_large_one_is_fine(size: str) -> None:
    async with ScriptedServer(script(EHLO=offer("AUTH PLAIN", size))) as server:
        assert kinds(await check(server)) == ["smarthost.ready ok"]


async def test_a_tiny_limit_is_told_to_the_byte() -> None:
    async with ScriptedServer(script(EHLO=offer("AUTH PLAIN", "SIZE 1234"))) as server:
        assert "up to 1234B" in (await check(server))[1].what


async def test_a_sender_that_the_server_cannot_be_given_is_told() -> None:
    async with ScriptedServer(script(EHLO=offer("AUTH PLAIN"))) as server:
        house = household(server.port)
        sender = replace(house.sender_canonical, entries={"@gw1.example.net": ("jörg@isp.test", "")})
        house = replace(house, sender_canonical=sender)
        hop = hops_of(house)["smarthost isp"]
        found = await check_smarthost(house, hop, World(account=PLAIN).open, now=NOW)
    assert kinds(found) == ["smarthost.sender problem"]
    assert "SMTPUTF8 is required" in found[0].what


@pytest.mark.parametrize(
    ("toml", "section"),
    [
        ('relayhost = "[mx.test]:PORT"', "relayhost"),
        ('[sender_relayhost]\n"@isp.test" = "[mx.test]:PORT"', "[sender_relayhost]"),
        ('[transport]\n"isp.test" = "[mx.test]:PORT"', "[transport]"),
    ],
)
async def test_other_next_hops_are_tried_too(toml: str, section: str) -> None:
    async with ScriptedServer(Script().but(EHLO=offer(), RCPT=b"554 5.7.1 no\r\n")) as server:
        house = config(toml.replace("PORT", str(server.port)))
        (hop,) = hops_of(house).values()
        found = await check_smarthost(house, replace(hop, tls="none"), World().open, now=NOW)
        assert kinds(found) == ["smarthost.recipient problem"]
        found = await check_smarthost(house, hop, World().open, now=NOW)
    assert section in found[0].remedy


async def test_a_name_that_leads_nowhere() -> None:
    async def open_trial(_: NextHop) -> Attempt:
        return Attempt(Reply(451, "4.3.5", "relayhost configuration problem: Host not found"), Scope.SITE)

    house = household(25)
    found = await check_smarthost(house, hops_of(house)["smarthost isp"], open_trial, now=NOW)
    assert kinds(found) == ["smarthost.unknown problem"]
