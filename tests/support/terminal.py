"""A program at a terminal: what it shows is read, and what a person types is typed when it is asked for."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.service import PATIENCE, find_flaw

INTERRUPT = b"\x03"
END = b"\x04"
WIDE = {"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
"""Environment of a terminal where a line of progress is whole."""
TAKEN_AWAY = "\x1b[2K"
"""After the last of these is what stays of it."""
AGAIN_SECONDS = 1.0
"""After which Ctrl-C is pressed again: Python may be about to read, and does not see the first one."""

Answers = Sequence[tuple[str, str | bytes]]
"""Prompts, and what is typed at each, with Enter if it is not one of the keys above."""


@dataclass(frozen=True)
class Shown:
    """How a program at a terminal ended, and all that the terminal showed."""

    status: int
    text: str


async def converse(*arguments: str | Path, answers: Answers, env: Mapping[str, str] | None = None) -> Shown:
    """Run a program at a terminal of its own, and type an answer after each prompt, in order.

    A prompt is the end of what is shown when it is waited for. The program must not show a traceback.
    """
    shown = await asyncio.to_thread(_converse, arguments, answers, {**os.environ, **(env or {})})
    assert not (flaw := find_flaw(shown.text)), flaw
    return shown


def _converse(arguments: tuple[str | Path, ...], answers: Answers, env: dict[str, str]) -> Shown:
    ours, theirs = pty.openpty()
    # setsid makes the terminal the one that Ctrl-C at it is for.
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    text, waiting, place = "", list(answers), 0
    is_interrupted = False
    end = time.monotonic() + PATIENCE
    try:
        while True:
            ready, _, _ = select.select([ours], [], [], AGAIN_SECONDS)
            assert time.monotonic() < end, f"nothing is asked or done after:\n{text}"
            if not ready:
                os.write(ours, INTERRUPT if is_interrupted else b"")
                continue
            try:
                more = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            text += more.decode(errors="replace").replace("\r\n", "\n")
            if waiting and text[place:].endswith(waiting[0][0]):
                place, end = len(text), time.monotonic() + PATIENCE
                answer = waiting.pop(0)[1]
                is_interrupted = answer == INTERRUPT
                os.write(ours, _type(answer))
        status = process.wait(PATIENCE)
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    assert not waiting, f"not asked: {waiting[0][0]!r}, but:\n{text}"
    return Shown(status, text)


def _type(answer: str | bytes) -> bytes:
    if isinstance(answer, str):
        return f"{answer}\n".encode()
    return answer if answer in (INTERRUPT, END) else answer + b"\n"
