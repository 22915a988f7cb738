"""The public address, its reverse name and the EHLO name."""

from __future__ import annotations

import pytest

from relay.doctor.address import check_reverse, judge_addresses
from relay.routing.lookup import Answer, RecordType, State
from relay.routing.public_address import Seen
from tests.support.dns_server import Failure, Records
from tests.support.doctor import PUBLIC, dns, kinds

PTR = "5.113.0.203.in-addr.arpa"
Names = dict[str, Records | Failure]


@pytest.mark.parametrize(
    ("asked", "heard", "addresses", "found"),
    [
        ([], [], [], ["address.unknown warning"]),
        ([PUBLIC], [], [PUBLIC], ["address.known ok"]),
        ([], [PUBLIC], [PUBLIC], ["address.known ok"]),
        ([PUBLIC], [PUBLIC], [PUBLIC], ["address.known ok"]),
        (["198.51.100.7"], [PUBLIC], [PUBLIC], ["address.known ok", "address.differs info"]),
        ([PUBLIC, "2001:db8::5"], [], [PUBLIC, "2001:db8::5"], ["address.known ok"]),
        (["2001:db8::5"], [PUBLIC], [PUBLIC, "2001:db8::5"], ["address.known ok"]),
        (["2001:db8:0::5"], ["2001:db8::5"], ["2001:db8::5"], ["address.known ok"]),
    ],
)
def test_mail_servers_are_believed_more_than_name_servers(
    asked: list[str], heard: list[str], addresses: list[str], found: list[str]
) -> None:
    public, findings = judge_addresses(Seen(tuple(asked)), heard)
    assert (public, kinds(findings)) == (addresses, found)


def test_what_something_in_between_says_is_doubted() -> None:
    public, findings = judge_addresses(Seen(is_intercepted=True), [])
    assert (public, kinds(findings)) == ([], ["address.intercepted warning", "address.unknown warning"])
    public, findings = judge_addresses(Seen(is_intercepted=True), [PUBLIC])
    assert (public, kinds(findings)) == ([PUBLIC], ["address.intercepted warning", "address.known ok"])


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
    broken: Names = {PTR: {"PTR": ["x.example.net."]}, "x.example.net": Failure.SERVFAIL}
    assert await reverse(broken) == ["reverse.failed warning"]


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
        (
            f"[{PUBLIC}]",
            {},
            f"the EHLO name [{PUBLIC}] is an address, as no name leads to it",
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
