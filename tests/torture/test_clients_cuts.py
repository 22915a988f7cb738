"""Dialogues cut anywhere: into packets at every byte, and off at every byte."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path

from tests.support.service import PATIENCE, Delivery, Service, deliveries
from tests.support.smtp_server import ScriptedServer
from tests.torture.clients_rig import AREA, Cost, exchange, in_parallel, relaying, until_sent
from tests.torture.conftest import Figure

SESSIONS = 8
CACHED = 10
"""Connections to the next hop that the relay may keep."""
QUEUE_ID = re.compile(rb"queued as [0-9A-F]+")
BODY = b"Subject: cut\r\n\r\n.one\r\n\r\n..two\r\n"
STUFFED = BODY.replace(b"\r\n.", b"\r\n..")

PIPELINED = (
    b"EHLO chris\r\n"
    b"MAIL FROM:<a@free.fr> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<anne@free.fr>\r\nRCPT TO:<>\r\nDATA\r\n"
    b"%b.\r\n"
    b"MAIL FROM:<b@free.fr>\r\nRCPT TO:<anne@free.fr>\r\nRSET\r\nDATA\r\nNOOP\r\n"
    b"MAIL FROM:<b@free.fr>\r\nRCPT TO:<marc@free.fr>\r\n"
    b"BDAT 9\r\n%bBDAT %d LAST\r\n%bVRFY anne@free.fr\r\n"
    b"MAIL FROM:<>\r\nRCPT TO:<zoe@free.fr>\r\nDATA\r\n.\r\n"
    b"QUIT\r\n"
) % (STUFFED, BODY[:9], len(BODY) - 9, BODY[9:])
"""Three messages, one of them empty, and commands that fail: all of it sent without waiting for a reply."""
SENT = [("", ("zoe@free.fr",)), ("a@free.fr", ("anne@free.fr",)), ("b@free.fr", ("marc@free.fr",))]


async def test_packets_may_end_anywhere(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    places = range(1, len(PIPELINED), 1 if is_whole else 4)
    answers: list[bytes] = []

    async def send_in_two(place: int, relay: Service) -> None:
        answers.append(await exchange(relay, PIPELINED[:place], PIPELINED[place:]))

    async def send_bytes(relay: Service) -> None:
        answers.append(await exchange(relay, *(bytes([byte]) for byte in PIPELINED), pause=0))

    async with relaying(tmp_path) as (relay, next_hop):
        whole = await exchange(relay, PIPELINED)
        works = [partial(send_in_two, place, relay) for place in places]
        await in_parallel(SESSIONS, [*works, partial(send_bytes, relay)])
        assert {QUEUE_ID.sub(b"", answer) for answer in answers} == {QUEUE_ID.sub(b"", whole)}
        assert whole.count(b"queued as ") == 3
        assert whole.endswith(b"221 2.0.0 Bye\r\n")
        await until_sent(relay, next_hop, 3 * (len(answers) + 1))
        left = deliveries(next_hop)
        assert sorted((d.reverse_path, d.recipients) for d in left) == sorted(SENT * (len(answers) + 1))
        assert all(has_body(d, BODY) for d in left if d.reverse_path)
    figure(AREA, "pipelined dialogues cut into packets", len(answers))


def has_body(delivery: Delivery, content: bytes) -> bool:
    """Whether the body of a message that left is that of a content."""
    return delivery.content.partition(b"\r\n\r\n")[2] == content.partition(b"\r\n\r\n")[2]


class Way(Enum):
    """How a client leaves."""

    HALF = "says that no more comes, and reads what is said"
    CLOSE = "closes"
    RESET = "resets"


def dialogue(number: int, way: Way, *, by_data: bool) -> tuple[bytes, int]:
    """Return a dialogue, and how much of it makes a message."""
    start = b"EHLO chris\r\nMAIL FROM:<%s%d@free.fr>\r\nRCPT TO:<anne@free.fr>\r\n" % (
        way.name.encode(),
        number,
    )
    if by_data:
        start += b"DATA\r\n%b.\r\n" % STUFFED
    else:
        start += b"BDAT 20\r\n%bBDAT %d\r\n%bBDAT 0 LAST\r\n" % (BODY[:20], len(BODY) - 20, BODY[20:])
    return start + b"QUIT\r\n", len(start)


async def leave(relay: Service, data: bytes, way: Way) -> bytes:
    """Send some bytes and leave; return what was answered, where that is waited for."""
    if way is Way.HALF:
        return await exchange(relay, data)
    _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    writer.write(data)
    if way is Way.RESET:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return b""


def senders(next_hop: ScriptedServer) -> set[str]:
    """Return who is named as the sender of a message that left."""
    return {delivery.reverse_path for delivery in deliveries(next_hop)}


async def cut_everywhere(relay: Service, next_hop: ScriptedServer, *, by_data: bool, is_whole: bool) -> int:
    """Break a dialogue off after each number of bytes, in each way; return how often."""
    must, may = set(), set()
    works = []

    async def cut(number: int, data: bytes, way: Way, is_message: bool) -> None:
        answer = await leave(relay, data, way)
        assert (b"queued as" in answer) == (is_message and way is Way.HALF), (data, answer)

    files = Cost(relay).files
    longest = len(dialogue(100, Way.RESET, by_data=by_data)[0])
    for way in Way:
        for number in range(100, 100 + longest + 1, 1 if is_whole or way is Way.HALF else 3):
            data, end = dialogue(number, way, by_data=by_data)
            data = data[: number - 100]
            is_message = len(data) >= end
            if is_message:
                (must if way is Way.HALF else may).add(f"{way.name}{number}@free.fr")
            works.append(partial(cut, number, data, way, is_message))
    await in_parallel(SESSIONS, works)
    async with asyncio.timeout(PATIENCE):
        while Cost(relay).files > files + CACHED or not must <= senders(next_hop):
            await asyncio.sleep(0.02)
    await relay.emptied()
    await relay.stop()  # what the relay takes in from clients that are gone is stored now
    late = {message["sender"] for message in await relay.queue()}
    assert late <= may, late
    left = deliveries(next_hop)
    assert len(left) == len(senders(next_hop))
    assert must <= senders(next_hop) <= must | may
    assert all(has_body(d, BODY) for d in left)
    return len(works)


async def test_clients_may_leave_anywhere(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    tried = 0
    for by_data in (True, False):
        folder = tmp_path / ("data" if by_data else "bdat")
        folder.mkdir()
        async with relaying(folder) as (relay, next_hop):
            tried += await cut_everywhere(relay, next_hop, by_data=by_data, is_whole=is_whole)
    figure(AREA, "dialogues broken off", tried)
