"""Dialogues recorded from Postfix: the same commands get the same reply codes."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from relay.config.model import Limits
from relay.mail.address import split_address
from relay.mail.envelope import Client, Recipient
from relay.mail.reply import Reply
from relay.reception.access import Access
from relay.reception.session import SessionSettings
from tests.support.reception import MemoryIntake, Peer, connected, serving

VECTORS = Path(__file__).parent / "vectors"
DIFFERENT = {
    "smtp_dialogue-040": "only CR LF . CR LF ends a message",
    "smtp_dialogue-041": "only CR LF . CR LF ends a message",
}
LATER = {"smtpd_sasl_auth_enable", "smtpd_tls_security_level", "smtpd_tls_auth_only"}


def load_cases() -> list[dict[str, Any]]:
    scope = set((VECTORS / "scope.txt").read_text().split()) - LATER
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


async def converse(peer: Peer, steps: list[dict[str, Any]]) -> list[list[int | None]]:
    codes: list[list[int | None]] = []
    for step in steps:
        if step.get("close"):
            await peer.close()
            codes.append([])
            continue
        previous = codes[-1][-1] if codes and codes[-1] else None
        if step.get("if_prev") not in {None, previous}:
            codes.append([])
            continue
        peer.send(step["send"].encode("latin-1"))
        replies = [await peer.reply() for _ in range(step.get("replies", 1))]
        codes.append([int(reply[:3]) if reply else None for reply in replies])
    return codes


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case["id"])
async def test_replies_have_the_codes_of_postfix(case: dict[str, Any]) -> None:
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
    async with serving(intake, settings, Limits()) as reception:
        for session, expected in zip(case["input"]["sessions"], case["expected"]["sessions"], strict=True):
            async with connected(reception, session.get("client_ip", "127.0.0.1"), greet=False) as peer:
                codes = await asyncio.wait_for(converse(peer, session["steps"]), 10)
            assert codes == [[reply["code"] for reply in step.get("replies", [])] for step in expected]
