"""The relay as its status page sees it (relay/web/facts.py), and the page's life."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay import log
from relay.config.model import Config
from relay.delivery.lane import Health
from relay.delivery.manager import Manager
from relay.oauth.token_file import read_token
from relay.oauth.tokens import Tokens
from relay.queue.control import ControlServer
from relay.queue.store import Store

if TYPE_CHECKING:
    from relay.web.counts import Counts
    from relay.web.server import Web


class Status:
    """Answers what the page asks of the rest of the program."""

    def __init__(
        self,
        store: Store,
        control: ControlServer,
        manager: Manager,
        tokens: Tokens,
        config: Callable[[], Config],
        problems: Callable[[], list[str]],
    ) -> None:
        self._store = store
        self._control = control
        self._manager = manager
        self._tokens = tokens
        self._config = config
        self._problems = problems

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request of the control socket says, and return the reply."""
        return await self._control.ask(request)

    def next_hops(self) -> list[dict[str, Any]]:
        """Return how it is going with each next hop."""
        return [_describe(health) for health in self._manager.health]

    def logins(self) -> list[dict[str, Any]]:
        """Return the accounts at smarthosts, with what is wrong with them."""
        failures = {health.next_hop.partition("=")[0]: health.failure for health in self._manager.health}
        problems = self._tokens.problems
        return [
            {
                "smarthost": name,
                "account": smarthost.username,
                "expires_at": _expiry(smarthost.token_file),
                "problem": problems.get(name, "") or failures.get(name, ""),
            }
            for name, smarthost in self._config().smarthost.items()
            if smarthost.username
        ]

    def problems(self) -> list[str]:
        """Return what the owner must mend."""
        return self._problems()

    def commits(self) -> tuple[int, float]:
        """Return how many transactions were committed, and how long that took."""
        return self._store.commits


class Page:
    """The status page, where there is one; what it needs is imported only then."""

    def __init__(self, status: Status, file: Path | None) -> None:
        """``file`` is the relay.toml that the doctor is to look at."""
        self._status = status
        # -P: no file of the folder in which the relay was started is taken for a part of it.
        self._doctor = [sys.executable, "-P", "-m", "relay", "doctor", "--json"]
        if file is not None:
            self._doctor += ["--config", str(file)]
        self._web: Web | None = None
        self._counts: Counts | None = None

    async def configure(self, config: Config) -> None:
        """Show the page where a configuration says, or nowhere; visitors have to log in again."""
        await self.close()
        if config.web.host:
            from relay.web.counts import Counts  # noqa: PLC0415 - memory that is not needed without a page
            from relay.web.server import Web  # noqa: PLC0415 - as above

            if self._counts is None:
                self._counts = Counts(time.time())
                log.observe(self._counts)
            self._web = Web(config.web, self._status, self._counts, names=_names(config), doctor=self._doctor)
            await self._web.start()
        elif self._counts is not None:
            log.ignore(self._counts)
            self._counts = None

    async def close(self) -> None:
        """Show the page no more."""
        if self._web is not None:
            await self._web.close()
            self._web = None


def _describe(health: Health) -> dict[str, Any]:
    return {
        "name": health.next_hop,
        "state": "blocked" if health.blocked_until else "ok",
        "blocked_until": health.blocked_until or None,
        "waiting": health.waiting,
        "in_flight": health.under_way,
        "failure": health.failure,
    }


def _expiry(token_file: Path | None) -> float | None:
    """Return when the access token in a file ends, in epoch seconds; None where there is none."""
    if token_file is not None:
        with suppress(OSError, ValueError):
            return read_token(token_file).expires_at
    return None


def _names(config: Config) -> Sequence[str]:
    """Return the names under which a browser in the house may know this machine."""
    machine = socket.gethostname()
    return (config.hostname, machine, machine.partition(".")[0], f"{machine.partition('.')[0]}.local")
