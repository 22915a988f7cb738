"""Which ways mail takes, and which senders it has."""

from __future__ import annotations

import pytest

from relay.doctor.ways import domains_of, goes_direct, hop_of, hops_of, recipient_for, sender_for, senders_of
from tests.support.doctor import config

HOUSE = """
relayhost = "isp"
postmaster = "chris@free.test"
[smarthost.isp]
host = "smtp.isp.test"
username = "chris@isp.test"
password = "x"
[smarthost.gmail]
host = "smtp.gmail.test"
username = "chris@gmail.test"
password = "x"
[smarthost.unused]
host = "smtp.unused.test"
[sender_relayhost]
"@gmail.test" = "gmail"
"list@own.test" = "[10.0.0.5]:2525"
[sender_canonical]
root = "chris@gmail.test"
"@maison.test" = "@free.test"
local = "somebody"
[transport]
"x.test" = "[10.0.0.9]"
"y.test" = "[10.0.0.9]"
"z.test" = "discard"
"""


@pytest.mark.parametrize(
    ("toml", "is_direct"),
    [
        ("", True),
        ('relayhost = "[10.0.0.5]"', False),
        ('fallback = "[10.0.0.5]"', False),
        ('fallback = "[10.0.0.5]"\n[transport]\n"a.test" = "mx"', True),
        ('[transport]\n"*" = "[10.0.0.5]"', False),
        ('[transport]\n"a.test" = "[10.0.0.5]"', True),
        ('relayhost = "[10.0.0.5]"\n[transport]\n"a.test" = "mx"', True),
    ],
)
def test_mail_goes_directly_where_a_rule_or_none_says_so(toml: str, is_direct: bool) -> None:
    assert goes_direct(config(toml)) is is_direct


def test_every_named_server_is_there_once() -> None:
    assert list(hops_of(config(HOUSE))) == [
        "smarthost isp",
        "smarthost gmail",
        "smarthost unused",
        "next hop [10.0.0.5]:2525",
        "next hop [10.0.0.9]:25",
    ]


def test_a_mailbox_server_is_no_way_out() -> None:
    assert hops_of(config('[local]\nlmtp = "127.0.0.1:24"')) == {}


def test_senders_are_those_of_the_rules() -> None:
    assert senders_of(config(HOUSE)) == [
        "chris@gmail.test",
        "chris@free.test",
        "postmaster@free.test",
        "somebody@gw1.example.net",
        "list@own.test",
    ]


def test_without_rules_the_sender_is_root() -> None:
    assert senders_of(config()) == ["root@gw1.example.net"]


def test_each_server_gets_the_sender_whose_mail_goes_there() -> None:
    house = config(HOUSE)
    hops = hops_of(house)
    assert {title: sender_for(house, hop) for title, hop in hops.items()} == {
        "smarthost isp": "chris@free.test",
        "smarthost gmail": "chris@gmail.test",
        "smarthost unused": "chris@gmail.test",
        "next hop [10.0.0.5]:2525": "list@own.test",
        "next hop [10.0.0.9]:25": "chris@gmail.test",
    }


def test_an_account_that_no_sender_uses_is_its_own_sender() -> None:
    house = config('[smarthost.isp]\nhost = "smtp.isp.test"\nusername = "chris@isp.test"\npassword = "x"')
    assert sender_for(house, hops_of(house)["smarthost isp"]) == "chris@isp.test"


@pytest.mark.parametrize(
    ("toml", "recipient"),
    [
        ('postmaster = "chris@free.test"', "chris@free.test"),
        ("", "chris@isp.test"),
        ('local = { users = ["chris"], maildir = "/mail/{user}" }', "chris@isp.test"),
        (
            (
                'postmaster = "me@office.test"\n[transport]\n'
                '"office.test" = { via = "[10.0.0.9]", internal = true }'
            ),
            "chris@isp.test",
        ),
    ],
)
def test_the_recipient_is_one_whose_mail_leaves_the_house(toml: str, recipient: str) -> None:
    account = '[smarthost.isp]\nhost = "smtp.isp.test"\nusername = "chris@isp.test"\npassword = "x"'
    house = config(f"{toml}\n{account}")
    assert recipient_for(house, hops_of(house)["smarthost isp"], "me@own.test") == recipient


def test_without_any_it_is_the_sender() -> None:
    house = config('relayhost = "[10.0.0.5]"')
    (hop,) = hops_of(house).values()
    assert recipient_for(house, hop, "me@own.test") == "me@own.test"


def test_each_domain_is_there_once_with_its_way() -> None:
    found = [
        (domain, sender, hop.smarthost or hop.key if hop else "")
        for domain, sender, hop in domains_of(config(HOUSE))
    ]
    assert found == [
        ("gmail.test", "chris@gmail.test", "gmail"),
        ("free.test", "chris@free.test", "isp"),
        ("gw1.example.net", "somebody@gw1.example.net", "isp"),
        ("own.test", "list@own.test", "[10.0.0.5]:2525"),
    ]


@pytest.mark.parametrize("toml", ["", '[transport]\n"*" = "discard"', '[transport]\n"*" = "mx"'])
def test_no_server_of_ours_is_none(toml: str) -> None:
    assert hop_of(config(toml), "chris@free.test") is None
