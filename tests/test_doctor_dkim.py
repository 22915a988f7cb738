"""The doctor on DKIM keys in DNS: there, right, or wrong in each way that a form can make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.model import Dkim
from relay.doctor.dkim import check_key
from relay.doctor.finding import Finding
from tests.support.dkim import DOMAIN, key_of
from tests.support.dns_server import Failure, Records
from tests.support.doctor import dns, kinds

RSA, ED = key_of("rsa"), key_of("ed25519")
Names = dict[str, Records | Failure]
NAME = f"home._domainkey.{DOMAIN}"


def quoted(record: str) -> str:
    """Return a TXT record as in a zone file, in strings that are not too long."""
    return " ".join(f'"{record[start : start + 200]}"' for start in range(0, len(record), 200)) or '""'


async def check(*records: str, kind: str = "rsa", **others: Records | Failure) -> list[Finding]:
    """Return what is said where DNS has these records, and other names."""
    published: Names = {NAME: {"TXT": [*map(quoted, records)]}} if records else {}
    async with dns({**published, **others}) as ask:
        return await check_key(DOMAIN, Dkim("home", Path("dkim.pem"), key_of(kind)), ask)


@pytest.mark.parametrize(
    "record",
    [
        RSA.record,
        f"p={RSA.public}",
        f"k=rsa ; v=DKIM1;t=s; s=email:x; h=sha1 : sha256 ;n=hello;p= {RSA.public[:9]} {RSA.public[9:]} ;",
    ],
)
async def test_a_key_that_fits_is_well(record: str) -> None:
    [finding] = await check(record)
    assert kinds([finding]) == ["dkim.published ok"]
    assert finding.what == f"{NAME} publishes the key that mail of {DOMAIN} is signed with"


async def test_a_key_of_ed25519_is_well_too() -> None:
    assert kinds(await check(ED.record, kind="ed25519")) == ["dkim.published ok"]


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ("hello", "it is no key record"),
        ("v=DKIM2; p=AAAA", "it is no key record"),
        ("v=DKIM1; k=rsa", "it is no key record"),
        (ED.record, "it says k=ed25519, and the key is of the kind rsa"),
        (f"v=DKIM1; h=sha1; p={RSA.public}", "its h= leaves out sha256"),
        (f"v=DKIM1; s=other; p={RSA.public}", "its s= leaves out email"),
        (RSA.record[:255], "it is cut off after 237 of 392 characters of p="),
        ("v=DKIM1; p=MIGf", "it has another key"),
        (f"v=DKIM1; p=-{RSA.public}", "its p= is damaged"),
    ],
)
async def test_a_record_that_does_not_fit_is_told_with_its_fault(record: str, fault: str) -> None:
    [finding] = await check(record)
    assert kinds([finding]) == ["dkim.wrong problem"]
    assert f": {fault} ({record[:50]}" in finding.what
    assert f"`relay dkim {DOMAIN}` prints it" in finding.remedy


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["v=DKIM1; p="], "dkim.revoked problem"),
        ([f"v=DKIM1; t=s:y; p={RSA.public}"], "dkim.testing warning"),
        ([RSA.record, ED.record], "dkim.several problem"),
        (["one", "two"], "dkim.several problem"),
        (["v=spf1 -all", RSA.record], "dkim.published ok"),
    ],
)
async def test_what_else_a_name_may_have(records: list[str], found: str) -> None:
    assert kinds(await check(*records)) == [found]


async def test_a_key_that_is_not_there_is_told_with_what_to_do() -> None:
    [finding] = await check()
    assert kinds([finding]) == ["dkim.missing problem"]
    assert f"there is no TXT record {NAME}" in finding.what
    assert f"`relay dkim {DOMAIN}` prints it" in finding.remedy


async def test_a_key_under_a_doubled_name_is_found() -> None:
    [finding] = await check(**{f"{NAME}.{DOMAIN}": {"TXT": [quoted(RSA.record)]}})
    assert kinds([finding]) == ["dkim.misplaced problem"]
    assert finding.remedy.endswith("give the record the name home._domainkey there.")


async def test_a_look_up_that_fails_is_no_problem_of_the_key() -> None:
    [finding] = await check(**{NAME: Failure.SERVFAIL})
    assert kinds([finding]) == ["dkim.unknown warning"]
    assert finding.what.endswith(": the name server answers with an error")
