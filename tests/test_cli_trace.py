"""``relay trace``, with the service up and down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.cli.main import main
from relay.mail.attempt import Attempt, Outcome, Scope, State
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.reply import Reply
from relay.queue import recording
from relay.queue.store import Store
from tests.support.queue import ISP, accept, deferred, filled, opened, outcome
from tests.support.service import Service
from tests.support.smtp_server import DROP, Script, ScriptedServer

Run = Callable[..., Awaitable[tuple[int, str, str]]]
BORN = time.mktime((2026, 11, 24, 16, 40, 12, 0, 0, -1))
WAITS = Attempt(Reply(451, "4.3.2", "it waits for its turn"), Scope.SITE, next_hop=ISP)
LATER = "host mx[1.2.3.4] said: 451 4.3.0 try later (in reply to DATA command)"
TAKEN = "host mx[1.2.3.4] said: 250 2.0.0 taken (in reply to end of DATA command)"
GONE = "host mx[1.2.3.4] said: 550 5.1.1 no such user (in reply to RCPT TO command)"
SENDER = "from <chris@free.fr> (given as <chris@gw1>) by pc[192.168.0.2]"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def run(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``relay trace`` and returns its status, output and errors."""
    config = tmp_path / "relay.toml"
    config.write_text(f'[queue]\npath = "{path}"\n')

    async def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = await asyncio.to_thread(main, ["trace", "--config", str(config), *arguments])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


async def record(store: Store, at: float, *outcomes: Outcome) -> None:
    await store._writer.run(lambda db: recording.record(db, at, outcomes, (), (), ()))


async def two_messages(store: Store) -> tuple[Message, Message]:
    recipients = (Recipient("bob@aol.com", original="bob"), Recipient("eve\udcff\x1b[2J@free.fr", index=1))
    first = await accept(
        store,
        now=BORN,
        size=2100,
        client="pc[192.168.0.2]",
        envelope=Envelope("chris@free.fr", recipients, given_reverse_path="chris@gw1"),
        message_id="<1\x1b@pc>",
        subject="Photos de l'été",
    )
    await record(store, BORN + 1, deferred(first, ISP), deferred(first, ISP, index=1))
    lost = Attempt(Reply(451, "4.4.2", "connection lost"), Scope.SITE, "mx[1.2.3.4]:25", next_hop=ISP)
    await record(store, BORN + 300, Outcome(first.number, 0, State.DEFERRED, lost, BORN + 900))
    await record(store, BORN + 905, outcome(first, State.DELIVERED), outcome(first, State.BOUNCED, 1))
    second = await accept(store, now=BORN + 906, reverse_path="", is_report=True)
    waits = Outcome(second.number, 0, State.DEFERRED, WAITS, time.time() + 720.5, was_tried=False)
    await record(store, BORN + 907, waits)
    return first, second


@pytest.fixture(params=["up", "down"])
async def messages(request: pytest.FixtureRequest, path: Path) -> Any:
    """Yield two messages in a queue whose service is up, or down."""
    async with filled(path, two_messages, is_up=request.param == "up") as messages:
        yield messages


async def test_a_message_is_told_with_every_attempt(run: Run, messages: tuple[Message, Message]) -> None:
    for text in (messages[0].queue_id, "bob@aol.com", "@free.fr", "<1\x1b@pc>", "DE L'ÉTÉ"):
        status, output, errors = await run(text)
        assert (status, errors) == (0, "")
        assert output.splitlines() == [
            f"{messages[0].queue_id}  2026-11-24 16:40:12  2.1 kB  {SENDER}",
            "    Message-ID: <1?@pc>",
            "    Subject: Photos de l'été",
            "    to <bob@aol.com> (given as <bob>): delivered",
            f"        2026-11-24 16:40:13  after 1 s     {LATER}",
            "        2026-11-24 16:45:12  after 5 min   mx[1.2.3.4]:25: connection lost",
            f"        2026-11-24 16:55:17  after 15 min  {TAKEN}",
            "    to <eve??[2J@free.fr>: bounced",
            f"        2026-11-24 16:40:13  after 1 s     {LATER}",
            f"        2026-11-24 16:55:17  after 15 min  {GONE}",
        ]


async def test_a_report_that_waits_is_told(run: Run, messages: tuple[Message, Message]) -> None:
    status, output, _ = await run("<>")
    assert status == 0
    assert output.splitlines() == [
        f"{messages[1].queue_id}  2026-11-24 16:55:18  25 B  from <>, a report by this relay",
        "    to <u0@example.net>: deferred, next attempt in 12 min",
        "        it waits for its turn",
    ]


async def test_the_newest_come_first_and_the_limit_is_told(
    run: Run, messages: tuple[Message, Message]
) -> None:
    first, second = messages
    _, output, _ = await run("")
    assert output.index(second.queue_id) < output.index(f"\n\n{first.queue_id}")
    assert "older" not in output
    _, output, _ = await run("", "--limit", "1")
    assert second.queue_id in output
    assert first.queue_id not in output
    assert output.endswith("\n\nThere are older ones: --limit 10 shows more.\n")


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
async def test_a_limit_is_a_number(run: Run, limit: str) -> None:
    status, _, errors = await run("x", f"--limit={limit}")
    assert status == 2
    assert "invalid _number value" in errors


async def test_the_trace_as_json(run: Run, messages: tuple[Message, Message]) -> None:
    first, second = messages
    status, output, _ = await run("--json", "chris@gw1")
    assert status == 0
    [message] = json.loads(output)
    bob, eve = message.pop("recipients")
    assert message == {
        "id": first.queue_id,
        "sender": "chris@free.fr",
        "original_sender": "chris@gw1",
        "client": "pc[192.168.0.2]",
        "size": 2100,
        "received_at": BORN,
        "finished_at": None,
        "is_report": False,
        "message_id": "<1\x1b@pc>",
        "subject": "Photos de l'été",
    }
    assert (bob["state"], bob["original"], eve["address"]) == ("delivered", "bob", "eve\udcff\x1b[2J@free.fr")
    assert bob["history"][1] == {
        "at": BORN + 300,
        "next_hop": ISP,
        "host": "mx[1.2.3.4]:25",
        "reply": "connection lost",
        "delay": 300,
    }
    assert [attempt["delay"] for attempt in eve["history"]] == [1, 905]
    _, output, _ = await run("--json", second.queue_id)
    assert json.loads(output)[0]["recipients"][0]["history"] == []


async def test_what_is_not_found_is_told_with_how_far_back_we_looked(
    run: Run, messages: tuple[Message, Message]
) -> None:
    status, output, errors = await run("--", "no\x1b[2Jsuch")
    assert (status, output) == (1, "")
    assert errors.startswith("relay: no message since 2026-11-24 16:40:12 matches no?[2Jsuch; what was ")
    status, output, _ = await run("--json", "no such")
    assert (status, output) == (1, "[]\n")


async def test_an_empty_history_is_told(run: Run, path: Path) -> None:
    assert await run("x") == (1, "", f"relay: the queue is empty (no queue at {path} yet)\n")
    async with opened(path):
        pass
    assert await run("x") == (1, "", "relay: the queue is empty, and so is its history\n")


async def test_many_messages_come_whole(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.cli.trace._PAGE", 2)
    async with opened(path) as store:
        messages = [await accept(store) for _ in range(5)]
    _, output, _ = await run("--json", "@example.net")
    assert [found["id"] for found in json.loads(output)] == [m.queue_id for m in reversed(messages)]


# The whole program

ENCODED = b"Subject: =?utf-8?q?L=27=C3=A9t=C3=A9_secr=C3=A8t?=\r\nMessage-ID: <7@pc>\r\n\r\nhello\r\n"
SUBJECT = "L'été secrèt"


@pytest.mark.parametrize("is_kept", [True, False])
async def test_mail_is_traced_from_its_arrival_on(tmp_path: Path, is_kept: bool) -> None:
    closed = Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP))
    async with ScriptedServer(closed) as server:
        relay = Service(
            tmp_path,
            f'relayhost = "[127.0.0.1]:{server.port}"\n'
            f'queue = {{ retry = ["300ms"], history_subjects = {str(is_kept).lower()} }}\n'
            '[sender_canonical]\n"chris@home.test" = "chris@free.fr"\n[rewrite]\nscope = "all"',
        )
        async with relay:
            await relay.send(ENCODED, "anne@machin.com", "marc@machin.com", sender="chris@home.test")
            await relay.logged("status=deferred", 2)
            server.script = Script()
            await relay.emptied()
            (message,) = await traced(relay, "<7@pc>")
            assert (message["sender"], message["original_sender"]) == ("chris@free.fr", "chris@home.test")
            assert message["subject"] == (SUBJECT if is_kept else "")
            for recipient in message["recipients"]:
                replies = [attempt["reply"] for attempt in recipient["history"]]
                assert len(replies) >= 2
                assert "closed for repairs" in replies[0]
                assert "250 2.0.0" in replies[-1]
            assert bool(await traced(relay, "été")) == is_kept
            assert is_in_files(relay, SUBJECT) == is_kept
        assert bool(await traced(relay, "été")) == is_kept
        assert is_in_files(relay, SUBJECT) == is_kept


async def test_a_report_is_traced_too(tmp_path: Path) -> None:
    script = Script().but(RCPT=[b"550 5.1.1 no such user\r\n", b"250 2.1.5 Ok\r\n"])
    async with (
        ScriptedServer(script) as server,
        Service(tmp_path, f'relayhost = "[127.0.0.1]:{server.port}"\n') as relay,
    ):
        await relay.send(ENCODED, "nobody@machin.com")
        await relay.logged("status=sent")
        await relay.emptied()
        (bounced,), (report,) = await traced(relay, "7@pc"), await traced(relay, "<>")
        assert [attempt["delay"] >= 0 for attempt in bounced["recipients"][0]["history"]] == [True]
        assert report["is_report"]
        assert await traced(relay, report["message_id"]) == [report]
        assert await traced(relay, "chris@free.fr") == [report, bounced]


async def traced(relay: Service, text: str) -> list[dict[str, Any]]:
    found = await relay.command("trace", "--json", text)
    messages: list[dict[str, Any]] = json.loads(found.out)
    return messages


def is_in_files(relay: Service, text: str) -> bool:
    """Whether a text stands in the database or its log, in bytes as they are on disk."""
    files = (relay.queue_path, relay.queue_path.with_name("queue.db-wal"))
    return any(text.encode() in file.read_bytes() for file in files if file.exists())
