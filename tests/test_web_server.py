from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.config.model import Web as Settings
from relay.web import server
from tests.support.queue import opened
from tests.support.web import DOCTOR, NAMES, House, page, visitor

FORM = b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with page(tmp_path) as house:
        yield house


async def say(house: House, *pieces: bytes) -> bytes:
    """Send bytes as they are and return all that comes back."""
    host, port = house.web.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(30):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def is_well(house: House) -> bool:
    async with visitor(house) as guest:
        return (await guest.get("/")).status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_page_tells_where_it_is(tmp_path: Path, host: str) -> None:
    async with page(tmp_path, Settings(host, 0)) as house:
        assert house.web.url.startswith("http://[::1]:" if host == "::1" else "http://127.0.0.1:")
        assert await is_well(house)


async def test_a_port_in_use_is_a_warning_until_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RETRY_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with page(tmp_path, Settings(port=port)) as house:
            assert house.web.url == ""
            assert f"no status page at 127.0.0.1:{port}: another program uses this port" in caplog.text
            await asyncio.sleep(0.05)
            assert house.web.url == ""
            taken.close()
            async with asyncio.timeout(30):
                while not house.web.url:
                    await asyncio.sleep(0.01)
            assert await is_well(house)


async def test_an_address_of_somebody_else_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with page(tmp_path, Settings("192.0.2.77", 8025)):
        assert "no status page at 192.0.2.77:8025: this machine does not have that address" in caplog.text


@pytest.mark.parametrize(
    "request_line",
    [
        b"\x00\xff\x16\x03\x01",
        b"EHLO gw1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"CONNECT evil.example:25 HTTP/1.1\r\nHost: evil.example:25\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nabc",
        b"POST /act HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET /%ff%00/..%2f HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /?after=\xff\xfe&q=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b'GET / HTTP/1.1\r\nHost: localhost\r\nCookie: relay_session="\\"; =;;; \xff\r\n\r\n',
        b"GET /messages?q=%00%ff%ed%a0%80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
    ids=range(19),
)
async def test_odd_requests_get_an_answer_or_none_and_do_no_harm(
    house: House, request_line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await say(house, request_line)
    assert answer == b"" or answer.startswith(b"HTTP/1.")
    assert b"Traceback" not in answer
    assert await is_well(house)
    assert "Traceback" not in caplog.text
    assert "defect" not in caplog.text


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded; charset=klingon",
        "text/xml",
    ],
)
async def test_forms_of_any_kind_do_no_harm(house: House, kind: str) -> None:
    async with visitor(house) as guest:
        for body in (
            b"",
            b"\x00\xff",
            b"token=%ff&command",
            b"--x\r\n\r\n--x--",
            b"--x\r\nContent-Disposition: form-data",
        ):
            answer = await guest.request("POST", "/act", data=body, headers={"Content-Type": kind})
            assert answer.status in {400, 403}
        large = await guest.request(
            "POST", "/act", data=b"token=" + b"x" * 1_000_000, headers={"Content-Type": kind}
        )
        assert large.status in {400, 403, 413}
        assert (await guest.get("/")).status == 200


async def test_a_form_that_can_not_be_unpacked_is_no_defect_of_ours(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}
    async with visitor(house) as guest:
        assert (await guest.request("POST", "/act", data=b"token=", headers=kind)).status == 403
    assert "error: " not in caplog.text
    assert "Traceback" not in caplog.text


async def test_who_leaves_in_the_middle_of_a_form_is_no_defect_of_ours(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = house.web.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(FORM + b"Content-Length: 100\r\n\r\ntoken=")
    await writer.drain()
    assert await is_well(house)  # meanwhile the server reads the beginning
    writer.transport.abort()
    async with asyncio.timeout(30):
        while house.web._server.connections:
            await asyncio.sleep(0.01)
    assert await is_well(house)
    assert "ConnectionResetError" not in caplog.text


async def test_a_flood_of_connections_leaves_no_more_than_some(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come faster than the closed ones go."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 10)
    host, port = house.web.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    sockets = [socket.create_connection((host, int(port))) for _ in range(60)]  # while the loop sleeps
    try:
        await is_well(house)
        assert await is_well(house)
        assert len(house.web._server.connections) <= 11
    finally:
        for each in sockets:
            each.close()


async def test_who_connects_and_says_nothing_keeps_nobody_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 10)
    host, port = house.web.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(30)]
    try:
        assert await is_well(house)
        assert len(house.web._server.connections) <= 11
    finally:
        for _, writer in silent:
            writer.close()


async def test_a_request_that_hangs_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.05)
    answer = await say(
        house,
        FORM + b"Content-Length: 100\r\n\r\ntoken=",
    )
    assert answer == b"" or b" 400 " in answer or b" 503 " in answer

    async def hang(request: dict[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(house, "ask", hang)
    async with visitor(house) as guest:
        answer_of_page = await guest.get("/")
        assert (answer_of_page.status, answer_of_page.text) == (503, "This took too long. Try again.\n")


async def test_a_defect_of_ours_is_logged_and_not_shown(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> list[str]:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(house, "problems", fail)
    async with visitor(house) as guest:
        answer = await guest.get("/")
    assert answer.status == 500
    assert "secret" not in answer.text
    assert "status page: ZeroDivisionError('secret')" in caplog.text


async def test_it_closes_while_somebody_looks(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        house = House(store)
        house.web = server.Web(Settings(port=0), house, house.counts, names=NAMES, doctor=DOCTOR)
        await house.web.start()
        async with visitor(house) as guest:
            assert (await guest.get("/")).status == 200
            async with asyncio.timeout(5):
                await house.web.close()
