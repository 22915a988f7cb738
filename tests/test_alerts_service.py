"""Alerts of the whole program, to real programs and servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.oauth.token_file import Token, write_token
from tests.support.hook_server import HookServer
from tests.support.service import Service
from tests.support.smtp_server import DROP, OK, Script, ScriptedServer, offer

CONTENT = b"Subject: hello\r\nFrom: chris@free.fr\r\n\r\nworld\r\n"
SECRET = "S3CR3T"

# The program as it is, but in a hurry.
HURRY = """
import runpy, sys
from relay.alerts import alerts, conditions
alerts.LOOK_SECONDS = 0.05
conditions.PATIENCE_SECONDS = 1.0
sys.argv[:4] = ["relay"]
runpy.run_module("relay", run_name="__main__")
"""


@pytest.fixture
def hook() -> Iterator[HookServer]:
    with HookServer() as server:
        yield server


def hurried(folder: Path, toml: str) -> Service:
    return Service(folder, toml, under=[sys.executable, "-c", HURRY])


def settings(server: ScriptedServer, hook: HookServer, password: str = "wrong") -> str:
    return f"""
        relayhost = "isp"
        [smarthost.isp]
        host = "127.0.0.1"
        port = {server.port}
        tls = "none"
        clear_password = true
        username = "chris"
        password = "{password}"
        [alerts]
        webhook = "{hook.url(f"/message?token={SECRET}")}"
    """


async def test_a_login_that_is_refused_is_told_and_so_is_its_end(tmp_path: Path, hook: HookServer) -> None:
    good = b"AUTH PLAIN AGNocmlzAHJpZ2h0"
    script = Script().but(
        EHLO=offer("AUTH PLAIN"),
        AUTH=lambda line: b"235 2.7.0 welcome\r\n" if line == good else b"535 5.7.8 no \x1b[2J \xff way\r\n",
    )
    async with ScriptedServer(script) as server, hurried(tmp_path, settings(server, hook)) as relay:
        assert (await relay.send(CONTENT, "a@x.test")).startswith("250 ")
        [request] = await hook.received(1)
        assert request.fields["title"] == "Mail relay gw1.maison.mrs"
        text = request.fields["message"]
        assert text.startswith("Mail waits for smarthost isp: login refused: check username and password of ")
        assert "535 5.7.8 no ?[2J" in text
        assert text.isprintable()
        await relay.logged("alert login:isp begins, told by webhook: Mail waits")
        await relay.configure(settings(server, hook, "right"))
        await relay.logged("status=sent")
        requests = await hook.received(2)
        assert requests[1].fields["message"].startswith("Over: Mail waits for smarthost isp: login refused")
        await relay.logged("alert login:isp over, told by webhook: Over: ")
        assert len(requests) == 2
        assert SECRET not in relay.log
        shown = await relay.command("check")
        assert SECRET not in shown.out + shown.err
        assert 'webhook = "(hidden)"' in shown.out


async def test_that_nothing_leaves_is_told_and_that_it_is_over(tmp_path: Path, hook: HookServer) -> None:
    greeting = [(b"421 4.3.2 closed for repairs\r\n", DROP), b"220 mx.test\r\n"]
    async with ScriptedServer(Script(greeting=greeting)) as server:
        toml = f'relayhost = "[127.0.0.1]:{server.port}"\n[alerts]\nwebhook = "{hook.url()}"\n'
        async with hurried(tmp_path, toml) as relay:
            await relay.send(CONTENT, "a@x.test")
            [request] = await hook.received(1)
            assert request.fields["cause"] == "leaving"
            assert request.fields["text"].startswith(
                "No mail has left for an hour, and mail waits. The oldest was last told: host 127.0.0.1"
            )
            await relay.command("queue", "retry", "--all")
            await relay.logged("status=sent")
            over = (await hook.received(2))[1]
            assert (over.fields["cause"], over.fields["state"]) == ("leaving", "over")


async def test_mail_for_mailboxes_here_is_neither_waiting_nor_leaving(
    tmp_path: Path, hook: HookServer
) -> None:
    refuse = Script().but(RCPT=lambda line: OK if b"chris" in line else b"450 4.2.1 later\r\n")
    async with ScriptedServer(refuse) as server:
        (tmp_path / "mail").mkdir()
        toml = f"""
            hostname = "gw1.maison.mrs"
            relayhost = "[127.0.0.1]:{server.port}"
            [local]
            users = ["nobody"]
            maildir = "{tmp_path}/mail/{{user}}"
            [alerts]
            webhook = "{hook.url()}"
        """
        async with hurried(tmp_path, toml) as relay:
            await relay.send(CONTENT, "a@x.test")
            while not hook.requests:
                assert (await relay.send(CONTENT, "nobody@gw1.maison.mrs")).startswith("250 ")
                await asyncio.sleep(0.05)
            assert hook.requests[0].fields["cause"] == "leaving"


async def test_a_token_that_is_not_there_is_told_until_somebody_logs_in(
    tmp_path: Path, hook: HookServer
) -> None:
    toml = f"""
        [smarthost.work]
        provider = "outlook"
        username = "chris@outlook.com"
        auth = "xoauth2"
        client_id = "mine"
        token_file = "{tmp_path}/token.json"
        [alerts]
        webhook_file = "{tmp_path}/hook"
    """
    (tmp_path / "hook").write_text(hook.url())
    async with hurried(tmp_path, toml):
        [request] = await hook.received(1)
        assert request.fields["cause"] == "token:work"
        assert request.fields["text"] == "smarthost work has no token yet; log in: relay login work"
        now = time.time()
        write_token(tmp_path / "token.json", Token(SECRET, SECRET, now, now + 3600))
        assert (await hook.received(2))[1].fields["state"] == "over"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 20 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.needs_root
async def test_a_disk_that_is_nearly_full_is_told_to_a_program(tmp_path: Path, disk: Path) -> None:
    notes = tmp_path / "notes"
    program = f'printf "%s %s: %s\\\\n" "$RELAY_ALERT" "$RELAY_STATE" "$RELAY_TEXT" >> {notes}'
    toml = f"""
        queue = {{ path = "{disk}/queue.db" }}
        [alerts]
        command = ["sh", "-c", '{program}']
    """
    async with hurried(tmp_path, toml) as relay:
        state = os.statvfs(disk)
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (state.f_bavail * state.f_frsize - 1_500_000))
        await relay.logged("alert disk begins, told by command")
        ballast.unlink()
        await relay.logged("alert disk over, told by command")
    begins, over = notes.read_text().splitlines()
    assert begins.startswith("disk begins: The disk of the queue is nearly full: 1.")
    assert over.startswith("disk over: Over: The disk of the queue is nearly full: 1.")


async def test_a_program_that_fails_is_told_in_the_log_and_mail_goes_on(tmp_path: Path) -> None:
    async with ScriptedServer(
        Script().but(RCPT=lambda line: OK if b"b@" in line else b"450 no\r\n")
    ) as server:
        toml = f'relayhost = "[127.0.0.1]:{server.port}"\n[alerts]\ncommand = ["/nowhere/notify"]\n'
        async with hurried(tmp_path, toml) as relay:
            await relay.send(CONTENT, "a@x.test")
            await relay.logged(
                r"alert leaving is not told, and tried again in 60 s: /nowhere/notify can't be run"
            )
            await relay.send(CONTENT, "b@x.test")
            await relay.logged("status=sent")
            checked = await relay.command("check")
            expected = "warning: alerts.command: there is no program /nowhere/notify that may be run"
            assert expected in checked.err
