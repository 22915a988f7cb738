"""IPv6 beside IPv4: who answers first gets the mail, and who is refused over IPv6 asks over IPv4."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from relay.delivery import race as module
from relay.delivery.agent import Endpoint, open_session
from relay.delivery.client import Connection
from relay.delivery.race import race
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from tests.support.delivery import CONTENT
from tests.support.dns_server import DnsServer
from tests.support.rig import connect
from tests.support.service import Service, deliveries
from tests.support.site import Site
from tests.support.smtp_server import Script, ScriptedServer

V4, V6 = "127.0.0.1", "::1"
BOTH = [Endpoint("mx.test", V6), Endpoint("mx.test", V4)]
NO_PTR = (
    b"550-5.7.25 [::1] The IP address sending this message does not have a PTR record setup\r\n"
    b"550 5.7.25 for the IPv6 address.\r\n"
)


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe, contextlib.suppress(OSError):
        probe.bind((V6, 0))
        return True
    return False


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6, not even ::1")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the first address as much time as it needs."""
    monkeypatch.setattr(module, "HEAD_START", 60.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_START", 0.01)


@contextlib.asynccontextmanager
async def two_sided(
    v6: Script | None = None, v4: Script | None = None
) -> AsyncIterator[list[ScriptedServer]]:
    """Run a server at the same port of ::1 and of 127.0.0.1, in this order."""
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(ScriptedServer(v6, address=V6))
        while True:
            try:
                second = await stack.enter_async_context(ScriptedServer(v4, address=V4, port=first.port))
            except OSError:  # somebody else has this port there
                first = await stack.enter_async_context(ScriptedServer(v6, address=V6))
            else:
                break
        yield [first, second]


@contextlib.contextmanager
def tarpit(port: int) -> Iterator[None]:
    """Let connections to a port of ::1 hang: the queue of those that nobody accepted is full."""
    with socket.socket(socket.AF_INET6) as full, contextlib.ExitStack() as stack:
        full.bind((V6, port))
        full.listen(0)
        for _ in range(2):
            blocker = stack.enter_context(socket.socket(socket.AF_INET6))
            blocker.setblocking(False)
            blocker.connect_ex((V6, port))
        yield


class TestTheRace:
    """What wins, and what becomes of the others."""

    @staticmethod
    async def reach(server: ScriptedServer) -> tuple[Connection | Attempt, set[str]]:
        tried: set[str] = set()
        return await connect(BOTH, NextHop("mx.test", server.port, tls="none"), tried), tried

    @pytest.mark.usefixtures("patient")
    async def test_ipv6_goes_first_and_alone(self) -> None:
        async with two_sided() as (v6, v4):
            opened, tried = await self.reach(v6)
            assert isinstance(opened, Connection)
            assert (opened.address, tried) == (V6, {V6})
            opened.abort()
            assert v4.sessions == []

    @pytest.mark.usefixtures("patient")
    async def test_an_address_that_refuses_costs_no_time(self) -> None:
        async with ScriptedServer() as v4:
            opened, tried = await self.reach(v4)
            assert isinstance(opened, Connection)
            assert (opened.address, tried) == (V4, {V4, V6})
            opened.abort()

    @pytest.mark.usefixtures("hasty")
    async def test_ipv4_goes_on_beside_an_address_that_does_not_answer(self) -> None:
        async with ScriptedServer() as v4:
            with tarpit(v4.port):
                opened, tried = await self.reach(v4)
            assert isinstance(opened, Connection)
            assert (opened.address, tried) == (V4, {V4})
            opened.abort()

    async def test_the_last_to_fail_says_why(self) -> None:
        async with ScriptedServer() as server:
            pass
        opened, tried = await self.reach(server)
        assert isinstance(opened, Attempt)
        assert opened.reply.text == f"connect to mx.test[{V4}]:{server.port}: Connection refused"
        assert opened.is_unreachable
        assert tried == {V4, V6}

    @pytest.mark.usefixtures("hasty")
    async def test_an_end_in_the_middle_leaves_nothing_open(self) -> None:
        async with ScriptedServer() as server:
            pass
        with tarpit(server.port):
            hop = NextHop("mx.test", server.port, tls="none")
            task = asyncio.create_task(connect(BOTH[:1], hop, set()))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    @pytest.mark.usefixtures("hasty")
    async def test_of_two_that_answer_at_once_one_is_closed(self) -> None:
        class Rival:
            is_open = False

            async def connect(self) -> None:
                await both.wait()
                self.is_open = True

            def abort(self) -> None:
                self.is_open = False

        both, rivals = asyncio.Event(), [Rival(), Rival()]
        racing = asyncio.create_task(race(rivals))
        while len(both._waiters) < len(rivals):
            await asyncio.sleep(0.001)
        both.set()
        winner, failed = await racing
        assert winner in rivals
        assert failed == []
        assert sorted(rival.is_open for rival in rivals) == [False, True]
        assert winner.is_open


class TestASiteThatRefusesUs:
    """One attempt at a site whose host has both kinds of addresses."""

    @staticmethod
    @contextlib.asynccontextmanager
    async def site(v6: Script, v4: Script | None = None) -> AsyncIterator[tuple[Site, list[ScriptedServer]]]:
        async with two_sided(v6, v4) as servers, Site.opened() as site:
            site.endpoints = BOTH
            site.reopen(NextHop("mx.test", servers[0].port, use_mx=True, tls="none"))
            yield site, servers

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("point", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "DOT"])
    async def test_is_asked_over_ipv4_at_once(self, point: str) -> None:
        refusal = {point: NO_PTR, **({"HELO": NO_PTR} if point == "EHLO" else {})}
        async with self.site(Script().but(**refusal)) as (site, (v6, v4)):
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies == ["250 2.0.0 Ok: queued as SINK"]
            assert v4.sessions[0].messages == [CONTENT]
            assert len(v6.sessions) == 1

    @pytest.mark.usefixtures("patient")
    async def test_only_for_those_who_were_refused_for_that(self) -> None:
        rcpt = [b"250 Ok\r\n", NO_PTR, b"550 5.1.1 User unknown\r\n", b"451 4.3.0 Try again later\r\n"]
        async with self.site(Script().but(RCPT=rcpt)) as (site, (_, v4)):
            site.submit("a@dest.test", "b@dest.test", "c@dest.test", "d@dest.test")
            await site.until_reported(4)
            assert sorted(reply[:3] for reply in site.replies) == ["250", "250", "250", "550"]
            asked = [c.split()[1] for c in v4.sessions[0].commands if c.startswith(b"RCPT")]
            assert asked == [b"TO:<b@dest.test>", b"TO:<d@dest.test>"]

    @pytest.mark.usefixtures("patient")
    async def test_has_the_last_word_over_ipv4(self) -> None:
        v4 = Script().but(MAIL=b"550 5.7.1 Blocked by policy\r\n")
        async with self.site(Script().but(MAIL=NO_PTR), v4) as (site, servers):
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies == ["550 5.7.1 Blocked by policy"]
            assert [len(server.sessions) for server in servers] == [1, 1]

    @pytest.mark.usefixtures("patient")
    async def test_has_the_last_word_where_ipv4_is_not_to_be_reached(self) -> None:
        async with ScriptedServer(Script().but(MAIL=NO_PTR), address=V6) as v6, Site.opened() as site:
            site.endpoints = BOTH
            site.reopen(NextHop("mx.test", v6.port, use_mx=True, tls="none"))
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies[0].startswith("550 5.7.25 ")

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize(
        ("reply", "endpoints"),
        [
            (b"550 5.1.1 User unknown\r\n", BOTH),
            (b"552 5.3.4 Message too big\r\n", BOTH),
            (NO_PTR, BOTH[:1]),
            (NO_PTR, [*BOTH[:1], Endpoint("mx2.test", "::2")]),
        ],
        ids=["recipient", "message", "no IPv4", "another IPv6"],
    )
    async def test_is_left_alone_without_need(self, reply: bytes, endpoints: list[Endpoint]) -> None:
        async with self.site(Script().but(RCPT=reply)) as (site, (v6, v4)):
            site.endpoints = endpoints
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies[0].encode().startswith(reply[:3])
            assert (len(v6.sessions), v4.sessions) == (1, [])

    @pytest.mark.usefixtures("patient")
    async def test_is_not_asked_again_with_an_account(self) -> None:
        async with self.site(Script().but(MAIL=NO_PTR)) as (site, (v6, v4)):
            site.reopen(NextHop("mx.test", v6.port, tls="none", smarthost="isp"))
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies[0].startswith("550 5.7.25 ")
            assert v4.sessions == []

    @pytest.mark.usefixtures("patient")
    async def test_is_asked_over_ipv4_after_two_servers_over_ipv6(self) -> None:
        mail = [b"451 4.3.0 Try later\r\n", NO_PTR]
        async with self.site(Script().but(MAIL=mail)) as (site, (v6, v4)):
            # The second name is another address of the same server.
            site.endpoints = [BOTH[0], Endpoint("mx2.test", "0:0:0:0:0:0:0:1"), BOTH[1]]
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies == ["250 2.0.0 Ok: queued as SINK"]
            assert (len(v6.sessions), len(v4.sessions)) == (2, 1)

    @pytest.mark.usefixtures("patient")
    async def test_prefers_no_other_ipv6_address_to_ipv4(self) -> None:
        mail = [b"421 4.7.0 Your IPv6 address has no PTR record\r\n", NO_PTR]
        async with self.site(Script().but(MAIL=mail)) as (site, (v6, v4)):
            site.endpoints = [BOTH[0], Endpoint("mx2.test", "0:0:0:0:0:0:0:1"), BOTH[1]]
            site.submit("a@dest.test")
            await site.until_reported()
            assert site.replies == ["250 2.0.0 Ok: queued as SINK"]
            assert (len(v6.sessions), len(v4.sessions)) == (1, 1)


async def test_the_relay_prefers_what_its_owner_prefers(tmp_path: Path) -> None:
    names = {"dest.test": {"MX": ["10 mx.dest.test."]}, "mx.dest.test": {"A": [V4], "AAAA": [V6]}}
    async with DnsServer(names) as dns, two_sided(Script().but(RCPT=NO_PTR)) as (v6, v4):
        toml = f"""
            prefer = "{{}}"
            dns = {{{{ nameservers = ["{dns.address[0]}:{dns.address[1]}"] }}}}
            transport = {{{{ "dest.test" = "dest.test:{v4.port}" }}}}
        """
        async with Service(tmp_path, toml.format("ipv6")) as relay:
            await relay.send(b"\r\n", "a@dest.test", sender="chris@dest.test")
            await relay.logged(r"relay=mx\.dest\.test\[127\.0\.0\.1\]:\d+, .*status=sent")
            assert len(v6.sessions) == 1
            await relay.configure(toml.format("ipv4"))
            await relay.send(b"\r\n", "b@dest.test", sender="chris@dest.test")
            await relay.logged("status=sent", 2)
        assert (len(v6.sessions), len(deliveries(v4))) == (1, 2)


class TestTheFailureThatTellsMost:
    """What is told of a next hop none of whose servers gave a session."""

    MUTE = Attempt(Reply(451, "4.4.1", "connect to a: Connection timed out"), Scope.SITE, is_unreachable=True)
    ODD = Attempt(Reply(451, "4.5.0", "b gave no valid reply"), Scope.SITE, "b:25")
    BUSY = Attempt(
        Reply(451, "4.3.2", "c refused"), Scope.SITE, "c:25", remote_reply=Reply(421, "4.3.2", "busy")
    )
    POLICY = Attempt(
        Reply(451, "4.7.1", "d refused"), Scope.SITE, "d:25", remote_reply=Reply(554, "5.7.1", "policy")
    )

    @pytest.mark.parametrize("turn", [lambda failures: failures, lambda failures: failures[::-1]])
    async def test_is_returned(self, turn: Callable[[list[Attempt]], list[Attempt]]) -> None:
        ranked = [self.MUTE, self.ODD, self.BUSY, self.POLICY]
        for most in range(1, 5):
            assert await self.fail(*turn(ranked[:most])) == ranked[most - 1]

    async def test_is_the_last_of_equals(self) -> None:
        other = Attempt(Reply(451, "4.4.1", "connect to e: no"), Scope.SITE, is_unreachable=True)
        assert await self.fail(self.MUTE, other) is other

    async def test_says_that_nobody_was_there(self) -> None:
        assert (await self.fail()).reply.text == "there is no server to try"

    @staticmethod
    async def fail(*failures: Attempt) -> Attempt:
        found = [Endpoint(f"mx{number}.test", f"192.0.2.{number}") for number in range(len(failures))]
        left = list(failures)

        async def endpoints(_: NextHop) -> list[Endpoint]:
            return found

        async def open_none(asked: object, _: NextHop, tried: set[str]) -> Attempt:
            tried.add(found[len(failures) - len(left)].address)
            return left.pop(0)

        told = await open_session(NextHop("dest.test", use_mx=True), endpoints, open_none, set())
        assert isinstance(told, Attempt)
        return told
