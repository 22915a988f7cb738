"""The watch by itself: what it tells, once each, whatever fails."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from relay import events
from relay.alerts import alerts as watch
from relay.alerts.alerts import Alerts
from relay.alerts.conditions import Facts
from relay.alerts.memory import read_told
from relay.config.model import Alerts as Settings
from relay.config.model import Config, Smarthost
from relay.config.secrets import Secret
from relay.mail.attempt import Attempt, State
from relay.mail.reply import Reply
from tests.support.delivery import message
from tests.support.hook_server import HookServer

WELL = Facts(now=0.0, free=50, size=100)
FULL = replace(WELL, free=1)
DEAD = replace(WELL, tokens={"gmail": "log in again\x1b[2J\nnow"})


@dataclass
class House:
    """A watch and what it sees."""

    memory: Path
    server: HookServer
    facts: Facts | Exception = WELL
    after: int = 0
    looks: int = 0

    def __post_init__(self) -> None:
        self.alerts = Alerts(self.memory, self.look)

    async def look(self, after: int) -> Facts:
        self.after = after
        self.looks += 1
        if isinstance(self.facts, Exception):
            raise self.facts
        return self.facts

    def configure(self, command: tuple[str, ...] = (), *, webhook: bool = True) -> None:
        secret = Secret(self.server.url()) if webhook else None
        self.alerts.configure(
            Config(
                hostname="gw1",
                smarthost={"isp": Smarthost("mx.test")},
                alerts=Settings(command, secret, "json"),
            )
        )

    async def looked(self) -> None:
        """Wait until it has looked twice more: then what was seen before is told."""
        seen = self.looks
        async with asyncio.timeout(20):
            while self.looks < seen + 2:
                await asyncio.sleep(0.01)

    @property
    def told(self) -> list[str]:
        return [f"{one.fields['cause']} {one.fields['state']}" for one in self.server.requests]


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(watch, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(logging.getLogger("relay"), "level", logging.INFO)
    with HookServer() as server:
        house = House(tmp_path / "queue.db.alerts", server)
        yield house
        await house.alerts.close()


async def test_one_alert_for_a_cause_and_one_when_it_is_over(house: House) -> None:
    house.configure()
    await house.looked()
    assert house.told == []
    house.facts = replace(FULL, tokens=DEAD.tokens)
    await house.server.received(2)
    await house.looked()
    house.facts = WELL
    await house.server.received(4)
    await house.looked()
    assert house.told == ["token:gmail begins", "disk begins", "token:gmail over", "disk over"]
    begun, _, over, _ = house.server.requests
    assert begun.fields["text"] == "log in again?[2J now"
    assert over.fields["text"] == "Over: log in again?[2J now"
    assert begun.fields["host"] == "gw1"


async def test_what_cannot_be_told_is_told_later_and_what_was_over_before_never(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.server.script.extend([500, 500, 500])
    house.facts = FULL
    house.configure()
    await house.server.received(4)
    await house.looked()
    assert house.told == ["disk begins"] * 4
    text = (
        "alert disk is not told, and tried again in 0 s: webhook at 127.0.0.1: answers with HTTP status 500"
    )
    assert caplog.messages.count(text) == 3
    house.server.script.extend([500] * 1000)
    house.facts = replace(FULL, tokens=DEAD.tokens)
    await house.server.received(6)
    house.facts = FULL
    await house.looked()
    house.server.script.clear()
    house.facts = WELL
    await house.looked()
    async with asyncio.timeout(20):
        while "disk over" not in house.told:
            await asyncio.sleep(0.01)
    assert "token:gmail over" not in house.told


async def test_each_way_is_told_by_itself(house: House, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    command = ("sh", "-c", f'echo "$RELAY_ALERT $RELAY_STATE" >> {notes}')
    house.server.script.extend([404] * 5)
    house.facts = FULL
    house.configure(command)
    await house.server.received(6)
    house.facts = WELL
    await house.server.received(7)
    await house.looked()
    assert notes.read_text() == "disk begins\ndisk over\n"


async def test_a_failing_look_is_no_end(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.facts = RuntimeError("a defect")
    house.configure()
    await house.looked()
    house.facts = FULL
    await house.server.received(1)
    assert "the alerts: RuntimeError('a defect')" in caplog.messages


async def test_what_was_told_is_known_after_a_restart(house: House) -> None:
    house.facts = FULL
    house.configure()
    await house.server.received(1)
    await house.looked()
    await house.alerts.close()
    house.alerts = Alerts(house.memory, house.look)
    house.configure()
    await house.looked()
    house.facts = WELL
    await house.server.received(2)
    await house.looked()
    assert house.told == ["disk begins", "disk over"]
    assert read_told(house.memory) == {"command": {}, "webhook": {}}


async def test_a_login_that_was_refused_before_a_restart_is_over_when_mail_goes_there(house: House) -> None:
    house.memory.write_text(json.dumps({"webhook": {"login:isp": "refused", "login:gone": "refused"}}))
    house.configure()
    await house.server.received(1)
    await house.looked()
    assert house.told == ["login:gone over"]  # there is no such smarthost any more
    sent(next_hop="isp=[mx.test]:465")
    await house.server.received(2)
    assert house.told[1] == "login:isp over"


async def test_nobody_to_tell_nothing_to_watch(house: House) -> None:
    await house.alerts.close()
    house.configure(webhook=False)
    assert (house.alerts._task, house.looks) == (None, 0)
    house.facts = FULL
    house.configure()
    await house.server.received(1)
    await house.looked()
    house.configure(webhook=False)
    assert not house.memory.exists()
    assert not logging.getLogger("relay").handlers
    house.configure()
    await house.server.received(2)
    assert house.told == ["disk begins", "disk begins"]


async def test_a_way_that_is_taken_out_forgets(house: House) -> None:
    house.facts = FULL
    house.configure(("true",))
    await house.server.received(1)
    await house.looked()
    house.configure(("true",), webhook=False)
    await house.looked()
    house.configure(("true",))
    await house.server.received(2)
    assert house.told == ["disk begins", "disk begins"]


def sent(next_hop: str, state: State = State.DELIVERED) -> None:
    one = message("a@x.test")
    attempt = Attempt(Reply(250, "2.0.0", "taken"), next_hop=next_hop)
    events.attempted(one, one.envelope.recipients[0], state, attempt, 1.0)


async def test_logins_and_departures_are_heard(house: House) -> None:
    house.configure()
    ears = house.alerts._ears
    events.login_refused("isp=[mx.test]:465", 300, Reply(454, "4.7.8", "check your password"))
    events.login_refused("old=[mx.test]:465", 300, Reply(454, "4.7.8", "check your password"))
    await house.server.received(1)
    await house.looked()
    assert house.told == ["login:isp begins"]
    assert house.server.requests[0].fields["text"] == "Mail waits for smarthost isp: check your password"
    for next_hop in ("", "maildir", "lmtp:[::1]:24"):
        sent(next_hop)
    sent("x.test:25", State.DEFERRED)
    assert (ears.left_at, house.after) == (None, 0)
    sent("x.test:25")
    assert ears.left_at is not None
    await house.looked()
    assert house.after > 1_700_000_000_000_000
    assert house.told == ["login:isp begins"]
    events.next_hop_recovered("isp=[mx.test]:465")
    await house.server.received(2)
    assert house.told[1] == "login:isp over"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"webhook": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_memory_is_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "memory").write_bytes(content)
    assert read_told(tmp_path / "memory") == {}


async def test_a_memory_that_cannot_be_written_is_done_without(house: House) -> None:
    house.memory.mkdir()
    house.facts = FULL
    house.configure()
    await house.server.received(1)
    await house.looked()
    assert house.told == ["disk begins"]
