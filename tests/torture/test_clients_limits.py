"""Sizes that are not true, contents over the limit, chunks that make no sense, and mail in circles."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

from tests.support.service import PATIENCE, Service, deliveries
from tests.support.site import unused_port
from tests.torture.clients_rig import AREA, Cost, exchange, relaying, until_sent
from tests.torture.conftest import Figure

LIMIT = 1_000_000
MOST_STORED = 4 * LIMIT
"""Bytes of the queue's files, whatever clients send."""
START = b"EHLO x\r\nMAIL FROM:<a@free.fr>%b\r\nRCPT TO:<anne@free.fr>\r\n"
LIMITS = "limits = { message_size = '1MB' }\n"
HOUR_OF_LINES = b"x" * 998 + b"\r\n"


def stored(relay: Service) -> int:
    """Return how many bytes the queue's files have."""
    folder = relay.queue_path.parent
    return sum(path.stat().st_size for path in folder.glob("queue.db*") if not path.name.endswith("reserve"))


async def pour(relay: Service, start: bytes, size: int, end: bytes) -> tuple[bytes, int]:
    """Send a message of a size; return the answers, and the most bytes that the queue had meanwhile."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    most = 0
    writer.write(start)
    for _ in range(size // 100_000):
        writer.write(HOUR_OF_LINES * 100)
        await writer.drain()
        most = max(most, stored(relay))
    writer.write(end)
    writer.write_eof()
    async with asyncio.timeout(PATIENCE * 2):
        answers = await reader.read(-1)
    writer.close()
    return answers, max(most, stored(relay))


async def test_too_much_is_not_stored(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    size = 200_000_000 if is_whole else 10_000_000
    chunks = START % b""
    async with relaying(tmp_path, LIMITS) as (relay, next_hop):
        base, memory, most = stored(relay), Cost(relay).memory, 0
        for start, end in [
            (START % b"" + b"DATA\r\n", b".\r\nQUIT\r\n"),
            (START % b" SIZE=10" + b"DATA\r\n", b".\r\nQUIT\r\n"),
            (chunks + b"BDAT %d LAST\r\n" % size, b"QUIT\r\n"),
            (chunks + b"BDAT %d\r\n" % size, b"BDAT 0 LAST\r\nQUIT\r\n"),
            (chunks + b"BDAT 900000\r\n" + b"y" * 900_000 + b"BDAT %d LAST\r\n" % size, b"QUIT\r\n"),
        ]:
            answers, held = await pour(relay, start, size, end)
            most = max(most, held)
            assert b"\r\n552 5.3.4 " in answers or b"\r\n551 5." in answers, answers
            assert b"queued as" not in answers
            assert answers.endswith(b"221 2.0.0 Bye\r\n")
        figure(AREA, f"5 messages of {size} bytes, limit {LIMIT}: bytes in the queue's files", most)
        figure(AREA, "the same: MiB more", round(Cost(relay).memory - memory, 1))
        assert most - base < MOST_STORED
        await until_sent(relay, next_hop, 0)


async def test_sizes_that_are_lies(tmp_path: Path) -> None:
    content = b"DATA\r\nSubject: x\r\n\r\n" + HOUR_OF_LINES * 100 + b".\r\nQUIT\r\n"
    async with relaying(tmp_path, LIMITS) as (relay, next_hop):
        for size, code in [
            (b"0", b"250 2.1.0"),
            (b"1", b"250 2.1.0"),
            (b"1000000", b"250 2.1.0"),
            (b"1000001", b"552 5.3.4"),
            (b"9" * 18, b"552 5.3.4"),
            (b"9" * 4000, b"552 5.3.4"),
            (b"0" * 4000 + b"1", b"250 2.1.0"),
            (b"-1", b"501 5.5.4"),
        ]:
            is_good = code.startswith(b"2")
            answers = await exchange(
                relay, START % (b" SIZE=" + size) + (content if is_good else b"QUIT\r\n")
            )
            assert b"\r\n" + code in answers, (size, answers)
            assert answers.count(b"queued as") == is_good
        await until_sent(relay, next_hop, 4)
        assert all(d.content.endswith(HOUR_OF_LINES * 100) for d in deliveries(next_hop))


# Chunks

MALFORMED = [
    b"", b" ", b" -1", b" +5", b" 1_0", b" 0x5", b" 1e3", b" 5LAST", b" 5 LAST x", b" 5 LAS", b" LAST",
    b" LAST 5", b" 5 5",
    b" " + b"9" * 19, b" " + b"9" * 5000, b" \xd9\xa3", b" \xef\xbc\x95 LAST", b" 5.0", b" 5,",
]  # fmt: skip
EVIL = b"MAIL FROM:<evil@free.fr>\r\nRCPT TO:<victim@free.fr>\r\nDATA\r\n\r\n.\r\nQUIT\r\n"
BODY = b"Subject: x\r\n\r\nbody\r\n"
MIXED: list[tuple[bytes, int]] = [
    (b"BDAT %d LAST\r\n%b" % (len(BODY), BODY), 1),
    (b"BDAT %d\r\n%bBDAT 0 LAST\r\n" % (len(BODY), BODY), 1),
    (b"BDAT %d\r\n%bDATA\r\nRSET\r\n" % (len(BODY), BODY), 0),
    (b"BDAT %d\r\n%bDATA\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 1),
    (b"BDAT %d\r\n%bMAIL FROM:<b@free.fr>\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 1),
    (b"BDAT %d\r\n%bRCPT TO:<victim@free.fr>\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 1),
    (b"BDAT %d\r\n%bEHLO y\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 0),
    (b"BDAT %d\r\n%bRSET\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 0),
    (b"BDAT 0\r\nBDAT 0 LAST\r\n", 0),
    (b"BDAT 0 LAST\r\n", 1),
    (b"DATA\r\nBDAT 5 LAST\r\nhello.\r\n.\r\n", 1),
    (b"BDAT %d LAST\r\n%b" % (len(BODY) + 6, BODY + b"QUIT\r\n"), 1),
    (b"BDAT %d LAST\r\n%b" % (len(BODY) + 100, BODY), 0),
    (b"BDAT 999999999999999999 LAST\r\n%b" % BODY, 0),
    (b"BDAT 2000000 LAST\r\n%b" % (b"x" * 2_000_000), 0),
    (b"BDAT 2000000\r\n%bBDAT %d LAST\r\n%b" % (b"x" * 2_000_000, len(BODY), BODY), 0),
    (b"BDAT %d\r\n%bSTARTTLS\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 1),
    (b"BDAT %d\r\n%bVRFY anne@free.fr\r\nNOOP\r\nBDAT 0 LAST\r\n" % (len(BODY), BODY), 1),
]
"""What follows RCPT, and how many messages that is."""


async def test_chunks_that_make_no_sense(tmp_path: Path, figure: Figure) -> None:
    count = 0
    async with relaying(tmp_path, LIMITS) as (relay, next_hop):
        for size in MALFORMED:
            answers = await exchange(relay, START % b"" + b"BDAT" + size + b"\r\n" + EVIL)
            assert b"queued as" not in answers, (size, answers)
            assert re.search(rb"\r\n521 [^\n]*\r\n\Z|\r\n500 5\.5\.2", answers), (size, answers)
        for chunks, messages in MIXED:
            for parts in (
                (START % b"" + chunks + b"QUIT\r\n",),
                (START % b"", *re.split(rb"(?<=\n)", chunks)),
            ):
                answers = await exchange(relay, *parts)
                assert answers.count(b"queued as") == messages, (chunks[:200], answers)
                count += messages
        await until_sent(relay, next_hop, count)
        assert {d.recipients for d in deliveries(next_hop)} == {("anne@free.fr",)}
    figure(AREA, "odd chunks", len(MALFORMED) + 2 * len(MIXED))


# Loops


async def test_mail_with_too_many_hops_is_refused(tmp_path: Path) -> None:
    async with relaying(tmp_path) as (relay, next_hop):
        for name in (b"Received", b"RECEIVED", b"received "):
            for hops, code in ((48, "250"), (49, "554"), (5000, "554")):
                reply = await relay.send((name + b": x\r\n") * hops + b"\r\n", "anne@free.fr")
                assert reply.startswith(code), (name, hops, reply)
        await until_sent(relay, next_hop, 3)


async def test_two_relays_that_send_to_each_other_come_to_an_end(tmp_path: Path, figure: Figure) -> None:
    """A message that goes in circles comes back as a report, which goes in circles until it is refused."""
    ports = unused_port(), unused_port()
    relays = []
    async with AsyncExitStack() as stack:
        for name, own, other in (("a", *ports), ("b", *reversed(ports))):
            folder = tmp_path / name
            folder.mkdir()
            toml = (
                f'hostname = "{name}.maison.mrs"\nrelayhost = "[127.0.0.1]:{other}"\n'
                f'listen = [{{ address = "127.0.0.1:{own}" }}]\n'
            )
            relays.append(await stack.enter_async_context(Service(folder, toml)))
        assert (await relays[0].send(BODY, "anne@free.fr")).startswith("250 ")
        for relay in relays[::-1] * 2:  # who is empty may get it back from the other
            await relay.emptied()
        passes = sum(relay.log.count(": client=") for relay in relays)
        refusals = sum(relay.log.count("status=bounced") for relay in relays)
    figure(AREA, "times that two relays sent a message to each other", passes)
    assert passes <= 100
    assert refusals == 2
