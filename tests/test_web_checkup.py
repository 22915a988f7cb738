from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from relay.web import checkup
from relay.web.checkup import Checkup
from tests.support.web import FINDING, page, visitor


def says(text: str, status: int = 0, error: str = "") -> tuple[str, ...]:
    """Return a command that prints a text."""
    code = (
        f"import sys; print({text!r}, end=''); print({error!r}, end='', file=sys.stderr); sys.exit({status})"
    )
    return sys.executable, "-c", code


async def examine(command: tuple[str, ...]) -> Checkup:
    doctor = Checkup(command, lambda: 1000.0)
    assert doctor.diagnosis is None
    doctor.start()
    assert doctor.is_running
    assert doctor._task is not None
    await doctor._task
    assert not doctor.is_running
    return doctor


async def test_what_the_doctor_says_is_kept_the_worst_first() -> None:
    findings = [
        {**FINDING, "severity": severity} for severity in ("ok", "warning", "problem", "info", "warning")
    ]
    doctor = await examine(says(json.dumps({"findings": findings}), status=1))
    diagnosis = doctor.diagnosis
    assert diagnosis is not None
    assert diagnosis.finished_at == 1000.0
    assert [finding["severity"] for finding in diagnosis.findings] == [
        "problem",
        "warning",
        "warning",
        "info",
        "ok",
    ]
    assert (diagnosis.count("problem"), diagnosis.count("warning"), diagnosis.error) == (1, 2, "")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (says("", 78, "relay.toml:3: no\n"), "relay.toml:3: no"),
        (says("", 0), "the doctor ended with 0"),
        (says("no JSON", 1), "the doctor could not be run: Expecting value"),
        (says('{"findings": [{"severity": "odd"}]}'), "the doctor could not be run: tuple.index"),
        (says("{}"), "the doctor could not be run: 'findings'"),
        (("/nowhere/python",), "the doctor could not be run: [Errno 2]"),
    ],
)
async def test_a_doctor_that_is_of_no_use(command: tuple[str, ...], error: str) -> None:
    diagnosis = (await examine(command)).diagnosis
    assert diagnosis is not None
    assert diagnosis.error.startswith(error)
    assert diagnosis.findings == ()


SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")


async def test_one_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "LONGEST_SECONDS", 0.01)
    diagnosis = (await examine(SLEEPS)).diagnosis
    assert diagnosis is not None
    assert diagnosis.error == "the doctor took too long and was stopped"


async def test_there_is_one_at_a_time_and_none_stays_behind() -> None:
    doctor = Checkup(SLEEPS, lambda: 1000.0)
    await doctor.close()
    doctor.start()
    task = doctor._task
    doctor.start()
    assert doctor._task is task
    await asyncio.sleep(0)
    await doctor.close()
    assert not doctor.is_running


async def test_the_page_runs_the_doctor(tmp_path: Path) -> None:
    async with page(tmp_path) as house, visitor(house) as guest:
        assert "Run the doctor</button>" in (await guest.get("/doctor")).text
        answer = await guest.press("/doctor", "/doctor")
        assert (answer.status, answer.headers["Location"]) == (303, "/doctor")
        async with asyncio.timeout(30):
            while "at work" in (shown := (await guest.get("/doctor")).text):
                await asyncio.sleep(0.05)
        for text in ("problem", "the name server lies", "Mail goes astray.", "Set another one.", "again"):
            assert text in shown
        assert "1 problem and 0 warnings" in (await guest.get("/")).text


async def test_the_page_tells_while_the_doctor_is_at_work_and_what_went_wrong(tmp_path: Path) -> None:
    (tmp_path / "busy").mkdir()
    async with page(tmp_path / "busy", doctor=SLEEPS) as house, visitor(house) as guest:
        await guest.press("/", "/doctor")
        for path in ("/", "/doctor"):
            shown = await guest.get(path)
            assert "The doctor is at work" in shown.text
            assert "run-doctor" not in shown.text
    async with (
        page(tmp_path, doctor=says("", 78, "<b>relay.toml:3: no</b>")) as house,
        visitor(house) as guest,
    ):
        await guest.press("/", "/doctor")
        async with asyncio.timeout(30):
            while "at work" in (shown := await guest.get("/doctor")).text:
                await asyncio.sleep(0.05)
        assert "&lt;b&gt;relay.toml:3: no" in shown.text
        assert "&lt;b&gt;relay.toml:3: no" in (await guest.get("/")).text
