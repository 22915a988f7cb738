"""Alerts by real programs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from relay.alerts import command
from relay.alerts.alert import Alert, AlertError

ALERT = Alert("login:isp", "begins", "login refused; host said: 535 \"no\" $(reboot) 'é'", "gw1", 1.5)

Program = Callable[[str], str]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return a function that makes a shell script in a folder and returns its path."""

    def make(text: str) -> str:
        path = tmp_path / "notify"
        path.write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


async def failure(*words: str) -> str:
    with pytest.raises(AlertError) as caught:
        await command.run(words, ALERT)
    return str(caught.value)


async def test_a_program_gets_an_alert_by_its_environment_and_its_input(
    program: Program, tmp_path: Path
) -> None:
    path = program(
        'cat > given\nprintf "%s|" "$RELAY_ALERT" "$RELAY_STATE" "$RELAY_TEXT" "$RELAY_HOST" "$@" > env'
    )
    await command.run([path, "an argument", "$(reboot)"], ALERT)
    assert json.loads((tmp_path / "given").read_text()) == ALERT.fields
    expected = f"login:isp|begins|{ALERT.text}|gw1|an argument|$(reboot)|"
    assert (tmp_path / "env").read_text() == expected


async def test_a_program_that_reads_nothing_is_fine() -> None:
    await command.run(["true"], ALERT)


async def test_failures_are_told(program: Program, tmp_path: Path) -> None:
    assert await failure("/nowhere/notify") == "/nowhere/notify can't be run: No such file or directory"
    (tmp_path / "plain").write_text("")
    assert await failure(str(tmp_path / "plain")) == f"{tmp_path}/plain can't be run: Permission denied"
    path = program("exit 3")
    assert await failure(path) == f"{path} ended with status 3"
    path = program("kill -9 $$")
    assert await failure(path) == f"{path} ended with status -9"


async def test_huge_output_is_cut_and_shown_at_debug_only(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "relay")
    await command.run([program("printf '\\033[2Jhello\\n'; head -c 3000000 /dev/zero")], ALERT)
    [record] = [record for record in caplog.records if record.name == "relay"]
    assert record.levelno == logging.DEBUG
    assert ": ?[2Jhello ????" in record.getMessage()
    assert len(record.getMessage()) < 1000


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
            await asyncio.sleep(0.01)


async def pid_in(file: Path) -> int:
    async with asyncio.timeout(20):
        while not (file.exists() and file.read_text().endswith("\n")):
            await asyncio.sleep(0.01)
    return int(file.read_text())


async def test_a_program_that_hangs_is_killed_with_what_it_started(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "TIMEOUT_SECONDS", 1.0)
    path = program("sleep 600 &\necho $! > child\nwait")
    assert await failure(path) == f"{path} was not done after 1 seconds"
    await until_gone(await pid_in(tmp_path / "child"))


async def test_one_that_is_broken_off_is_killed(program: Program, tmp_path: Path) -> None:
    task = asyncio.create_task(command.run([program("echo $$ > child\nexec sleep 600")], ALERT))
    pid = await pid_in(tmp_path / "child")
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await until_gone(pid)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_a_program_leaves_in_the_background_does_not_make_it_fail(
    program: Program, tmp_path: Path, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(command.run([program("sleep 600 &\necho $! > child")], ALERT))
    os.kill(int((tmp_path / "child").read_text()), 9)


def test_uvloop_does_the_same(program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(command.run([program("cat > given; head -c 3000000 /dev/zero")], ALERT))
        assert json.loads((tmp_path / "given").read_text()) == ALERT.fields
        runner.run(command.run(["true"], ALERT))
        path = program("exec 0<&-\nexit 3")
        for words, reason in {
            path: f"{path} ended with status 3",
            "/nowhere": "/nowhere can't be run",
        }.items():
            with pytest.raises(AlertError, match=reason):
                runner.run(command.run([words], ALERT))
        monkeypatch.setattr(command, "TIMEOUT_SECONDS", 0.5)
        with pytest.raises(AlertError, match="was not done"):
            runner.run(command.run([program("sleep 600 & wait")], ALERT))
