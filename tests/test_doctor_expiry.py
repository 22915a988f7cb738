"""Certificates and tokens that run out."""

from __future__ import annotations

import datetime as dt
import ssl
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from relay.doctor.expiry import check_certificate, check_token, read_validity
from relay.oauth.account import OAuthAccount
from relay.oauth.token_file import Token, write_token
from tests.support.doctor import kinds

CA = trustme.CA()
DAY = 86400.0
START, END = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 4, 1, tzinfo=dt.UTC)


def issue(start: dt.datetime = START, end: dt.datetime = END) -> bytes:
    return CA.issue_cert("mx.test", not_before=start, not_after=end).cert_chain_pems[0].bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "chain.pem"
    path.write_bytes(b"comment\n" + issue() + CA.cert_pem.bytes())
    return path


@pytest.mark.parametrize(
    ("days_left", "found"),
    [
        (60.0, "certificate.valid ok"),
        (14.1, "certificate.valid ok"),
        (13.9, "certificate.expires warning"),
        (-0.1, "certificate.expired problem"),
        (91.0, "certificate.early problem"),
    ],
)
def test_a_certificate_is_judged_by_its_days(path: Path, days_left: float, found: str) -> None:
    assert kinds(check_certificate(path, END.timestamp() - days_left * DAY)) == [found]


@pytest.mark.parametrize(
    ("hours_left", "found"), [(40.0, "certificate.valid ok"), (30.0, "certificate.expires warning")]
)
def test_a_certificate_that_lives_for_days_is_told_of_late(path: Path, hours_left: float, found: str) -> None:
    end = START + dt.timedelta(days=6)
    path.write_bytes(issue(START, end))
    assert kinds(check_certificate(path, end.timestamp() - hours_left * 3600)) == [found]


def test_a_day_is_told(path: Path) -> None:
    (finding,) = check_certificate(path, START.timestamp())
    assert finding.what == f"the certificate {path} is good until 2026-04-01"


@pytest.mark.parametrize("year", [1970, 1999, 2049, 2050, 2120])
def test_both_forms_of_a_date_are_read(year: int) -> None:
    end = dt.datetime(year, 12, 31, 23, 59, 58, tzinfo=dt.UTC)
    start = dt.datetime(1960, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert read_validity(issue(start, end)) == (start.timestamp(), end.timestamp())


def test_an_authority_s_own_certificate_is_read_too() -> None:
    start, end = read_validity(CA.cert_pem.bytes())
    assert start < end


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it holds no certificate in PEM form"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "it is damaged"),
        (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "it is damaged"),
    ],
)
def test_what_is_no_certificate_is_told(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    (finding,) = check_certificate(path, 0)
    assert kinds([finding]) == ["certificate.unreadable problem"]
    assert finding.what == f"the certificate {path} can't be read: {reason}"


def test_a_missing_certificate_is_told(tmp_path: Path) -> None:
    (finding,) = check_certificate(tmp_path / "none.pem", 0)
    assert finding.what.endswith("can't be read: No such file or directory")


GOOD = issue()


@given(st.integers(0, 900), st.binary(min_size=1, max_size=4))
def test_damage_never_ends_in_anything_but_a_word(place: int, junk: bytes) -> None:
    der = ssl.PEM_cert_to_DER_cert(GOOD.decode())
    damaged = der[:place] + junk + der[place + len(junk) :]
    try:
        read_validity(ssl.DER_cert_to_PEM_cert(damaged).encode())
    except ValueError as error:
        assert str(error) == "it is damaged"  # noqa: PT017 - it may also be read


def account(path: Path) -> OAuthAccount:
    return OAuthAccount("isp", "id", None, "", "", "", "", token_file=path)


@pytest.mark.parametrize(("age", "found"), [(1.0, "token.fresh ok"), (15.0, "token.stale warning")])
def test_a_token_is_judged_by_its_age(tmp_path: Path, age: float, found: str) -> None:
    write_token(tmp_path / "isp.json", Token("access", "refresh", 1e9, 1e9 + 3600))
    assert kinds(check_token(account(tmp_path / "isp.json"), 1e9 + age * DAY)) == [found]


def test_a_token_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "isp.json"
    (missing,) = check_token(account(path), 1e9)
    path.write_text("{}")
    (damaged,) = check_token(account(path), 1e9)
    assert kinds([missing, damaged]) == ["token.missing problem"] * 2
    assert missing.what == f"smarthost isp has no token: {path}: No such file or directory"
    assert damaged.what == f"smarthost isp has no token: {path} holds no token"
    assert missing.remedy == "Log in: `relay login isp`."
