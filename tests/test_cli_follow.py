"""``relay queue retry --wait``, with real relays."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from relay.cli import follow
from relay.cli.follow import Pursuit, choose
from tests.support.service import PATIENCE, Finished, Service
from tests.support.smtp_server import DROP, OK, Script, ScriptedServer, Wait
from tests.support.terminal import INTERRUPT, TAKEN_AWAY, WIDE, Shown, converse

CONTENT = b"Subject: hello\r\nFrom: chris@free.fr\r\n\r\nworld\r\n"
LATER = b"450 4.2.1 come back later\r\n"
CLOSED = (b"421 4.3.2 closed for repairs\r\n", DROP)


def via(server: ScriptedServer) -> str:
    return f'relayhost = "[127.0.0.1]:{server.port}"\n'


async def deferred(relay: Service, *recipients: str) -> None:
    """Send a message that is deferred for all its recipients."""
    past = len(relay.log)
    assert (await relay.send(CONTENT, *recipients)).startswith("250 ")
    await relay.logged("status=deferred", len(recipients), past=past)
    async with asyncio.timeout(PATIENCE):
        while any(r["state"] != "deferred" for message in await relay.queue() for r in message["recipients"]):
            await asyncio.sleep(0.02)


async def retry(relay: Service, *arguments: str) -> Finished:
    return await relay.command("queue", "retry", *arguments, "--wait")


async def test_all_leave(tmp_path: Path) -> None:
    script = Script().but(RCPT=[LATER, LATER, LATER, OK])
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "a@x.test", "b@x.test")
        await deferred(relay, "c@x.test")
        done = await retry(relay, "--all")
        assert (done.status, done.err) == (0, "")
        assert done.out == "2 messages due now\nrecipients: 3 sent\n"


async def test_one_is_refused_again_and_one_for_good(tmp_path: Path) -> None:
    def answer(line: bytes) -> bytes:
        is_new = len(server.sessions[0].commands) < 6
        for name, reply in {b"good": OK, b"gone": b"550 5.1.1 gone \x1b[2J\r\n"}.items():
            if name in line and not is_new:
                return reply
        return LATER

    async with ScriptedServer() as server:
        server.script = Script().but(RCPT=answer)
        async with Service(tmp_path, via(server)) as relay:
            await deferred(relay, "good@x.test", "gone@x.test", "busy@x.test")
            done = await retry(relay, "--from", "chris@free.fr", "--json")
            assert done.status == 1
            assert json.loads(done.out) == {
                "ok": True,
                "changed": 1,
                "unknown": [],
                "sent": 1,
                "returned": 1,
                "refused": 1,
            }


async def test_what_waits_behind_a_next_hop_that_is_down_is_not_waited_for(tmp_path: Path) -> None:
    async with ScriptedServer(Script(greeting=CLOSED)) as server, Service(tmp_path, via(server)) as relay:
        for _ in range(60):
            assert (await relay.send(CONTENT, "a@x.test")).startswith("250 ")
        await relay.logged("status=deferred", 60)
        done = await retry(relay, "--all")
        assert done.status == 1
        first, second, third = done.out.splitlines()
        assert first == "60 messages due now"
        assert second == "recipients: 60 refused for now and tried again later"
        assert third.startswith("    60: ")
        assert "closed for repairs" in third


async def test_only_what_was_chosen_is_followed(tmp_path: Path) -> None:
    script = Script().but(RCPT=[LATER, LATER, OK])
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "a@x.test", "b@y.test")
        done = await retry(relay, "--to", "@Y.test")
        assert (done.status, done.out) == (0, "1 message due now\nrecipients: 1 sent\n")
        assert len(await relay.queue()) == 1
        done = await retry(relay, "nonsense")
        assert (done.status, done.out) == (1, "0 messages due now\nrecipients: none\n")
        assert done.err == "relay: no message nonsense in the queue\n"


async def test_messages_may_be_held_and_deleted_meanwhile(tmp_path: Path) -> None:
    never = asyncio.Event()
    script = Script().but(RCPT=[LATER, LATER, (Wait(never), OK)])
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "held@x.test")
        await deferred(relay, "deleted@x.test")
        waiting = asyncio.create_task(retry(relay, "--all"))
        await relay.logged("queue retry: 2 messages")
        await relay.command("queue", "hold", "--to", "held@x.test")
        await relay.command("queue", "delete", "--to", "deleted@x.test")
        done = await waiting
        assert done.status == 1
        assert "recipients: 1 held, 1 deleted by somebody\n" in done.out
        never.set()


async def test_a_relay_must_be_running(tmp_path: Path) -> None:
    script = Script().but(RCPT=LATER)
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "a@x.test")
        await relay.stop()
        done = await retry(relay, "--all")
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith("relay: no relay is running on the queue ")


def watch(relay: Service, *answers: tuple[str, bytes]) -> Coroutine[object, object, Shown]:
    command = (sys.executable, "-m", "relay", "queue", "retry", "--all", "--wait", "--config", relay.config)
    return converse(*command, answers=answers, env=WIDE)


async def test_a_terminal_shows_how_much_is_done_until_all_is(tmp_path: Path) -> None:
    may_go_on = asyncio.Event()
    script = Script().but(RCPT=[LATER, LATER, OK, (Wait(may_go_on), OK)])
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "a@x.test", "b@x.test")
        watching = asyncio.create_task(watch(relay))
        await relay.logged("queue retry: 1 messages")
        may_go_on.set()
        shown = await watching
        assert shown.status == 0
        told, _, staying = shown.text.rpartition(TAKEN_AWAY)
        assert told.startswith("1 message due now\n")
        assert "2 of 2 wait, 0 sent" in told
        assert staying == "recipients: 2 sent\n"


async def test_ctrl_c_ends_the_watch_alone(tmp_path: Path) -> None:
    may_go_on = asyncio.Event()
    script = Script().but(RCPT=[LATER, (Wait(may_go_on), OK)])
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "a@x.test")
        shown = await watch(relay, ("1 of 1 wait, 0 sent", INTERRUPT))
        assert shown.status == 130
        _, _, staying = shown.text.rpartition(TAKEN_AWAY)
        assert staying == "relay: no longer watching; the relay goes on sending\n"
        may_go_on.set()
        await relay.emptied()


async def test_it_tells_when_the_relay_is_stopped(tmp_path: Path) -> None:
    never = asyncio.Event()
    script = Script().but(RCPT=[LATER, (Wait(never), OK)])
    async with ScriptedServer(script) as server, Service(tmp_path, via(server)) as relay:
        await deferred(relay, "a@x.test")
        waiting = asyncio.create_task(retry(relay, "--all"))
        await relay.logged("queue retry: 1 messages")
        await relay.kill()
        done = await waiting
        assert done.status == 1
        assert "no relay is running" in done.err


def recipient(address: str, **fields: object) -> dict[str, Any]:
    usual = {
        "original": "",
        "state": "queued",
        "attempted_at": 1.0,
        "reply": "",
        "scope": "",
        "next_hop": "h",
    }
    return {"address": address, **usual, **fields}


def test_one_that_waits_for_its_turn_is_not_settled() -> None:
    message = {"id": "A", "recipients": [recipient("a@x.test"), recipient("b@x.test", state="held")]}
    pursuit = choose([message], lambda address: True)
    assert pursuit.left == 1
    for tried_at in (None, 1.0):
        pursuit.look_at(
            {"id": "A", "recipients": [recipient("a@x.test", state="deferred", attempted_at=tried_at)]}
        )
    assert (pursuit.left, pursuit.is_success) == (1, False)


def test_elsewhere_a_line_is_printed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.0)
    waiting = {"id": "A", "recipients": [recipient("a@x.test"), recipient("b@x.test")]}
    left = recipient("b@x.test", state="bounced", reply="550 gone")
    later = {"id": "A", "recipients": [recipient("a@x.test", state="delivered"), recipient("b@x.test")]}
    last = {"id": "A", "recipients": [recipient("a@x.test", state="delivered"), left]}
    looks = [[waiting], [later], [last]]
    out = io.StringIO()
    pursuit = choose([waiting], lambda address: True)
    follow.follow(pursuit, lambda: iter(looks.pop(0)), lambda request: {}, out)
    assert out.getvalue() == "2 of 2 wait, 0 sent\n2 of 2 wait, 0 sent\n1 of 2 wait, 1 sent\n"
    pursuit = Pursuit({"A": {("a@x.test", ""): None}}, Counter(sent=2, refused=1), last_reply="450 later")
    assert follow.describe(pursuit, 4) == "1 of 4 wait, 2 sent, 1 not; last reply: 450 later"
