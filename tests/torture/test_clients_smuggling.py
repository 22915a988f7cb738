"""SMTP smuggling: whatever stands around a dot, one message comes in and one message leaves.

Every mixture of CR, LF and NUL stands before and after a dot, behind it a second message that must stay the
content of the first; it comes by DATA and by BDAT, cut into two packets at every byte.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.reception import Peer
from tests.support.service import Service, deliveries
from tests.support.smtp_server import ScriptedServer
from tests.torture.clients_rig import AREA, connected, in_parallel, relaying, until_sent
from tests.torture.conftest import Figure

SESSIONS = 8
END = b"\r\n.\r\n"
SMUGGLED = (
    b"MAIL FROM:<evil@free.fr>\r\nRCPT TO:<victim@free.fr>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.QUIT\r\nRSET\r\n"
)


@dataclass(frozen=True)
class Case:
    """A content that may look like two messages."""

    number: int
    before: bytes
    after: bytes
    cut: int
    """Where the packet ends, from the first byte before the dot on."""
    at_start: bool = False
    """Whether the dot stands where the content begins."""

    @property
    def subject(self) -> bytes:
        return b"" if self.at_start else b"Subject: case %d\r\n\r\nline" % self.number

    @property
    def content(self) -> bytes:
        return self.subject + self.before + b"." + self.after + SMUGGLED

    @property
    def halves(self) -> tuple[bytes, bytes]:
        place = len(self.subject) + self.cut
        return self.content[:place], self.content[place:]

    @property
    def ends_early(self) -> bool:
        """Whether DATA ends at the dot by right."""
        return END in (b"\r\n" if self.at_start else b"") + self.content


def cases(longest: int, *, is_whole: bool) -> Iterator[Case]:
    alphabet = (b"\r", b"\n", b"\0")
    mixtures = [
        b"".join(parts) for n in range(longest + 1) for parts in itertools.product(alphabet, repeat=n)
    ]
    numbers = itertools.count(1)
    for before, after in itertools.product(mixtures, mixtures):
        cuts = range(1, len(before) + len(after) + 3)
        number = next(numbers)
        for cut in cuts if is_whole else (cuts[number % len(cuts)],):
            yield Case(next(numbers), before, after, cut)
        yield Case(next(numbers), before, after, len(before) + 1, at_start=True)


def decode(content: bytes, *, has_dots: bool) -> bytes:
    """Return what is to become of a content that ends with CRLF: a second, plain reading of the rules."""
    lines = [line.rstrip(b"\r").replace(b"\r", b" ") for line in content.split(b"\n")[:-1]]
    return b"".join((line.removeprefix(b".") if has_dots else line) + b"\r\n" for line in lines)


async def send_data(peer: Peer, case: Case) -> str:
    peer.send(b"MAIL FROM:<c%d@free.fr>\r\nRCPT TO:<anne@free.fr>\r\nDATA\r\n" % case.number)
    assert [(await peer.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
    first, second = case.halves
    peer.send(first)
    await asyncio.sleep(0.001)  # the relay may read the first half alone
    peer.send(second + END[2:])
    return await peer.reply()


async def send_chunks(peer: Peer, case: Case) -> str:
    first, second = case.halves
    peer.send(b"MAIL FROM:<c%d@free.fr>\r\nRCPT TO:<anne@free.fr>\r\n" % case.number)
    peer.send(b"BDAT %d\r\n" % len(first) + first + b"BDAT %d LAST\r\n" % len(second) + second)
    assert [(await peer.reply())[:3] for _ in range(3)] == ["250", "250", "250"]
    return await peer.reply()


async def try_all(relay: Service, next_hop: ScriptedServer, tried: list[Case], *, by_data: bool) -> None:
    """Send each case in a message of its own, and look at each message that left."""
    send = send_data if by_data else send_chunks
    left = iter(tried)

    async def go_on() -> None:
        async with connected(relay) as peer:
            await peer.ask("EHLO chris")
            for case in left:
                reply = await send(peer, case)
                assert reply.startswith("250 2.0.0 Ok: queued as "), (case, reply)
            assert (await peer.ask("QUIT")).startswith("221 ")

    await in_parallel(SESSIONS, [go_on] * SESSIONS)
    await until_sent(relay, next_hop, len(tried))
    left_with = {d.reverse_path: d for d in deliveries(next_hop)}
    assert {d.recipients for d in left_with.values()} == {("anne@free.fr",)}
    assert len(left_with) == len(tried)
    for case in tried:
        if not case.at_start:
            content = left_with[f"c{case.number}@free.fr"].content
            body = decode(case.content, has_dots=by_data).partition(b"\r\n\r\n")[2]
            assert content.partition(b"\r\n\r\n")[2] == body, case


@pytest.mark.parametrize("by_data", [True, False], ids=["DATA", "BDAT"])
async def test_one_message_stays_one(tmp_path: Path, by_data: bool, is_whole: bool, figure: Figure) -> None:
    tried = [
        case for case in cases(3 if is_whole else 2, is_whole=is_whole) if not (by_data and case.ends_early)
    ]
    async with relaying(tmp_path) as (relay, next_hop):
        await try_all(relay, next_hop, tried, by_data=by_data)
        assert not any(b"victim" in command for session in next_hop.sessions for command in session.commands)
    figure(AREA, f"smuggling by {'DATA' if by_data else 'BDAT'}: messages tried", len(tried))
