from __future__ import annotations

import pytest

from relay.config.advice import advise
from relay.config.loading import parse_config

SMALL = '[limits]\nmessage_size = "10MB"\n'
APP_PASSWORD = "abcd efgh ijkl mnop"


def advice(text: str, password: str | None = None) -> list[str]:
    config = parse_config(f"{text}\n{SMALL}", machine_name="gw1.lan")
    return list(advise(config, {} if password is None else dict.fromkeys(config.smarthost, password)))


def account(provider: str, username: str, more: str = 'password_env = "ISP"') -> str:
    return f'[smarthost.isp]\nprovider = "{provider}"\nusername = "{username}"\n{more}\n'


def test_nothing_is_said_where_nothing_is_known() -> None:
    assert advice("") == []
    assert advice('relayhost = "isp"\n[smarthost.isp]\nhost = "smtp.example.com"') == []


def test_a_fallback_beside_a_relayhost_has_nothing_to_do() -> None:
    (said,) = advice('relayhost = "[192.0.2.1]"\nfallback = "[192.0.2.2]"')
    assert said.startswith("fallback: does nothing beside relayhost, which takes all mail; ")
    assert advice('fallback = "[192.0.2.2]"') == []


@pytest.mark.parametrize(
    ("provider", "username", "warning"),
    [
        ("orange", "chris", "smarthost.isp.username: orange wants the full mail address"),
        ("free", "chris@free.fr", 'smarthost.isp.username: free wants only what stands before the "@"'),
        ("sendgrid", "chris", 'smarthost.isp.username: at sendgrid it is "apikey" for everybody'),
    ],
)
def test_the_form_of_the_user_name(provider: str, username: str, warning: str) -> None:
    assert advice(account(provider, username)) == [warning]


@pytest.mark.parametrize(
    ("provider", "username"),
    [
        ("orange", "c@orange.fr"),
        ("laposte", "chris"),
        ("sendgrid", "apikey"),
        ("brevo", "a"),
        ("brevo", "a@b.test"),
    ],
)
def test_a_user_name_of_the_right_form_is_not_talked_about(provider: str, username: str) -> None:
    assert advice(account(provider, username)) == []


def test_a_password_where_only_oauth_works() -> None:
    (warning,) = advice(account("outlook", "chris@outlook.com"))
    assert warning == (
        "smarthost.isp.auth: outlook takes no passwords;"
        ' only OAuth works: set auth = "xoauth2" and a client_id, then run `relay login`'
    )
    assert advice(account("outlook", "chris@outlook.com", 'client_id = "mine"')) == []


def test_a_password_that_is_no_app_password() -> None:
    (warning,) = advice(account("gmail", "chris@gmail.com"), "hunter2")
    assert warning.startswith(
        "smarthost.isp.password: does not look like an app password, and gmail takes no other;"
    )
    assert "hunter2" not in warning


@pytest.mark.parametrize("password", [APP_PASSWORD, "abcdefghijklmnop", "abcd-efgh-ijkl-mn0p", None])
def test_an_app_password_or_one_that_can_not_be_read_is_not_talked_about(password: str | None) -> None:
    assert advice(account("gmail", "chris@gmail.com"), password) == []


def test_any_password_will_do_where_none_is_special() -> None:
    assert advice(account("orange", "chris@orange.fr"), "hunter2") == []


GMAIL = account("gmail", "Chris@gmail.com")
REWRITES = (
    "smarthost.isp: gmail puts Chris@gmail.com in place of any other sender;"
    " give your senders that address in [sender_canonical]"
)


@pytest.mark.parametrize(
    "route", ['relayhost = "isp"\n', '[transport]\n"aol.com" = "isp"\n"lan" = "[10.0.0.9]"\n"x.org" = "mx"\n']
)
def test_senders_that_a_provider_rewrites(route: str) -> None:
    assert advice(route + GMAIL) == [REWRITES]
    for value in ("Chris <chris@Gmail.com>", "@gmail.com"):
        assert advice(f'{route}{GMAIL}[sender_canonical]\n"@gw1.lan" = "{value}"') == []
    assert advice(f'{route}{GMAIL}[sender_canonical]\nroot = "chris@orange.fr"') == [REWRITES]


def test_senders_that_a_provider_refuses() -> None:
    text = account("office365", "chris@maison.example")
    (warning,) = advice(f'relayhost = "isp"\n{text}')
    assert warning == (
        "smarthost.isp: office365 refuses any other sender than chris@maison.example;"
        " give your senders that address in [sender_canonical]"
    )


def test_a_smarthost_that_nothing_goes_to_refuses_nobody() -> None:
    assert advice(f'relayhost = "[192.168.0.9]"\n{GMAIL}') == []


@pytest.mark.parametrize("key", ["@gmail.com", "CHRIS@gmail.com"])
def test_the_account_may_be_chosen_by_its_own_sender(key: str) -> None:
    assert advice(f'{GMAIL}[sender_relayhost]\n"{key}" = "isp"\n"@free.fr" = "[10.0.0.9]"') == []


def test_another_sender_may_not_choose_the_account() -> None:
    (warning,) = advice(f'{GMAIL}[sender_relayhost]\n"@orange.fr" = "isp"')
    assert warning == (
        'sender_relayhost."@orange.fr": gmail puts Chris@gmail.com in place of any other sender,'
        " unless it is an alias there"
    )


def test_messages_that_are_too_large_for_a_provider() -> None:
    config = parse_config(account("icloud", "chris@me.com"), machine_name="gw1.lan")
    (warning,) = advise(config)
    assert warning == (
        "limits.message_size: 50MB is more than icloud takes (smarthost.isp, 20MB);"
        " larger messages would come back"
    )


HOUSE = """
[local]
domains = ["maison.mrs", "gw1.maison.mrs"]
users = ["chris", "marc", "ann", "bob"]
maildir = "/var/mail/{user}"
[aliases]
"@maison.mrs" = "chris"
"""


def test_users_whose_mail_an_alias_of_their_domain_takes() -> None:
    text = f'{HOUSE}ann = "ann@example.org"\n"bob@maison.mrs" = "bob"\n'
    (warning,) = advise(parse_config(text, machine_name="gw1.lan"))
    assert warning == (
        'aliases."@maison.mrs": takes the mail of marc@maison.mrs too;'
        ' "*" would take only what nobody else does'
    )


def test_a_mailbox_server_without_a_postmaster() -> None:
    text = '[local]\nlmtp = "/run/lmtp"\n'
    (warning,) = advise(parse_config(text, machine_name="gw1.lan"))
    assert warning.startswith("postmaster: nobody is named;")
    named = f'postmaster = "chris@free.fr"\n{text}'
    assert advise(parse_config(named, machine_name="gw1.lan")) == ()


def test_an_alias_of_a_domain_that_takes_nobodys_mail() -> None:
    text = HOUSE.replace(', "marc", "ann", "bob"', "")
    assert advise(parse_config(text, machine_name="gw1.lan")) == ()


def test_a_catch_all_takes_no_users_mail() -> None:
    text = HOUSE.replace('"@maison.mrs"', '"*"')
    assert advise(parse_config(text, machine_name="gw1.lan")) == ()
