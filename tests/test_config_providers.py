from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.config.loading import parse_config
from relay.config.providers import ADDRESS, LOCAL, NAMES, NO_PROVIDER, PROVIDERS, UNKNOWN, Provider
from relay.config.values import parse_domain

ROWS = pytest.mark.parametrize("row", PROVIDERS.values(), ids=PROVIDERS.keys())


def test_the_households_and_services_of_the_field_are_known() -> None:
    assert len(PROVIDERS) >= 25
    assert PROVIDERS.keys() >= {
        *("orange", "free", "sfr", "bouygues", "laposte", "gmail", "outlook", "office365", "yahoo", "icloud"),
        *("gmx", "ovh", "fastmail", "gandi", "infomaniak", "mailgun", "ses", "sendgrid", "brevo"),
    }


def test_every_name_is_given_once_and_in_small_letters() -> None:
    names = [name for row in PROVIDERS.values() for name in (row.name, *row.other_names)]
    assert sorted(names) == sorted(NAMES)
    assert all(name == name.lower() and name.isascii() for name in names)


def test_the_example_names_them_all() -> None:
    example = (Path(__file__).parent.parent / "relay.toml.example").read_text(encoding="utf-8")
    (listed,) = re.findall(r"Known are([^`]*)\. `relay check`", example.replace("\n#", ""))
    assert re.split(r", | and ", listed.strip()) == list(PROVIDERS)


@ROWS
def test_a_row_says_where_it_comes_from(row: Provider) -> None:
    assert row.source


@ROWS
def test_a_row_names_a_host_or_how_to_find_it(row: Provider) -> None:
    if row.host:
        assert parse_domain(row.host) == row.host
        assert "." in row.host
    else:
        assert row.note


@ROWS
def test_the_port_is_one_for_this_kind_of_tls(row: Provider) -> None:
    assert row.port in {"implicit": (465,), "starttls": (587, 2525)}[row.tls]


@ROWS
def test_the_login_makes_sense(row: Provider) -> None:
    assert row.username in (ADDRESS, LOCAL, UNKNOWN) or row.fixed_username == row.username
    assert row.auth in ("auto", "login", "xoauth2")
    assert row.oauth or row.auth != "xoauth2"
    assert row.note or not (row.needs_app_password or row.auth == "xoauth2")


@ROWS
def test_limits_are_of_a_sane_size(row: Provider) -> None:
    assert row.message_size is None or 10_000_000 <= row.message_size <= 200_000_000
    assert row.rate is None or 0 < row.rate.messages / row.rate.seconds <= 10
    assert 1 <= row.connections <= 4


@ROWS
def test_oauth_endpoints_are_asked_over_https(row: Provider) -> None:
    if not row.oauth:
        return
    for url in (row.oauth.authorize, row.oauth.token, row.oauth.device or row.oauth.token):
        parts = urlsplit(url.format(tenant="common"))
        assert parts.scheme == "https"
        assert parts.hostname
    assert row.oauth.scope


@ROWS
def test_a_row_makes_a_smarthost_with_no_more_than_an_account(row: Provider) -> None:
    text = f'[smarthost.isp]\nprovider = "{row.name}"\nusername = "chris@example.org"\n'
    text += 'client_id = "mine"\n' if row.auth == "xoauth2" else 'password_env = "ISP"\n'
    text += "" if row.host else 'host = "smtp.example.com"\n'
    smarthost = parse_config(text, machine_name="gw1").smarthost["isp"]
    assert (smarthost.provider, smarthost.port, smarthost.tls) == (row.name, row.port, row.tls)
    assert (smarthost.auth, smarthost.connections, smarthost.rate) == (row.auth, row.connections, row.rate)
    assert smarthost.host == (row.host or "smtp.example.com")


def test_without_a_provider_nothing_is_taken_for_granted() -> None:
    assert NO_PROVIDER.fixed_username == NO_PROVIDER.host == NO_PROVIDER.note == ""
    assert NO_PROVIDER.takes_null_sender
