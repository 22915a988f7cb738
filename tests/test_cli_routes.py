"""``relay routes``, and the learned routes where the owner sees them: with the service up and down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from relay.cli.main import main
from relay.mail.fallback import UNREACHED
from relay.mail.learned import ANYWHERE, LIFETIME, LearnedRoute
from tests.support.dns_server import DnsServer
from tests.support.queue import opened
from tests.support.service import Service
from tests.support.smtp_server import ScriptedServer
from tests.support.web import page, visitor

Run = Callable[..., Awaitable[tuple[int, str, str]]]
ISP = "isp=[smtp.isp.test]:465"
LEARNED_AT = time.time() - 3600
AOL = LearnedRoute(
    "aol.test",
    ISP,
    "dynamic address",
    "host mx.aol.test[192.0.2.7] said: 554 5.7.1 dynamic\x1b[2J (in reply to MAIL FROM command)",
    LEARNED_AT,
    LEARNED_AT + LIFETIME,
)
SINCE, UNTIL = (
    time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) for at in (AOL.learned_at, AOL.expires_at)
)
CONFIG = """
fallback = "isp"
[smarthost.isp]
host = "smtp.isp.test"
username = "chris"
password = "secret"
[queue]
path = "{path}"
[dns]
nameservers = ["{dns}"]
"""
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def config(tmp_path: Path, path: Path) -> Path:
    file = tmp_path / "relay.toml"
    file.write_text(CONFIG.format(path=path, dns=NOWHERE))
    return file


@pytest.fixture
def run(config: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``relay`` and returns its status, output and errors."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, [*arguments, "--config", str(config)])
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


async def learn(path: Path, *routes: LearnedRoute) -> None:
    async with opened(path) as store:
        for route in routes:
            await store.learn(route)


async def test_without_a_queue_nothing_was_learned(run: Run) -> None:
    assert await run("routes") == (0, "no routes were learned: every site is tried directly first\n", "")
    assert await run("routes", "list", "--json") == (0, "", "")


async def test_routes_are_listed_with_reason_reply_and_dates(run: Run, path: Path) -> None:
    await learn(path, AOL)
    assert await run("routes") == (
        0,
        (
            f"aol.test  dynamic address, {SINCE}; over {ISP} until {UNTIL}\n"
            "    host mx.aol.test[192.0.2.7] said: 554 5.7.1 dynamic?[2J (in reply to MAIL FROM command)\n"
        ),
        "",
    )
    _, out, _ = await run("routes", "--json")
    assert json.loads(out) == {
        "domain": "aol.test",
        "via": ISP,
        "reason": "dynamic address",
        "reply": AOL.reply,
        "learned_at": AOL.learned_at,
        "expires_at": AOL.expires_at,
        "is_pinned": False,
    }


async def test_a_route_is_pinned_and_forgotten(run: Run, path: Path) -> None:
    await learn(path, AOL, LearnedRoute(ANYWHERE, ISP, UNREACHED, "", LEARNED_AT, LEARNED_AT))
    assert await run("routes", "pin", "AOL.test") == (
        0,
        "mail for aol.test goes over the fallback until you say: relay routes forget 'aol.test'\n",
        "",
    )
    status, out, _ = await run("routes", "list")
    assert f"aol.test  dynamic address, {SINCE}; over {ISP} pinned\n" in out
    assert await run("routes", "forget", "*") == (0, "the next message for all sites goes directly\n", "")
    assert (await run("routes", "forget", "aol.test"))[0] == 0
    assert (await run("routes"))[1].startswith("no routes were learned")
    status, _, err = await run("routes", "pin", "aol.test")
    assert (status, err) == (1, "relay: no route was learned for aol.test\n")


async def test_a_domain_is_named_as_it_is_listed(run: Run, path: Path) -> None:
    await learn(path, replace(AOL, domain="straße.test"))
    assert (await run("routes", "forget", "Straße.test"))[0] == 0
    assert (await run("routes"))[1].startswith("no routes were learned")


async def test_explain_says_which_way_mail_takes_and_why(run: Run, config: Path, path: Path) -> None:
    names = {
        "aol.test": {"MX": ["10 mx.aol.test."]},
        "mx.aol.test": {"A": ["192.0.2.7"]},
        "smtp.isp.test": {"A": ["192.0.2.25"]},
        "free.test": {"MX": ["10 mx.aol.test."]},
    }

    async def explained() -> str:
        status, out, _ = await run("explain", "chris@free.test", "bob@aol.test")
        assert status == 0, out
        return " ".join(out.split())

    async with DnsServer(names) as dns:
        config.write_text(CONFIG.format(path=path, dns=":".join(map(str, dns.address))))
        said = await explained()
        assert "(no line of relay.toml names another way; fallback, relay.toml:2, takes over" in said
        assert "takes over where the site refuses mail from here): mx.aol.test" in said
        await learn(path, AOL)
        said = await explained()
        assert "goes to smarthost isp (fallback, relay.toml:2; learned on" in said
        assert f"; learned on {SINCE[:10]}, until {UNTIL[:10]}: aol.test refuses mail from here" in said
        assert "(dynamic address): host mx.aol.test[192.0.2.7] said: 554 5.7.1 dynamic" in said
        await run("routes", "pin", "aol.test")
        assert f"; learned on {SINCE[:10]}, pinned: aol.test refuses" in await explained()
        silent = LearnedRoute("aol.test", ISP, UNREACHED, "timed out", LEARNED_AT, LEARNED_AT)
        await learn(path, silent)
        said = await explained()
        assert "no server of aol.test was reached at port 25: timed out" in said
        assert "; the next message tries it directly: no server" in said
        assert "until the next message, which tries the site directly" in (await run("routes"))[1]
        await run("routes", "forget", "aol.test")
        await learn(path, LearnedRoute(ANYWHERE, ISP, UNREACHED, "timed out", LEARNED_AT, LEARNED_AT))
        assert "no site was reached at port 25: timed out" in await explained()


async def test_a_service_obeys_at_once_and_drops_what_leads_nowhere(tmp_path: Path, path: Path) -> None:
    async with ScriptedServer() as isp:
        fallback = f'fallback = "[127.0.0.1]:{isp.port}"\n'
        over = f"[127.0.0.1]:{isp.port}"
        via_isp = LearnedRoute("aol.test", over, "blocklist", "554 no", LEARNED_AT, time.time() + 9999)
        await learn(path, via_isp, LearnedRoute("old.test", ISP, "blocklist", "554 no", 0.0, 2e9))
        async with Service(tmp_path, fallback) as relay:
            assert "mail for old.test goes directly again: its smarthost is no longer" in relay.log
            await relay.send(b"Subject: one\r\n\r\nHello.\r\n", "bob@aol.test")
            await relay.emptied()
            assert isp.acknowledged[0][0] == "bob@aol.test"
            assert (await relay.command("routes", "pin", "aol.test")).status == 0
            assert "routes pin: aol.test" in relay.log
            forgotten = await relay.command("routes", "forget", "aol.test")
            assert forgotten.out == "the next message for aol.test goes directly\n"
            await relay.send(b"Subject: two\r\n\r\nHello.\r\n", "bob@aol.test")
            await relay.logged(r"to=<bob@aol.test>, relay=none, .* status=deferred")
        await learn(path, via_isp)
        async with Service(tmp_path, fallback) as relay:
            await relay.configure("")
            await relay.logged("mail for aol.test goes directly again: its smarthost is no longer")


async def test_the_page_shows_them_and_has_a_button_for_each_deed(tmp_path: Path) -> None:
    async with page(tmp_path) as house, visitor(house) as guest:
        assert "dynamic address" not in (await guest.get("/")).text
        await house.store.learn(AOL)
        await house.store.learn(LearnedRoute(ANYWHERE, ISP, UNREACHED, "timed out", 0.0, 1.0))
        text = (await guest.get("/")).text
        assert "Sites that refuse mail from here" in text
        assert "dynamic address" in text
        assert ">All sites<" in text
        answer = await guest.press("/", "/route", command="pin", domain="aol.test")
        assert (answer.status, answer.headers["Location"]) == (303, "/#routes")
        assert house.store.learned["aol.test"].is_pinned
        assert "for ever" in (await guest.get("/")).text
        await guest.press("/", "/route", command="forget", domain=ANYWHERE)
        assert list(house.store.learned) == ["aol.test"]
        assert (await guest.press("/", "/route", command="forget", domain="x")).status == 503
        assert (await guest.press("/", "/route", command="hold", domain="aol.test")).status == 400
        assert (await guest.post("/route", {"command": "forget", "domain": "aol.test"})).status == 403


async def test_what_was_learned_survives_a_restart(path: Path) -> None:
    await learn(path, AOL)
    async with opened(path) as store:
        assert store.learned == {"aol.test": AOL}
        assert await store.forget(["other.test"]) == []
