"""The page of the whole program: what it shows of real mail, and what it costs."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

from prometheus_client.parser import text_string_to_metric_families

from relay.oauth.token_file import Token, write_token
from relay.status import Page, Status
from tests.support.service import PATIENCE, Service
from tests.support.smtp_server import DROP, Script, ScriptedServer
from tests.support.web import Visitor, visiting

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
CLOSED = Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP))
WEB = '[web]\naddress = "127.0.0.1:0"\n'
MOST_MEMORY = 55.0
"""Megabytes that an idle relay may take with its page on (PSS)."""


@asynccontextmanager
async def guest_of(relay: Service, past: int = 0) -> AsyncIterator[Visitor]:
    """Visit the page of a relay."""
    (url,) = (await relay.logged(r"the status page is at (http://\S+/)", past=past))[-1:]
    async with visiting(url) as guest:
        yield guest


async def until_shown(guest: Visitor, path: str, words: str) -> str:
    """Return a page once it shows some words."""
    async with asyncio.timeout(PATIENCE):
        while words not in (text := (await guest.get(path)).text):
            await asyncio.sleep(0.05)
    return text


async def test_mail_that_waits_is_shown_and_sent_by_a_button(tmp_path: Path) -> None:
    async with ScriptedServer(CLOSED) as server:
        settings = f'relayhost = "[127.0.0.1]:{server.port}"\nqueue = {{ retry = ["1h"] }}\n{WEB}'
        async with Service(tmp_path, settings) as relay, guest_of(relay) as guest:
            assert "All is well: nothing waits." in (await guest.get("/")).text
            assert (await relay.send(CONTENT, "anne@machin.com")).startswith("250 ")
            text = await until_shown(guest, "/", ">deferred<")
            assert "1 message waits." in text
            assert "closed for repairs" in text
            assert f"127.0.0.1 port {server.port}" in text
            server.script = Script()
            (queue_id,) = set(re.findall(r'href="/message/([0-9A-F]+)"', text))
            answer = await guest.press("/", "/act", command="retry", id=queue_id)
            assert answer.headers["Location"] == "/?did=retry&count=1"
            assert ">delivered<" in await until_shown(guest, "/", "All is well: nothing waits.")
            text = (await guest.get(f"/message/{queue_id}")).text
            assert "2 attempts, word for word" in text
            found = await guest.get("/messages?q=anne@machin.com")
            assert f"/message/{queue_id}" in found.text


async def test_the_metrics_count_real_mail(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        settings = f'relayhost = "[127.0.0.1]:{server.port}"\n{WEB}'
        async with Service(tmp_path, settings) as relay, guest_of(relay) as guest:
            assert (await relay.send(CONTENT, "anne@machin.com")).startswith("250 ")
            delivered = (
                f'relay_attempts_total{{next_hop="[127.0.0.1]:{server.port}",outcome="delivered"}} 1.0'
            )
            await relay.logged(": removed")  # the delivery counts before its outcome is committed
            text = await until_shown(guest, "/metrics", delivered)
        samples = {
            s.name: s.value for f in text_string_to_metric_families(text) for s in f.samples if not s.labels
        }
        assert samples["relay_messages_received_total"] == 1
        assert samples["relay_queue_commits_total"] >= 2
        assert samples["relay_queue_fsync_seconds_total"] > 0


async def test_a_changed_file_moves_the_page_and_a_wrong_one_degrades_it(tmp_path: Path) -> None:
    async with Service(tmp_path, WEB) as relay:
        async with guest_of(relay) as guest:
            started = re.search("Running since .*", (await guest.get("/")).text)
            assert started
            relay.config.write_text(f"{relay.config.read_text()}\ncolour = 1\n")
            health = json.loads(await until_shown(guest, "/healthz", "degraded"))
            assert "colour: unknown key" in health["problems"][0]
            assert "colour: unknown key" in (await guest.get("/")).text
        past = len(relay.log)
        await relay.configure('[web]\naddress = "127.0.0.1:0"\npassword = "correct horse"\n')
        async with guest_of(relay, past) as guest:
            assert (await guest.get("/")).status == 303
            assert (await guest.press("/login", "/login", password="correct horse")).status == 303
            text = (await guest.get("/")).text
            assert "All is well" in text
            assert started[0] in text
            await relay.configure('[web]\naddress = ""\n')
            host, port = guest.url.removeprefix("http://").rstrip("/").rsplit(":", 1)
            with socket.socket() as caller:
                assert caller.connect_ex((host, int(port))) != 0


async def test_logins_are_shown_with_the_end_of_their_tokens(tmp_path: Path) -> None:
    now = time.time()
    write_token(tmp_path / "tokens" / "mail.json", Token("secret", "secret too", now, now + 3630))
    account = 'provider = "gmail"\nusername = "chris@gmail.com"\n'
    settings = (
        f'{WEB}[smarthost.mail]\n{account}auth = "xoauth2"\nclient_id = "mine"\n'
        f'[smarthost.dead]\n{account}auth = "xoauth2"\nclient_id = "mine"\n'
        f'[smarthost.plain]\n{account}password = "abcdefghijklmnop"\n'
    )
    async with Service(tmp_path, settings) as relay, guest_of(relay) as guest:
        text = (await guest.get("/")).text
        assert "token ends <time" in text
        assert ">in 1 hour</time>, renewed by itself" in text
        assert text.count("chris@gmail.com") == 3
        assert "smarthost dead has no token yet; log in: relay login dead" in text
        assert "1 thing to mend." in text
        assert not any(word in text for word in ("secret", "abcdefgh"))


async def test_a_port_in_use_stops_no_mail(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with ScriptedServer() as server:
            settings = f'relayhost = "[127.0.0.1]:{server.port}"\n[web]\naddress = "{address}"\n'
            async with Service(tmp_path, settings) as relay:
                await relay.logged(f"no status page at {address}: another program uses this port already")
                assert (await relay.send(CONTENT, "anne@machin.com")).startswith("250 ")
                await relay.logged("status=sent")


async def test_the_doctor_is_run_with_the_file_of_the_relay(tmp_path: Path) -> None:
    async with Service(tmp_path, WEB) as relay, guest_of(relay) as guest:
        relay.config.write_text("colour = 1\n")  # so that it ends at once, and asks nobody
        await guest.press("/doctor", "/doctor")
        assert str(relay.config) in await until_shown(guest, "/doctor", "colour: unknown key")


async def test_the_doctor_is_no_file_of_the_folder_that_the_relay_was_started_in(tmp_path: Path) -> None:
    (tmp_path / "relay.py").write_text("raise SystemExit(3)\n")
    command = Page(cast(Status, None), None)._doctor
    doctor = await asyncio.create_subprocess_exec(*command, "--help", cwd=tmp_path, stdout=DEVNULL)
    assert await doctor.wait() == 0


async def test_an_idle_relay_with_its_page_takes_little_memory(tmp_path: Path) -> None:
    async with Service(tmp_path, WEB) as relay, guest_of(relay) as guest:
        for path in ("/", "/messages", "/doctor", "/metrics", "/healthz"):
            assert (await guest.get(path)).status == 200
        rollup = Path(f"/proc/{relay.pid}/smaps_rollup").read_text()
        (kilobytes,) = re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)
        assert int(kilobytes) / 1024 < MOST_MEMORY, kilobytes


async def test_it_leaves_at_once_while_somebody_looks(tmp_path: Path) -> None:
    relay = Service(tmp_path, WEB)
    async with relay, guest_of(relay) as guest:
        assert (await guest.get("/")).status == 200
        async with asyncio.timeout(PATIENCE):
            assert await relay.stop() == 0
