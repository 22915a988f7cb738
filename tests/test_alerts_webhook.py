"""Alerts to real HTTP servers."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.alerts import alerts, webhook
from relay.alerts.alert import Alert, AlertError
from relay.config.model import Alerts
from relay.config.secrets import Secret
from tests.support.authority import Authority
from tests.support.hook_server import Hooked, HookServer

ALERT = Alert("disk", "begins", "The disk is nearly full: häßlich", "gw1.maison.mrs", 1_700_000_000.5)
OVER = Alert("disk", "over", "Over: The disk is nearly full", "gw1.maison.mrs", 1_700_000_000.5)
SECRET = "S3CR3T"


@pytest.fixture
def server() -> Iterator[HookServer]:
    with HookServer() as server:
        yield server


def send(url: str, alert: Alert = ALERT, form: webhook.Form = "auto") -> None:
    webhook.post(Alerts(webhook=Secret(url), form=form), {}, alert)


def sent(server: HookServer, path: str, alert: Alert = ALERT, form: webhook.Form = "auto") -> Hooked:
    send(server.url(path), alert, form)
    return server.requests[-1]


def test_ntfy(server: HookServer) -> None:
    request = sent(server, f"/topic?auth={SECRET}", form="ntfy")
    assert request.path == f"/topic?auth={SECRET}"
    assert request.body.decode() == ALERT.text
    assert request.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert request.headers["Title"] == "Mail relay gw1.maison.mrs"
    assert (request.headers["Tags"], request.headers["Priority"]) == ("warning", "high")
    request = sent(server, "/topic", OVER, form="ntfy")
    assert request.headers["Title"] == "Mail relay gw1.maison.mrs: solved"
    assert (request.headers["Tags"], request.headers["Priority"]) == ("white_check_mark", "default")


def test_gotify(server: HookServer) -> None:
    request = sent(server, f"/gotify/message?token={SECRET}")
    assert request.path == f"/gotify/message?token={SECRET}"
    assert request.headers["Content-Type"] == "application/json"
    title = "Mail relay gw1.maison.mrs"
    assert request.fields == {"title": title, "message": ALERT.text, "priority": 8}
    assert sent(server, "/m?token=x", OVER, form="gotify").fields["priority"] == 4


def test_json(server: HookServer) -> None:
    assert sent(server, "/hook").fields == {
        "cause": "disk",
        "state": "begins",
        "text": ALERT.text,
        "host": "gw1.maison.mrs",
        "time": 1_700_000_000.5,
    }
    assert sent(server, "/message?token=x", OVER, form="json").fields["state"] == "over"


def test_user_and_password_of_the_address_become_a_header(server: HookServer) -> None:
    send(server.url(account=f":{SECRET}%21@"))
    [request] = server.requests
    assert request.headers["Authorization"] == "Basic " + base64.b64encode(f":{SECRET}!".encode()).decode()
    assert request.headers["Host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://ntfy.sh/topic", "ntfy"),
        ("https://ntfy.home.example/topic", "ntfy"),
        ("http://10.0.0.2:8080/message?token=x", "gotify"),
        ("http://10.0.0.2:8080/message", "json"),
        ("http://10.0.0.2:8080/?token=x", "json"),
    ],
)
def test_the_form_that_an_address_shows(url: str, form: str) -> None:
    assert webhook.choose_form(webhook.split_webhook(url)) == form


def reason(server: HookServer, *answers: int | bytes) -> str:
    """Return why an alert is not handed over."""
    server.script.extend(answers)
    with pytest.raises(AlertError) as caught:
        send(server.url(f"/message?token={SECRET}"))
    assert SECRET not in str(caught.value)
    return str(caught.value).removeprefix("webhook at 127.0.0.1: ")


def test_failures_are_told_without_the_address(server: HookServer) -> None:
    assert reason(server, 500) == "answers with HTTP status 500"
    assert reason(server, 404) == "answers with HTTP status 404"
    assert reason(server, b"220 mx.test ESMTP \x1b[2J\r\n") == "its answer is not HTTP"
    assert reason(server, b"\0" * 70_000) == "its answer is not HTTP"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: HookServer, status: int) -> None:
    assert reason(server, status).startswith("sends on to another address (HTTP status 3")
    assert [request.path for request in server.requests] == [f"/message?token={SECRET}"]


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(AlertError, match=r"^webhook at 127\.0\.0\.1: Connection refused$"):
        send(f"http://127.0.0.1:{port}/{SECRET}")
    with pytest.raises(AlertError, match=r"^webhook at nowhere\.invalid: "):
        send(f"http://nowhere.invalid/{SECRET}")


def test_a_proxy_that_speaks_no_http_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://me:word@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(AlertError, match=r"^webhook at hook\.test: unknown url type: socks5$"):
        send(f"http://hook.test/{SECRET}")


def test_a_server_without_tls_is_no_https_server(server: HookServer) -> None:
    with pytest.raises(AlertError, match=r"^webhook at 127\.0\.0\.1: "):
        send(f"https://127.0.0.1:{server.port}/{SECRET}")


def test_the_certificate_of_an_https_server_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority.trusted(tmp_path, monkeypatch)
    with HookServer(authority.context("localhost")) as server:
        send(f"https://localhost:{server.port}/hook")
        assert len(server.requests) == 1
    with HookServer(authority.context("other.test")) as server:
        with pytest.raises(AlertError, match=r"^webhook at localhost: its certificate is not valid: "):
            send(f"https://localhost:{server.port}/hook")
        assert server.requests == []


def test_the_address_may_be_in_a_file_which_is_read_each_time(server: HookServer, tmp_path: Path) -> None:
    file = tmp_path / "hook"
    settings = Alerts(webhook=Secret(file=file))
    with pytest.raises(AlertError, match=r"^the secret file /.*/hook cannot be read"):
        webhook.post(settings, {}, ALERT)
    file.write_text(f"nonsense {SECRET}\n")
    with pytest.raises(AlertError, match=r"^the webhook is not an address such as https://ntfy.sh/topic$"):
        webhook.post(settings, {}, ALERT)
    file.write_text(server.url() + "\n")
    webhook.post(settings, {}, ALERT)
    assert len(server.requests) == 1


async def test_a_server_that_hangs_is_left(server: HookServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "SEND_SECONDS", 0.2)
    server.script.append(b"")
    with pytest.raises(AlertError, match="the webhook did not answer within 0 seconds"):
        await alerts._post(Alerts(webhook=Secret(server.url())), ALERT)
    server.has_ended.set()
    await asyncio.sleep(0)
