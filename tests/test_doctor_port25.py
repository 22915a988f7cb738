"""Port 25: open, closed, refusing, or answered by somebody else."""

from __future__ import annotations

import pytest

from relay.delivery.agent import Endpoint
from relay.delivery.dialogue import Timeouts
from relay.doctor.port25 import check_port25
from relay.doctor.trial import ADDRESSES, choose_endpoints
from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from tests.support.doctor import PUBLIC, World, kinds
from tests.support.site import unused_port
from tests.support.smtp_server import DROP, HANG, Script, ScriptedServer, Step, offer

DOMAINS = ("one.test", "two.test")
TWO_NAMES: Step = [offer(name="mx.one.test"), offer(name="mx.two.test")]


async def test_servers_that_answer_are_left_again_without_any_mail() -> None:
    script = Script().but(EHLO=[offer(name=f"mx.one.test Hello [{PUBLIC}]"), offer(name="mx.two.test")])
    world = World()
    async with ScriptedServer(script) as server:
        found = await check_port25(world.open, DOMAINS, is_direct=True, port=server.port)
        await server.wait_ended()
    assert kinds(found) == ["port25.open ok"]
    assert [session.commands for session in server.sessions] == [[b"EHLO helo.test", b"QUIT"]] * 2
    assert sorted(hello.text for hello in world.hellos) == [
        f"mx.one.test Hello [{PUBLIC}]",
        "mx.two.test",
    ]


async def test_a_port_at_which_nobody_answers_is_closed() -> None:
    port = unused_port()
    found = await check_port25(World().open, DOMAINS, is_direct=True, port=port)
    assert kinds(found) == ["port25.blocked problem"]
    assert f"of one.test, two.test can be reached (connect to mx.test[127.0.0.1]:{port}" in found[0].what
    found = await check_port25(World().open, DOMAINS, is_direct=False, port=port)
    assert kinds(found) == ["port25.blocked info"]


async def test_servers_that_want_no_session_are_quoted() -> None:
    script = Script().but(greeting=b"554 5.7.1 \x1b[2JYou are \xe2\x80\xae listed\r\n")
    async with ScriptedServer(script) as server:
        found = await check_port25(World().open, DOMAINS, is_direct=True, port=server.port)
    assert kinds(found) == ["port25.refused warning"] * 2
    assert found[0].what == (
        "port 25 is open, but one.test wants no session: host mx.test[127.0.0.1] refused to talk to me:"
        " 554 5.7.1 ?[2JYou are ? listed"
    )


async def test_one_that_answers_is_enough() -> None:
    script = Script().but(greeting=[b"220 mx.one.test\r\n", b"421 4.3.0 busy\r\n"])
    async with ScriptedServer(script) as server:
        found = await check_port25(World().open, DOMAINS, is_direct=True, port=server.port)
    assert sorted(kinds(found)) == ["port25.open ok", "port25.refused warning"]


async def test_servers_of_two_domains_with_one_name_are_a_third_party() -> None:
    async with ScriptedServer(Script().but(EHLO=offer(name="mx.isp.test"))) as server:
        found = await check_port25(World().open, DOMAINS, is_direct=True, port=server.port)
    assert kinds(found) == ["port25.intercepted problem"]
    assert "all call themselves mx.isp.test" in found[0].what


@pytest.mark.parametrize(
    ("step", "timeouts", "words"),
    [
        (HANG, Timeouts(greeting=0.1), "conversation with mx.test[127.0.0.1] timed out"),
        (DROP, Timeouts(), "lost connection with mx.test[127.0.0.1]"),
    ],
)
async def test_silence_and_hang_ups_are_told(step: Step, timeouts: Timeouts, words: str) -> None:
    world = World(timeouts=timeouts)
    async with ScriptedServer(Script().but(greeting=step)) as server:
        found = await check_port25(world.open, DOMAINS[:1], is_direct=True, port=server.port)
    assert kinds(found) == ["port25.refused warning"]
    assert found[0].what.endswith(f"session: {words} while receiving the initial server greeting")


async def test_without_dns_nothing_is_known() -> None:
    async def open_trial(next_hop: NextHop) -> Attempt:
        return Attempt(Reply(451, "4.4.3", f"no {next_hop.host}"), Scope.SITE)

    assert kinds(await check_port25(open_trial, DOMAINS, is_direct=True)) == ["port25.unknown info"]
    nowhere = World(addresses=())
    assert kinds(await check_port25(nowhere.open, DOMAINS, is_direct=True)) == ["port25.unknown info"]


async def test_an_address_that_does_not_work_here_leads_to_the_next() -> None:
    async with ScriptedServer(Script().but(EHLO=TWO_NAMES)) as server:
        world = World(addresses=("127.0.0.2", "127.0.0.1"))
        found = await check_port25(world.open, DOMAINS, is_direct=True, port=server.port)
    assert kinds(found) == ["port25.open ok"]


def test_addresses_of_both_versions_are_tried() -> None:
    ipv6 = [Endpoint("mx.test", f"2001:db8::{i}") for i in range(8)]
    ipv4 = [Endpoint("mx.test", f"192.0.2.{i}") for i in range(8)]
    chosen = choose_endpoints([*ipv6, *ipv4])
    assert [":" in endpoint.address for endpoint in chosen] == [False, True, False, True]
    assert list(choose_endpoints(ipv4)) == ipv4[:ADDRESSES]
