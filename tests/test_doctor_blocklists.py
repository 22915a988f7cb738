"""Blocklists: listed, clean, a household's address, and lists that do not tell."""

from __future__ import annotations

import pytest

from relay.doctor.blocklists import BLOCKLISTS, Blocklist, check_blocklist
from relay.doctor.finding import Finding
from tests.support.dns_server import Failure, Records
from tests.support.doctor import PUBLIC, dns, kinds

ZEN = BLOCKLISTS[0]
OTHER = Blocklist("List", "list.test", "https://list.test/")
TEST = {f"2.0.0.127.{each.zone}": {"A": ["127.0.0.2"]} for each in (ZEN, OTHER)}
Names = dict[str, Records | Failure]


async def check(
    names: Names, blocklist: Blocklist = ZEN, address: str = PUBLIC, *, is_direct: bool = True
) -> Finding:
    async with dns({**TEST, **names}) as ask:
        (finding,) = await check_blocklist(blocklist, address, ask, is_direct=is_direct)
    return finding


def listed(*codes: str, zone: str = ZEN.zone) -> Names:
    return {f"5.113.0.203.{zone}": {"A": codes}}


async def test_an_address_that_is_not_there_is_clean() -> None:
    assert kinds([await check({})]) == ["blocklist.clean ok"]


@pytest.mark.parametrize("codes", [["127.0.0.2"], ["127.0.0.4", "127.0.0.10"], ["127.0.0.9"]])
async def test_a_listed_address_is_a_problem_where_mail_goes_directly(codes: list[str]) -> None:
    finding = await check(listed(*codes))
    assert kinds([finding]) == ["blocklist.listed problem"]
    assert finding.what == f"Spamhaus lists {PUBLIC} ({', '.join(codes)})"
    assert kinds([await check(listed(*codes), is_direct=False)]) == ["blocklist.listed info"]


@pytest.mark.parametrize("code", ["127.0.0.10", "127.0.0.11"])
async def test_the_address_of_a_household_is_told_apart(code: str) -> None:
    assert kinds([await check(listed(code))]) == ["blocklist.home problem"]
    assert kinds([await check(listed(code), is_direct=False)]) == ["blocklist.home info"]


async def test_the_codes_of_one_list_mean_nothing_at_another() -> None:
    finding = await check(listed("127.0.0.10", zone=OTHER.zone), OTHER)
    assert kinds([finding]) == ["blocklist.listed problem"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("127.255.255.252", "it takes the question for mistyped"),
        ("127.255.255.254", "it answers no public or nameless name servers, and this relay asks one"),
        ("127.255.255.255", "it was asked too often by this name server"),
        ("127.255.255.250", "it refuses to answer (127.255.255.250)"),
        ("198.51.100.80", "what comes back, 198.51.100.80, is none of its answers"),
    ],
)
async def test_a_refusal_to_answer_is_no_listing(code: str, reason: str) -> None:
    everything = {f"{name}.{ZEN.zone}": {"A": [code]} for name in ("2.0.0.127", "1.0.0.127", "5.113.0.203")}
    finding = await check({**everything})
    assert kinds([finding]) == ["blocklist.unusable info"]
    assert finding.what == f"Spamhaus does not tell: {reason}"


async def test_a_list_without_its_test_entry_does_not_answer_us() -> None:
    finding = await check({f"2.0.0.127.{ZEN.zone}": Failure.NXDOMAIN})
    assert finding.what == "Spamhaus does not tell: it does not list 127.0.0.2, as every list does"


async def test_a_list_that_lists_everything_is_not_believed() -> None:
    finding = await check({f"1.0.0.127.{ZEN.zone}": {"A": ["127.0.0.2"]}, **listed("127.0.0.2")})
    assert finding.what == "Spamhaus does not tell: it lists 127.0.0.1, as no list does"


async def test_a_list_that_fails_does_not_tell() -> None:
    finding = await check({f"5.113.0.203.{ZEN.zone}": Failure.SERVFAIL})
    assert finding.what == "Spamhaus does not tell: the name server answers with an error"


async def test_ipv6_addresses_are_asked_for_by_nibbles() -> None:
    nibbles = ".".join(reversed("20010db8000000000000000000000005"))
    names: Names = {f"{nibbles}.{ZEN.zone}": {"A": ["127.0.0.3"]}}
    assert kinds([await check(names, address="2001:db8::5")]) == ["blocklist.listed problem"]
