"""The watch: looks once a minute, while somebody wants alerts, and tells what has begun and what is over.

Each way of telling (a program, a webhook) is followed by itself: what was told there is compared with what is
wrong now, and what differs is sent, one alert at a time. One that can't be sent is tried again after growing
pauses for as long as it is true. Mail waits for none of this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from relay import events, log
from relay.alerts import command
from relay.alerts.alert import LONGEST_TEXT, Alert, AlertError
from relay.alerts.conditions import PATIENCE_SECONDS, Conditions, Facts, judge, leaves, logins_in
from relay.alerts.memory import read_told, write_told
from relay.config.model import Alerts as Settings
from relay.config.model import Config
from relay.texts import make_line
from relay.threads import in_thread

LOOK_SECONDS = 60.0
SEND_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
"""How long after a failure an alert is sent again: at first, and at most."""

Send = Callable[[Alert], Awaitable[None]]
"""Hands over an alert; raises AlertError."""
Look = Callable[[int], Awaitable[Facts]]
"""Returns the facts that the rest of the program knows; of mail, that with numbers above the given one."""


class Ears(logging.Handler):
    """Keeps what events tell of mail that leaves and of logins."""

    def __init__(self, logins: Mapping[str, str]) -> None:
        super().__init__(logging.INFO)
        self.left_at: float | None = None
        """When mail last left the house, by the monotonic clock."""
        self.old_number = 0
        """Messages up to this number had waited for an hour when other mail left."""
        self.logins = dict(logins)
        """A sentence by the name of each smarthost that lets nobody in."""

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of an event."""
        fields = record.args if isinstance(record.args, Mapping) else {}
        next_hop = str(fields.get("next_hop", ""))
        smarthost = next_hop.partition("=")[0]
        match fields.get("event"):
            case "sent" if next_hop and leaves(next_hop):
                self.left_at = time.monotonic()
                self.old_number = int((record.created - PATIENCE_SECONDS) * 1e6)
                self.logins.pop(smarthost, None)
            case "login_refused":
                self.logins[smarthost] = f"Mail waits for smarthost {smarthost}: {fields['reason']}"
            case "next_hop_up":
                self.logins.pop(smarthost, None)


@dataclass
class Way:
    """A way of telling."""

    name: str
    told: dict[str, str]
    """The sentence of each cause that was told and is not over."""
    send: Send | None = None
    pause: float = 0.0
    rests_until: float = 0.0
    """When a failure is forgotten, by the monotonic clock."""


class Alerts:
    """Watches and tells, from ``configure`` to ``close``."""

    def __init__(self, memory: Path, look: Look) -> None:
        """``memory`` is the file that keeps what was told."""
        self._memory = memory
        self._look = look
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def configure(self, config: Config) -> None:
        """Begin to watch, follow a changed configuration, or watch no more."""
        self._config, settings = config, config.alerts
        if not (settings.command or settings.webhook):
            self._stop()
            with suppress(OSError):
                self._memory.unlink(missing_ok=True)
            return
        if self._task is None:
            self._start()
        by_command, by_webhook = self._ways
        by_command.send = partial(command.run, settings.command) if settings.command else None
        by_webhook.send = partial(_post, settings) if settings.webhook else None
        for way in self._ways:
            way.pause = way.rests_until = 0.0
        self._changed.set()

    async def close(self) -> None:
        """Watch no more; what is being sent is broken off."""
        task = self._task
        self._stop()
        if task is not None:
            await asyncio.wait([task])

    def _start(self) -> None:
        told = read_told(self._memory)
        self._ways = [Way(name, told.get(name, {})) for name in ("command", "webhook")]
        known = {cause: text for way in self._ways for cause, text in way.told.items()}
        self._conditions = Conditions(known)
        self._ears = Ears(logins_in(known))
        log.observe(self._ears)
        self._task = asyncio.create_task(self._run(), name="alerts")

    def _stop(self) -> None:
        if self._task is not None:
            log.ignore(self._ears)
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._watch()
            except Exception as error:
                events.failed("the alerts", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    async def _watch(self) -> None:
        facts = await self._look(self._ears.old_number)
        logins = {name: text for name, text in self._ears.logins.items() if name in self._config.smarthost}
        facts = replace(facts, left_at=self._ears.left_at, logins=logins)
        self._conditions = judge(facts, self._conditions)
        for way in self._ways:
            await self._tell(way)

    async def _tell(self, way: Way) -> None:
        """Send what differs from what was told, until something can't be sent."""
        if way.send is None:
            way.told.clear()
            return
        if time.monotonic() < way.rests_until:
            return
        for alert in self._find_differences(way.told):
            try:
                await way.send(alert)
            except AlertError as error:
                way.pause = min(2 * way.pause or FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS)
                way.rests_until = time.monotonic() + way.pause
                events.alert_failed(alert.cause, way.pause, str(error))
                return
            way.pause = 0.0
            events.alerted(alert.cause, alert.state, way.name, alert.text)
            if alert.state == "begins":
                way.told[alert.cause] = alert.text
            else:
                del way.told[alert.cause]
            with suppress(OSError):
                told = {way.name: dict(way.told) for way in self._ways}
                await in_thread(partial(write_told, self._memory, told))

    def _find_differences(self, told: Mapping[str, str]) -> list[Alert]:
        causes, host, now = self._conditions.causes, self._config.hostname, time.time()
        begun = {cause: make_line(text, LONGEST_TEXT) for cause, text in causes.items() if cause not in told}
        over = {cause: f"Over: {text}" for cause, text in told.items() if cause not in causes}
        return [
            *(Alert(cause, "begins", text, host, now) for cause, text in begun.items()),
            *(Alert(cause, "over", text, host, now) for cause, text in over.items()),
        ]


async def _post(settings: Settings, alert: Alert) -> None:
    from relay.alerts import webhook  # noqa: PLC0415 - brings an HTTP client, which few need

    try:
        async with asyncio.timeout(SEND_SECONDS):
            await in_thread(partial(webhook.post, settings, os.environ, alert))
    except TimeoutError:
        raise AlertError(f"the webhook did not answer within {SEND_SECONDS:.0f} seconds") from None
