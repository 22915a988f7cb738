from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from relay.config.loading import parse_config
from relay.config.model import Config
from relay.config.rendering import render

FULL = r"""
hostname = "gw1.maison.mrs"
postmaster = '"chris home"@free.fr'
relayhost = "plain"
[[listen]]
address = "[::1]:2525"
[smarthost.isp]
host = "smtp.example.com"
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
"""


def parse(text: str) -> Config:
    return parse_config(text, machine_name="gw1.lan")


@pytest.mark.parametrize("text", ["", FULL], ids=["empty", "full"])
def test_what_is_shown_means_the_same_as_what_was_read(text: str) -> None:
    assert parse(tomli_w.dumps(render(parse(text)))) == parse(text)


def test_every_key_of_the_example_is_shown() -> None:
    example = (Path(__file__).parent.parent / "relay.toml.example").read_text(encoding="utf-8")
    assert render(parse(example)).keys() == render(parse(FULL)).keys() - {"postmaster", "relayhost"}


def test_smarthosts_are_shown_by_name() -> None:
    table = render(parse(FULL))
    assert table["relayhost"] == "plain"
    assert table["transport"] == {
        "*": "isp",
        '"a b"@x.test': "hub.test:2525",
        "b.test": "[10.0.0.5]:2525",
        "c.test": "hub.test",
        "d.test": "[fd00::1]",
        "e.test": "discard",
        "f.test": "error:5.1.1 Mail for this address is not accepted here",
        "g.test": {"via": "mx", "internal": True},
    }
