"""Whether DNS works and is honest."""

from __future__ import annotations

import pytest

from relay.doctor.nameservers import KNOWN_DOMAINS, check_honesty, check_works
from tests.support.dns_server import Failure, Records
from tests.support.doctor import dns, kinds

KNOWN: dict[str, Records | Failure] = {name: {"MX": [f"10 mx.{name}."]} for name in KNOWN_DOMAINS}


async def test_a_name_server_that_knows_the_large_domains_works() -> None:
    async with dns(KNOWN) as ask:
        assert kinds(await check_works(ask)) == ["dns.works ok"]


async def test_one_that_knows_none_is_dead() -> None:
    async with dns(dict.fromkeys(KNOWN_DOMAINS, Failure.SERVFAIL)) as ask:
        (finding,) = await check_works(ask)
    assert kinds([finding]) == ["dns.dead problem"]
    assert finding.what.endswith("orange.fr: the name server answers with an error")


async def test_one_that_is_silent_is_dead() -> None:
    async with dns(dict.fromkeys(KNOWN_DOMAINS, Failure.SILENCE), timeout=0.1) as ask:
        assert kinds(await check_works(ask)) == ["dns.dead problem"]


async def test_one_that_knows_some_is_told_which_not() -> None:
    async with dns({**KNOWN, "gmx.net": Failure.NXDOMAIN}) as ask:
        (finding,) = await check_works(ask)
    assert kinds([finding]) == ["dns.partial warning"]
    assert "of gmx.net: no such name" in finding.what


async def test_made_up_names_that_do_not_exist_are_honest() -> None:
    async with dns({}) as ask:
        assert kinds(await check_honesty(ask, "x1")) == ["dns.honest ok"]


@pytest.mark.parametrize("name", ["relay-doctor-x1.com", "relay-doctor-x1.invalid"])
async def test_an_address_for_a_made_up_name_is_a_lie(name: str) -> None:
    async with dns({name: {"A": ["198.51.100.80"]}}) as ask:
        (finding,) = await check_honesty(ask, "x1")
    assert kinds([finding]) == ["dns.lies problem"]
    assert finding.what == (f"the name server gives 198.51.100.80 for {name}, a name that does not exist")


async def test_no_answer_says_nothing_about_honesty() -> None:
    names = dict.fromkeys(("relay-doctor-x1.com", "relay-doctor-x1.invalid"), Failure.SERVFAIL)
    async with dns(names) as ask:
        assert await check_honesty(ask, "x1") == []
