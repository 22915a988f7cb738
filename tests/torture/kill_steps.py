"""The steps of the crash tables in docs/queue.md, each as a life of the whole relay that ends right there."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.service import PATIENCE, Finished, run_program
from tests.torture.kill_sink import Mood
from tests.torture.kill_stage import NEVER, At, Stage

FILE = r"queue\.db\.content/[0-9A-F]+'"
LARGE = 2_000_000
ACCEPT = r"INSERT INTO message"
CLAIM = r"attempts = attempts \+ 1"
OUTCOME = r"SET\s+state = iif"
REPORT = rf"{OUTCOME}.*{ACCEPT}"
GIVE_BACK = r"attempts = max"
PURGE = r"DELETE FROM message WHERE number IN"
COMMANDS = {
    "hold": r"state = 'held' WHERE",
    "release": r"state = 'queued', next_attempt_at",
    "retry": r"state = 'queued', next_attempt_at",
    "delete": r"DELETE FROM recipient",
}


@dataclass(frozen=True)
class Step:
    """A moment for a letter that is sent, and what comes of it."""

    name: str
    at: At
    is_promised: bool
    copies: int
    """How often it arrives in the end; a letter that is gone was not promised, and is sent again."""
    recipients: tuple[str, ...] = ("a@sink.test", "b@sink.test")
    size: int = 0
    files: int = 0
    """How many files of large contents are left."""

    async def play(self, stage: Stage) -> None:
        """Send the letter to a relay that dies at the step."""
        stage.prepare(self.at)
        await stage.relay.start()
        assert await stage.send(self.recipients, size=self.size) is self.is_promised
        await stage.died()
        assert len(stage.files()) == self.files
        await stage.finish()
        [sender] = stage.load.letters
        expected = Counter({(sender, recipient): self.copies for recipient in self.recipients})
        assert +stage.copies() == +expected
        if not self.copies:
            async with stage.prepare(NEVER) as relay:
                assert await stage.send(self.recipients, size=self.size)
                await stage.empty(relay)
            assert sum(stage.copies().values()) == len(self.recipients)


ANNE = ("anne@house.test",)
STEPS = (
    Step("before the commit that accepts", ("before-commit", ACCEPT), False, 0),
    Step("before the file of a large content is made", ("open", FILE), False, 0, size=LARGE),
    Step(
        "after it is synced, before its folder is",
        ("open", r"queue\.db\.content'"),
        is_promised=False,
        copies=0,
        size=LARGE,
        files=1,
    ),
    Step("the commit, of a large one", ("before-commit", ACCEPT), False, 0, size=LARGE, files=1),
    Step("after that commit, before 250", ("after-commit", ACCEPT), False, 1),
    Step("the same, of a large one", ("after-commit", ACCEPT), False, 1, size=LARGE, files=1),
    Step("finished, its file not deleted", ("os.remove", FILE), True, 1, size=LARGE, files=1),
    Step("taken by the next hop, not recorded", ("before-commit", OUTCOME), True, 2),
    Step("recorded", ("after-commit", OUTCOME), True, 1),
    Step("while folders of a Maildir are made", ("os.mkdir", "'new'"), True, 1, ANNE),
    Step("before the file is named", ("os.rename", r"^\('\d+\.[0-9A-F]+_0"), True, 1, ANNE),
    Step("named, not recorded", ("before-commit", OUTCOME), True, 1, ANNE),
)

Play = Callable[[Stage], Awaitable[None]]


def claimed(moment: str) -> Play:
    """A message that waits is claimed: before, or after."""

    async def play(stage: Stage) -> None:
        stage.settings = 'queue = {retry = ["1s"]}\n' + stage.settings
        stage.sink.mood = Mood.DOWN
        async with stage.prepare(NEVER) as relay:
            assert await stage.send(["a@sink.test"])
            await relay.logged("status=deferred")
        stage.sink.mood = Mood.UP
        await _start_and_die(stage, (moment, CLAIM))
        await stage.finish()
        assert set(stage.copies().values()) == {1}

    return play


async def half_received(stage: Stage) -> None:
    """The start of a large content is in a file."""
    await stage.relay.start()
    stage.load.smallest = stage.load.largest = LARGE
    sender, content = stage.load.write(["a@sink.test"])
    async with stage.relay.client() as peer:
        begin = ("EHLO load", f"MAIL FROM:<{sender}>", "RCPT TO:<a@sink.test>", "DATA")
        assert (await peer.ask(*begin)).startswith("354 ")
        peer.send(content[: LARGE // 2])
        async with asyncio.timeout(PATIENCE):
            while not stage.files():
                await asyncio.sleep(0.01)
        await stage.relay.kill()
    assert len(stage.files()) == 1
    await stage.finish()
    assert not stage.copies()


async def deleted(stage: Stage) -> None:
    """The owner deletes a large message, and its file is still there."""
    stage.sink.mood = Mood.DOWN
    async with stage.relay as relay:
        assert await stage.send(["a@sink.test"], size=LARGE)
        await relay.logged("status=deferred")
    await stage.prepare(("os.remove", FILE)).start()
    assert (await stage.relay.command("queue", "delete", "--all")).status
    await stage.died()
    assert (len(stage.files()), await stage.relay.queue()) == (1, [])
    await stage.finish()
    assert not stage.copies()


async def given_back(stage: Stage) -> None:
    """SIGTERM comes, and what was not attempted is given back."""
    stage.sink.mood = Mood.MUTE
    await stage.prepare(("before-commit", GIVE_BACK)).start()
    assert await stage.send(["a@sink.test"])
    os.kill(stage.relay.pid, 15)
    await stage.died()
    await stage.finish()
    assert set(stage.copies().values()) == {1}


async def half_a_pass(stage: Stage) -> None:
    """One recipient has failed, the other is under way: the failure is reported after the start, once."""
    stage.sink.mood = Mood.MUTE
    await stage.prepare(("after-commit", OUTCOME)).start()
    assert await stage.send(["gone@gone.test", "a@sink.test"])
    await stage.died()
    await stage.finish()
    assert stage.copies() == {("m0@load.test", "a@sink.test"): 1, ("", "m0@load.test"): 1}


def reported(moment: str) -> Play:
    """The last outcome and its report: neither or both."""

    async def play(stage: Stage) -> None:
        await stage.prepare((moment, REPORT)).start()
        assert await stage.send(["gone@gone.test"])
        await stage.died()
        await stage.finish()
        assert stage.copies() == {("", "m0@load.test"): 1}

    return play


def commanded(command: str) -> Play:
    """One of the owner's commands, all of it or none: here none."""

    async def play(stage: Stage) -> None:
        stage.sink.mood = Mood.DOWN
        async with stage.relay as relay:
            assert await stage.send(["a@sink.test", "b@sink.test"])
            await relay.logged("status=deferred", 2)
            if command == "release":
                await relay.command("queue", "hold", "--all")
        before = _states(await stage.relay.queue())
        await stage.prepare(("before-commit", COMMANDS[command])).start()
        failed = await stage.relay.command("queue", command, "--all")
        assert failed.status
        await stage.died()
        assert _states(await stage.relay.queue()) == before
        if command == "release":
            await stage.relay.command("queue", "release", "--all")
        await stage.finish()
        assert set(stage.copies().values()) == {1}

    return play


async def purged(stage: Stage) -> None:
    """History is purged."""
    async with stage.relay as relay:
        assert await stage.send(["a@sink.test"])
        await relay.logged(": removed")
    stage.settings = 'queue = {history = "1s"}\n' + stage.settings
    [queue_id] = stage.load.ids
    await asyncio.sleep(1.1)  # its history has that length at least
    await _start_and_die(stage, ("before-commit", PURGE))
    shown = await stage.relay.command("queue", "show", queue_id)
    assert shown.status == 0, shown.err
    await stage.finish()
    assert (await stage.relay.command("queue", "show", queue_id)).status
    async with stage.prepare(NEVER) as relay:
        assert await stage.send(["a@sink.test"])
        await relay.logged(": removed")
    assert len(stage.load.ids) == 2, "the id was given again"
    assert set(stage.copies().values()) == {1}


def dropped(at: At) -> Play:
    """A message lies in the maildrop, and is taken in."""

    async def play(stage: Stage) -> None:
        async with stage.relay:
            pass  # makes the maildrop
        assert (await _submit(stage)).status == 0
        await _start_and_die(stage, at)
        await stage.finish()
        assert list(stage.copies().values()) == [1]

    return play


async def drop_unfinished(stage: Stage) -> None:
    """``relay send`` dies before the file has its name: its caller sees no success."""
    async with stage.relay:
        pass
    assert (await _submit(stage, ("os.rename", "maildrop"))).status == -9
    await stage.finish()
    assert not stage.copies()


async def drop_refused(stage: Stage) -> None:
    """The relay dies after it has reported a refusal: it is reported once more."""
    stage.settings = "header_checks = [{pattern = '^Message-ID:', action = 'REJECT'}]\n" + stage.settings
    async with stage.prepare(NEVER):
        pass
    assert (await _submit(stage)).status == 0
    await _start_and_die(stage, ("os.remove", r"maildrop/.*\.[0-9A-F]+'"))
    await stage.finish()
    [(pair, count)] = stage.copies().items()
    assert (pair[0], count) == ("", 2)


PLAYS: dict[str, Play] = {
    **{step.name: step.play for step in STEPS},
    "while content arrives": half_received,
    "before a claim": claimed("before-commit"),
    "after a claim": claimed("after-commit"),
    "SIGTERM, given back": given_back,
    "within a pass": half_a_pass,
    "before the last outcome and its report": reported("before-commit"),
    "after the last outcome and its report": reported("after-commit"),
    **{f"queue {command}": commanded(command) for command in COMMANDS},
    "queue delete, the file not deleted": deleted,
    "while history is purged": purged,
    "relay send, before the file has its name": drop_unfinished,
    "relay send, after that": dropped(("os.rename", r"maildrop/\S+\.[0-9A-F]+'")),
    "maildrop: before the message is in the queue": dropped(("before-commit", ACCEPT)),
    "maildrop: after that": dropped(("after-commit", ACCEPT)),
    "maildrop: before the file is deleted": dropped(("os.remove", r"maildrop/\S+\.[0-9A-F]+'")),
    "maildrop: after a refusal": drop_refused,
}
"""Each must end as docs/queue.md says."""
OFTEN = (
    "while content arrives",
    "finished, its file not deleted",
    "after that commit, before 250",
    "taken by the next hop, not recorded",
    "named, not recorded",
    "maildrop: after that",
)
"""Those of the short form."""


async def _start_and_die(stage: Stage, at: At) -> None:
    with suppress(AssertionError):  # it may die before it answers
        await stage.prepare(at).start()
    await stage.died()


async def _submit(stage: Stage, at: At = NEVER) -> Finished:
    """Send a letter with ``relay send``."""
    sender, content = stage.load.write(["a@sink.test"])
    trap = (Path(__file__).with_name("kill_at.py"), *at)
    program = ("env", f"RELAY_CONFIG={stage.relay.config}", sys.executable, *trap)
    return await run_program(*program, "send", "-f", sender, "a@sink.test", given=content)


def _states(messages: Sequence[dict[str, object]]) -> list[object]:
    return [
        (message["id"], recipient["address"], recipient["state"])
        for message in messages
        for recipient in message["recipients"]  # type: ignore[attr-defined]
    ]
