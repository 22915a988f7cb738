"""What relay.toml and the table of providers say of an account."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from relay.config.model import Smarthost
from relay.config.providers import PROVIDERS
from relay.config.secrets import Secret
from relay.oauth.account import oauth_account
from tests.support.oauth_server import SECRET_MARK

OUTLOOK = Smarthost(
    "smtp-mail.outlook.com",
    provider="outlook",
    username="me@outlook.com",
    auth="xoauth2",
    client_id="id",
    client_secret=Secret(SECRET_MARK),
    token_file=Path("/var/lib/relay/tokens/work.json"),
)


def test_an_account_has_the_providers_endpoints() -> None:
    account = oauth_account("work", OUTLOOK)
    assert account is not None
    assert account.token_endpoint == "https://login.microsoftonline.com/common/oauth2/v2.0/token"
    assert account.device_endpoint == "https://login.microsoftonline.com/common/oauth2/v2.0/devicecode"
    assert account.authorize_endpoint == "https://login.microsoftonline.com/common/oauth2/v2.0/authorize"
    assert account.scope == "https://outlook.office.com/SMTP.Send offline_access"
    assert (account.name, account.username, account.token_file) == (
        "work",
        "me@outlook.com",
        OUTLOOK.token_file,
    )


def test_a_tenant_cannot_leave_its_place_in_the_address() -> None:
    account = oauth_account("work", replace(OUTLOOK, tenant="../evil?x#é"))
    assert account is not None
    assert account.token_endpoint == (
        "https://login.microsoftonline.com/..%2Fevil%3Fx%23%C3%A9/oauth2/v2.0/token"
    )


def test_google_has_no_device_flow_for_mail() -> None:
    account = oauth_account("gmail", replace(OUTLOOK, provider="gmail"))
    assert account is not None
    assert account.device_endpoint == ""
    assert account.authorize_endpoint.startswith("https://accounts.google.com/")


@pytest.mark.parametrize("name", [name for name, row in PROVIDERS.items() if row.oauth])
def test_every_provider_with_oauth_has_a_way_to_log_in(name: str) -> None:
    account = oauth_account(name, replace(OUTLOOK, provider=name))
    assert account is not None
    endpoints = [account.token_endpoint, account.authorize_endpoint]
    assert all(url.startswith("https://") and "{" not in url for url in endpoints)
    assert account.scope


@pytest.mark.parametrize(
    "smarthost",
    [
        replace(OUTLOOK, auth="auto"),
        replace(OUTLOOK, provider="orange"),
        replace(OUTLOOK, provider=""),
        replace(OUTLOOK, token_file=None),
    ],
)
def test_a_smarthost_without_oauth_has_no_account(smarthost: Smarthost) -> None:
    assert oauth_account("isp", smarthost) is None


def test_the_client_has_its_secret_only_while_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    account = oauth_account("work", replace(OUTLOOK, client_secret=Secret(variable="THE_SECRET")))
    assert account is not None
    monkeypatch.setenv("THE_SECRET", SECRET_MARK)
    client = account.client()
    assert client.secret == SECRET_MARK
    assert SECRET_MARK not in f"{account!r} {client!r} {oauth_account('work', OUTLOOK)!r}"


def test_a_public_client_has_no_secret() -> None:
    account = oauth_account("work", replace(OUTLOOK, client_secret=None))
    assert account is not None
    assert account.client().secret == ""
