"""A clock that jumps, under the running relay and between its lives: no mail is lost, stranded or poured out.

libfaketime lies about the time of day; the time that passes (CLOCK_MONOTONIC) stays true.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.queue.control import request
from tests.support.service import PATIENCE, Service, deliveries
from tests.support.smtp_server import DROP, Script, ScriptedServer, Wait
from tests.torture.conftest import Figure

pytestmark = pytest.mark.needs("faketime")

HOUR, DAY, YEAR = 3600, 86400, 365.25 * 86400
DOWN = Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP))
CONTENT = b"Subject: on time\r\n\r\nhello\r\n"


@dataclass
class House:
    """A relay that believes a clock of ours, and a next hop that is down at first."""

    relay: Service
    sink: ScriptedServer
    clock: Path
    offset: float = 0.0
    promised: list[str] = field(default_factory=list)

    def set_clock(self, offset: float) -> None:
        """Let the clock be so many seconds ahead of the true time."""
        self.offset = offset
        new = self.clock.with_suffix(".new")
        new.write_text(f"{offset:+.0f}")
        new.replace(self.clock)

    def jump(self, seconds: float) -> None:
        """Set the clock forward."""
        self.set_clock(self.offset + seconds)

    async def accept(self, count: int = 1) -> None:
        """Send messages, each from a sender of its own."""
        for _ in range(count):
            sender = f"m{len(self.promised)}@clock.test"
            assert (await self.relay.send(CONTENT, "a@dest.test", sender=sender)).startswith("250 ")
            self.promised.append(sender)

    async def ask(self, **words: Any) -> Any:
        """Give the relay a command and return the messages of its reply."""
        reply = await asyncio.to_thread(request, self.relay.queue_path, words)
        assert reply["ok"], reply
        return reply.get("messages")

    async def probed(self, count: int = 1) -> None:
        """Wait until the next hop was tried, in vain, so often from now on."""
        await self.relay.logged("no session", count, past=len(self.relay.log))

    async def all_arrived(self) -> None:
        """Let the next hop be up: all that was promised arrives there once, and nothing else."""
        self.sink.script = Script()
        async with asyncio.timeout(PATIENCE):
            while await self.ask(command="list", limit=1):
                await asyncio.sleep(0.02)
        assert sorted(one.reverse_path for one in deliveries(self.sink)) == sorted(self.promised)


def _library() -> Path:
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


@asynccontextmanager
async def housed(
    folder: Path, *, offset: float = 0.0, script: Script = DOWN, toml: str = ""
) -> AsyncIterator[House]:
    clock = folder / "clock"
    under: Sequence[str | Path] = (
        "env",
        f"LD_PRELOAD={_library()}",
        f"FAKETIME_TIMESTAMP_FILE={clock}",
        "FAKETIME_NO_CACHE=1",
        "DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    )
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(ScriptedServer(script))
        relay = Service(
            folder, f'relayhost = "[127.0.0.1]:{sink.port}"\nqueue = {{retry = ["1s"]}}\n{toml}', under=under
        )
        house = House(relay, sink, clock)
        house.set_clock(offset)
        await stack.enter_async_context(relay)
        yield house


@pytest.mark.parametrize(
    ("before", "jump"),
    [
        pytest.param(0, 5 * HOUR, id="by some hours"),
        pytest.param(100 - time.time(), time.time() - 100, id="from 1970 to today"),
        pytest.param(0, -5 * HOUR, id="back by some hours"),
        pytest.param(10 * YEAR, -10 * YEAR, id="back from the future"),
    ],
)
async def test_mail_that_waits_outlives_a_jump(
    tmp_path: Path, before: float, jump: float, figure: Figure
) -> None:
    async with housed(tmp_path, offset=before) as house:
        await house.accept(3)
        house.jump(jump)
        await house.probed()
        await house.accept()
        await house.all_arrived()
    figure("clock", "messages that outlived a jump", len(house.promised))


async def test_an_attempt_that_a_jump_interrupts_is_repeated(tmp_path: Path) -> None:
    """The network often comes back at the moment at which the clock is set: what hung fails right then."""
    is_set = asyncio.Event()
    script = Script(greeting=(Wait(is_set), b"421 4.3.2 closed for repairs\r\n", DROP))
    async with housed(tmp_path, script=script) as house:
        await house.accept()
        await house.sink.wait_for("greeting")
        house.jump(YEAR)
        past = len(house.relay.log)
        is_set.set()
        await house.relay.logged("status=", past=past)
        await house.all_arrived()


async def test_an_attempt_that_a_jump_back_interrupts_is_repeated(tmp_path: Path) -> None:
    """What is deferred after the jump must not wait until the clock has come to where it was."""
    is_set = asyncio.Event()
    busy = Script().but(RCPT=(Wait(is_set), b"450 4.2.1 mailbox busy\r\n"), DATA=b"554 5.5.1 nobody\r\n")
    async with housed(tmp_path, offset=YEAR, script=busy) as house:
        await house.accept()
        await house.sink.wait_for("RCPT")
        house.jump(-YEAR)
        await house.ask(command="retry", ids=[])  # has the queue looked at
        await house.ask(command="list", limit=1)
        is_set.set()
        await house.relay.logged("status=deferred")
        (waiting,) = await house.ask(command="list", limit=1)
        assert waiting["recipients"][0]["next_attempt_at"] < time.time() + house.offset + HOUR
        await house.all_arrived()


@pytest.mark.parametrize("jump", [-10 * YEAR, 3 * HOUR])
async def test_mail_that_waits_outlives_a_jump_between_two_lives(tmp_path: Path, jump: float) -> None:
    async with housed(tmp_path, offset=10 * YEAR) as house:
        await house.accept(2)
        await house.relay.stop()
        house.jump(jump)
        past = len(house.relay.log)
        await house.relay.start()
        await house.relay.logged("no session", past=past)
        await house.accept()
        await house.all_arrived()


async def test_a_jump_sends_no_crowd_to_a_next_hop_that_is_down(tmp_path: Path) -> None:
    """All of its mail is due at once, and still one message probes for all."""
    async with housed(tmp_path) as house:
        await house.accept(30)
        await house.probed()
        house.jump(DAY)
        await house.probed(2)
        assert len(house.sink.sessions) <= len(re.findall("no session", house.relay.log)) + 1


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_jump_leaves_no_more_mail_to_a_provider_than_it_takes(tmp_path: Path, jump: float) -> None:
    async with ScriptedServer() as provider, AsyncExitStack() as stack:
        toml = f"""
            transport = {{"slow.test" = "slow"}}
            smarthost.slow = {{host = "127.0.0.1", port = {provider.port}, tls = "none", rate = "3/hour"}}
        """
        house = await stack.enter_async_context(housed(tmp_path, script=Script(), toml=toml))
        for _ in range(6):
            await house.relay.send(CONTENT, "a@slow.test")
        await house.relay.logged("status=sent", 3)
        house.jump(jump)
        await house.relay.send(CONTENT, "a@slow.test")
        await house.ask(command="retry")
        await house.relay.send(CONTENT, "a@dest.test")  # a sign of life: mail for others goes on
        await house.relay.logged("to=<a@dest.test>.*status=sent")
        await house.ask(command="list", limit=1)
        assert len(deliveries(provider)) == 3
