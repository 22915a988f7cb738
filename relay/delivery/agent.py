"""A delivery agent: takes transfers to the servers of one next hop, over one connection at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from relay import events
from relay.delivery.client import Connection
from relay.delivery.login import is_login_failure
from relay.mail.attempt import Attempt, Claim, Scope
from relay.mail.envelope import Recipient
from relay.mail.refusal import Target, classify
from relay.mail.reply import Reply
from relay.mail.route import NextHop

SESSIONS_PER_ATTEMPT = 2
"""Servers of one next hop that one attempt talks to where the first answers 4xx (smtp_mx_session_limit)."""
ADDRESSES_PER_SESSION = 10
"""Addresses at which one session is asked for."""


class ContentError(Exception):
    """The content of a message cannot be read; the text says why."""


Report = Callable[[Mapping[Recipient, Attempt | None]], None]
"""Takes what is known of some recipients; None: one was given up, nothing is known."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """Recipients of one message that go to one next hop in one transaction."""

    claim: Claim
    recipients: tuple[Recipient, ...]
    internal: bool
    report: Report
    """Called until each recipient was reported once, as early as its attempt is known."""

    def fail(self, attempt: Attempt | None) -> None:
        """Report the same of all recipients."""
        self.report(dict.fromkeys(self.recipients, attempt))

    def split(self, size: int) -> list[Transfer]:
        """Return it in parts of at most so many recipients."""
        if len(self.recipients) <= size:
            return [self]
        starts = range(0, len(self.recipients), size)
        return [replace(self, recipients=self.recipients[start : start + size]) for start in starts]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server address of a next hop."""

    name: str
    address: str


Endpoints = Callable[[NextHop], Awaitable[Sequence[Endpoint] | Attempt]]
"""Looks up the servers of a next hop."""
Connect = Callable[[Sequence[Endpoint], NextHop, set[str]], Awaitable[Connection | Attempt]]
"""Opens a session with a server at that of its addresses which answers first, and adds to those tried."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What lanes and their agents need from outside: look-ups, connections and the sending of a transfer."""

    endpoints: Endpoints
    connect: Connect
    send: Callable[[Connection, Transfer], Awaitable[list[Attempt]]]
    pause: Callable[[int, float], float]
    """Epoch second of the next probe after that many failures in a row, and now."""
    now: Callable[[], float]
    changed: Callable[[], None]
    """Called when a lane that had no room may have some again."""
    steady: Callable[[], float] | None = None
    """A clock that nobody sets, for rates; ``now`` where there is none."""


class Agent:
    """Carries one transfer after the other, and keeps its connection in between."""

    def __init__(self, next_hop: NextHop, tools: Tools, on_session: Callable[[], None]) -> None:
        """``on_session`` is called when a server has opened a session."""
        self.connection: Connection | None = None
        """The session that goes on."""
        self.generation = 0
        """That of its lane's connections to which it belongs."""
        self._address = ""
        """Where the last transfer went."""
        self._next_hop = next_hop
        self._tools = tools
        self._on_session = on_session

    async def carry(self, transfer: Transfer) -> Attempt | None:
        """Send a transfer, and what one server defers to another one; report on each recipient.

        Return the reason where no session was to be had: then nothing was reported.
        """
        pending: dict[Recipient, Attempt | None] = dict.fromkeys(transfer.recipients)
        try:
            return await self._try_servers(transfer, pending)
        except Exception as error:
            self.abort()
            reply = explain_error(f"transfer of {transfer.claim.message.queue_id}", error)
            failed = Attempt(reply, Scope.MESSAGE, next_hop=self._next_hop.key)
            pending.update({recipient: known or failed for recipient, known in pending.items()})
            return None
        finally:
            if pending:
                transfer.report(pending)

    async def leave(self) -> None:
        """End the session."""
        if self.connection is not None:
            await self.connection.quit()
            self.connection = None

    def abort(self) -> None:
        """End the session at once: what has no final dot yet is not delivered."""
        if self.connection is not None:
            self.connection.abort()
            self.connection = None

    async def _try_servers(
        self, transfer: Transfer, pending: dict[Recipient, Attempt | None]
    ) -> Attempt | None:
        """Carry a transfer; ``pending`` is who was not reported yet, with what is known."""
        tried: set[str] = set()
        sessions = 0
        while True:
            rest = transfer if not tried else replace(transfer, recipients=tuple(pending))
            try:
                attempts = await self._send(rest, tried)
            except asyncio.CancelledError:
                if self.connection is not None:  # some may have had their replies already
                    pending.update(zip(rest.recipients, self.connection.settled, strict=False))
                raise
            if isinstance(attempts, Attempt):
                if None not in pending.values():  # the first server has said something
                    return None
                pending.clear()
                return attempts
            pending.update(zip(rest.recipients, attempts, strict=True))
            sessions += 1
            turns = await self._turns_to_ipv4(attempts, tried)
            _report_settled(transfer, pending, turns_to_ipv4=turns)
            is_over = not pending or (sessions >= SESSIONS_PER_ATTEMPT and not turns)
            if is_over or not await self._has_other(tried):
                return None
            await self.leave()

    async def _turns_to_ipv4(self, attempts: Sequence[Attempt], tried: set[str]) -> bool:
        """Whether a site that refuses us over IPv6 is asked over IPv4: then no IPv6 address is left to try.

        Home connections have often no reverse name for IPv6, which Gmail and others demand. Where there is an
        account, a refusal has other reasons.
        """
        if not _is_ipv6(self._address) or self._next_hop.smarthost or not any(map(_is_about_us, attempts)):
            return False
        found = await self._tools.endpoints(self._next_hop)
        addresses = set() if isinstance(found, Attempt) else {endpoint.address for endpoint in found}
        ipv6 = set(filter(_is_ipv6, addresses))
        if addresses <= ipv6 | tried:
            return False
        tried |= ipv6
        return True

    async def _send(self, transfer: Transfer, tried: set[str]) -> list[Attempt] | Attempt:
        """Send over the kept connection or, where there is none or it is dead, over a new one."""
        kept = self.connection
        if kept is not None and kept.is_reusable:
            attempts = await self._send_over(kept, transfer)
            if not kept.was_stale:
                tried.add(kept.address)
                return attempts
        self.abort()
        opened = await self._open(tried)
        return opened if isinstance(opened, Attempt) else await self._send_over(opened, transfer)

    async def _send_over(self, connection: Connection, transfer: Transfer) -> list[Attempt]:
        self._address = connection.address
        attempts = await self._tools.send(connection, transfer)
        if not connection.is_reusable:
            self.abort()
        return attempts

    async def _open(self, tried: set[str]) -> Connection | Attempt:
        opened = await open_session(self._next_hop, self._tools.endpoints, self._tools.connect, tried)
        if isinstance(opened, Connection):
            self.connection = opened
            self._on_session()
        return opened

    async def _has_other(self, tried: set[str]) -> bool:
        found = await self._tools.endpoints(self._next_hop)
        return not isinstance(found, Attempt) and any(endpoint.address not in tried for endpoint in found)


async def open_session(
    next_hop: NextHop, endpoints: Endpoints, connect: Connect, tried: set[str]
) -> Connection | Attempt:
    """Connect to the first address that gives a session, of those not tried yet, and add what is tried.

    Where none does, return the failure that tells most.
    """
    found = await endpoints(next_hop)
    if isinstance(found, Attempt):
        return found
    nobody = Attempt(Reply(451, "4.4.4", "there is no server to try"), Scope.SITE, next_hop=next_hop.key)
    failures: list[Attempt] = []
    chosen = [endpoint for endpoint in found if endpoint.address not in tried][:ADDRESSES_PER_SESSION]
    while left := [endpoint for endpoint in chosen if endpoint.address not in tried]:
        opened = await connect(_choose_rivals(left), next_hop, tried)
        if isinstance(opened, Connection) or opened.reply.is_permanent or is_login_failure(opened):
            return opened
        failures.insert(0, opened)
    return max(failures, key=_tells, default=nobody)


def _choose_rivals(left: Sequence[Endpoint]) -> list[Endpoint]:
    """Return the first address, and the first of the other family that its host has."""
    first = left[0]
    others = (
        endpoint
        for endpoint in left
        if endpoint.name == first.name and _is_ipv6(endpoint.address) != _is_ipv6(first.address)
    )
    return [first, *islice(others, 1)]


def _tells(failure: Attempt) -> int:
    """Return how much a failure tells: most where a site refuses us, least where it is mute."""
    if _is_about_us(failure):
        return 3
    if failure.remote_reply is not None:
        return 2
    return 0 if failure.is_unreachable else 1


def explain_error(what: str, error: Exception) -> Reply:
    """Return the reply for an attempt that an exception ended; a defect is logged, as one in ``what``."""
    if isinstance(error, ContentError):
        return Reply(451, "4.3.0", f"the message cannot be read: {error}")
    events.failed(what, error)
    return Reply(451, "4.3.0", "the relay met an internal error; it will try again")


def _report_settled(
    transfer: Transfer, pending: dict[Recipient, Attempt | None], *, turns_to_ipv4: bool
) -> None:
    """Report who need not, or must not, be tried at another server, and take them off ``pending``."""
    settled = {
        recipient: attempt
        for recipient, attempt in pending.items()
        if attempt and not (_may_try_elsewhere(attempt) or (turns_to_ipv4 and _is_about_us(attempt)))
    }
    for recipient in settled:
        del pending[recipient]
    if settled:
        transfer.report(settled)


def _may_try_elsewhere(attempt: Attempt) -> bool:
    """Whether another server may be asked at once; a possible duplicate must not be made a certain one."""
    return not (attempt.reply.is_positive or attempt.reply.is_permanent or attempt.is_possible_duplicate)


def _is_about_us(attempt: Attempt) -> bool:
    """Whether a server refused us as a sender."""
    reply = attempt.remote_reply or attempt.reply
    is_refusal = (attempt.is_remote or attempt.remote_reply is not None) and not reply.is_positive
    return is_refusal and classify(reply, attempt.command).target is Target.SENDER


def _is_ipv6(address: str) -> bool:
    return ":" in address
