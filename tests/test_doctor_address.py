"""The public address, its reverse name and the EHLO name."""

from __future__ import annotations

import pytest

from relay.doctor.address import NOBODY, ask_mirrors, check_reverse, judge_addresses, parse_echo
from relay.doctor.lookup import Answer, Ask, RecordType, State
from tests.support.dns_server import Failure, Records
from tests.support.doctor import PUBLIC, dns, kinds

PTR = "5.113.0.203.in-addr.arpa"
Names = dict[str, Records | Failure]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mx.google.com at your service, [203.0.113.5]\nSIZE 1", PUBLIC),
        ("mail.example Hello gw1.example.net [203.0.113.5]", PUBLIC),
        ("mail.example Hello host (203.0.113.5), pleased to meet you", PUBLIC),
        ("mail.example Hello 203.0.113.5", PUBLIC),
        ("mail.example Hello [IPv6:2001:db8::5]", "2001:db8::5"),
        ("mail.example Hello [198.51.100.1] [203.0.113.5]", PUBLIC),
        ("mail.example Hello gw [192.168.0.9]", ""),
        ("mail.example Hello gw [100.64.3.4]", ""),
        ("mail.example Hello gw [::1]", ""),
        ("mail.example", ""),
        ("mail.example [999.1.1.1] [:::]", ""),
        ("", ""),
        ("mail.example\nHello [203.0.113.5]", ""),
    ],
)
def test_an_ehlo_reply_may_show_our_address(text: str, address: str) -> None:
    assert parse_echo(text) == address


@pytest.mark.parametrize(
    ("asked", "heard", "addresses", "found"),
    [
        ([], [], [], ["address.unknown warning"]),
        ([PUBLIC], [], [PUBLIC], ["address.known ok"]),
        ([], [PUBLIC], [PUBLIC], ["address.known ok"]),
        ([PUBLIC], [PUBLIC], [PUBLIC], ["address.known ok"]),
        (["198.51.100.7"], [PUBLIC], [PUBLIC], ["address.known ok", "address.differs info"]),
        ([PUBLIC, "2001:db8::5"], [], [PUBLIC, "2001:db8::5"], ["address.known ok"]),
        (["2001:db8:0::5"], ["2001:db8::5"], ["2001:db8::5"], ["address.known ok"]),
    ],
)
def test_mail_servers_are_believed_more_than_name_servers(
    asked: list[str], heard: list[str], addresses: list[str], found: list[str]
) -> None:
    public, findings = judge_addresses(asked, heard)
    assert (public, kinds(findings)) == (addresses, found)


async def ask_everybody(mirrors: Names, seen: Names, *, is_intercepted: bool = False) -> list[str]:
    """Return the addresses, and the kinds of findings, where two name servers tell who asks."""
    async with dns(mirrors) as ask, dns(seen) as at_mirror, dns(SILENT, timeout=0.1) as at_nobody:

        def ask_at(server: str) -> Ask:
            assert server in {"192.0.2.53", "2001:db8::53", NOBODY}
            return at_nobody if server == NOBODY and not is_intercepted else at_mirror

        addresses, findings = await ask_mirrors(ask, ask_at)
    return [*addresses, *kinds(findings)]


SILENT: Names = {"myip.opendns.com": Failure.SILENCE}
MIRROR: Names = {"resolver1.opendns.com": {"A": ["192.0.2.53"], "AAAA": ["2001:db8::53"]}}
SEEN: Names = {"myip.opendns.com": {"A": [PUBLIC], "AAAA": ["2001:db8::5"]}}


async def test_name_servers_tell_who_asks() -> None:
    assert await ask_everybody(MIRROR, SEEN) == [PUBLIC, "2001:db8::5"]


async def test_one_who_answers_for_everybody_is_not_believed() -> None:
    assert await ask_everybody(MIRROR, SEEN, is_intercepted=True) == ["address.intercepted warning"]


async def test_another_one_is_asked_where_the_first_fails() -> None:
    mirrors: Names = {
        "resolver1.opendns.com": {"A": ["192.0.2.53"]},
        "ns1.google.com": {"A": ["192.0.2.53"]},
    }
    seen: Names = {
        "myip.opendns.com": Failure.SERVFAIL,
        "o-o.myaddr.l.google.com": {"TXT": [f'"{PUBLIC}"']},
    }
    assert await ask_everybody(mirrors, seen) == [PUBLIC]


@pytest.mark.parametrize("answer", ["192.168.0.9", "127.0.0.1"])
async def test_an_address_of_the_house_is_not_believed(answer: str) -> None:
    mirrors: Names = {"resolver1.opendns.com": {"A": ["192.0.2.53"]}}
    assert await ask_everybody(mirrors, {"myip.opendns.com": {"A": [answer]}}) == []


async def test_nobody_to_ask_is_no_answer() -> None:
    assert await ask_everybody({}, {}) == []


async def reverse(names: Names, helo: str = "gw1.example.net", *, is_direct: bool = True) -> list[str]:
    async with dns(names) as ask:
        return kinds(await check_reverse(PUBLIC, helo, ask, is_direct=is_direct))


GOOD: Names = {PTR: {"PTR": ["gw1.example.net."]}, "gw1.example.net": {"A": [PUBLIC]}}


async def test_a_name_that_leads_back_and_is_our_ehlo_name_is_fine() -> None:
    assert await reverse(GOOD) == ["reverse.confirmed ok", "helo.fits ok"]
    assert await reverse(GOOD, "GW1.example.net") == ["reverse.confirmed ok", "helo.fits ok"]


async def test_another_ehlo_name_that_leads_to_the_address_is_fine() -> None:
    names = {**GOOD, "mail.example.net": {"A": [PUBLIC]}}
    assert await reverse(names, "mail.example.net") == ["reverse.confirmed ok", "helo.fits ok"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({}, "reverse.none problem"),
        ({PTR: {"PTR": ["x.example.net."]}}, "reverse.unconfirmed problem"),
        (
            {PTR: {"PTR": ["x.example.net."]}, "x.example.net": {"A": ["198.51.100.1"]}},
            "reverse.unconfirmed problem",
        ),
        (
            {PTR: {"PTR": ["5-113-0-203.adsl.example."]}, "5-113-0-203.adsl.example": {"A": [PUBLIC]}},
            "reverse.generic warning",
        ),
    ],
)
async def test_what_is_wrong_with_a_reverse_name(names: Names, found: str) -> None:
    assert (await reverse({**names, "gw1.example.net": {"A": [PUBLIC]}}))[0] == found
    mild = f"{found.split(maxsplit=1)[0]} info"
    assert (await reverse({**names, "gw1.example.net": {"A": [PUBLIC]}}, is_direct=False))[0] == mild


async def test_a_look_up_that_fails_is_told() -> None:
    assert await reverse({PTR: Failure.SERVFAIL}) == ["reverse.failed warning"]


@pytest.mark.parametrize(
    ("helo", "names", "what", "remedy"),
    [
        (
            "other.example.net",
            {**GOOD, "other.example.net": {"A": ["198.51.100.1"]}},
            f"the EHLO name other.example.net does not lead to {PUBLIC}",
            'Set helo_name in relay.toml to "gw1.example.net".',
        ),
        (
            "gw1.local",
            {},
            "the EHLO name gw1.local does not exist in DNS",
            f"Set helo_name in relay.toml to a name that leads to {PUBLIC}.",
        ),
    ],
)
async def test_an_ehlo_name_that_does_not_fit(helo: str, names: Names, what: str, remedy: str) -> None:
    async with dns(names) as ask:
        finding = (await check_reverse(PUBLIC, helo, ask, is_direct=True))[-1]
    assert (finding.name, finding.severity) == ("helo.wrong", "warning")
    assert (finding.what, finding.remedy) == (what, remedy)


async def test_an_ipv6_address_is_no_household_name() -> None:
    async def ask(name: str, record_type: RecordType) -> Answer:
        records = {"PTR": ("v6.example.net",), "AAAA": ("2001:db8::5",)}.get(record_type, ())
        return Answer(State.FOUND, records)

    found = kinds(await check_reverse("2001:db8::5", "v6.example.net", ask, is_direct=True))
    assert found == ["reverse.confirmed ok", "helo.fits ok"]
