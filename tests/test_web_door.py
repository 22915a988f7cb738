from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from relay.config.model import Web as Settings
from relay.config.secrets import Secret
from relay.web import door
from relay.web.guard import MOST_FAILURES, SESSION_SECONDS
from tests.support.queue import accept, states
from tests.support.web import House, Visitor, page, visitor

PASSWORD = "correct horse"
PAGES = ("/", "/messages", "/doctor", "/message/3F", "/metrics")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A page without a password."""
    async with page(tmp_path) as house:
        yield house


@pytest.fixture
async def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    """A page with a password, in a file."""
    monkeypatch.setattr(door, "DELAY_SECONDS", 0.0)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    async with page(tmp_path, Settings(port=0, password=Secret(file=tmp_path / "password"))) as house:
        yield house


def basic(password: str, user: str = "prometheus") -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


async def log_in(guest: Visitor, password: str = PASSWORD) -> int:
    return (await guest.press("/login", "/login", password=password)).status


class TestOthersPages:
    """What a web page somewhere else can make a browser of the house do."""

    @pytest.mark.parametrize("name", ["evil.example", "evil.example:8025", "127.0.0.1.evil.example", ""])
    @pytest.mark.parametrize("path", [*PAGES, "/healthz", "/login", "/static/page.css", "/nowhere"])
    async def test_a_name_that_is_made_to_point_here_shows_nothing(
        self, house: House, name: str, path: str
    ) -> None:
        async with visitor(house) as guest:
            answer = await guest.get(path, Host=name)
            assert answer.status == 421
            assert answer.text.startswith("This page answers only to its own names.")

    async def test_its_own_names_are_answered(self, house: House) -> None:
        async with visitor(house) as guest:
            for name in ("localhost:8025", "192.168.0.1", "[::1]", "GW1.maison.mrs"):
                assert (await guest.get("/", Host=name)).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://127.0.0.1:1"},
        ],
    )
    async def test_a_form_that_is_sent_from_there_does_nothing(
        self, house: House, headers: dict[str, str]
    ) -> None:
        message = await accept(house.store)
        async with visitor(house) as guest:
            token = (await guest.get("/")).token
            form = {"token": token, "command": "delete", "id": message.queue_id}
            answer = await guest.post("/act", form, **headers)
            assert answer.status == 403
            assert "did not come from this page" in answer.text
            assert len(await states(house.store, message)) == 1
            assert (await guest.post("/act", form)).status == 303
            assert await states(house.store, message) == []

    @pytest.mark.parametrize("token", [None, "", "0" * 64, "é"])
    @pytest.mark.parametrize("path", ["/act", "/doctor", "/logout"])
    async def test_a_form_without_the_token_does_nothing(
        self, house: House, path: str, token: str | None
    ) -> None:
        message = await accept(house.store)
        form = {"command": "delete", "id": message.queue_id, **({} if token is None else {"token": token})}
        async with visitor(house) as guest:
            assert (await guest.post(path, form)).status == 403
            assert len(await states(house.store, message)) == 1

    async def test_no_other_kind_of_form_is_taken(self, house: House) -> None:
        async with visitor(house) as guest:
            form = aiohttp.FormData({"token": (await guest.get("/")).token}, default_to_multipart=True)
            assert (await guest.request("POST", "/doctor", data=form)).status == 403

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
    async def test_no_other_method_does_anything(self, house: House, method: str) -> None:
        async with visitor(house) as guest:
            assert (await guest.request(method, "/act")).status in {403, 405}

    async def test_nothing_is_done_by_looking(self, house: House) -> None:
        message = await accept(house.store)
        async with visitor(house) as guest:
            token = (await guest.get("/")).token
            answer = await guest.get(f"/act?token={token}&command=delete&id={message.queue_id}")
            assert answer.status == 405
            assert len(await states(house.store, message)) == 1

    @pytest.mark.parametrize("path", ["/", "/login", "/healthz", "/static/page.js", "/nowhere", "/metrics"])
    async def test_the_policy_stands_on_everything(self, house: House, path: str) -> None:
        async with visitor(house) as guest:
            answer = await guest.get(path)
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Server"] == "relay"
            if not path.startswith("/static"):
                assert answer.headers["Cache-Control"] == "no-store"


class TestThePassword:
    @pytest.mark.parametrize("path", PAGES)
    async def test_nothing_is_shown_without_it(self, locked: House, path: str) -> None:
        await accept(locked.store, subject="a secret")
        async with visitor(locked) as guest:
            answer = await guest.get(path)
            assert answer.status == (401 if path == "/metrics" else 303)
            assert "secret" not in answer.text
            if path != "/metrics":
                assert answer.headers["Location"] == "/login"

    async def test_nothing_is_done_without_it(self, locked: House) -> None:
        message = await accept(locked.store)
        async with visitor(locked) as guest:
            token = (await guest.get("/login")).token
            form = {"token": token, "command": "delete", "id": message.queue_id}
            assert (await guest.post("/act", form)).headers["Location"] == "/login"
            assert (await guest.post("/act", form, **basic(PASSWORD))).headers["Location"] == "/login"
            assert len(await states(locked.store, message)) == 1

    async def test_it_opens_a_session_until_logout(self, locked: House) -> None:
        async with visitor(locked) as guest:
            answer = await guest.press("/login", "/login", password=PASSWORD)
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            cookie = answer.headers["Set-Cookie"]
            assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
            lasts = re.search("Max-Age=([0-9]+)", cookie)
            assert lasts  # the browser must not drop it 30 days after the login, but after the last look
            assert int(lasts[1]) > SESSION_SECONDS
            shown = await guest.get("/")
            assert shown.status == 200
            assert "Log out" in shown.text
            assert (await guest.get("/metrics")).status == 200
            async with visitor(locked) as other:
                assert (await other.get("/")).status == 303
            assert (await guest.post("/logout", {"token": shown.token})).headers["Location"] == "/login"
            assert (await guest.get("/")).status == 303

    async def test_the_token_of_one_session_is_of_no_use_in_another(self, locked: House) -> None:
        async with visitor(locked) as guest, visitor(locked) as other:
            await log_in(guest)
            await log_in(other)
            token = (await guest.get("/")).token
            assert token != (await other.get("/")).token
            assert (await other.post("/doctor", {"token": token})).status == 403

    async def test_a_session_that_somebody_made_up_is_none(self, locked: House) -> None:
        async with visitor(locked, Cookie="relay_session=made-up") as guest:
            assert (await guest.get("/")).status == 303

    @pytest.mark.parametrize(
        "password", ["", "wrong", "correct horse ", "Correct horse", "\x00", "é" * 10_000]
    )
    async def test_a_wrong_one_does_not(
        self, locked: House, password: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with visitor(locked) as guest:
            answer = await guest.press("/login", "/login", password=password)
            assert answer.status == 403
            assert "This is not the password." in answer.text
            assert "Set-Cookie" not in answer.headers
            assert (await guest.get("/")).status == 303
        assert "status page: login from 127.0.0.1 failed: wrong password" in caplog.text
        assert locked.counts.failed_logins["page"] == 1

    async def test_guessing_is_barred(self, locked: House) -> None:
        async with visitor(locked) as guest:
            for _ in range(MOST_FAILURES):
                assert await log_in(guest, "wrong") == 403
            answer = await guest.press("/login", "/login", password=PASSWORD)
            assert answer.status == 403
            assert "Too many wrong passwords" in answer.text
            assert (await guest.get("/metrics", **basic(PASSWORD))).status == 401

    async def test_a_stranger_behind_the_proxy_does_not_bar_the_owner(
        self, locked: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        forwarded = "X-Forwarded-For"
        async with visitor(locked, **{forwarded: "192.0.2.9, 198.51.100.7"}) as stranger:
            for _ in range(MOST_FAILURES + 1):
                assert await log_in(stranger, "wrong") == 403
            assert await log_in(stranger) == 403
        assert "status page: login from 198.51.100.7 failed: too many failures" in caplog.text
        async with visitor(locked, **{forwarded: "192.0.2.1"}) as owner:
            assert await log_in(owner) == 303
            assert (await owner.get("/metrics", **basic(PASSWORD))).status == 200

    async def test_many_guesses_at_once_are_no_way_around(self, locked: House) -> None:
        async with visitor(locked) as guest:
            token = (await guest.get("/login")).token
            forms = [{"token": token, "password": f"guess {number}"} for number in range(40)]
            answers = await asyncio.gather(*(guest.post("/login", form) for form in forms))
        heard = sum("This is not the password" in answer.text for answer in answers)
        assert heard == MOST_FAILURES

    async def test_a_changed_password_ends_all_sessions(self, locked: House, tmp_path: Path) -> None:
        async with visitor(locked) as guest:
            await log_in(guest)
            (tmp_path / "password").write_text("another")
            assert (await guest.get("/")).status == 303
            assert await log_in(guest, "another") == 303
            assert (await guest.get("/")).status == 200

    async def test_one_that_cannot_be_read_lets_nobody_in(
        self, locked: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "password").unlink()
        async with visitor(locked) as guest:
            assert (await guest.get("/")).status == 303
            answer = await guest.press("/login", "/login", password="")
            assert answer.status == 403
            assert "can&#39;t be read" in answer.text
        assert caplog.text.count("nobody can log in to the status page") == 1

    async def test_programs_send_it_with_the_request(self, locked: House) -> None:
        async with visitor(locked) as guest:
            answer = await guest.get("/metrics", **basic(PASSWORD))
            assert answer.status == 200
            assert "relay_messages_received_total" in answer.text
            assert (await guest.get("/metrics", **basic("wrong"))).status == 401
            for junk in ("Basic", "Basic !", "Bearer x", "Basic bm9jb2xvbg=="):
                assert (await guest.get("/metrics", Authorization=junk)).status == 401
            assert (await guest.get("/", **basic(PASSWORD))).status == 303

    async def test_there_is_no_login_where_there_is_none(self, house: House) -> None:
        async with visitor(house) as guest:
            answer = await guest.press("/login", "/login", password="x")
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            assert "Log out" not in (await guest.get("/")).text


class TestHealth:
    async def test_programs_of_this_machine_are_told_the_reason(self, locked: House) -> None:
        locked.troubles = ["the token is dead"]
        async with visitor(locked) as guest:
            answer = await guest.get("/healthz")
        assert answer.status == 200
        assert answer.text == '{"status": "degraded", "problems": ["the token is dead"]}\n'

    async def test_others_are_told_the_fact(self, locked: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(door, "is_loopback", lambda _: False)
        locked.troubles = ["the token is dead"]
        async with visitor(locked) as guest:
            assert (await guest.get("/healthz")).text == '{"status": "degraded"}\n'
            assert "dead" in (await guest.get("/healthz", **basic(PASSWORD))).text

    async def test_those_behind_a_proxy_are_others(self, locked: House) -> None:
        locked.troubles = ["the token is dead"]
        async with visitor(locked, **{"X-Forwarded-For": "198.51.100.7"}) as guest:
            assert "dead" not in (await guest.get("/healthz")).text
