"""``relay doctor`` on request, as a process of its own: it takes seconds, and memory that is given back."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

LONGEST_SECONDS = 300.0
_SEVERITIES = ("problem", "warning", "info", "ok")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor said."""

    finished_at: float
    """Epoch seconds."""
    findings: tuple[Mapping[str, str], ...] = ()
    """The worst first; see docs/doctor.md, ``--json``."""
    error: str = ""
    """Why there are no findings."""

    def count(self, severity: str) -> int:
        """Return the number of findings of a severity."""
        return sum(finding["severity"] == severity for finding in self.findings)


class Checkup:
    """Runs the doctor, once at a time, and keeps what it said last."""

    def __init__(self, command: Sequence[str], now: Callable[[], float]) -> None:
        self._command = command
        self._now = now
        self._task: asyncio.Task[None] | None = None
        self.diagnosis: Diagnosis | None = None

    @property
    def is_running(self) -> bool:
        """Whether the doctor is at work."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Run the doctor, unless it is at work."""
        if not self.is_running:
            self._task = asyncio.create_task(self._run(), name="doctor")

    async def close(self) -> None:
        """Break off what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            findings, error = await self._examine()
        except TimeoutError:
            findings, error = (), "the doctor took too long and was stopped"
        except (OSError, ValueError, KeyError, TypeError) as failure:
            findings, error = (), f"the doctor could not be run: {failure}"
        self.diagnosis = Diagnosis(self._now(), findings, error)

    async def _examine(self) -> tuple[tuple[Mapping[str, str], ...], str]:
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode not in {0, 1} or not out:
            return (), err.decode("utf-8", "replace").strip() or f"the doctor ended with {process.returncode}"
        report: dict[str, Any] = json.loads(out)
        findings = sorted(report["findings"], key=lambda found: _SEVERITIES.index(found["severity"]))
        return tuple(findings), ""
