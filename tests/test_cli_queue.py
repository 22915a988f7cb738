"""``relay queue``, with the service up and down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.cli.main import main
from relay.mail.attempt import State
from relay.mail.envelope import Message, Recipient
from relay.queue.store import Store
from tests.support.queue import CONTENT, ISP, accept, claim, deferred, filled, opened, outcome

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


@pytest.fixture
def run(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``relay queue`` and returns its status, output and errors."""
    config = tmp_path / "relay.toml"
    config.write_text(f'[queue]\npath = "{path}"\n')

    async def run(*arguments: str) -> tuple[int, str, str]:
        command = ["queue", *arguments, "--config", str(config)]
        try:
            status = await asyncio.to_thread(main, command)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


async def two_messages(store: Store) -> tuple[Message, Message]:
    now = time.time()
    first = await accept(
        store,
        [Recipient("bob@aol.com", original="bob"), Recipient("eve\udcff\x1b[2J@free.fr", index=1)],
        now=now - 3 * 3600 - 5,
        size=2100,
        client="pc[192.168.0.2]",
    )
    await store.record([deferred(first, ISP, now + 720.5, 0)])
    second = await accept(store, now=now - 5, reverse_path="", size=3_400_000, is_held=True)
    return first, second


@pytest.fixture(params=["up", "down"])
async def messages(request: pytest.FixtureRequest, path: Path) -> Any:
    """Yield two messages in a queue whose service is up, or down."""
    async with filled(path, two_messages, is_up=request.param == "up") as messages:
        yield messages


async def test_the_list_fits_on_a_screen(run: Run, messages: tuple[Message, Message]) -> None:
    first, second = messages
    status, output, _ = await run("list")
    assert status == 0
    assert output.splitlines() == [
        f"{first.queue_id}  2.1 kB  3 h ago  from <chris@free.fr> by pc[192.168.0.2]",
        "    to <bob@aol.com> (given as <bob>): deferred, next attempt in 12 min",
        "        host mx[1.2.3.4] said: 451 4.3.0 try later (in reply to DATA command)",
        "    to <eve??[2J@free.fr>: queued, due now",
        f"{second.queue_id}  3.4 MB  5 s ago  from <>",
        "    to <u0@example.net>: held",
        "2 messages, 3.4 MB",
    ]


async def test_the_list_as_json(run: Run, messages: tuple[Message, Message]) -> None:
    status, output, _ = await run("list", "--json", "--from", "<>")
    assert status == 0
    [listed] = json.loads(output)
    assert (listed["id"], listed["sender"]) == (messages[1].queue_id, "")


async def test_a_list_that_nothing_matches(run: Run, messages: tuple[Message, Message]) -> None:
    assert await run("list", "--to", "@nowhere.test") == (0, "no message matches\n", "")


async def test_one_message_is_shown_with_its_header(run: Run, messages: tuple[Message, Message]) -> None:
    status, output, _ = await run("show", messages[1].queue_id)
    assert status == 0
    assert output.splitlines()[1:] == ["    to <u0@example.net>: held", "", "Subject: hello"]
    status, output, _ = await run("show", messages[1].queue_id, "--json")
    assert json.loads(output)["header"] == "Subject: hello\r\n"


async def test_an_unknown_message_is_told(run: Run, messages: tuple[Message, Message]) -> None:
    assert await run("show", "nonsense") == (1, "", "relay: no message nonsense in the queue\n")
    assert await run("hold", "ABC", messages[0].queue_id) == (
        1,
        "1 message held\n",
        "relay: no message ABC in the queue\n",
    )


async def test_messages_are_held_released_retried_and_deleted(
    run: Run, messages: tuple[Message, Message]
) -> None:
    assert await run("hold", "--to", "@AOL.com") == (0, "1 message held\n", "")
    assert "to <bob@aol.com> (given as <bob>): held" in (await run("list"))[1]
    assert await run("release", "--all") == (0, "2 messages released\n", "")
    assert await run("retry", "--from", "chris@free.fr") == (0, "1 message due now\n", "")
    assert json.loads((await run("delete", messages[0].queue_id, "--json"))[1]) == {
        "ok": True,
        "changed": 1,
        "unknown": [],
    }
    assert await run("delete", "--all") == (0, "1 message deleted\n", "")
    assert await run("delete", "--all") == (1, "0 messages deleted\n", "")
    assert await run("list") == (0, "the queue is empty\n", "")


async def test_an_action_needs_a_selection(run: Run, messages: tuple[Message, Message]) -> None:
    status, output, errors = await run("delete")
    assert (status, output) == (2, "")
    assert errors.endswith("say which messages: queue ids, --to, --from or --all\n")


async def test_a_message_that_was_delivered_can_still_be_shown(run: Run, path: Path) -> None:
    async with opened(path) as store:
        message = await accept(store, now=time.time() - 3 * 86400)
        await store.record([outcome(message, State.DELIVERED)])
    assert await run("list") == (0, "the queue is empty\n", "")
    _, output, _ = await run("show", message.queue_id)
    assert output.splitlines() == [
        f"{message.queue_id}  {len(CONTENT)} B  3 d ago  from <chris@free.fr>",
        "    to <u0@example.net>: delivered",
        "        host mx[1.2.3.4] said: 250 2.0.0 taken (in reply to end of DATA command)",
    ]


async def test_attempts_are_counted(run: Run, path: Path) -> None:
    async with opened(path) as store:
        now = time.time()
        await accept(store, now=now, retry_at=now + 400.5)
        await accept(store, now=now)
        await claim(store, now)
        await claim(store, now + 360)
    _, output, _ = await run("list")
    assert "queued after 1 attempt, next attempt in " in output
    assert "queued after 2 attempts, next attempt in 11 min" in output


async def test_a_queue_that_is_not_there_yet_is_empty(run: Run, path: Path) -> None:
    words = f"the queue is empty (no queue at {path} yet)"
    assert await run("list") == (0, f"{words}\n", "")
    assert await run("list", "--json") == (0, "[]\n", "")
    assert await run("delete", "--all") == (1, "", f"relay: {words}\n")
    assert not path.exists()


async def test_a_queue_in_use_without_a_socket_is_told(run: Run, path: Path) -> None:
    async with opened(path):
        status, output, errors = await run("list")
        assert (status, output) == (1, "")
        assert errors.startswith(f"relay: the queue {path} is already in use by process ")


async def test_a_long_list_comes_whole(run: Run, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.cli.queue._PAGE", 2)
    async with opened(path) as store:
        for _ in range(5):
            await accept(store)
    assert len(json.loads((await run("list", "--json"))[1])) == 5
