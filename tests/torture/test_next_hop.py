"""Next hops that misbehave: a message is delivered once, or deferred and then delivered once, or bounced."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.service import Service
from tests.support.smtp_server import HANG, OK, Script, ScriptedServer
from tests.torture import next_hop_mailboxes as mailboxes
from tests.torture.conftest import Figure
from tests.torture.next_hop_case import CONTENT, Case
from tests.torture.next_hop_cases import TOO_MANY, all_cases
from tests.torture.next_hop_product import all_pairs
from tests.torture.next_hop_rig import MailboxTrial, Trial

AREA = "next hop"
HEALTHY = 30
"""Messages that the healthy next hop gets while the others misbehave."""

HOUSES = 4
"""Relays with a mailbox server each; nearly all of their time they wait for the next attempt."""


def keep(figure: Figure, what: str, cases: Sequence[Case]) -> None:
    figure(AREA, f"{what} at once", len(cases))
    for fate, count in Counter(fate for case in cases for fate in case.fates).items():
        figure(AREA, f"{what}: recipients {fate}", count)


async def test_recipients_that_a_server_takes_two_at_a_time_all_get_their_mail(tmp_path: Path) -> None:
    taken = 0

    def begin(_: bytes) -> bytes:
        nonlocal taken
        taken = 0
        return OK

    def take(_: bytes) -> bytes:
        nonlocal taken
        taken += 1
        return OK if taken <= 2 else TOO_MANY

    recipients = [f"user{number}@picky.test" for number in range(5)]
    async with ScriptedServer(Script().but(MAIL=begin, RCPT=take)) as server:
        toml = f'relayhost = "[127.0.0.1]:{server.port}"\nqueue = {{ retry = ["100ms"] }}'
        async with Service(tmp_path, toml) as relay:
            assert (await relay.send(CONTENT, *recipients)).startswith("250 ")
            await relay.emptied()
    assert [recipient for recipient, _ in server.acknowledged] == recipients


async def test_every_message_has_the_outcome_that_its_next_hop_deserves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: Figure
) -> None:
    later = asyncio.Event()
    cases = all_cases(Authority.trusted(tmp_path, monkeypatch), later)
    await Trial(tmp_path, cases, later, HEALTHY).run()
    keep(figure, "misbehaviours", cases)


async def test_whatever_goes_wrong_at_whatever_command(
    tmp_path: Path, is_whole: bool, figure: Figure
) -> None:
    if not is_whole:
        pytest.skip("a part of the long trial")
    cases = list(all_pairs())
    await Trial(tmp_path, cases, asyncio.Event(), HEALTHY).run()
    keep(figure, "pairs of command and misbehaviour", cases)


async def test_a_mailbox_server_answers_for_each_recipient_alone(
    tmp_path: Path, is_whole: bool, figure: Figure
) -> None:
    cases = list(mailboxes.all_cases(is_whole=is_whole))
    trials = []
    for number in range(HOUSES):
        folder = tmp_path / str(number)
        folder.mkdir()
        trials.append(MailboxTrial(folder, cases[number::HOUSES]).run())
    await asyncio.gather(*trials)
    keep(figure, "misbehaviours of mailbox servers", cases)


async def test_no_empty_message_goes_to_recipients_that_were_taken_after_a_refused_sender(
    tmp_path: Path,
) -> None:
    server = ScriptedServer(Script().but(MAIL=[b"550 5.7.1 not you\r\n", OK]))
    async with server:
        relay = Service(tmp_path, f'relayhost = "[127.0.0.1]:{server.port}"')
        async with relay:
            await relay.send(CONTENT, "user@picky.test")
            await relay.logged("to=<user@picky.test>, .*status=bounced .*550 5.7.1 not you")
            await relay.logged("to=<chris@free.fr>, .*status=sent")
    assert [recipient for recipient, _ in server.acknowledged] == ["chris@free.fr"]


async def test_much_mail_for_next_hops_that_hang_holds_up_no_other(tmp_path: Path, is_whole: bool) -> None:
    if not is_whole:
        pytest.skip("a part of the long trial")
    async with AsyncExitStack() as stack:
        well, *others = [
            await stack.enter_async_context(ScriptedServer(Script().but(**steps)))
            for steps in ({}, *[{"MAIL": HANG}] * 6)
        ]
        routes = [f'"hang{n}.test" = "[127.0.0.1]:{other.port}"' for n, other in enumerate(others)]
        toml = f'relayhost = "[127.0.0.1]:{well.port}"\ntransport = {{ {", ".join(routes)} }}'
        async with Service(tmp_path, toml) as relay:
            for number in range(len(others)):
                await relay.send(CONTENT, f"first@hang{number}.test")
                await others[number].wait_for("MAIL")
            await asyncio.gather(*(_flood(relay, f"hang{number}.test", 110) for number in range(len(others))))
            await relay.send(CONTENT, "user@healthy.test")
            await relay.logged("to=<user@healthy.test>, .*status=sent")


async def _flood(relay: Service, domain: str, count: int) -> None:
    for number in range(count):
        assert (await relay.send(CONTENT, f"user{number}@{domain}")).startswith("250 ")
