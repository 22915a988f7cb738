"""``relay explain`` on signatures: whose it is, and why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.loading import parse_config
from relay.config.places import Places
from relay.explain.run import explain
from relay.mail.envelope import Client, Envelope, Recipient
from tests.support.dkim import toml_of
from tests.support.dns_server import failing_nameserver

HOUSE = """
hostname = "gw1.maison.lan"
relayhost = "[127.0.0.1]"
[sender_canonical]
"@gw1.maison.lan" = "@maison.example"
"""


async def about_signature(toml: str, header: bytes) -> list[tuple[str, str]]:
    """Return what is said of signatures, with the rules that are named."""
    content = header + b"To: ann@dest.test\r\n\r\nHello\r\n"
    envelope = Envelope("chris@gw1.maison.lan", (Recipient("ann@dest.test"),))
    config = parse_config(f'{toml}\n[dns]\nnameservers = ["{failing_nameserver()}"]\n', machine_name="gw1")
    told = await explain(config, Places.of("relay.toml", toml), Client("127.0.0.1"), envelope, content)
    return [
        (step.what, " ".join(map(str, step.rules))) for step in told.steps if step.about == "DKIM-Signature"
    ]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"From: Chris <chris@gw1.maison.lan>\r\n", "added in copies that leave the house: the signature of"),
        (b"From: chris@free.test\r\n", "none in copies that leave the house: [dkim] has no key of free.test"),
        (b"From: chris@a.test, ann@a.test\r\n", "a signature is for one From with one address"),
    ],
)
async def test_the_signature_is_told_with_its_key(header: bytes, words: str, tmp_path: Path) -> None:
    toml = HOUSE + toml_of(tmp_path)
    [(what, rules)] = await about_signature(toml, header)
    assert what.startswith("DKIM-Signature: ")
    assert words in what
    line = toml.splitlines().index('[dkim."maison.example"]') + 1
    assert rules == (f'dkim."maison.example", relay.toml:{line}' if b"gw1" in header else "")


async def test_where_nothing_is_signed_nothing_is_said() -> None:
    assert await about_signature(HOUSE, b"From: chris@gw1.maison.lan\r\n") == []
