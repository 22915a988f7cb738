"""A lane that tests give work to and watch, with real connections to scripted servers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from relay.delivery.client import Connection
from relay.delivery.lane import Endpoint, Lane, Tools, Transfer
from relay.delivery.login import Account
from relay.mail.attempt import Attempt, Claim
from relay.mail.envelope import Recipient
from relay.mail.route import NextHop
from tests.support.delivery import content, message
from tests.support.rig import SETTINGS, Now, until

HERE = [Endpoint("mx.test", "127.0.0.1")]


@dataclass
class Site:
    """A lane, and what tests watch of it."""

    lane: Lane
    now: Now
    reports: list[Mapping[Recipient, Attempt | None]] = field(default_factory=list)
    changes: int = 0
    endpoints: Sequence[Endpoint] | Attempt = field(default_factory=lambda: HERE)
    errors: list[Exception] = field(default_factory=list)
    """What sending raises next."""
    account: Account | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls) -> AsyncIterator[Site]:
        made = cls(lane=None, now=Now())  # type: ignore[arg-type]  # reopen gives it one
        made.reopen(NextHop("mx.test", 1, tls="none"))
        yield made
        await made.lane.close(0)

    def submit(self, *addresses: str) -> Transfer:
        asked = message(*(addresses or ("a@dest.test",)))
        transfer = Transfer(
            Claim(asked), asked.envelope.recipients, internal=False, report=self.reports.append
        )
        assert self.lane.submit(transfer)
        return transfer

    @property
    def replies(self) -> list[str]:
        """What was reported of each recipient, in the order of the reports."""
        return [
            str(attempt.reply) if attempt else "given up"
            for report in self.reports
            for attempt in report.values()
        ]

    async def until_reported(self, count: int = 1) -> None:
        await until(lambda: len(self.replies) >= count)

    def reopen(self, next_hop: NextHop) -> None:
        self.lane = Lane(next_hop, self.tools())

    def tools(self) -> Tools:
        settings = replace(SETTINGS, account_of=lambda _: self.account)

        async def endpoints(_: NextHop) -> Sequence[Endpoint] | Attempt:
            if isinstance(self.endpoints, Exception):
                raise self.endpoints
            return self.endpoints

        async def connect(
            endpoints: Sequence[Endpoint], next_hop: NextHop, tried: set[str]
        ) -> Connection | Attempt:
            addresses = [endpoint.address for endpoint in endpoints]
            return await Connection.open_one(endpoints[0].name, addresses, next_hop, settings, tried)

        async def send(connection: Connection, transfer: Transfer) -> list[Attempt]:
            if self.errors:
                raise self.errors.pop()
            return await connection.transfer(message(*transfer.recipients), content())

        def changed() -> None:
            self.changes += 1

        return Tools(endpoints, connect, send, lambda failures, now: now + 100 * failures, self.now, changed)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
