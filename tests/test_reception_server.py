"""Listening, and the end of it."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from relay import events
from relay.config.model import Limits, Listen
from relay.reception.logins import Logins
from relay.reception.server import ListenError, Reception
from tests.support.reception import LIMITS, NO_FILES, SETTINGS, MemoryIntake, connected, make_names, serving

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"


@pytest.fixture
def reception() -> Reception:
    return Reception(MemoryIntake(), SETTINGS, LIMITS, make_names(), Logins({}), retry_seconds=0.01)


def take_port(host: str = "127.0.0.1") -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    sock.listen()
    return sock


async def test_several_addresses_are_listened_on(reception: Reception) -> None:
    await reception.open([Listen("127.0.0.1", 0), Listen("::1", 0)], NO_FILES)
    hosts = sorted(address.rpartition(":")[0] for address in reception.addresses)
    assert hosts == ["127.0.0.1", "[::1]"]
    for address in reception.addresses:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        assert (await reader.readline()).startswith(b"220 ")
        writer.close()
        await writer.wait_closed()
    await reception.close(0)
    assert reception.addresses == []


async def test_the_ipv6_wildcard_leaves_the_port_free_for_ipv4(reception: Reception) -> None:
    with take_port() as sock:
        port = sock.getsockname()[1]
        await reception.open([Listen("::", port)], NO_FILES)
        assert reception.addresses == [f"[::]:{port}"]
        await reception.close(0)


async def test_a_port_in_use_is_explained_and_nothing_stays_open(reception: Reception) -> None:
    with take_port() as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            await reception.open([Listen("127.0.0.1", 0), Listen("127.0.0.1", port)], NO_FILES)
    assert str(caught.value).startswith(
        f"cannot listen on 127.0.0.1:{port}: another program uses this port already. "
    )
    assert reception.addresses == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.EACCES, "ports below 1024 need special rights"),
        (errno.ENETDOWN, "Network is down"),
        (None, "None"),
    ],
)
async def test_other_reasons_are_explained(
    reception: Reception, monkeypatch: pytest.MonkeyPatch, code: int | None, reason: str
) -> None:
    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            if code is None:
                raise OSError
            raise OSError(code, "Network is down")

    monkeypatch.setattr(socket, "socket", Refusing)
    with pytest.raises(ListenError, match=f"^cannot listen on 127.0.0.1:25: {reason}"):
        await reception.open([Listen("127.0.0.1", 25)], NO_FILES)


class Late(socket.socket):
    """A socket on a machine that gets its address at the third attempt."""

    attempts = 0

    def bind(self, address: object) -> None:
        Late.attempts += 1
        if Late.attempts < 3:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        super().bind(address)  # type: ignore[arg-type]  # the base takes Any address


async def test_an_address_that_comes_later_is_waited_for(
    reception: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[str] = []
    monkeypatch.setattr(events, "listener_waits", lambda address, reason: waits.append(f"{address} {reason}"))
    monkeypatch.setattr(events, "listener_opened", lambda address: waits.append(f"{address} is there"))
    monkeypatch.setattr(socket, "socket", Late)
    monkeypatch.setattr(Late, "attempts", 0)
    await reception.open([Listen("127.0.0.1", 0)], NO_FILES)
    assert reception.addresses == []
    [task] = reception._waiting.values()
    await asyncio.wait_for(task, 10)
    assert Late.attempts == 3
    async with connected(reception) as peer:
        assert (await peer.ask("NOOP")).startswith("250 ")
    assert waits == [
        "127.0.0.1:0 this machine does not have the address yet",
        "127.0.0.1:0 is there",
    ]
    await reception.close(0)


async def test_waiting_for_an_address_can_be_given_up(
    reception: Reception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", Late)
    monkeypatch.setattr(Late, "attempts", -1_000_000)
    await reception.open([Listen("127.0.0.1", 0)], NO_FILES)
    [task] = reception._waiting.values()
    await reception.close(0)
    await asyncio.wait([task])
    assert task.cancelled()


async def test_addresses_can_be_exchanged_while_sessions_go_on(reception: Reception) -> None:
    await reception.open([Listen("127.0.0.1", 0)], NO_FILES)
    [first] = reception.addresses
    async with connected(reception) as peer:
        await reception.open([Listen("127.0.0.1", 0), Listen("::1", 0)], NO_FILES)
        assert first in reception.addresses
        await reception.open([Listen("::1", 0)], NO_FILES)
        assert [address[:5] for address in reception.addresses] == ["[::1]"]
        assert (await peer.ask("NOOP")).startswith("250 ")
        await reception.close(0)
        assert (await peer.reply()).startswith("421 ")


async def test_a_changed_configuration_reaches_open_sessions_and_limits() -> None:
    intake, other = MemoryIntake(), MemoryIntake()
    async with serving(intake) as reception, connected(reception) as peer:
        reception.configure(other, SETTINGS, Limits(connections=1))
        async with connected(reception, greet=False) as second:
            assert (await second.reply()).startswith("421 4.3.2 ")
        peer.send(ENVELOPE + b"BDAT 0 LAST\r\n")
        assert [(await peer.reply())[:3] for _ in range(3)] == ["250"] * 3
    assert (len(intake.messages), len(other.messages)) == (0, 1)


async def test_closing_sends_idle_clients_away_and_lets_a_message_end() -> None:
    intake = MemoryIntake()
    async with serving(intake) as reception, connected(reception) as idle, connected(reception) as busy:
        busy.send(ENVELOPE + b"DATA\r\nx")
        await asyncio.wait_for(intake.has_content.wait(), 10)
        closing = asyncio.create_task(reception.close(10))
        assert (await idle.reply()).startswith("421 4.3.2 ")
        assert await idle.reply() == ""
        busy.send(b"\r\n.\r\n")
        assert [(await busy.reply())[:3] for _ in range(6)] == ["250", "250", "354", "250", "421", ""]
        await asyncio.wait_for(closing, 10)
    assert len(intake.messages) == 1


async def test_after_the_grace_connections_are_broken_and_content_dropped() -> None:
    intake = MemoryIntake()
    async with serving(intake) as reception, connected(reception) as busy:
        busy.send(ENVELOPE + b"DATA\r\nx")
        await asyncio.wait_for(intake.has_content.wait(), 10)
        await asyncio.wait_for(reception.close(0.01), 10)
        assert [(await busy.reply())[:3] for _ in range(4)] == ["250", "250", "354", ""]
    assert (intake.messages, intake.aborted) == ([], 1)


async def test_closing_waits_for_what_is_being_stored() -> None:
    intake = MemoryIntake()
    intake.may_finish.clear()
    async with serving(intake) as reception, connected(reception) as busy:
        busy.send(ENVELOPE + b"DATA\r\nx\r\n.\r\n")
        await asyncio.wait_for(intake.is_finishing.wait(), 10)
        closing = asyncio.create_task(reception.close(0.01))
        assert await busy.reply() == ""
        for _ in range(30):
            await asyncio.sleep(0)
        is_done = closing.done()
        intake.may_finish.set()
        await asyncio.wait_for(closing, 10)
        assert not is_done
    assert (len(intake.messages), intake.aborted) == (1, 0)
