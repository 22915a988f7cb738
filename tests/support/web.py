"""The status page over a real queue and real sockets, with made-up next hops and logins."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from relay import log
from relay.config.model import Web as Settings
from relay.mail.learned import LIFETIME, LearnedRoute
from relay.queue.control import ControlServer
from relay.queue.store import Store
from relay.web.counts import Counts
from relay.web.server import Web
from tests.support.queue import NOW, opened

NAMES = ("gw1.maison.mrs", "gw1")
FINDING = {
    "about": "DNS",
    "name": "dns.lies",
    "severity": "problem",
    "what": "the name server lies",
    "why": "Mail goes astray.",
    "remedy": "Set another one.",
}
DOCTOR = (
    sys.executable,
    "-c",
    f"print({json.dumps(json.dumps({'problems': 1, 'warnings': 0, 'findings': [FINDING]}))})",
)


@dataclass
class House:
    """What the page asks, answered by a queue and by what a test sets."""

    store: Store
    hops: list[dict[str, Any]] = field(default_factory=list)
    accounts: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    now: float = NOW
    changes: int = 0
    counts: Counts = field(init=False)
    web: Web = field(init=False)

    def __post_init__(self) -> None:
        self.counts = Counts(self.now)
        self._control = ControlServer(self.store, self._note, lambda: self.troubles)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        return await self._control.ask(request)

    def next_hops(self) -> Sequence[Mapping[str, Any]]:
        return self.hops

    def logins(self) -> Sequence[Mapping[str, Any]]:
        return self.accounts

    def problems(self) -> Sequence[str]:
        return self.troubles

    def commits(self) -> tuple[int, float]:
        return self.store.commits

    def _note(self) -> None:
        self.changes += 1


@asynccontextmanager
async def page(
    folder: Path, settings: Settings | None = None, *, doctor: Sequence[str] = DOCTOR, now: float = NOW
) -> AsyncIterator[House]:
    """Serve the page of a new queue at a free port."""
    async with opened(folder / "queue.db") as store:
        house = House(store, now=now)
        house.web = Web(
            settings or Settings(port=0),
            house,
            house.counts,
            names=NAMES,
            doctor=doctor,
            now=lambda: house.now,
        )
        log.observe(house.counts)
        await house.web.start()
        try:
            yield house
        finally:
            await house.web.close()
            log.ignore(house.counts)


def next_hop(name: str, **changes: Any) -> dict[str, Any]:
    """Return a next hop that works."""
    usual = {"state": "ok", "blocked_until": None, "waiting": 0, "in_flight": 0, "failure": ""}
    return {"name": name, **usual, **changes}


def login(smarthost: str, account: str, **changes: Any) -> dict[str, Any]:
    """Return an account that works."""
    return {"smarthost": smarthost, "account": account, "expires_at": None, "problem": "", **changes}


def learned_route(domain: str, **changes: Any) -> LearnedRoute:
    """Return a route that was learned just now."""
    usual = {
        "via": "isp=[smtp.isp.example]:465",
        "reason": "blocklist",
        "reply": f"host mx.{domain}[192.0.2.7] said: 554 5.7.1 Listed (in reply to MAIL FROM command)",
        "learned_at": NOW,
        "expires_at": NOW + LIFETIME,
    }
    return LearnedRoute(domain, **{**usual, **changes})


def visitor(house: House, **headers: str) -> AbstractAsyncContextManager[Visitor]:
    """Visit the page as a browser does: with cookies."""
    return visiting(house.web.url, **headers)


@asynccontextmanager
async def visiting(url: str, **headers: str) -> AsyncIterator[Visitor]:
    """Visit a page by its address."""
    jar = aiohttp.CookieJar(unsafe=True)  # the host is an address
    async with aiohttp.ClientSession(url, cookie_jar=jar, headers=headers) as session:
        yield Visitor(url, session)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def token(self) -> str:
        """The token of the forms of a page."""
        found = re.search('name="token" value="([^"]*)"', self.text)
        assert found, self.text
        return found[1]


class Visitor:
    """Gets pages and sends forms; follows no redirection."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def get(self, path: str, **headers: str) -> Answer:
        """Get a page."""
        return await self.request("GET", path, headers=headers)

    async def post(self, path: str, form: Mapping[str, str], **headers: str) -> Answer:
        """Send a form."""
        return await self.request("POST", path, data=form, headers=headers)

    async def press(self, path: str, button: str, **fields: str) -> Answer:
        """Send a form of a page as it stands there."""
        shown = await self.get(path)
        return await self.post(button, {"token": shown.token, **fields})

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Make a request."""
        async with self.session.request(method, path, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, await response.text())
