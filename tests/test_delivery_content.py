"""Content on its way to a scripted server: streamed, stuffed, cut off, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from relay.delivery.client import Content, Timeouts
from relay.mail.attempt import Attempt
from tests.support.delivery import (
    BODY,
    MESSAGE,
    SENT,
    at_port_25,
    both,
    connected,
    content,
    cut,
    invalid,
    late,
    message,
    said,
)
from tests.support.smtp_server import (
    DROP,
    HANG,
    RESET,
    Script,
    ScriptedServer,
    Step,
    Wait,
)


async def test_small_content_and_the_final_dot_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer() as server, connected(server) as connection:
        writes: list[bytes] = []
        write = connection._protocol.write

        def record(data: bytes) -> None:
            writes.append(data)
            write(data)

        monkeypatch.setattr(connection._protocol, "write", record)
        await connection.transfer(message(), content(b"A: b\r\n", b"\r\n", b".x\r\n"))
    assert [len(w.split(b"\r\n")) - 1 for w in writes] == [4, 4]
    assert writes[1] == b"A: b\r\n\r\n..x\r\n.\r\n"


@pytest.mark.parametrize(
    ("chunks", "wire"),
    [
        ([b""], b""),
        ([b".\r\n"], b"..\r\n"),
        ([b"a\r\n.", b"\r\n"], b"a\r\n..\r\n"),
        ([b"a\r\n", b".b\r\n"], b"a\r\n..b\r\n"),
        ([b"a\r", b"\n.b\r\n"], b"a\r\n..b\r\n"),
        ([b"a\r", b"\n", b"", b".b\r\n"], b"a\r\n..b\r\n"),
        ([b"a.\r\n"], b"a.\r\n"),
        ([b"no line end"], b"no line end\r\n"),
    ],
)
async def test_dots_are_stuffed_wherever_the_chunks_are_cut(chunks: list[bytes], wire: bytes) -> None:
    async with ScriptedServer() as server, connected(server) as connection:
        attempts = await connection.transfer(message(), content(*chunks))
        assert all(attempt.reply.is_positive for attempt in attempts)
        assert server.sessions[0].contents == [wire]


async def test_large_content_is_streamed_and_arrives_whole() -> None:
    chunk = (b"." + b"x" * 997 + b"\r\n") * 100
    async with ScriptedServer() as server, connected(server) as connection:
        attempts = await connection.transfer(message(), content(*[chunk] * 30, size=1))
        assert at_port_25(attempts, server.port) == [SENT, SENT]
        assert server.sessions[0].messages == [chunk * 30]


def endless(taken: list[int]) -> Content:
    async def stream() -> AsyncIterator[bytes]:
        for number in range(100_000):
            taken.append(number)
            yield b"x" * 64_000 + b"\r\n"

    return Content(1, stream())


async def test_a_server_that_stops_reading_stops_the_stream_and_is_cut_off() -> None:
    taken: list[int] = []
    script = Script().but(DATA=(b"354 go\r\n", Wait(asyncio.Event())))
    async with ScriptedServer(script) as server, connected(server, Timeouts(block=0.2)) as connection:
        attempts = await connection.transfer(message(), endless(taken))
        assert at_port_25(attempts, server.port) == late(BODY)
        assert not connection.is_reusable
        assert len(taken) < 1000


@pytest.mark.parametrize("action", [DROP, RESET])
async def test_a_connection_lost_within_the_content_is_no_possible_duplicate(action: Step) -> None:
    script = replace(Script().but(BODY=action), body_bytes=200_000)
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message(), endless([]))
        assert at_port_25(attempts, server.port) == cut(BODY)
        assert server.sessions[0].contents == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (b"552 5.3.4 too big\r\n", both(said(552, "5.3.4", "too big", "DATA", MESSAGE))),
        (b"421 4.3.2 bye\r\n", both(said(421, "4.3.2", "bye", "DATA", MESSAGE))),
        (b"250 2.0.0 enough\r\n", invalid(BODY, "2.0.0 enough")),
        (b"enough\r\n", invalid(BODY, "enough")),
    ],
)
async def test_a_server_that_speaks_within_the_content_is_heard(
    words: bytes, expected: list[Attempt]
) -> None:
    script = replace(Script().but(BODY=words), body_bytes=200_000)
    async with ScriptedServer(script) as server, connected(server) as connection:
        attempts = await connection.transfer(message(), endless([]))
        assert at_port_25(attempts, server.port) == expected
        assert server.sessions[0].contents == []


async def test_last_words_are_heard_when_the_server_takes_no_more() -> None:
    gate = asyncio.Event()
    script = Script().but(DATA=(b"354 go\r\n", Wait(gate), b"552 5.3.4 too big\r\n", Wait(asyncio.Event())))

    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 50_000_000 + b"\r\n"
        asyncio.get_running_loop().call_soon(gate.set)
        yield b"y"

    async with ScriptedServer(script) as server, connected(server, Timeouts(block=0.2)) as connection:
        attempts = await connection.transfer(message(), Content(1, stream()))
        assert at_port_25(attempts, server.port) == both(said(552, "5.3.4", "too big", "DATA", MESSAGE))


async def test_an_error_of_the_content_aborts_and_comes_through() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        raise OSError("disk on fire")

    async with ScriptedServer() as server, connected(server) as connection:
        with pytest.raises(OSError, match="disk on fire"):
            await connection.transfer(message(), Content(100_000, stream()))
        assert not connection.is_reusable
        await server.wait_ended()
        assert server.sessions[0].contents == []


@pytest.mark.parametrize("point", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_cancellation_aborts_at_any_point(point: str) -> None:
    async with ScriptedServer(Script().but(**{point: HANG})) as server, connected(server) as connection:
        transfer = asyncio.create_task(connection.transfer(message(), content()))
        await server.wait_for(point)
        transfer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await transfer
        assert not connection.is_reusable
        await server.wait_ended()


async def test_cancellation_within_the_content_leaves_no_whole_message() -> None:
    script = Script().but(DATA=(b"354 go\r\n", Wait(asyncio.Event())))
    async with ScriptedServer(script) as server, connected(server) as connection:
        transfer = asyncio.create_task(connection.transfer(message(), endless([])))
        await server.wait_for("DATA")
        transfer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await transfer
        assert not connection.is_reusable
