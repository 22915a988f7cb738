"""The domains that mail comes from: there or not, and allowed by SPF or not."""

from __future__ import annotations

import pytest

from relay.config.model import Config
from relay.doctor.finding import Finding
from relay.doctor.senders import check_domain, check_sender, check_spf
from relay.doctor.ways import hop_of
from tests.support.dns_server import Failure, Records
from tests.support.doctor import PUBLIC, config, dns, kinds

SENDER = "chris@house.test"
Names = dict[str, Records | Failure]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ({"MX": ["10 mx.house.test."]}, "sender.exists ok"),
        ({"A": [PUBLIC]}, "sender.exists ok"),
        ({"AAAA": ["2001:db8::5"]}, "sender.exists ok"),
        ({"MX": ["0 ."]}, "sender.no_mail warning"),
        ({"TXT": ['"hello"']}, "sender.no_mail warning"),
        (Failure.NXDOMAIN, "sender.missing problem"),
        (Failure.SERVFAIL, "sender.unknown warning"),
    ],
)
async def test_a_domain_exists_and_takes_mail_or_not(records: Records | Failure, found: str) -> None:
    async with dns({"house.test": records}) as ask:
        assert kinds(await check_domain("house.test", SENDER, ask)) == [found]


async def test_a_made_up_domain_is_told_with_the_line_to_write() -> None:
    async with dns({}) as ask:
        (finding,) = await check_domain("gw1.local", "root@gw1.local", ask)
    assert (
        finding.what
        == "mail may leave as root@gw1.local, and the domain gw1.local does not exist on the internet"
    )
    assert '"@gw1.local" = ' in finding.remedy


async def test_of_a_domain_that_does_not_exist_no_more_is_said() -> None:
    house = config()
    async with dns(spf(f"v=spf1 ip4:{PUBLIC} -all")) as ask:
        found = await check_sender("root@gw1.local", None, [PUBLIC], house, ask)
        assert kinds(found) == ["sender.missing problem"]
        found = await check_sender(SENDER, None, [PUBLIC], house, ask)
        assert kinds(found) == ["sender.no_mail warning", "spf.pass ok"]


def spf(record: str) -> Names:
    return {"house.test": {"TXT": [f'"{record}"']}}


async def judge(names: Names, house: Config, addresses: tuple[str, ...] = (PUBLIC,)) -> list[Finding]:
    async with dns(names) as ask:
        return await check_spf(SENDER, hop_of(house, SENDER), addresses, house, ask)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (f"v=spf1 ip4:{PUBLIC} -all", "spf.pass ok"),
        ("v=spf1 mx -all", "spf.fail problem"),
        ("v=spf1 ~all", "spf.softfail warning"),
        ("v=spf1 ?all", "spf.neutral info"),
        ("v=spf1 nonsense", "spf.broken problem"),
        ("v=spf1 include:dead.test -all", "spf.unknown warning"),
        ("something else", "spf.none warning"),
    ],
)
async def test_direct_mail_is_judged_by_our_address(record: str, found: str) -> None:
    names = {**spf(record), "dead.test": Failure.SERVFAIL}
    assert kinds(await judge(names, config())) == [found]


async def test_what_is_forbidden_is_quoted_with_what_to_add() -> None:
    (finding,) = await judge(spf("v=spf1 mx -all"), config())
    assert finding.what == f"SPF of house.test forbids mail from this relay ({PUBLIC}): v=spf1 mx -all"
    assert finding.remedy.startswith(f"Add ip4:{PUBLIC} to the SPF record of house.test if it is yours")


async def test_each_public_address_is_judged() -> None:
    found = await judge(spf(f"v=spf1 ip4:{PUBLIC} -all"), config(), (PUBLIC, "2001:db8::5"))
    assert kinds(found) == ["spf.pass ok", "spf.fail problem"]
    assert "Add ip6:2001:db8::5" in found[1].remedy


async def test_without_a_public_address_nothing_is_said() -> None:
    assert await judge(spf("v=spf1 -all"), config(), ()) == []


def smarthost(username: str) -> Config:
    return config(
        f'relayhost = "isp"\n[smarthost.isp]\nhost = "smtp.isp.test"\nusername = "{username}"\npassword = "x"'
    )


async def test_the_accounts_own_domain_is_the_providers_business() -> None:
    assert kinds(await judge(spf("v=spf1 -all"), smarthost("other@House.test"))) == ["spf.account ok"]


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ("v=spf1 include:spf.isp.test -all", "spf.pass ok"),
        ("v=spf1 ip4:192.0.2.9 -all", "spf.unsure info"),
        ("v=spf1 mx ~all", "spf.unsure info"),
        ("v=spf1 nonsense", "spf.broken problem"),
        ("something else", "spf.none warning"),
    ],
)
async def test_over_a_smarthost_only_what_is_sure_is_said(record: str, found: str) -> None:
    names: Names = {
        **spf(record),
        "spf.isp.test": {"TXT": ['"v=spf1 ip4:198.51.100.0/24 -all"']},
        "smtp.isp.test": {"A": ["198.51.100.1", "198.51.100.2"]},
    }
    assert kinds(await judge(names, smarthost("chris@isp.test"))) == [found]


async def test_a_smarthost_that_is_not_found_leaves_the_record_to_be_judged() -> None:
    assert kinds(await judge(spf("v=spf1 -all"), smarthost("chris"))) == ["spf.unsure info"]
