from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relay.config.loading import ConfigError, parse_config
from relay.config.model import Smarthost
from relay.config.secrets import Secret
from relay.mail.route import NextHop, Rate

LOGIN = 'username = "chris@example.org"\npassword_env = "ISP"\n'


def smarthost(text: str) -> Smarthost:
    return parse_config(f"[smarthost.isp]\n{text}", machine_name="gw1.lan").smarthost["isp"]


def relayhost(text: str) -> NextHop | None:
    return parse_config(f'relayhost = "isp"\n[smarthost.isp]\n{text}', machine_name="gw1.lan").relayhost


def test_a_host_alone_is_reached_by_verified_tls_without_a_login() -> None:
    assert smarthost('host = "smtp.Example.com"') == Smarthost("smtp.example.com", 465, "implicit")


@pytest.mark.parametrize(
    ("tls", "port"), [("implicit", 465), ("starttls", 587), ("opportunistic", 25), ("none", 25)]
)
def test_the_port_follows_tls(tls: str, port: int) -> None:
    assert smarthost(f'host = "a.test"\ntls = "{tls}"').port == port
    assert smarthost(f'host = "a.test"\ntls = "{tls}"\nport = 2525').port == 2525


def test_everything_can_be_set() -> None:
    assert smarthost(
        """
        host = "192.168.0.9"
        port = 2525
        tls = "none"
        username = "chris"
        password = "hunter2"
        auth = "cram-md5"
        clear_password = true
        connections = 1
        rate = "100/hour"
        """
    ) == Smarthost(
        "192.168.0.9",
        2525,
        "none",
        username="chris",
        password=Secret("hunter2"),
        auth="cram-md5",
        clear_password=True,
        connections=1,
        rate=Rate(100, 3600),
    )


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        ('password = "hunter2"', Secret("hunter2")),
        ('password_file = "/run/secrets/isp"', Secret(file=Path("/run/secrets/isp"))),
        ('password_env = "ISP"', Secret(variable="ISP")),
    ],
)
def test_a_password_can_stand_in_three_places(line: str, secret: Secret) -> None:
    assert smarthost(f'host = "a.test"\nusername = "chris"\n{line}').password == secret


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'provider = "orange"\n{LOGIN}', {"host": "smtp.orange.fr", "port": 465, "tls": "implicit"}),
        (f'provider = "Wanadoo"\n{LOGIN}', {"host": "smtp.orange.fr", "provider": "orange"}),
        (f'provider = "icloud"\n{LOGIN}', {"host": "smtp.mail.me.com", "port": 587, "tls": "starttls"}),
        (f'provider = "smtp2go"\n{LOGIN}', {"port": 2525, "tls": "starttls"}),
        (f'provider = "zoho"\n{LOGIN}', {"auth": "login"}),
        (f'provider = "office365"\n{LOGIN}', {"rate": Rate(30, 60), "connections": 3, "auth": "auto"}),
        ('provider = "sendgrid"\npassword_env = "KEY"', {"username": "apikey", "auth": "auto"}),
        (f'provider = "outlook"\n{LOGIN}', {"auth": "auto"}),
        ('provider = "outlook"\nusername = "c@hotmail.fr"\nclient_id = "mine"', {"auth": "xoauth2"}),
    ],
)
def test_a_provider_fills_in_what_is_known_of_it(text: str, expected: dict[str, Any]) -> None:
    filled = smarthost(text)
    assert {key: getattr(filled, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('host = "127.0.0.1"\nport = 2525', {"host": "127.0.0.1", "port": 2525, "tls": "starttls"}),
        ('tls = "implicit"', {"host": "smtp.office365.com", "port": 465, "tls": "implicit"}),
        ('tls = "none"\nclear_password = true', {"port": 25}),
        ('rate = "1/s"\nconnections = 9', {"rate": Rate(1, 1), "connections": 9}),
        ('auth = "plain"', {"auth": "plain"}),
    ],
)
def test_what_the_owner_says_counts_more_than_the_provider(text: str, expected: dict[str, Any]) -> None:
    filled = smarthost(f'provider = "office365"\n{LOGIN}{text}')
    assert {key: getattr(filled, key) for key in expected} == expected


def test_a_provider_without_a_host_of_its_own_takes_the_owners() -> None:
    host = "email-smtp.eu-west-3.amazonaws.com"
    assert smarthost(f'provider = "ses"\nhost = "{host}"\n{LOGIN}').host == host


OAUTH = 'provider = "gmail"\nauth = "xoauth2"\nusername = "chris@gmail.com"\nclient_id = "mine"\n'


def test_oauth_keeps_its_token_beside_the_queue() -> None:
    config = parse_config(
        f'[queue]\npath = "/srv/relay/queue.db"\n[smarthost.isp]\n{OAUTH}', machine_name="gw1.lan"
    )
    oauth = config.smarthost["isp"]
    assert oauth.token_file == Path("/srv/relay/tokens/isp.json")
    assert (oauth.client_id, oauth.client_secret, oauth.tenant, oauth.password) == (
        "mine",
        None,
        "common",
        None,
    )


def test_the_keys_of_oauth_can_be_set() -> None:
    oauth = smarthost(f'{OAUTH}client_secret_env = "SECRET"\ntenant = "maison.example"\ntoken_file = "/t"')
    assert oauth.client_secret == Secret(variable="SECRET")
    assert (oauth.tenant, oauth.token_file) == ("maison.example", Path("/t"))


def test_without_oauth_there_is_no_token_file() -> None:
    assert smarthost(f'host = "a.test"\n{LOGIN}').token_file is None


@pytest.mark.parametrize("tls", ["opportunistic", "none"])
def test_a_password_that_others_could_read_must_be_asked_for(tls: str) -> None:
    text = f'host = "a.test"\ntls = "{tls}"\n{LOGIN}'
    with pytest.raises(ConfigError, match="could show the password to others"):
        smarthost(text)
    assert smarthost(f"{text}clear_password = true").tls == tls
    assert smarthost(f'host = "a.test"\ntls = "{tls}"').username == ""


def test_the_next_hop_is_known_by_the_name_of_the_smarthost() -> None:
    text = f'host = "a.test"\n{LOGIN}rate = "1/s"\nconnections = 2'
    assert relayhost(text) == NextHop(
        "a.test",
        465,
        tls="implicit",
        is_relayhost=True,
        smarthost="isp",
        connections=2,
        rate=Rate(1, 1),
    )


def test_where_the_provider_refuses_the_null_sender_the_next_hop_says_so() -> None:
    ses = relayhost(f'provider = "ses"\nhost = "email-smtp.eu-west-3.amazonaws.com"\n{LOGIN}')
    assert ses
    assert not ses.takes_null_sender


@pytest.mark.parametrize(
    "text",
    [
        'provider = "orange"\nusername = 5',
        'provider = "nowhere"',
        'host = "a.test"\nauth = "xoauth"\nusername = "c"',
    ],
)
def test_what_follows_from_another_mistake_is_not_told(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        smarthost(text)
    assert len(caught.value.errors) == 1
