"""One relay with a next hop for each case, all at once, and a healthy one that must not wait for them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from tests.support.postfix import unused_ports
from tests.support.rig import ServerAt
from tests.support.service import PATIENCE, Delivery, Service, deliveries
from tests.support.smtp_server import ScriptedServer
from tests.torture.next_hop_case import BOUNCED, DEFERRED, HANGING, SENT, SLOW, Case, Fate

_ATTEMPT = re.compile(
    r"to=<(?P<recipient>[^>]+)>, .*?relay=.*, dsn=(?P<dsn>\S+), status=(?P<status>\w+) \((?P<words>.*)\)$"
)
_ACCOUNT = "chris@example.org"
AT_ONCE = 20
"""Clients that send at once."""


@dataclass
class Journal:
    """What the relay's log says of each recipient's attempts, in their order."""

    relay: Service
    attempts: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    """Status, and the words in brackets behind it with the enhanced status code in front."""
    _read: int = 0

    def read_on(self) -> None:
        """Read what was logged since."""
        end = self.relay.log.rfind("\n") + 1
        for line in self.relay.log[self._read : end].splitlines():
            if found := _ATTEMPT.search(line):
                self.attempts[found["recipient"]].append(
                    (found["status"], f"{found['dsn']} {found['words']}")
                )
        self._read = end

    def statuses(self, recipient: str) -> list[str]:
        """Return the status of each attempt."""
        return [status for status, _ in self.attempts[recipient]]

    async def until(self, expected: dict[str, list[str]]) -> None:
        """Wait until recipients have had so many attempts; these must be the expected ones."""
        await until(lambda: self._has(expected), lambda: self._differences(expected))
        assert not (differences := self._differences(expected)), differences

    def _has(self, expected: dict[str, list[str]]) -> bool:
        self.read_on()
        return all(len(self.attempts[recipient]) >= len(wanted) for recipient, wanted in expected.items())

    def _differences(self, expected: dict[str, list[str]]) -> str:
        return "\n".join(
            f"{recipient}: expected {wanted}, but {self.attempts[recipient]}"
            for recipient, wanted in expected.items()
            if self.statuses(recipient) != wanted
        )


async def until(condition: Callable[[], bool], explain: Callable[[], object] = str) -> None:
    """Wait until something is so."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(explain()) from None


class Trial:
    """All cases from their first attempt to the last message in the queue."""

    def __init__(self, folder: Path, cases: Sequence[Case], later: asyncio.Event, healthy: int) -> None:
        """``later`` lets the slow ones go on; ``healthy`` is how many messages the healthy next hop gets."""
        self.cases = cases
        self._folder = folder
        self._later = later
        self._healthy = healthy
        self._servers = {
            case.name: ServerAt("127.0.0.1", 0 if case.is_up else unused_ports(1)[0], case.script)
            for case in cases
        }
        self._home = ScriptedServer()
        self._well = ScriptedServer()

    async def run(self) -> None:
        """Go through all phases, and check each."""
        assert len(self._servers) == len(self.cases), "two cases have one name"
        async with AsyncExitStack() as stack:
            for server in (self._home, self._well, *self._servers.values()):
                await stack.enter_async_context(server)
            for case in self.cases:
                if case.context is not None:
                    self._servers[case.name].tls = case.context
                if not case.is_up:
                    await self._servers[case.name].__aexit__()
            relay = Service(self._folder, self._settings())
            journal = Journal(relay)
            async with relay:
                await self._send_all(relay, journal)
                await self._await_first_attempts(relay, journal)
                await self._mend(SENT, SLOW, DEFERRED, BOUNCED)
                await self._try_again(relay, journal)
                assert await relay.stop() == 0
                await self._check_left(relay, "stopped")
                await self._mend(HANGING)
                await relay.start()
                await journal.until({recipient: ["sent"] for recipient in self._all(HANGING)})
                await relay.emptied()
            for server in self._servers.values():
                await server.wait_ended()
        for case in self.cases:
            check_copies(case, self._servers[case.name])
            check_bounces(case, self._home)

    # Phases

    async def _send_all(self, relay: Service, journal: Journal) -> None:
        for case in self.cases:
            if case.is_second:  # at once after the first, lest the connection be given up for lack of work
                await self._send(relay, case, case.first)
                await journal.until({case.first: ["sent"]})
                await self._send(relay, case, *case.recipients)
        clients = asyncio.Semaphore(AT_ONCE)

        async def send(case: Case) -> None:
            async with clients:
                await self._send(relay, case, *case.recipients)

        await asyncio.gather(*(send(case) for case in self.cases if not case.is_second))
        await until(lambda: not self._not_reached(), self._not_reached)

    def _not_reached(self) -> list[str]:
        """Return the cases that hang or are slow, and have not come to that point."""
        waited_for = [case for case in self.cases if {HANGING, SLOW} & set(case.fates)]
        return [case.name for case in waited_for if not self._servers[case.name].has_reached(case.at)]

    async def _await_first_attempts(self, relay: Service, journal: Journal) -> None:
        """Let the healthy next hop have its mail while the others hang, and see what came of theirs."""
        names = [f"user{number}@healthy.test" for number in range(self._healthy)]
        for name in names:
            await self._take(relay, name, sender="anne@home.test")
        await journal.until({name: ["sent"] for name in names})
        await journal.until(
            {
                recipient: [] if fate in {HANGING, SLOW} else [str(fate)]
                for case in self.cases
                for recipient, fate in zip(case.recipients, case.fates, strict=True)
            }
        )
        for case in self.cases:
            for recipient, fate in zip(case.recipients, case.fates, strict=True):
                if fate in {DEFERRED, BOUNCED}:
                    words = journal.attempts[recipient][0][1]
                    assert re.search(case.words, words), f"{case.name}: no {case.words} in {words}"
        await self._check_waiting(relay, journal)

    async def _check_waiting(self, relay: Service, journal: Journal) -> None:
        """See what the owner sees of what waits."""
        seen = {}
        for message in await relay.queue():
            for recipient in message["recipients"]:
                seen[recipient["address"]] = recipient
        for case in self.cases:
            for recipient, fate in zip(case.recipients, case.fates, strict=True):
                if fate is DEFERRED:
                    assert seen[recipient]["state"] == "deferred", seen[recipient]
                    logged, listed = journal.attempts[recipient][0][1], seen[recipient]["reply"]
                    assert _words(logged).endswith(_words(listed)), (logged, listed)
                elif fate in {HANGING, SLOW}:
                    assert seen[recipient]["state"] == "queued", seen[recipient]

    async def _try_again(self, relay: Service, journal: Journal) -> None:
        self._later.set()
        await journal.until({recipient: ["sent"] for recipient in self._all(SLOW)})
        if self._all(DEFERRED):
            retried = await relay.command("queue", "retry", "--all")
            assert retried.status == 0, retried.err
        await journal.until({recipient: ["deferred", "sent"] for recipient in self._all(DEFERRED)})
        await journal.until({case.sender: ["sent"] for case in self.cases if BOUNCED in case.fates})
        await self._check_left(relay, "running")

    async def _check_left(self, relay: Service, when: str) -> None:
        """Only what hangs is left, and nothing of it is lost."""
        wanted = Counter(self._all(HANGING))
        async with asyncio.timeout(PATIENCE):  # the outcome is logged before it is recorded
            while (left := await self._left(relay)) != wanted and when == "running":
                await asyncio.sleep(0.05)
        assert left == wanted, f"{when}: lost {wanted - left}, not done {left - wanted}"

    @staticmethod
    async def _left(relay: Service) -> Counter[str]:
        return Counter(
            recipient["address"]
            for message in await relay.queue()
            for recipient in message["recipients"]
            if recipient["state"] in {"queued", "deferred"}
        )

    # Parts

    def _all(self, fate: Fate) -> list[str]:
        return [
            r for case in self.cases for r, f in zip(case.recipients, case.fates, strict=True) if f is fate
        ]

    async def _mend(self, *fates: Fate) -> None:
        """Have the servers behave from now on."""
        for case in self.cases:
            if (HANGING in case.fates) == (HANGING in fates):
                server = self._servers[case.name]
                server.script = case.mended
                if case.mended_context is not None:
                    server.tls = case.mended_context
                if not case.is_up:
                    await server.__aenter__()

    async def _send(self, relay: Service, case: Case, *recipients: str) -> None:
        await self._take(relay, *recipients, sender=case.sender, content=case.content)

    @staticmethod
    async def _take(relay: Service, *recipients: str, sender: str, content: bytes = b"\r\nhello\r\n") -> None:
        reply = await relay.send(content, *recipients, sender=sender)
        assert reply.startswith("250 "), reply

    def _settings(self) -> str:
        transport: dict[str, object] = {
            "home.test": f"[127.0.0.1]:{self._home.port}",
            "healthy.test": f"[127.0.0.1]:{self._well.port}",
        }
        smarthosts: dict[str, dict[str, object]] = {}
        for case in self.cases:
            server = self._servers[case.name]
            transport[case.domain] = f"[127.0.0.1]:{server.port}"
            if case.tls or case.password:
                transport[case.domain] = case.name
                smarthosts[case.name] = {"host": "127.0.0.1", "port": server.port, "tls": case.tls or "none"}
            if case.password:
                account = {"username": _ACCOUNT, "password": case.password, "clear_password": True}
                smarthosts[case.name].update(account)
        return tomli_w.dumps({"transport": transport, "smarthost": smarthosts})


class MailboxTrial:
    """Cases of one mailbox server, one after the other, in one relay that tries again at once."""

    def __init__(self, folder: Path, cases: Sequence[Case]) -> None:
        self._cases = cases
        self._folder = folder
        self._path = folder / "lmtp"
        self._home = ScriptedServer()

    async def run(self) -> None:
        """Have each case come to its end, and check it."""
        async with self._home:
            relay = Service(self._folder, self._settings())
            journal = Journal(relay)
            async with relay:
                for case in self._cases:
                    await self._try(relay, journal, case)
                await relay.emptied()
        for case in self._cases:
            check_bounces(case, self._home)

    async def _try(self, relay: Service, journal: Journal, case: Case) -> None:
        async with ScriptedServer(case.script, path=self._path) as server:
            reply = await relay.send(case.content, *case.recipients, sender=case.sender)
            assert reply.startswith("250 "), reply
            fates = dict(zip(case.recipients, case.fates, strict=True))
            await journal.until(
                {r: ["deferred", "sent"] if fate is DEFERRED else [str(fate)] for r, fate in fates.items()}
            )
            for recipient, fate in fates.items():
                words = journal.attempts[recipient][0][1]
                assert fate is SENT or re.search(case.words, words), (
                    f"{case.name}: no {case.words} in {words}"
                )
            check_copies(case, server)

    def _settings(self) -> str:
        local = {
            "domains": [case.domain for case in self._cases],
            "users": ["user0", "user1", "user2"],
            "lmtp": str(self._path),
        }
        transport = {"home.test": f"[127.0.0.1]:{self._home.port}"}
        return tomli_w.dumps({"transport": transport, "local": local, "queue": {"retry": ["100ms"]}})


def check_copies(case: Case, server: ScriptedServer) -> None:
    """See that each recipient that did not bounce has just the copies that the next hop is to acknowledge."""
    wanted = [r for r, fate in zip(case.recipients, case.fates, strict=True) if fate is not BOUNCED]
    wanted *= case.copies
    wanted += [case.first] if case.is_second else []
    copies = Counter(recipient for recipient, _ in server.acknowledged)
    assert copies == Counter(wanted), f"{case.name}: {copies}"
    for _, content in server.acknowledged:
        body = case.content.partition(b"\r\n\r\n")[2]
        is_whole = content.endswith(body) if body.isascii() else content.isascii()  # no 8BITMIME: converted
        assert is_whole, f"{case.name}: {content[-200:]!r}"
    repeats = 0
    for session in server.sessions:
        acknowledged = {id(content) for _, content in session.acknowledged}
        repeats += sum(id(content) not in acknowledged for content in session.contents)
    assert repeats == case.repeats, f"{case.name}: {repeats} contents came besides the one that counts"


def check_bounces(case: Case, home: ScriptedServer) -> None:
    """See that the sender has one report of all that bounced, with the reply; else none."""
    reports = [d for d in deliveries(home) if d.recipients == (case.sender,)]
    bounced = [r for r, fate in zip(case.recipients, case.fates, strict=True) if fate is BOUNCED]
    assert len(reports) == bool(bounced), f"{case.name}: {len(reports)} reports"
    if bounced:
        text = _text(reports[0])
        assert re.search(case.words, text), f"{case.name}: no {case.words} in {text}"
        assert re.findall(r"Final-Recipient: rfc822; ?(\S+)", text) == bounced, case.name
        assert reports[0].reverse_path == ""


def _words(reply: object) -> str:
    return re.sub(r"\s+", " ", str(reply))


def _text(report: Delivery) -> str:
    """Return a report with its folded lines as one, the first enhanced status code in front."""
    text = _words(report.content.decode())
    status = re.search(r"Status: (\S+)", text)
    assert status, text
    return f"{status[1]} {text}"
