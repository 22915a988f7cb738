"""Alerts by a program of the owner's."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from relay import events
from relay.alerts.alert import LONGEST_TEXT, Alert, AlertError
from relay.texts import make_line

TIMEOUT_SECONDS = 30.0
END_SECONDS = 1.0
"""How long is waited for its end when it is killed, and for the end of its output when it has ended: what it
has left behind may keep that open."""
MOST_OUTPUT = 2000
"""Bytes of its output that the log shows."""


class _Talk(asyncio.SubprocessProtocol):
    """Follows a program."""

    def __init__(self) -> None:
        self.output = bytearray()
        self.has_ended, self.is_silent = asyncio.Event(), asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - there is one pipe
        self.output += data[: MOST_OUTPUT - len(self.output)]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - of no interest
        if fd == 1:
            self.is_silent.set()

    def process_exited(self) -> None:
        self.has_ended.set()


async def run(command: Sequence[str], alert: Alert) -> None:
    """Run a program to its end, with an alert in its environment and on its standard input.

    It has 30 seconds, and is killed then with all that it has started in its session. Raises AlertError.
    """
    variables = {"RELAY_ALERT": alert.cause, "RELAY_STATE": alert.state, "RELAY_TEXT": alert.text}
    try:
        transport, talk = await asyncio.get_running_loop().subprocess_exec(
            _Talk,
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, **variables, "RELAY_HOST": alert.host},
            start_new_session=True,
        )
    except OSError as error:
        raise AlertError(f"{command[0]} can't be run: {error.strerror}") from None
    try:
        stdin = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        if not stdin.is_closing():  # it may have ended already
            stdin.write(json.dumps(alert.fields).encode() + b"\n")
            stdin.close()
        await _wait_for(talk.has_ended, TIMEOUT_SECONDS)
        await _wait_for(talk.is_silent, END_SECONDS)
        status = transport.get_returncode()
    finally:
        if transport.get_returncode() is None:
            with suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)
            await _wait_for(talk.has_ended, END_SECONDS)
        transport.close()
    if talk.output:
        events.alert_output(command[0], make_line(talk.output.decode(errors="replace"), LONGEST_TEXT))
    if status is None:
        raise AlertError(f"{command[0]} was not done after {TIMEOUT_SECONDS:.0f} seconds")
    if status:
        raise AlertError(f"{command[0]} ended with status {status}")


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
