"""Name look-ups against a real DNS server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import pytest

from relay.mail.attempt import Attempt, Scope
from relay.mail.route import NextHop
from relay.routing import resolver as module
from relay.routing.resolver import Host, Resolver
from tests.support.dns_server import DnsServer, Failure, Records

NAMES: Mapping[str, Records | Failure] = {
    "example.test": {"MX": ["20 two.example.test.", "10 one.example.test."]},
    "one.example.test": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"]},
    "two.example.test": {"A": ["192.0.2.2"]},
    "plain.test": {"A": ["192.0.2.9"]},
    "null.test": {"MX": ["0 ."]},
    "broken.test": {"MX": ["10 nowhere.test.", "20 down.test."]},
    "gone.test": {"MX": ["10 nowhere.test."]},
    "backup.test": {"MX": ["10 nowhere.test.", "20 two.example.test."]},
    "empty.test": {"TXT": ["nothing"]},
    "down.test": Failure.SERVFAIL,
    "mute.test": Failure.SILENCE,
    "alias.test": {"CNAME": ["alias2.test."]},
    "alias2.test": {"CNAME": ["example.test."]},
    "many.test": {"MX": [f"10 mx{i}.many.test." for i in range(30)]},
    **{f"mx{i}.many.test": {"A": [f"192.0.2.{i}"]} for i in range(30)},
    "1.2.0.192.in-addr.arpa": {"PTR": ["One.Example.Test."]},
}
FOUND = (
    Host("one.example.test", 10, ("2001:db8::1", "192.0.2.1")),
    Host("two.example.test", 20, ("192.0.2.2",)),
)


def nobody(name: str, addresses: Sequence[str], port: int) -> bool:
    return False


def server_named(own: str) -> Callable[[str, Sequence[str], int], bool]:
    return lambda name, addresses, port: name == own and port == 25


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def resolver_for(server: DnsServer, **settings: object) -> Resolver:
    settings = {"is_myself": nobody, "random": Random(1), "hosts_file": Path("/nonexistent")} | settings
    return Resolver(nameservers=[server.address], **settings)  # type: ignore[arg-type]  # as given by each test


async def look_up(domain: str, names: Mapping[str, Records | Failure] = NAMES, **settings: object) -> object:
    async with DnsServer(names) as server:
        return await resolver_for(server, **settings).hosts(NextHop(domain, use_mx=True))


def failure(result: object) -> tuple[str, Scope]:
    assert isinstance(result, Attempt)
    return str(result.reply), result.scope


async def test_exchangers_come_by_preference_with_all_their_addresses_ipv6_first() -> None:
    assert await look_up("example.test") == FOUND


async def test_exchangers_of_one_preference_are_shuffled() -> None:
    names = {**NAMES, "even.test": {"MX": ["10 one.example.test.", "10 two.example.test."]}}
    async with DnsServer(names) as server:
        resolver = resolver_for(server)
        results = [await resolver.hosts(NextHop("even.test", use_mx=True)) for _ in range(20)]
    firsts = {result[0].name for result in results if not isinstance(result, Attempt)}
    assert firsts == {"one.example.test", "two.example.test"}


async def test_addresses_of_one_host_are_shuffled() -> None:
    async with DnsServer({"multi.test": {"A": ["192.0.2.1", "192.0.2.2"]}}) as server:
        resolver = resolver_for(server)
        firsts = {(await resolver.addresses("multi.test"))[0] for _ in range(20)}
    assert firsts == {"192.0.2.1", "192.0.2.2"}


async def test_a_domain_with_very_many_exchangers_is_cut_short() -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop("many.test", use_mx=True))
    assert isinstance(result, tuple)
    assert len(result) == module.MAX_EXCHANGERS
    assert sum(server.queries.values()) == 1 + 2 * module.MAX_EXCHANGERS


async def test_a_domain_without_mx_is_its_own_exchanger() -> None:
    assert await look_up("plain.test") == (Host("plain.test", 0, ("192.0.2.9",)),)


async def test_aliases_of_a_domain_are_followed() -> None:
    assert await look_up("alias.test") == FOUND


async def test_a_null_mx_is_a_permanent_failure() -> None:
    assert failure(await look_up("null.test")) == (
        "556 5.1.10 Domain null.test does not accept mail (null MX)",
        Scope.RECIPIENT,
    )


async def test_a_dot_among_other_exchangers_is_passed_over() -> None:
    names = {**NAMES, "odd.test": {"MX": ["0 .", "10 two.example.test."]}}
    assert await look_up("odd.test", names) == (Host("two.example.test", 10, ("192.0.2.2",)),)


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("nowhere.test", "Host not found"),
        ("empty.test", "Host found but no data record of requested type"),
        ("a..b", "Host not found"),
        ("", "Host not found"),
        (f"{'x' * 64}.test", "Host not found"),
        ("\udcff.test", "Host not found"),
    ],
)
async def test_a_domain_that_does_not_exist_bounces(domain: str, words: str) -> None:
    text = "Host or domain name not found. Name service error for name="
    assert failure(await look_up(domain)) == (f"550 5.4.4 {text}{domain} type=A: {words}", Scope.RECIPIENT)


@pytest.mark.parametrize("domain", ["down.test", "mute.test"])
async def test_dns_that_fails_is_a_deferral_of_the_site(domain: str) -> None:
    text = "Host or domain name not found. Name service error for name="
    assert failure(await look_up(domain, timeout=0.1)) == (
        f"451 4.4.3 {text}{domain} type=MX: Host not found, try again",
        Scope.SITE,
    )


async def test_a_host_whose_address_cannot_be_asked_for_is_a_deferral() -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop("down.test"))
    assert failure(result)[0].startswith("451 4.4.3 ")


@pytest.mark.parametrize("failure", [Failure.SERVFAIL, Failure.NXDOMAIN, Failure.SILENCE])
async def test_a_name_server_that_fails_on_ipv6_does_not_hide_the_ipv4_address(failure: Failure) -> None:
    async with DnsServer({"plain.test": {"A": ["192.0.2.9"], "AAAA": failure}}) as server:
        assert await resolver_for(server, timeout=0.1).addresses("plain.test") == ["192.0.2.9"]


async def test_ipv6_addresses_are_not_waited_for_long_and_used_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IPV6_SECONDS", 0.01)
    async with DnsServer(NAMES) as server:
        resolver = resolver_for(server)
        held = server.hold("one.example.test", "AAAA")
        assert await resolver.addresses("one.example.test") == ["192.0.2.1"]
        asked = resolver._pending["one.example.test", "AAAA"]
        held.set()
        await asked
        assert await resolver.addresses("one.example.test") == ["2001:db8::1", "192.0.2.1"]
        assert server.queries["one.example.test", "AAAA"] == 1


async def test_where_there_is_no_ipv4_address_ipv6_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IPV6_SECONDS", 0.0)
    async with DnsServer({"ipv6.test": {"AAAA": ["2001:db8::7"]}}) as server:
        held = server.hold("ipv6.test", "AAAA")
        looking = asyncio.create_task(resolver_for(server).addresses("ipv6.test"))
        await server.asked("ipv6.test")
        held.set()
        assert await looking == ["2001:db8::7"]


async def test_exchangers_whose_addresses_cannot_all_be_asked_for_are_a_deferral() -> None:
    words, scope = failure(await look_up("broken.test"))
    assert words.startswith("451 4.4.3 ")
    assert "name=down.test type=A: Host not found, try again" in words
    assert scope is Scope.SITE


async def test_exchangers_that_do_not_exist_are_a_bounce() -> None:
    words, scope = failure(await look_up("gone.test"))
    assert words.startswith("550 5.4.4 ")
    assert "name=nowhere.test type=A: Host not found" in words
    assert scope is Scope.RECIPIENT


async def test_an_exchanger_without_address_is_passed_over() -> None:
    assert await look_up("backup.test") == (Host("two.example.test", 20, ("192.0.2.2",)),)


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (
            "nowhere.test",
            "Host or domain name not found. Name service error for name=nowhere.test type=A: Host not found",
        ),
        ("null.test", "Domain null.test does not accept mail (null MX)"),
    ],
)
async def test_a_relayhost_that_cannot_be_used_is_a_deferral(domain: str, text: str) -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop(domain, use_mx=True, is_relayhost=True))
    assert failure(result) == (f"451 4.3.5 relayhost configuration problem: {text}", Scope.SITE)
    assert isinstance(result, Attempt)
    assert result.next_hop == f"{domain}:25"


@pytest.mark.parametrize("use_mx", [False, True])
@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
async def test_an_address_needs_no_dns(address: str, use_mx: bool) -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop(address, use_mx=use_mx))
    assert result == (Host(address, 0, (address,)),)
    assert not server.queries


async def test_a_host_next_hop_is_not_looked_up_by_mx() -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop("plain.test"))
    assert result == (Host("plain.test", 0, ("192.0.2.9",)),)
    assert server.queries == {("plain.test", "A"): 1, ("plain.test", "AAAA"): 1}


# The relay itself among the servers


async def test_only_exchangers_better_than_the_relay_itself_are_used() -> None:
    assert await look_up("example.test", is_myself=server_named("two.example.test")) == FOUND[:1]


async def test_mail_whose_best_exchanger_is_the_relay_itself_bounces() -> None:
    assert failure(await look_up("example.test", is_myself=server_named("one.example.test"))) == (
        "554 5.4.6 mail for example.test loops back to myself",
        Scope.RECIPIENT,
    )


async def test_a_backup_exchanger_waits_while_the_primary_cannot_be_found() -> None:
    assert failure(await look_up("backup.test", is_myself=server_named("two.example.test"))) == (
        "451 4.4.4 unable to find primary relay for backup.test",
        Scope.SITE,
    )


async def test_a_next_hop_that_is_the_relay_itself_bounces_but_on_another_port_it_is_a_server() -> None:
    async with DnsServer(NAMES) as server:
        resolver = resolver_for(server, is_myself=server_named("plain.test"))
        looping = await resolver.hosts(NextHop("plain.test"))
        other = await resolver.hosts(NextHop("plain.test", 2525))
    assert failure(looping)[0] == "554 5.4.6 mail for plain.test loops back to myself"
    assert other == (Host("plain.test", 0, ("192.0.2.9",)),)


# /etc/hosts, resolv.conf


async def test_a_mailbox_server_may_be_on_this_machine() -> None:
    next_hop = NextHop("plain.test", 24, is_lmtp=True)
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server, is_myself=lambda *_: True).hosts(next_hop)
    assert result == (Host("plain.test", 0, ("192.0.2.9",)),)


async def test_a_socket_is_its_own_address() -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop("/run/lmtp", 0, is_lmtp=True))
    assert result == (Host("/run/lmtp", 0, ("/run/lmtp",)),)
    assert not server.queries


async def test_mail_waits_for_a_mailbox_server_that_is_not_found() -> None:
    async with DnsServer(NAMES) as server:
        result = await resolver_for(server).hosts(NextHop("nowhere.test", 24, is_lmtp=True))
    text, scope = failure(result)
    assert text.startswith("451 4.3.5 lmtp configuration problem: Host or domain name not found.")
    assert scope is Scope.SITE


async def test_the_hosts_file_comes_before_dns(tmp_path: Path) -> None:
    hosts_file = tmp_path / "hosts"
    hosts_file.write_text("192.168.1.5 nas.lan NAS # the cupboard\n192.168.1.6 plain.test\n")
    async with DnsServer(NAMES) as server:
        resolver = resolver_for(server, hosts_file=hosts_file)
        assert await resolver.hosts(NextHop("nas")) == (Host("nas", 0, ("192.168.1.5",)),)
        assert await resolver.addresses("plain.test") == ["192.168.1.6"]
        assert await resolver.ptr("192.168.1.5") == ["nas.lan", "NAS"]
    assert not server.queries


async def test_without_a_name_server_mail_waits_and_says_what_to_do(tmp_path: Path) -> None:
    resolver = Resolver(nobody, resolv_conf=tmp_path / "resolv.conf", hosts_file=tmp_path / "hosts")
    reply, scope = failure(await resolver.hosts(NextHop("example.test", use_mx=True)))
    assert reply.endswith("no name server is known; set nameservers under [dns], or mend /etc/resolv.conf")
    assert scope is Scope.SITE


async def test_a_resolv_conf_that_changes_is_read_again(tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolver = Resolver(nobody, resolv_conf=resolv_conf, hosts_file=tmp_path / "hosts", timeout=0.1)
    assert "no name server" in failure(await resolver.hosts(NextHop("nas")))[0]
    resolv_conf.write_text("nameserver 127.0.0.1\nsearch lan.test\noptions timeout:1\n")
    assert "no name server" not in failure(await resolver.hosts(NextHop("nas")))[0]


async def test_a_resolv_conf_that_makes_no_sense_is_a_deferral(tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver not-an-address\n")
    resolver = Resolver(nobody, resolv_conf=resolv_conf, hosts_file=tmp_path / "hosts")
    assert failure(await resolver.hosts(NextHop("example.test")))[0].startswith("451 4.4.3")


# The cache


async def test_answers_are_kept_as_long_as_the_shortest_ttl_of_the_chain() -> None:
    clock = Clock()
    names = {"alias.test": {"CNAME": ["plain.test."]}, "plain.test": {"A": ["192.0.2.9"]}}
    async with DnsServer(names, ttl=300) as server:
        server.ttls["alias.test"] = 20
        resolver = resolver_for(server, clock=clock)
        await resolver.addresses("alias.test")
        clock.now += 19
        await resolver.addresses("alias.test")
        assert server.queries["alias.test", "A"] == 1
        clock.now += 1
        assert await resolver.addresses("alias.test") == ["192.0.2.9"]
        assert server.queries["alias.test", "A"] == 2


@pytest.mark.parametrize("name", ["nowhere.test", "empty.test"])
async def test_what_does_not_exist_is_remembered_as_well(name: str) -> None:
    clock = Clock()
    async with DnsServer(NAMES, negative_ttl=30) as server:
        resolver = resolver_for(server, clock=clock)
        for _ in range(2):
            assert await resolver.addresses(name) == []
        assert server.queries[name, "A"] == 1
        clock.now += 30
        assert await resolver.addresses(name) == []
        assert server.queries[name, "A"] == 2


async def test_a_negative_answer_without_soa_is_not_kept_for_ever() -> None:
    clock = Clock()
    async with DnsServer({}, negative_ttl=None) as server:
        resolver = resolver_for(server, clock=clock)
        await resolver.addresses("nowhere.test")
        clock.now += module.MAX_TTL
        await resolver.addresses("nowhere.test")
    assert server.queries["nowhere.test", "A"] == 2


async def test_failures_are_asked_for_again() -> None:
    async with DnsServer({"name.test": Failure.SERVFAIL}) as server:
        resolver = resolver_for(server)
        assert await resolver.addresses("name.test") == []
        server.names["name.test"] = {"A": ["192.0.2.3"]}
        assert await resolver.addresses("name.test") == ["192.0.2.3"]


async def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 2)
    async with DnsServer(NAMES) as server:
        resolver = resolver_for(server)
        for name in ("plain.test", "two.example.test", "plain.test"):
            await resolver.addresses(name)
    assert server.queries["plain.test", "A"] == 2


async def test_the_same_question_asked_at_once_is_one_query() -> None:
    async with DnsServer(NAMES) as server:
        resolver = resolver_for(server)
        held = server.hold("plain.test")
        waiting = [asyncio.create_task(resolver.addresses("plain.test")) for _ in range(5)]
        await server.asked("plain.test")
        waiting[0].cancel()
        held.set()
        assert await asyncio.gather(*waiting[1:]) == [["192.0.2.9"]] * 4
    assert server.queries["plain.test", "A"] == 1
    assert waiting[0].cancelled()


async def test_an_answer_too_long_for_udp_is_fetched_over_tcp() -> None:
    async with DnsServer(NAMES) as server:
        server.truncated.add("many.test")
        result = await resolver_for(server).hosts(NextHop("many.test", use_mx=True))
    assert isinstance(result, tuple)
    assert server.tcp_queries == 1


# Reverse names


async def test_reverse_names() -> None:
    async with DnsServer(NAMES) as server:
        resolver = resolver_for(server)
        assert await resolver.ptr("192.0.2.1") == ["One.Example.Test"]
        assert await resolver.ptr("192.0.2.200") == []
        assert await resolver.ptr("not an address") == []
        assert await resolver.ptr("2001:db8::1") == []


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.test", True),
        ("Plain.TEST", True),
        ("alias.test", True),
        ("ipv6.test", True),
        ("null.test", True),
        ("nowhere.test", False),
        ("empty.test", False),
        ("x..test", False),
        ("down.test", None),
        ("half.test", None),
    ],
)
async def test_a_domain_exists_that_has_servers_for_its_mail(domain: str, expected: bool | None) -> None:
    names = {
        **NAMES,
        "ipv6.test": {"AAAA": ["2001:db8::7"]},
        "half.test": {"A": Failure.SERVFAIL},
    }
    async with DnsServer(names) as server:
        assert await resolver_for(server).exists(domain) is expected


async def test_what_this_machine_alone_knows_does_not_exist(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("192.0.2.7 gw1.lan gw1\n")
    (tmp_path / "resolv.conf").write_text("search test\n")
    async with DnsServer({**NAMES, "gw1.test": {"A": ["192.0.2.7"]}}) as server:
        resolver = resolver_for(server, hosts_file=tmp_path / "hosts", resolv_conf=tmp_path / "resolv.conf")
        assert await resolver.exists("gw1.lan") is False
        assert await resolver.exists("gw1") is False
        assert server.queries["gw1.test", "MX"] == 0


@pytest.mark.needs_root  # for port 53: resolv.conf can't name another
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({}, False),
        ({"": {"NS": ["a.root-servers.net."]}}, True),
        ({"dest.test": {"MX": ["10 mx.dest.test."]}}, True),
        ({"": {"NS": Failure.SERVFAIL}}, False),
    ],
)
async def test_a_machine_that_is_told_that_nothing_exists_knows_nothing_of_the_world(
    tmp_path: Path, names: Mapping[str, Records | Failure], expected: bool
) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.9.53\n")
    async with DnsServer(names, at=("127.0.9.53", 53)) as server:
        resolver = Resolver(nobody, hosts_file=tmp_path / "hosts", resolv_conf=tmp_path / "resolv.conf")
        assert await resolver.exists("fre.test") is False
        assert await resolver.knows_the_world("dest.test") is expected
        assert await resolver_for(server).knows_the_world("dest.test")  # these are the owner's


async def test_that_a_domain_exists_is_asked_once_in_its_ttl() -> None:
    async with DnsServer(NAMES) as server:
        clock = Clock()
        resolver = resolver_for(server, clock=clock)
        for _ in range(3):
            assert await resolver.exists("plain.test")
            assert await resolver.exists("nowhere.test") is False
        assert server.queries["plain.test", "A"] == server.queries["nowhere.test", "AAAA"] == 1
        clock.now += 61
        assert await resolver.exists("plain.test")
        assert server.queries["plain.test", "A"] == 2


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [("ipv6", ("2001:db8::1", "192.0.2.1")), ("ipv4", ("192.0.2.1", "2001:db8::1"))],
)
@pytest.mark.parametrize("is_listed", [False, True])
async def test_the_preferred_family_comes_first(
    tmp_path: Path, prefer: str, expected: tuple[str, ...], is_listed: bool
) -> None:
    (tmp_path / "hosts").write_text("192.0.2.1 one.example.test\n2001:db8::1 one.example.test\n")
    options = {"hosts_file": tmp_path / "hosts"} if is_listed else {}
    async with DnsServer(NAMES) as server:
        found = await resolver_for(server, prefer=prefer, **options).hosts(NextHop("one.example.test"))
    assert not isinstance(found, Attempt)
    assert found[0].addresses == expected
