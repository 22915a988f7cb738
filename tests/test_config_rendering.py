from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from relay.config.loading import ConfigError, parse_config
from relay.config.model import Config
from relay.config.rendering import render
from relay.config.secret_values import HIDDEN

FULL = r"""
hostname = "gw1.maison.mrs"
helo_name = "auto"
address_notice = true
postmaster = '"chris home"@free.fr'
relayhost = "plain"
[[listen]]
address = "[::1]:2525"
tls_minimum = "1.0"
auth = "any"
clear_password = true
[tls]
certificate = "/etc/relay/fullchain.pem"
key = "/etc/relay/key.pem"
[smarthost.isp]
host = "smtp.example.com"
username = "chris"
password_file = "/run/secrets/isp"
connections = 2
rate = "100/hour"
[smarthost.office]
provider = "microsoft365"
username = "chris@maison.example"
password_env = "OFFICE"
[smarthost.gmail]
provider = "gmail"
username = "chris@gmail.com"
auth = "xoauth2"
client_id = "mine"
client_secret_file = "/run/secrets/gmail"
[smarthost.plain]
host = "10.0.0.5"
port = 2525
tls = "none"
[transport]
"*" = "isp"
'"a b"@x.test' = "hub.test:2525"
"b.test" = "[10.0.0.5]:2525"
"c.test" = "hub.test"
"d.test" = "[fd00::1]"
"e.test" = "discard"
"f.test" = "error:"
"g.test" = { via = "mx", internal = true }
".h.test" = "mx"
"i.test" = { via = "mx", tls = "verify", internal = true }
"j.test" = { via = "hub.test", tls = "starttls" }
"k.test" = { via = "[10.0.0.5]:465", tls = "implicit" }
"l.test" = { via = "mx", tls = "none" }
"m.test" = { via = "mx", tls = "opportunistic" }
[sender_relayhost]
"@gmail.com" = "gmail"
'"a b"@x.test' = "office"
"@lan" = "hub.test"
[sender_canonical]
root = 'Chris "x" (gw1) <chris@free.fr>'
'"a b"@x.test' = '"c d"@x.test'
"@maison.mrs" = "@free.fr"
'""' = "null@free.fr"
[[header_checks]]
pattern = '(?-i)^X-\w+: (.*)'
action = "replace X-Y: $1 $$"
scope = "external"
[[header_checks]]
pattern = '^Received:'
action = "IGNORE"
[queue]
retry = ["500ms", "90s"]
[limits]
message_size = "10 MiB"
[dns]
nameservers = ["::1", "127.0.0.1:5353"]
[web]
address = "[::]:8025"
password_env = "WEB"
[alerts]
command = ["/usr/bin/notify", "me"]
webhook_file = "/run/secrets/webhook"
form = "ntfy"
"""

HOUSE = r"""
[transport]
"maison.mrs" = "local"
"*" = "hub.test"
[local]
domains = ["maison.mrs"]
users = ["chris", '"a b"']
accept = "anyone"
maildir = "/var/mail/{user}"
[aliases]
root = "chris"
family = ["chris", '"a b"', "Ann <ann@x.test>"]
'"c d"' = '"a b"@x.test'
"@old.test" = "@new.test"
"*" = "error:5.1.1 Who?"
"""
LMTP = '[local]\nusers = ["chris"]\nlmtp = "[::1]:24"'
OPEN = '[local]\nlmtp = "/run/dovecot/lmtp"'


def parse(text: str) -> Config:
    return parse_config(text, machine_name="gw1.lan")


@pytest.mark.parametrize(
    "text", ["", FULL, HOUSE, LMTP, OPEN], ids=["empty", "full", "house", "lmtp", "open"]
)
def test_what_is_shown_means_the_same_as_what_was_read(text: str) -> None:
    assert parse(tomli_w.dumps(render(parse(text)))) == parse(text)


def test_every_key_of_the_example_is_shown() -> None:
    example = (Path(__file__).parent.parent / "relay.toml.example").read_text(encoding="utf-8")
    assert render(parse(example)).keys() == render(parse(FULL)).keys() - {"postmaster", "relayhost"}


def test_smarthosts_are_shown_by_name() -> None:
    table = render(parse(FULL))
    assert table["relayhost"] == "plain"
    assert table["sender_relayhost"] == {
        "@gmail.com": "gmail",
        '"a b"@x.test': "office",
        "@lan": "hub.test",
    }
    assert table["transport"] == {
        "*": "isp",
        '"a b"@x.test': "hub.test:2525",
        "b.test": "[10.0.0.5]:2525",
        "c.test": "hub.test",
        "d.test": "[fd00::1]",
        "e.test": "discard",
        "f.test": "error:5.1.1 Mail for this address is not accepted here",
        "g.test": {"via": "mx", "internal": True},
        ".h.test": "mx",
        "i.test": {"via": "mx", "internal": True, "tls": "verify"},
        "j.test": {"via": "hub.test", "tls": "verify"},
        "k.test": {"via": "[10.0.0.5]:465", "tls": "implicit"},
        "l.test": {"via": "mx", "tls": "none"},
        "m.test": "mx",
    }


SECRETS = """
[[listen]]
auth = "required"
clear_password = true
[users]
scanner = "{hash}"
[smarthost.isp]
host = "smtp.example.com"
username = "chris"
password = "{password}"
[smarthost.gmail]
provider = "gmail"
username = "chris@gmail.com"
auth = "xoauth2"
client_id = "mine"
client_secret = "{secret}"
"""
SECRET_VALUES = {
    "hash": "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$ca+UNSvPUNsDvh2I8ijnHGGJJAVw6AORKGaw/11W0N0",
    "password": "hunter2",
    "secret": "GOCSPX-hunter3",
}


def test_secrets_are_shown_as_hidden_and_asked_for_when_that_is_read() -> None:
    config = parse(SECRETS.format(**SECRET_VALUES))
    shown = tomli_w.dumps(render(config))
    assert not any(secret in text for secret in SECRET_VALUES.values() for text in (shown, repr(config)))
    with pytest.raises(ConfigError) as caught:
        parse(shown)
    assert len(caught.value.errors) == 3
    assert all("put the secret here" in error for error in caught.value.errors)


def test_what_is_shown_is_complete_but_for_the_secrets() -> None:
    config = parse(SECRETS.format(**SECRET_VALUES))
    shown = tomli_w.dumps(render(config))
    for secret in SECRET_VALUES.values():
        shown = shown.replace(HIDDEN, secret, 1)
    assert parse(shown) == config
