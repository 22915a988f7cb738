"""Floods: more of everything than anybody needs, while another client is served as if nothing were."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.dns_server import DnsServer, Failure
from tests.support.service import PATIENCE, Service, deliveries
from tests.support.smtp_server import Script
from tests.torture.clients_rig import (
    AREA,
    PROMPT,
    Bystander,
    Cost,
    bystander,
    connected,
    exchange,
    relaying,
    until_sent,
)
from tests.torture.conftest import Figure

START = b"EHLO x\r\nMAIL FROM:<a@free.fr>\r\nRCPT TO:<anne@free.fr>\r\n"
MOST_MEMORY = 64.0
"""MiB that a flood may add to a relay."""
MOST_GROWTH = 10.0
"""How much more a flood of four times the size may cost; what is quadratic costs sixteen times as much."""
MOST_BLOCKED = 2.0
"""Seconds of processor time that a flood may take before another client is served.

A tenth is the aim; but while the client that asks waits for its own turn, the relay works on.
"""
NOISE = 0.1
"""Seconds of processor time that prove nothing."""


@contextmanager
def measured(figure: Figure, what: str, relay: Service, watch: Bystander) -> Iterator[Cost]:
    """Keep what a flood costs, and check that it costs little memory and no other client's time."""
    cost = Cost(relay)
    before = cost.memory
    watch.forget()
    yield cost
    figure(AREA, f"{what}: seconds of processor time", round(cost.cpu_seconds, 3))
    figure(AREA, f"{what}: MiB more", round(cost.memory - before, 1))
    figure(AREA, f"{what}: seconds that another client waited at most", round(watch.worst, 3))
    assert cost.memory - before < MOST_MEMORY
    figure(
        AREA, f"{what}: seconds of processor time before another client was served", round(watch.blocked, 3)
    )
    assert watch.blocked < MOST_BLOCKED


def check_growth(small: float, large: float) -> None:
    """Check that four times the flood did not cost much more than four times as much."""
    assert large < MOST_GROWTH * max(small, NOISE), (small, large)


async def flood(relay: Service, data: bytes) -> bytes:
    """Send much as fast as it is taken; return what is said meanwhile."""
    parts = (data[start : start + 2**16] for start in range(0, len(data), 2**16))
    return await exchange(relay, *parts, pause=0)


@dataclass(frozen=True)
class Flood:
    """One kind of flood, of a size; ``answers`` says whether it was met as it should be."""

    name: str
    make: Callable[[int], bytes]
    size: int
    is_met: Callable[[bytes, int], bool]
    messages: int = 0
    """Messages that are taken from it."""


def repeat(start: bytes, piece: bytes, end: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: start + piece * size + end


def is_sent_away(answers: bytes, size: int) -> bool:
    """Whether the session ended by itself; the last word is lost where the client still sends."""
    return answers.count(b"\r\n") < 1200


def is_taken(answers: bytes, size: int) -> bool:
    return answers.count(b"queued as") == 1


def recipients(size: int) -> bytes:
    names = b"".join(b"RCPT TO:<r%d@free.fr>\r\n" % number for number in range(size))
    return b"EHLO x\r\nMAIL FROM:<a@free.fr>\r\n" + names + b"DATA\r\nSubject: many\r\n\r\n.\r\nQUIT\r\n"


COMMANDS = [
    Flood("NOOPs", repeat(b"", b"NOOP\r\n"), 250_000, is_sent_away),
    Flood("EHLOs", repeat(b"", b"EHLO " + b"x" * 500 + b"\r\n"), 1000, is_sent_away),
    Flood(
        "transactions begun", repeat(b"EHLO x\r\n", b"MAIL FROM:<a@free.fr>\r\nRSET\r\n"), 1000, is_sent_away
    ),
    Flood("unknown commands", repeat(b"", b"XYZZY\r\n"), 10_000, is_sent_away),
    Flood("empty lines", repeat(b"", b"\n"), 100_000, is_sent_away),
    Flood("empty chunks", repeat(START, b"BDAT 0\r\n"), 10_000, is_sent_away),
    Flood(
        "recipients too many",
        repeat(START, b"RCPT TO:<anne@free.fr>\r\n", b"DATA\r\n.\r\nQUIT\r\n"),
        20_000,
        lambda answers, size: answers.count(b"452 4.5.3") == size - 999 and is_taken(answers, size),
        messages=1,
    ),
    Flood(
        "chunks of one byte",
        repeat(START + b"BDAT 15\r\nSubject: x\r\n\r\n\n", b"BDAT 1\r\nx", b"BDAT 0 LAST\r\nQUIT\r\n"),
        20_000,
        is_taken,
        messages=1,
    ),
    Flood(
        "a line",
        repeat(b"EHLO ", b"x", b"\r\nQUIT\r\n"),
        2**20,
        lambda a, _: b"\r\n500 5.5.2" in a and b"221 " in a,
    ),
]
ZEROS = Flood(
    "zeros in SIZE",
    lambda size: b"EHLO x\r\n" + (b"MAIL FROM:<a@free.fr> SIZE=" + b"0" * size + b"x\r\n") * 5,
    12_000,
    lambda answers, _: answers.count(b"501 5.5.4") == 5,
)


async def try_flood(relay: Service, watch: Bystander, kind: Flood, size: int, figure: Figure) -> None:
    """Try a flood of a quarter of its size, then of its size."""
    costs = []
    for count in (size // 4, size):
        with measured(figure, f"{kind.name} ({count})", relay, watch) as cost:
            answers = await flood(relay, kind.make(count))
            assert kind.is_met(answers, count), (kind.name, answers[:300], answers[-300:])
            costs.append(cost.cpu_seconds)
    check_growth(*costs)


async def test_commands(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    async with relaying(tmp_path) as (relay, next_hop), bystander(relay) as watch:
        for kind in COMMANDS:
            await try_flood(relay, watch, kind, kind.size * (4 if is_whole else 1), figure)
        await until_sent(relay, next_hop, 2 * sum(kind.messages for kind in COMMANDS))


async def test_zeros_in_size(tmp_path: Path, figure: Figure) -> None:
    async with relaying(tmp_path) as (relay, _), bystander(relay) as watch:
        await try_flood(relay, watch, ZEROS, ZEROS.size, figure)


# Recipients


async def test_ten_thousand_recipients(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    count = 10_000 if is_whole else 2_000
    async with relaying(tmp_path, "limits = { recipients = 10000 }\n") as (relay, next_hop):
        costs = []
        async with bystander(relay) as watch:
            for size in (count // 4, count):
                with measured(figure, f"{size} recipients", relay, watch) as cost:
                    answers = await flood(relay, recipients(size))
                    assert answers.count(b"250 2.1.5") == size
                    assert is_taken(answers, size)
                    await relay.logged(answers.splitlines()[-2][-13:].decode() + ": removed")
                    costs.append(cost.cpu_seconds)
        reached = [r for delivery in deliveries(next_hop) for r in delivery.recipients]
        assert sorted(reached) == sorted(f"r{n}@free.fr" for size in (count // 4, count) for n in range(size))
        check_growth(*costs)


# Connections


async def drip(relay: Service, is_over: asyncio.Event) -> None:
    """Send a message byte by byte, one each second, until it is over."""
    async with connected(relay) as peer:
        for byte in START + b"DATA\r\nSubject: slow\r\n\r\n" + b"x" * 1000:
            peer.send(bytes([byte]))
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await is_over.wait()
            if is_over.is_set():
                return


async def test_idle_and_slow_connections(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    idle, slow = (1000, 500) if is_whole else (150, 50)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    toml = "limits = { connections = 2000, connections_per_client = 2000 }\n"
    async with relaying(tmp_path, toml) as (relay, next_hop), AsyncExitStack() as stack:
        cost = Cost(relay)
        before = cost.memory
        for _ in range(idle):
            await stack.enter_async_context(connected(relay))
        is_over = asyncio.Event()
        drips = [asyncio.create_task(drip(relay, is_over)) for _ in range(slow)]
        async with asyncio.timeout(PATIENCE):
            while Cost(relay).files < idle + slow:  # and its own, some of which come and go
                await asyncio.sleep(0.05)
        figure(AREA, f"{idle} idle and {slow} slow connections: MiB more", round(cost.memory - before, 1))
        worst = 0.0
        for number in range(10):
            began_at = time.monotonic()
            assert (await relay.send(b"Subject: normal\r\n\r\n", f"r{number}@free.fr")).startswith("250 ")
            worst = max(worst, time.monotonic() - began_at)
            await asyncio.sleep(0.1)
        figure(
            AREA, f"{idle} idle and {slow} slow connections: seconds for a normal message", round(worst, 3)
        )
        assert worst < PROMPT
        is_over.set()
        await asyncio.gather(*drips)
        await until_sent(relay, next_hop, 10)


# Headers and bodies

Make = Callable[[int], bytes]
DEEP = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n"
ATTACHED = b"Content-Type: message/rfc822\r\n\r\n"
CONTENTS: dict[str, tuple[int, Make]] = {
    "shortest headers": (250_000, lambda n: b"X:\r\n" * n + b"\r\n"),
    "shortest headers of a part": (
        500_000,
        lambda n: b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + b"X:\r\n" * n + b"\r\n",
    ),
    "lines of a header": (100_000, lambda n: b"X: y\r\n" * n + b"\r\n"),
    "folded lines of one header": (100_000, lambda n: b"To: a\r\n" + b"\tb@c,\r\n" * n + b"\r\n"),
    "bytes of one header": (1_000_000, lambda n: b"Subject: " + b"x" * n + b"\r\n\r\n"),
    "Received headers": (50_000, lambda n: b"Received: x\r\n" * n + b"\r\n"),
    "Delivered-To headers": (40_000, lambda n: b"Delivered-To: a@b.c\r\n" * n + b"\r\n"),
    "opened comments": (100_000, lambda n: b"To: " + b"(" * n + b"\r\n\r\n"),
    "opened brackets": (100_000, lambda n: b"To: " + b"<" * n + b"\r\n\r\n"),
    "opened quotes": (100_000, lambda n: b"To: " + b'"' * n + b"\r\n\r\n"),
    "colons": (100_000, lambda n: b"To: " + b"a:" * (n // 2) + b"\r\n\r\n"),
    "routes": (100_000, lambda n: b"To: <" + b"@a," * (n // 3) + b":b>\r\n\r\n"),
    "words": (100_000, lambda n: b"To: " + b"a " * (n // 2) + b"\r\n\r\n"),
    "names without addresses": (100_000, lambda n: b"To: " + b"a <b>," * (n // 6) + b"\r\n\r\n"),
    "parameters of a type": (
        100_000,
        lambda n: b"Content-Type: multipart/mixed" + b";boundary=a" * (n // 11) + b"\r\n\r\n--a\r\n\r\n",
    ),
    "levels of multiparts": (10_000, lambda n: b"".join(DEEP % (i, i) for i in range(n))),
    "levels of messages": (10_000, lambda n: ATTACHED * n + b"\xe9\r\n"),
    "lines that look like boundaries": (
        400_000,
        lambda n: (
            b"Content-Type: multipart/mixed"
            + b"".join(b";boundary=" + b"-" * 90 + b"%d" % i for i in range(100))
            + b"\r\n\r\n\xe9"
            + b"\r\n--" * (n // 4)
            + b"\r\n"
        ),
    ),
    "bytes of one line": (1_000_000, lambda n: b"Subject: x\r\n\r\n\xe9" + b"x" * n + b"\r\n"),
    "empty lines": (1_000_000, lambda n: b"Subject: x\r\n\r\n\xe9" + b"\n" * n + b"\r\n"),
    "CRs": (1_000_000, lambda n: b"Subject: x\r\n\r\n\xe9" + b"\r" * n + b"\r\n"),
    "dots": (1_000_000, lambda n: b"Subject: x\r\n\r\n\xe9" + b"\r\n.." * (n // 4) + b"\r\n"),
}
HOUSE = """
[sender_canonical]
root = "chris@free.fr"
[recipient_canonical]
root = "chris@free.fr"
[[header_checks]]
pattern = '^Subject: .*nothing of the kind'
action = "REJECT"
"""


async def test_contents(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    """The next hop takes no 8-bit content: what has any is converted too."""
    script = Script().but(EHLO=b"250-mx.test\r\n250 SIZE 100000000\r\n")
    async with relaying(tmp_path, HOUSE, script) as (relay, _), bystander(relay) as watch:
        for name, (size, make) in CONTENTS.items():
            costs = []
            largest = size if is_whole else size // 4
            for count in (largest // 4, largest):
                content = make(count)
                with measured(figure, f"{count} {name}", relay, watch) as cost:
                    answers = await flood(relay, START + b"DATA\r\n" + content + b".\r\nQUIT\r\n")
                    last = answers.splitlines()[-2]
                    assert last[:3] in {b"250", b"552", b"554"}, (name, last)
                    if last.startswith(b"250"):
                        await relay.logged(last[-13:].decode() + ": removed")
                    costs.append(cost.cpu_seconds)
            check_growth(*costs)


PART_HEADERS = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + b"X:\r\n" * 100_000 + b"\r\n"


@pytest.mark.parametrize(
    ("toml", "content"),
    [("", b"X:\r\n" * 250_000 + b"\r\n"), (HOUSE, PART_HEADERS)],
    ids=["headers", "parts"],
)
async def test_floods_of_headers_at_once(tmp_path: Path, toml: str, content: bytes, figure: Figure) -> None:
    """Many at a time take others no longer than one does."""
    clients = 6
    async with relaying(tmp_path, toml) as (relay, _), bystander(relay) as watch:
        data = START + b"DATA\r\n" + content + b".\r\nQUIT\r\n"
        answers = await asyncio.gather(*(flood(relay, data) for _ in range(clients)))
        assert all(b"queued as" in answer for answer in answers)
        figure(
            AREA, f"{clients} floods of headers at once: processor time before another client", watch.blocked
        )
        assert watch.blocked < MOST_BLOCKED / 4
        await relay.logged(": removed", clients)


# Regular expressions and name servers

SLOW_CHECKS = "".join(
    f"[[header_checks]]\npattern = '^X-Slow: ({letter}|{letter}{letter})+$'\naction = \"HOLD\"\n"
    for letter in "abc"
)


def slow_headers(each: int) -> bytes:
    """Return headers that take a pattern from no time at all to for ever, whatever the machine."""
    lines = [b"X-Slow: " + letter * n + b"!\r\n" for letter in (b"a", b"b", b"c") for n in range(8, 33)]
    return b"".join(line * each for line in lines)


async def test_slow_patterns(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    each = 100 if is_whole else 20
    content = slow_headers(each) + b"Subject: slow\r\n\r\n"
    async with relaying(tmp_path, SLOW_CHECKS) as (relay, next_hop), bystander(relay) as watch:
        with measured(figure, f"headers for slow patterns ({each} of each length)", relay, watch):
            assert (await relay.send(content, "anne@free.fr")).startswith("250 ")
        assert "takes too long here and is left out" in relay.log
        await until_sent(relay, next_hop, 1)


@pytest.mark.parametrize(
    ("what", "line", "count"),
    [
        ("From headers", b"From: a@b.c, d\r\n", 50_000),
        ("long To headers", b"To: " + b"root, " * 16_000 + b"root\r\n", 10),
    ],
    ids=["many", "long"],
)
@pytest.mark.parametrize("scope", ["all", "external"])
async def test_headers_to_rewrite(
    tmp_path: Path, what: str, line: bytes, count: int, scope: str, is_whole: bool, figure: Figure
) -> None:
    count = count if is_whole else count // 4
    content = line * count + b"\r\n"
    toml = f'rewrite = {{ scope = "{scope}" }}\n{HOUSE}'
    async with relaying(tmp_path, toml) as (relay, next_hop), bystander(relay) as watch:
        with measured(figure, f"{count} {what}, rewritten: {scope}", relay, watch) as cost:
            assert (await relay.send(content, "anne@free.fr")).startswith("250 ")
            await until_sent(relay, next_hop, 1)
        assert watch.blocked < cost.cpu_seconds / 6


async def test_name_servers_that_are_silent(tmp_path: Path, is_whole: bool, figure: Figure) -> None:
    """Clients without a name, recipients without a server: who needs neither does not notice."""
    count = 200 if is_whole else 8
    async with DnsServer({"slow.test": Failure.SILENCE, "free.fr": {"MX": ["10 mx.free.fr."]}}) as dns:
        for number in range(count):
            dns.hold(f"{number + 2}.0.0.127.in-addr.arpa")
        host, port = dns.address
        toml = f'dns = {{ nameservers = ["{host}:{port}"] }}\n[transport]\n"slow.test" = "mx"\n'
        async with relaying(tmp_path, toml) as (relay, next_hop):

            async def send(number: int) -> None:
                async with connected(relay, f"127.0.0.{number + 2}") as peer:
                    await peer.ask("EHLO x", "MAIL FROM:<a@free.fr>")
                    await peer.ask("RCPT TO:<a@slow.test>", "RCPT TO:<anne@free.fr>", "DATA")
                    peer.send(b"Subject: x\r\n\r\n.\r\n")
                    assert (await peer.reply()).startswith("250 ")

            async with bystander(relay) as watch:
                with measured(figure, f"{count} clients and a silent name server", relay, watch):
                    await asyncio.gather(*map(send, range(count)))
                    await relay.logged("to=<anne@free.fr>, .* status=sent", count)
            assert len(deliveries(next_hop)) == count
            await relay.kill()  # SIGTERM would wait for the name server
