"""The control socket of a running service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.mail.attempt import State
from relay.mail.envelope import Recipient
from relay.queue import control
from relay.queue.control import ControlServer, NotRunningError, perform, request
from relay.queue.store import Store
from tests.support.queue import CONTENT, ISP, LARGE, NOW, accept, deferred, opened, outcome, states


class Service:
    """A store with its control server, and what came through it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.path = store.path
        self.changes = 0
        self.server = ControlServer(store, self._count)

    def _count(self) -> None:
        self.changes += 1

    async def ask(self, **message: Any) -> dict[str, Any]:
        return await asyncio.to_thread(request, self.path, message)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with opened(tmp_path / "queue.db") as store:
        service = Service(store)
        await service.server.start()
        yield service
        await service.server.close()


async def send(service: Service, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(f"{service.path}.sock")
    writer.write(data)
    writer.write_eof()
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    return reply


async def test_a_ping_is_answered(service: Service) -> None:
    assert await service.ask(command="ping") == {"ok": True}
    assert service.changes == 0


async def test_the_socket_is_for_its_owner_alone_and_goes_with_the_service(service: Service) -> None:
    socket_path = Path(f"{service.path}.sock")
    assert socket_path.stat().st_mode & 0o777 == 0o600
    await service.server.close()
    assert not socket_path.exists()
    with pytest.raises(NotRunningError, match=f"no relay is running on the queue {service.path}"):
        await service.ask(command="ping")
    await service.server.start()


async def test_a_socket_that_a_crash_left_is_replaced(service: Service) -> None:
    await service.server.close()
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{service.path}.sock")
    left.close()
    with pytest.raises(NotRunningError):
        await service.ask(command="ping")
    await service.server.start()
    assert await service.ask(command="ping") == {"ok": True}


async def test_a_folder_with_a_long_name_does(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 40) / "queue.db"
    async with opened(path) as store:
        service = Service(store)
        await service.server.start()
        assert await service.ask(command="ping") == {"ok": True}
        await service.server.close()


@pytest.mark.parametrize(
    ("name", "reason"), [("queue.db", "Is a directory"), ("q" * 95, "AF_UNIX path too long")]
)
async def test_mail_goes_on_where_there_can_be_no_socket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, reason: str
) -> None:
    (tmp_path / "queue.db.sock").mkdir()
    async with opened(tmp_path / name) as store:
        server = ControlServer(store, lambda: None)
        await server.start()
        await server.close()
    assert (tmp_path / "queue.db.sock").is_dir()
    words = f"commands like `relay queue` do not reach the relay: {tmp_path / name}.sock: {reason}"
    assert [record.getMessage() for record in caplog.records] == [words]


async def test_messages_are_listed_with_what_became_of_them(service: Service) -> None:
    message = await accept(service.store, [Recipient("a\udcff@aol.com", original="a@gw1")], client="pc[::1]")
    await service.store.record([deferred(message, ISP, NOW + 900)])
    assert await service.ask(command="list", limit=10) == {
        "ok": True,
        "messages": [
            {
                "id": message.queue_id,
                "sender": "chris@free.fr",
                "client": "pc[::1]",
                "size": len(CONTENT),
                "received_at": NOW,
                "finished_at": None,
                "is_report": False,
                "message_id": "",
                "subject": "",
                "recipients": [
                    {
                        "address": "a\udcff@aol.com",
                        "original": "a@gw1",
                        "state": "deferred",
                        "attempts": 0,
                        "next_attempt_at": NOW + 900,
                        "attempted_at": pytest.approx(0, abs=1e12),
                        "next_hop": ISP,
                        "scope": "recipient",
                        "host": "mx[1.2.3.4]:25",
                        "reply": "host mx[1.2.3.4] said: 451 4.3.0 try later (in reply to DATA command)",
                    }
                ],
            }
        ],
    }
    assert (await service.ask(command="list", limit=10, after=message.queue_id))["messages"] == []
    assert (await service.ask(command="list", limit=10, to="@free.fr"))["messages"] == []
    assert (
        len((await service.ask(command="list", limit=10, ids=[message.queue_id, "no id"]))["messages"]) == 1
    )


async def test_a_message_is_shown_with_its_header_while_there_is_one(service: Service) -> None:
    message = await accept(service.store)
    shown = (await service.ask(command="show", id=message.queue_id.lower()))["message"]
    assert shown["header"] == "Subject: hello\r\n"
    assert shown["recipients"][0]["reply"] == ""
    await service.store.record([outcome(message, State.DELIVERED)])
    shown = (await service.ask(command="show", id=message.queue_id))["message"]
    assert (shown["header"], shown["recipients"][0]["next_attempt_at"]) == ("", None)
    assert shown["finished_at"] is not None


async def test_a_large_message_is_shown_with_its_header(service: Service) -> None:
    message = await accept(service.store, content=LARGE)
    shown = (await service.ask(command="show", id=message.queue_id))["message"]
    assert shown["header"] == "Subject: hello\r\n"
    (service.path.with_name("queue.db.content") / message.queue_id).write_bytes(b"")
    shown = (await service.ask(command="show", id=message.queue_id))["message"]
    assert shown["header"] == ""


@pytest.mark.parametrize("queue_id", ["ABC", "no id", "F" * 40, "-" + "F" * 40])
async def test_an_unknown_message_is_told(service: Service, queue_id: str) -> None:
    assert await service.ask(command="show", id=queue_id) == {
        "ok": False,
        "error": f"no message {queue_id} in the queue",
    }


@pytest.mark.parametrize("data", [b"{}\n", b'{"ids": []}\n'])
async def test_a_request_without_a_command_is_told(service: Service, data: bytes) -> None:
    assert json.loads(await send(service, data)) == {"ok": False, "error": "unknown command: None"}


async def test_actions_are_logged(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")
    message = await accept(service.store)
    await service.ask(command="hold", ids=[message.queue_id])
    await service.ask(command="delete", **{"from": "", "to": "@example.net"})
    await service.ask(command="retry")
    assert [record.getMessage() for record in caplog.records] == [
        f"queue hold: 1 messages ({message.queue_id})",
        "queue delete: 0 messages (from <>, to <@example.net>)",
        "queue retry: 0 messages (all)",
    ]


async def test_actions_tell_what_they_changed_and_wake_the_service(service: Service) -> None:
    first, second = await accept(service.store), await accept(service.store)
    done = await accept(service.store)
    await service.store.record([outcome(done, State.DELIVERED)])
    ids = [first.queue_id, "ABC", done.queue_id]
    assert await service.ask(command="hold", ids=ids) == {"ok": True, "changed": 1, "unknown": ids[1:]}
    assert await service.ask(command="release") == {"ok": True, "changed": 1, "unknown": []}
    assert (await service.ask(command="retry", to="@example.net"))["changed"] == 2
    assert (await service.ask(command="delete", ids=[second.queue_id]))["changed"] == 1
    assert await states(service.store, second) == []
    assert service.changes == 4


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\n",
        b"[]\n",
        b"\n",
        b'{"command": "list"}\n',
        b'{"command": "show", "id": 7}\n',
    ],
)
async def test_nonsense_is_answered(service: Service, data: bytes) -> None:
    assert json.loads(await send(service, data)) == {"ok": False, "error": "not a request"}


async def test_a_request_without_end_is_cut_off(service: Service) -> None:
    reader, writer = await asyncio.open_unix_connection(f"{service.path}.sock")
    writer.write(b"x" * 1_100_000)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert await service.ask(command="ping") == {"ok": True}


async def test_an_unknown_command_is_told(service: Service) -> None:
    assert await service.ask(command="dance") == {"ok": False, "error": "unknown command: dance"}


async def test_failures_of_the_queue_are_told(tmp_path: Path) -> None:
    async with opened(tmp_path / "queue.db") as store:
        pass
    assert await perform(store, {"command": "hold"}) == {
        "ok": False,
        "error": f"the queue {tmp_path}/queue.db is closed",
    }


async def test_clients_that_say_nothing_are_let_go(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_REQUEST_SECONDS", 0.01)
    reader, writer = await asyncio.open_unix_connection(f"{service.path}.sock")
    assert await reader.read() == b""
    writer.close()


async def test_the_service_stops_while_clients_are_connected(service: Service) -> None:
    reader, writer = await asyncio.open_unix_connection(f"{service.path}.sock")
    await service.ask(command="ping")  # by then the first client has been taken in too
    await service.server.close()
    assert await reader.read() == b""
    writer.close()
    await service.server.start()


async def test_a_service_that_stops_without_an_answer_is_told(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    server = await asyncio.start_unix_server(hang_up, tmp_path / "queue.db.sock")
    with pytest.raises(ConnectionError, match="gave no answer: is it stopping"):
        await asyncio.to_thread(request, tmp_path / "queue.db", {"command": "ping"})
    server.close()
    await server.wait_closed()


async def test_the_queue_is_counted(service: Service) -> None:
    nothing = {"ok": True, "messages": 0, "recipients": {}, "oldest": None}
    assert await service.ask(command="count") == nothing
    await accept(service.store, 2)
    held = await accept(service.store, is_held=True, now=NOW - 60)
    assert await service.ask(command="count") == {
        "ok": True,
        "messages": 2,
        "recipients": {"queued": 2, "held": 1},
        "oldest": NOW - 60,
    }
    await service.ask(command="delete", ids=[held.queue_id])
    assert (await service.ask(command="count"))["messages"] == 1
