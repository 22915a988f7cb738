"""The public address as name servers see it, and its names, asked of a real DNS server."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.routing.lookup import Ask
from relay.routing.public_address import NOBODY, Reverse, Seen, ask_at, ask_mirrors, find_reverse
from tests.support.dns_server import Failure, Records
from tests.support.doctor import PUBLIC, dns

Names = dict[str, Records | Failure]
PTR = "5.113.0.203.in-addr.arpa"
SILENT: Names = {"myip.opendns.com": Failure.SILENCE}
MIRROR: Names = {"resolver1.opendns.com": {"A": ["192.0.2.53"], "AAAA": ["2001:db8::53"]}}
SEEN: Names = {"myip.opendns.com": {"A": [PUBLIC], "AAAA": ["2001:db8::5"]}}


async def ask_everybody(mirrors: Names, seen: Names, *, is_intercepted: bool = False) -> Seen:
    """Return what is seen where two name servers tell who asks."""
    async with dns(mirrors) as ask, dns(seen) as at_mirror, dns(SILENT, timeout=0.1) as at_nobody:

        def ask_at(server: str) -> Ask:
            assert server in {"192.0.2.53", "2001:db8::53", NOBODY}
            return at_nobody if server == NOBODY and not is_intercepted else at_mirror

        return await ask_mirrors(ask, ask_at)


async def test_name_servers_tell_who_asks() -> None:
    assert await ask_everybody(MIRROR, SEEN) == Seen((PUBLIC, "2001:db8::5"))


async def test_one_who_answers_for_everybody_is_not_believed() -> None:
    assert await ask_everybody(MIRROR, SEEN, is_intercepted=True) == Seen(is_intercepted=True)


async def test_another_one_is_asked_where_the_first_fails() -> None:
    mirrors: Names = {
        "resolver1.opendns.com": {"A": ["192.0.2.53"]},
        "ns1.google.com": {"A": ["192.0.2.53"]},
    }
    seen: Names = {
        "myip.opendns.com": Failure.SERVFAIL,
        "o-o.myaddr.l.google.com": {"TXT": [f'"{PUBLIC}"']},
    }
    assert await ask_everybody(mirrors, seen) == Seen((PUBLIC,))


@pytest.mark.parametrize("answer", ["192.168.0.9", "127.0.0.1", "100.64.3.4", "0.0.0.0", "255.255.255.255"])
async def test_an_address_of_the_house_is_not_believed(answer: str) -> None:
    mirrors: Names = {"resolver1.opendns.com": {"A": ["192.0.2.53"]}}
    assert await ask_everybody(mirrors, {"myip.opendns.com": {"A": [answer]}}) == Seen()


async def test_nobody_to_ask_is_no_answer() -> None:
    assert await ask_everybody({}, {}) == Seen()
    assert callable(ask_at("192.0.2.53"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ({}, Reverse()),
        ({PTR: Failure.SERVFAIL}, Reverse(failure="the name server answers with an error")),
        ({PTR: {"PTR": ["a.example."]}}, Reverse(("a.example",))),
        (
            {PTR: {"PTR": ["a.example.", "b.example."]}, "b.example": {"A": ["198.51.100.1", PUBLIC]}},
            Reverse(("a.example", "b.example"), ("b.example",)),
        ),
        (
            {PTR: {"PTR": ["a.example."]}, "a.example": Failure.SERVFAIL},
            Reverse(("a.example",), failure="the name server answers with an error"),
        ),
    ],
)
async def test_a_reverse_name_counts_if_it_leads_back(names: Names, found: Reverse) -> None:
    async with dns(names) as ask:
        reverse = await find_reverse(PUBLIC, ask)
    assert replace(reverse, names=tuple(sorted(reverse.names))) == found  # they come in any order


async def test_an_ipv6_address_has_names_too() -> None:
    names: Names = {
        f"5.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ["v6.example."]},
        "v6.example": {"AAAA": ["2001:db8:0::5"]},
    }
    async with dns(names) as ask:
        assert await find_reverse("2001:db8::5", ask) == Reverse(("v6.example",), ("v6.example",))
