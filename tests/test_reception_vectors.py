"""Dialogues recorded from Postfix: the same commands get the same reply codes."""

from __future__ import annotations

import asyncio
import json
import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.config.model import Limits, Listen, ListenerTls
from relay.mail.address import split_address
from relay.mail.envelope import Client, Recipient
from relay.mail.passwords import make_hash
from relay.mail.reply import Reply
from relay.reception.access import Access
from relay.reception.shared import SessionSettings
from tests.support.authority import Authority
from tests.support.reception import MemoryIntake, Peer, connected, serving

VECTORS = Path(__file__).parent / "vectors"
DIFFERENT = {
    "smtp_dialogue-040": "only CR LF . CR LF ends a message",
    "smtp_dialogue-041": "only CR LF . CR LF ends a message",
}
USERS = {"alice": str(make_hash(b"secret", b"salt"))}
Codes = list[list[int | None]]
SILENCE_SECONDS = 0.2
"""How long a reply is waited for that is not to come."""


def load_cases() -> list[dict[str, Any]]:
    scope = set((VECTORS / "scope.txt").read_text().split())
    out_of_reach = {
        line.split()[0] for line in (VECTORS / "inexpressible.txt").read_text().splitlines() if line
    }
    cases = json.loads((VECTORS / "cases" / "smtp_dialogue.json").read_text())
    return [case for case in cases if set(case["tags"]) <= scope and case["id"] not in out_of_reach]


class RelayingIntake(MemoryIntake):
    """Takes mail for local domains from anyone, and leaves the rest to ``access``."""

    def __init__(self, case: dict[str, Any]) -> None:
        base = case["config"]["base"]
        super().__init__(Access(tuple(ip_network(text) for text in base["trusted_networks"])))
        self.local_domains = base["local_domains"]

    async def judge_recipient(self, client: Client, reverse_path: str, recipient: Recipient) -> Reply | None:
        local, domain = split_address(recipient.address)
        is_local = domain in self.local_domains and not set("%!@") & set(local)
        return None if is_local else self.access.judge(client, recipient)


async def receive(peer: Peer, *, is_expected: bool) -> str:
    """Return the next reply, "" where there is none; one that is not to come is not waited for long."""
    try:
        async with asyncio.timeout(None if is_expected else SILENCE_SECONDS):
            return await peer.reply()
    except TimeoutError:
        return ""


async def converse(peer: Peer, steps: list[dict[str, Any]], expected: Codes, trust: ssl.SSLContext) -> Codes:
    codes: Codes = []
    for step, expected_codes in zip(steps, expected, strict=True):
        if step.get("close") or step.get("starttls"):
            await (peer.close() if step.get("close") else peer.start_tls(trust))
            codes.append([])
            continue
        previous = codes[-1][-1] if codes and codes[-1] else None
        if step.get("if_prev") not in {None, previous}:
            codes.append([])
            continue
        peer.send(step["send"].encode("latin-1"))
        count = step.get("replies", 1)
        replies = [await receive(peer, is_expected=expected_codes != [None]) for _ in range(count)]
        codes.append([int(reply[:3]) if reply else None for reply in replies])
    return codes


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ListenerTls, ssl.SSLContext]:
    """Return the listeners' certificate, and what a client needs to trust it."""
    authority = Authority(trustme.CA(), tmp_path_factory.mktemp("authority"))
    trust = ssl.create_default_context()
    authority.ca.configure_trust(trust)
    return ListenerTls(*authority.files("localhost")), trust


def make_listener(options: dict[str, str]) -> Listen:
    has_tls, has_login = "smtpd_tls_security_level" in options, "smtpd_sasl_auth_enable" in options
    return Listen(
        "127.0.0.1",
        0,
        tls="starttls" if has_tls else "none",
        auth="optional" if has_login else "none",
        clear_password=options.get("smtpd_tls_auth_only") != "yes",
    )


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case["id"])
async def test_replies_have_the_codes_of_postfix(
    case: dict[str, Any], certificate: tuple[ListenerTls, ssl.SSLContext]
) -> None:
    if case["id"] in DIFFERENT:
        pytest.skip(DIFFERENT[case["id"]])
    options = case["config"]["options"]
    settings = SessionSettings(
        "relay.oracle.test",
        message_size=case["config"]["base"]["message_size_limit"],
        recipients=int(options.get("smtpd_recipient_limit", 1000)),
        idle_seconds=60,
    )
    intake = RelayingIntake(case)
    tls, trust = certificate
    listens = [make_listener(options)]
    async with serving(intake, settings, Limits(), listens=listens, tls=tls, users=USERS) as reception:
        for session, steps in zip(case["input"]["sessions"], case["expected"]["sessions"], strict=True):
            expected = [[reply["code"] for reply in step.get("replies", [])] for step in steps]
            async with connected(reception, session.get("client_ip", "127.0.0.1"), greet=False) as peer:
                codes = await asyncio.wait_for(converse(peer, session["steps"], expected, trust), 10)
            assert codes == expected
