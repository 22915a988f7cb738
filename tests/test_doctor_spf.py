"""SPF: results, errors, limits and macros (RFC 7208, whose appendix A is the world of most tests)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.doctor.spf import Result, check_host
from relay.routing.lookup import Answer, Ask, RecordType, State

ZONE: dict[tuple[str, str], tuple[str, ...]] = {
    ("example.com", "MX"): ("mail-a.example.com", "mail-b.example.com"),
    ("example.com", "A"): ("192.0.2.10", "192.0.2.11"),
    ("example.com", "AAAA"): ("2001:db8::10",),
    ("amy.example.com", "A"): ("192.0.2.65",),
    ("bob.example.com", "A"): ("192.0.2.66",),
    ("mail-a.example.com", "A"): ("192.0.2.129",),
    ("mail-b.example.com", "A"): ("192.0.2.130",),
    ("mail-c.example.org", "A"): ("192.0.2.140",),
    ("example.org", "MX"): ("mail-c.example.org",),
    ("10.2.0.192.in-addr.arpa", "PTR"): ("example.com",),
    ("65.2.0.192.in-addr.arpa", "PTR"): ("amy.example.com",),
    ("140.2.0.192.in-addr.arpa", "PTR"): ("mail-c.example.org",),
    ("4.0.0.10.in-addr.arpa", "PTR"): ("bob.example.com",),
    ("all.example.org", "TXT"): ("v=spf1 +all",),
    ("nothing.example.org", "TXT"): ("v=spf1",),
    ("broken.example.org", "TXT"): ("v=spf1 nonsense",),
    ("other.example.org", "TXT"): ("hello", "v=spf10 -all"),
    ("twice.example.org", "TXT"): ("v=spf1 -all", "V=SPF1 +all"),
    ("loop.example.org", "TXT"): ("v=spf1 include:loop.example.org",),
    ("null.example.org", "MX"): (".",),
    ("many.example.org", "MX"): tuple(f"mx{i}.example.org" for i in range(11)),
}
NAMES = {name for name, _ in ZONE}


def world(record: str) -> Ask:
    """Return what answers from the zone, in which example.com has this record."""
    zone = {**ZONE, ("example.com", "TXT"): (record,)}

    async def ask(name: str, record_type: RecordType) -> Answer:
        if name.startswith("dead"):
            return Answer(State.FAILED, reason="the name server does not answer in time")
        records = zone.get((name.lower(), record_type), ())
        state = State.FOUND if records else State.NO_DATA if name.lower() in NAMES else State.NO_NAME
        return Answer(state, records)

    return ask


async def check(
    record: str,
    address: str = "203.0.113.5",
    sender: str = "joe@example.com",
    domain: str = "example.com",
) -> tuple[Result, str]:
    verdict = await check_host(world(record), address, domain, sender, "helo.example.net")
    return verdict.result, verdict.reason


# Appendix A.1 to A.3


@pytest.mark.parametrize(
    ("record", "passing", "failing"),
    [
        ("v=spf1 +all", ["203.0.113.5", "2001:db8::1"], []),
        ("v=spf1 a -all", ["192.0.2.10", "192.0.2.11", "2001:db8::10"], ["192.0.2.65"]),
        ("v=spf1 a:example.org -all", [], ["192.0.2.10", "192.0.2.140"]),
        ("v=spf1 mx -all", ["192.0.2.129", "192.0.2.130"], ["192.0.2.10", "2001:db8::10"]),
        ("v=spf1 mx:example.org -all", ["192.0.2.140"], ["192.0.2.129"]),
        ("v=spf1 mx mx:example.org -all", ["192.0.2.129", "192.0.2.140"], ["192.0.2.65"]),
        ("v=spf1 mx/30 mx:example.org/30 -all", ["192.0.2.131", "192.0.2.143"], ["192.0.2.132"]),
        ("v=spf1 ptr -all", ["192.0.2.10", "192.0.2.65"], ["192.0.2.140", "10.0.0.4", "2001:db8::10"]),
        ("v=spf1 ptr:example.org -all", ["192.0.2.140"], ["192.0.2.65"]),
        ("v=spf1 ip4:192.0.2.128/28 -all", ["192.0.2.129", "::ffff:192.0.2.130"], ["192.0.2.65"]),
        ("v=spf1 ip6:2001:db8::/32 -all", ["2001:db8::1"], ["192.0.2.1", "2001:db9::1"]),
        ("v=spf1 a//32 -all", ["2001:db8:1::1", "192.0.2.10"], ["2001:db9::1", "192.0.2.12"]),
        ("v=spf1 a:example.com/24//32 -all", ["192.0.2.1", "2001:db8:1::1"], ["192.0.3.1"]),
        ("v=spf1 MX:Example.ORG -ALL", ["192.0.2.140"], ["192.0.2.129"]),
        ("v=spf1 redirect=all.example.org", ["203.0.113.5"], []),
        ("v=spf1 -all redirect=all.example.org", [], ["203.0.113.5"]),
        ("v=spf1 include:all.example.org -all", ["203.0.113.5"], []),
        ("v=spf1 include:nothing.example.org -all", [], ["203.0.113.5"]),
        ("v=spf1  a   -all ", ["192.0.2.10"], ["192.0.2.65"]),
        ("v=spf1 a exp=explain._spf.%{d} new=%{x}%%%_%-: -all", ["192.0.2.10"], ["192.0.2.65"]),
        ("v=spf1 mx:null.example.org -all", [], ["192.0.2.10"]),
    ],
)
async def test_an_address_passes_or_fails(record: str, passing: list[str], failing: list[str]) -> None:
    for address in passing:
        assert await check(record, address) == (Result.PASS, ""), address
    for address in failing:
        assert await check(record, address) == (Result.FAIL, ""), address


@pytest.mark.parametrize(
    ("record", "result"),
    [
        ("v=spf1 ~all", Result.SOFTFAIL),
        ("v=spf1 ?all", Result.NEUTRAL),
        ("v=spf1", Result.NEUTRAL),
        ("v=spf1 ip4:192.0.2.1", Result.NEUTRAL),
        ("v=spf10 -all", Result.NONE),
        ("something else", Result.NONE),
    ],
)
async def test_other_results(record: str, result: Result) -> None:
    assert (await check(record))[0] is result


@pytest.mark.parametrize(
    "domain", ["localhost", "a..example.com", f"{'a' * 64}.example.com", "nowhere.example"]
)
async def test_a_domain_that_has_or_can_have_no_record_has_none(domain: str) -> None:
    assert (await check("v=spf1 -all", domain=domain))[0] is Result.NONE


@pytest.mark.parametrize(
    "term",
    [
        "nonsense",
        "all:example.com",
        "all/24",
        "ip4",
        "ip4:1.2.3",
        "ip4:192.0.2.0/33",
        "ip4:192.0.2.0/024",
        "ip4:192.0.2.0/",
        "ip4:2001:db8::1",
        "ip6:192.0.2.1",
        "ip6:2001:db8::/129",
        "a:",
        "a/33",
        "a//129",
        "a/",
        "mx:nodot",
        "mx:example.123",
        "a:%{x}.example.com",
        "a:%{i0}.example.com",
        "a:%{i",
        "a:%example.com",
        "include",
        "include:",
        "include/24",
        "exists",
        "ptr:",
        "redirect=",
        "redirect=a.example.com redirect=b.example.com",
        "exp=a.example.com exp=b.example.com",
        "new=%{",
        "+redirect=all.example.org",
    ],
)
async def test_a_mistake_anywhere_is_a_permanent_error(term: str) -> None:
    result, reason = await check(f"v=spf1 +all {term}")
    assert result is Result.PERMERROR
    assert reason.endswith("in it has a mistake")


@pytest.mark.parametrize(
    ("record", "result", "reason"),
    [
        ("v=spf1 include:other.example.org", "permerror", '"include:other.example.org" leads to no record'),
        ("v=spf1 redirect=other.example.org", "permerror", '"redirect=other.example.org" leads to no record'),
        ("v=spf1 include:twice.example.org", "permerror", "twice.example.org has 2 SPF records"),
        ("v=spf1 include:broken.example.org", "permerror", '"nonsense" in it has a mistake'),
        ("v=spf1 include:loop.example.org", "permerror", "it needs more than 10 look-ups"),
        ("v=spf1" + " a" * 11, "permerror", "it needs more than 10 look-ups"),
        ("v=spf1 mx:many.example.org", "permerror", "many.example.org has more than 10 mail exchangers"),
        (
            "v=spf1 a:no1.example.net a:no2.example.net a:no3.example.net",
            "permerror",
            "more than 2 names in it do not exist (no3.example.net)",
        ),
        (
            "v=spf1 include:dead.example.com",
            "temperror",
            "the look-up of dead.example.com failed: the name server does not answer in time",
        ),
        (
            "v=spf1 exists:dead.example.com",
            "temperror",
            "the look-up of dead.example.com failed: the name server does not answer in time",
        ),
    ],
)
async def test_errors_tell_their_reason(record: str, result: str, reason: str) -> None:
    assert await check(record) == (Result(result), reason)


@pytest.mark.parametrize("last", ["x1", "1x", "1-1", "x-1", "x--x", "xn--p1ai"])
async def test_a_domain_may_end_in_these_labels(last: str) -> None:
    assert (await check(f"v=spf1 ?all a:example.{last}"))[0] is Result.NEUTRAL


@pytest.mark.parametrize("last", ["1", "-x", "x-", "1-", "x_x", "."])
async def test_a_domain_may_not_end_in_these_labels(last: str) -> None:
    assert (await check(f"v=spf1 ?all a:example.{last}"))[0] is Result.PERMERROR


@pytest.mark.parametrize(
    "terms",
    [
        f"a:example.{'x' * 65_000}!",
        f"exists:{'%{s}' * 16_000}.example.net",
        f"exists:%{{d{'1' * 5000}}}.example.net",
        "a " * 32_000,
    ],
    ids=["label", "macros", "number", "terms"],
)
async def test_a_record_that_is_far_too_long_is_not_read(terms: str) -> None:
    result = await check(f"v=spf1 {terms} -all", sender=f"{'x.' * 30}x@example.com")
    assert result == (Result.PERMERROR, "the record of example.com has more than 4096 characters")


async def test_a_record_may_be_long() -> None:
    networks = " ".join(f"ip4:192.0.2.{number}" for number in range(255))
    assert (await check(f"v=spf1 {networks} -all"))[0] is Result.FAIL


async def test_ten_lookups_are_allowed() -> None:
    assert (await check("v=spf1" + " a" * 10 + " -all"))[0] is Result.FAIL


async def test_a_reverse_name_that_cannot_be_looked_up_matches_nothing() -> None:
    async def ask(name: str, record_type: RecordType) -> Answer:
        if record_type == "TXT":
            return Answer(State.FOUND, ("v=spf1 ptr ?all",))
        return Answer(State.FAILED, reason="silence")

    verdict = await check_host(ask, "203.0.113.5", "example.com", "joe@example.com", "helo.example.net")
    assert verdict.result is Result.NEUTRAL


# Macros (section 7)


async def expand(spec: str, address: str = "192.0.2.3", sender: str = "strong-bad@email.example.com") -> str:
    """Return the name that ``exists:`` with a domain-spec asks for."""
    asked: list[str] = []

    async def ask(name: str, record_type: RecordType) -> Answer:
        if record_type == "TXT":
            return Answer(State.FOUND, (f"v=spf1 exists:{spec} -all",))
        asked.append(name)
        return Answer(State.FOUND, ZONE.get((name, record_type), ()))

    await check_host(ask, address, "email.example.com", sender, "helo.example.net")
    return asked[-1]


@pytest.mark.parametrize(
    ("macro", "text"),
    [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{h}", "helo.example.net"),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%%%_%-", "% %20"),
        ("%{p}", "unknown"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        ("%{s2r-.}", "bad@email.strong"),
    ],
)
async def test_macros_are_expanded_as_in_section_7_4(macro: str, text: str) -> None:
    assert await expand(f"{macro}.test") == f"{text}.test"


async def test_an_ipv6_address_is_spelt_in_nibbles() -> None:
    nibbles = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"
    assert await expand("%{ir}.%{v}.test", "2001:db8::cb01") == f"{nibbles}.ip6.test"


async def test_a_confirmed_reverse_name_is_known_to_macros() -> None:
    assert await expand("%{p}.test", "192.0.2.65") == "amy.example.com.test"


async def test_a_name_that_grows_too_long_loses_its_first_labels() -> None:
    name = await expand("%{l}.example.com", sender=f"{'.'.join(['label'] * 60)}@example.com")
    assert len(name) <= 253
    assert name.endswith("label.label.example.com")


async def test_a_sender_without_local_part_is_postmaster() -> None:
    assert await expand("%{s}.test", sender="") == "postmaster@email.example.com.test"


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=20), max_size=6))
async def test_whatever_a_record_says_there_is_a_result(terms: list[str]) -> None:
    result, _ = await check(" ".join(["v=spf1", *terms]))
    assert result in Result


TERMS = ["a", "mx", "ptr", "all", "-all", "~mx", "include:all.example.org", "ip4:1.2.3.4", "exists:%{d}"]


@given(st.lists(st.sampled_from([*TERMS, "redirect=all.example.org"]), unique=True))
async def test_sane_terms_in_any_order_have_a_result(terms: list[str]) -> None:
    result, _ = await check(" ".join(["v=spf1", *terms]))
    assert result not in {Result.NONE, Result.TEMPERROR}
