"""The OAuth protocol against a provider on the loopback interface."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qsl, urlsplit

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from relay.oauth import client as oauth
from relay.oauth.client import Authorization, Client, DeviceCode, Grant, OAuthError, UnreachableError
from tests.support.authority import Authority
from tests.support.oauth_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    SECRET_MARK,
    Answer,
    OAuthServer,
    refusal,
    success,
)

CLIENT = Client(CLIENT_ID)
REDIRECT = "http://127.0.0.1:8026/"


@pytest.fixture
def provider() -> Iterator[OAuthServer]:
    with OAuthServer() as server:
        yield server


def refresh(provider: OAuthServer, token: str, client: Client = CLIENT) -> Grant:
    return oauth.refresh(provider.url("token"), client, token, "mail")


def test_a_refresh_token_gives_an_access_token(provider: OAuthServer) -> None:
    token = provider.issue_refresh_token()
    grant = refresh(provider, token)
    assert provider.accepts(grant.access_token)
    assert (grant.refresh_token, grant.lifetime) == ("", 3600)
    assert provider.requests == [
        (
            "/token",
            {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token, "scope": "mail"},
        )
    ]


def test_a_provider_may_give_a_new_refresh_token(provider: OAuthServer) -> None:
    provider.rotates = True
    old = provider.issue_refresh_token()
    new = refresh(provider, old).refresh_token
    assert new not in ("", old)
    assert refresh(provider, new)
    with pytest.raises(OAuthError):
        refresh(provider, old)


def test_a_client_with_a_secret_sends_it(provider: OAuthServer) -> None:
    provider.client_secret = CLIENT_SECRET
    token = provider.issue_refresh_token()
    assert refresh(provider, token, Client(CLIENT_ID, CLIENT_SECRET))
    with pytest.raises(OAuthError, match=r"^invalid_client: unknown client or wrong secret$"):
        refresh(provider, token)


def test_a_secret_in_another_encoding_is_just_wrong(provider: OAuthServer) -> None:
    with pytest.raises(OAuthError, match="invalid_client"):
        refresh(provider, "x", Client(CLIENT_ID, "caf\udce9"))


def test_a_withdrawn_login_is_told_with_the_providers_words(provider: OAuthServer) -> None:
    with pytest.raises(OAuthError) as caught:
        refresh(provider, "never-given")
    assert caught.value.code == "invalid_grant"
    assert str(caught.value) == "invalid_grant: Token has been expired or revoked."


@pytest.mark.parametrize("given_lifetime", ["1800", 1800, 1800.0])
def test_a_lifetime_may_be_text(provider: OAuthServer, given_lifetime: object) -> None:
    provider.lifetime = given_lifetime
    assert refresh(provider, provider.issue_refresh_token()).lifetime == 1800


def test_a_lifetime_may_be_missing(provider: OAuthServer) -> None:
    provider.script.append(success(access_token="abc"))
    assert refresh(provider, "x") == Grant("abc", "", 3600)


@pytest.mark.parametrize(
    "answer",
    [
        success(),
        success(access_token=""),
        success(access_token=7),
        success(access_token="a\nb"),
        success(access_token="é"),
        success(access_token="a", expires_in="soon"),
        success(access_token="a", expires_in=[1]),
        success(access_token="a", expires_in=-1),
        Answer(200, b'{"access_token": "a", "expires_in": Infinity}'),
        success(access_token="a", refresh_token=["b"]),
        Answer(200, b"<html>Welcome to the hotel</html>"),
        Answer(200, b"[]"),
        Answer(200, b"\xff"),
        Answer(200, b"[" * 60000),
    ],
)
def test_nonsense_is_no_refusal(provider: OAuthServer, answer: Answer) -> None:
    provider.script.append(answer)
    with pytest.raises(UnreachableError, match=r"^127\.0\.0\.1 answers nonsense$"):
        refresh(provider, "x")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, b"<html>"),
        refusal("invalid_grant", status=500),
        refusal("slow_down", status=429),
        refusal("temporarily_unavailable"),
        refusal("server_error"),
        Answer(400, b"oops"),
        Answer(403, b'{"error": {"code": 403, "message": "Forbidden"}}'),
        Answer(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}),
    ],
)
def test_what_is_no_clear_refusal_may_be_tried_again(provider: OAuthServer, answer: Answer) -> None:
    provider.script.append(answer)
    with pytest.raises(UnreachableError, match=rf"^127\.0\.0\.1 answers with HTTP status {answer.status}$"):
        refresh(provider, "x")
    assert len(provider.requests) == 1


def test_a_server_that_is_down_is_told_in_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/token"
        with pytest.raises(UnreachableError, match=r"^127\.0\.0\.1 does not answer: Connection refused$"):
            oauth.refresh(endpoint, CLIENT, "x", "mail")


def hang_up(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.close()


def test_a_server_that_hangs_up_is_told_in_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=hang_up, args=(server,))
        thread.start()
        with pytest.raises(UnreachableError, match=r"^127\.0\.0\.1 does not answer: [A-Z]"):
            oauth.refresh(f"http://127.0.0.1:{server.getsockname()[1]}/token", CLIENT, "x", "mail")
        thread.join()


@pytest.mark.parametrize(
    "endpoint",
    ["http://login.example/token", "http://192.0.2.1/token", "ftp://127.0.0.1/", "file:///etc/x", ""],
)
def test_secrets_go_nowhere_without_encryption(endpoint: str) -> None:
    with pytest.raises(UnreachableError, match=rf"^{endpoint} is not an https address$"):
        oauth.refresh(endpoint, CLIENT, "x", "mail")


def test_a_proxy_of_the_environment_is_used(provider: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", provider.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    token = provider.issue_refresh_token()
    assert oauth.refresh("http://127.0.0.2:9/token", CLIENT, token, "mail")
    assert provider.requests[0][0] == "/token"


# TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    return Authority.trusted(tmp_path, monkeypatch)


def test_a_verified_certificate_is_fine(authority: Authority) -> None:
    with OAuthServer(authority.context("localhost")) as provider:
        token = provider.issue_refresh_token()
        assert oauth.refresh(provider.url("token", "localhost"), CLIENT, token, "mail")


@pytest.mark.parametrize(
    ("is_known", "name", "reason"),
    [
        (False, "localhost", "unable to get local issuer certificate"),
        (True, "other.example", "Hostname mismatch, certificate is not valid for 'localhost'."),
    ],
)
def test_no_secret_goes_to_a_server_that_does_not_prove_its_name(
    authority: Authority, is_known: bool, name: str, reason: str
) -> None:
    issuer = authority if is_known else replace(authority, ca=trustme.CA())
    with OAuthServer(issuer.context(name)) as provider:
        with pytest.raises(UnreachableError) as caught:
            oauth.refresh(provider.url("token", "localhost"), CLIENT, "x", "mail")
        assert provider.requests == []
    assert str(caught.value) == f"localhost does not answer: its certificate is not valid: {reason}"


# Device flow


def start(provider: OAuthServer) -> DeviceCode:
    return oauth.start_device_flow(provider.url("device"), CLIENT, "mail offline")


def poll(provider: OAuthServer, device: DeviceCode) -> tuple[Grant, list[float]]:
    pauses: list[float] = []
    return oauth.poll_device_flow(provider.url("token"), CLIENT, device, pauses.append), pauses


def test_a_device_flow_waits_until_the_owner_has_agreed(provider: OAuthServer) -> None:
    provider.interval, provider.polls_before_consent = 5, 2
    device = start(provider)
    assert provider.requests == [("/device", {"client_id": CLIENT_ID, "scope": "mail offline"})]
    assert (device.user_code, device.verification_uri) == ("WDJB-MJHT", provider.url("activate"))
    grant, pauses = poll(provider, device)
    assert provider.accepts(grant.access_token)
    assert grant.refresh_token
    assert pauses == [5, 5, 5]


def test_a_provider_that_asks_for_patience_gets_it(provider: OAuthServer) -> None:
    provider.interval = 5
    device = start(provider)
    provider.script.extend([refusal("slow_down"), refusal("slow_down"), refusal("authorization_pending")])
    assert poll(provider, device)[1] == [5, 10, 15, 15]


def test_a_network_that_fails_meanwhile_is_waited_for(provider: OAuthServer) -> None:
    provider.interval = 20
    device = start(provider)
    provider.script.extend([Answer(502, b"")] * 3)
    assert poll(provider, device)[1] == [20, 40, 60, 60]


@pytest.mark.parametrize("code", ["access_denied", "authorization_declined", "expired_token"])
def test_a_refusal_ends_a_device_flow(provider: OAuthServer, code: str) -> None:
    device = start(provider)
    provider.script.extend([refusal("authorization_pending"), refusal(code, "No.")])
    with pytest.raises(OAuthError, match=f"^{code}: No.$"):
        poll(provider, device)


def test_a_code_that_nobody_enters_expires(provider: OAuthServer) -> None:
    provider.interval, provider.polls_before_consent = 300, 1000
    with pytest.raises(OAuthError) as caught:
        poll(provider, start(provider))
    assert caught.value.code == "expired_token"
    assert len(provider.grants) == 3


def test_older_names_of_the_device_answer_are_understood(provider: OAuthServer) -> None:
    provider.script.append(
        success(device_code="d", user_code="u", verification_url="https://go.example", expires_in="600")
    )
    assert start(provider) == DeviceCode("d", "u", "https://go.example", 600, 5)


def test_nonsense_begins_no_device_flow(provider: OAuthServer) -> None:
    provider.script.extend(
        [success(), success(device_code="d", user_code="\x1b[2J", verification_uri="u", expires_in=9)]
    )
    for _ in range(2):
        with pytest.raises(UnreachableError, match="nonsense"):
            start(provider)


# Code flow


def begin(provider: OAuthServer, username: str = "") -> Authorization:
    return oauth.start_code_flow(provider.url("authorize"), CLIENT, "mail", REDIRECT, username)


def test_the_address_that_the_browser_ends_at_gives_a_token(provider: OAuthServer) -> None:
    authorization = begin(provider)
    address = provider.agree_in_browser(authorization.url)
    assert address.startswith(REDIRECT)
    code = oauth.read_redirect(authorization, f"  '{address}'\n")
    grant = oauth.exchange_code(provider.url("token"), CLIENT, authorization, code)
    assert provider.accepts(grant.access_token)
    assert grant.refresh_token


def test_a_code_is_of_no_use_without_its_verifier(provider: OAuthServer) -> None:
    authorization = begin(provider)
    code = oauth.read_redirect(authorization, provider.agree_in_browser(authorization.url))
    with pytest.raises(OAuthError, match="invalid_grant"):
        oauth.exchange_code(provider.url("token"), CLIENT, begin(provider), code)


def test_a_link_asks_for_a_lasting_login_of_the_right_user(provider: OAuthServer) -> None:
    query = dict(parse_qsl(urlsplit(begin(provider, "me@gmail.com").url).query))
    assert query["login_hint"] == "me@gmail.com"
    assert (query["access_type"], query["prompt"]) == ("offline", "consent")
    assert "login_hint" not in begin(provider).url


ADDRESS = f"{REDIRECT}?state=s&code=c"
AUTHORIZATION = Authorization("https://login.example/", REDIRECT, "s", "v")


@pytest.mark.parametrize(
    "address", [ADDRESS, ADDRESS + "#", "?code=c&state=s", f"<{ADDRESS}>", f"\t{ADDRESS}\r\n"]
)
def test_an_address_may_be_pasted_with_its_surroundings(address: str) -> None:
    assert oauth.read_redirect(AUTHORIZATION, address) == "c"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "no state="),
        ("c", "no state="),
        ("http://[", "no state="),
        (REDIRECT, "no state="),
        (REDIRECT + "?code=c", "no state="),
        (REDIRECT + "?code=c&state=t", "another login"),
        (REDIRECT + "?code=c&state=\udce9", "another login"),
        (REDIRECT + "?state=s", "no code="),
    ],
)
def test_another_address_is_told_apart(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        oauth.read_redirect(AUTHORIZATION, address)


@given(st.text())
def test_what_is_pasted_by_mistake_is_answered_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        oauth.read_redirect(AUTHORIZATION, text)


def test_what_the_provider_refused_stands_in_the_address() -> None:
    address = f"{REDIRECT}?state=s&error=access_denied&error_description=The+user%0Asaid+no"
    with pytest.raises(OAuthError, match=r"^access_denied: The user$"):
        oauth.read_redirect(AUTHORIZATION, address)


# Secrets


def test_no_secret_is_in_an_error_even_if_the_provider_quotes_it(provider: OAuthServer) -> None:
    def quote(form: dict[str, str]) -> Answer:
        return refusal(
            "invalid_grant", f"bad \x1b[1m{form['refresh_token']} of {form['client_secret']}\r\nTrace"
        )

    provider.script.append(quote)
    token = provider.issue_refresh_token()
    with pytest.raises(OAuthError) as caught:
        refresh(provider, token, Client(CLIENT_ID, CLIENT_SECRET))
    assert str(caught.value) == "invalid_grant: bad ?[1m(secret) of (secret)"
    assert SECRET_MARK not in "".join(traceback.format_exception(caught.value))


def test_a_long_description_is_cut(provider: OAuthServer) -> None:
    provider.script.append(refusal("invalid_grant", "a" * 5000))
    with pytest.raises(OAuthError) as caught:
        refresh(provider, "x")
    assert len(str(caught.value)) < 400


def test_an_error_needs_no_description(provider: OAuthServer) -> None:
    provider.script.append(Answer(400, json.dumps({"error": "invalid_scope"}).encode()))
    with pytest.raises(OAuthError, match=r"^invalid_scope$"):
        refresh(provider, "x")


def test_values_hide_their_secrets() -> None:
    secret = SECRET_MARK
    values = [
        Client("id", secret),
        Grant(secret, secret, 1),
        DeviceCode(secret, "u", "v", 1, 1),
        Authorization("u", "r", "s", secret),
    ]
    assert SECRET_MARK not in repr(values)
