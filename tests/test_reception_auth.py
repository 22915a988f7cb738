"""AUTH in sessions: where it is offered, what it grants, and that passwords are seen by nobody."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from relay import events
from relay.config.model import Limits, Listen
from relay.mail.envelope import Envelope, Recipient
from relay.mail.envelope import Message as Queued
from relay.mail.passwords import make_hash
from relay.reception.access import Access
from tests.support.reception import LIMITS, SETTINGS, MemoryIntake, Peer, connected, serving

OPEN = Listen("127.0.0.1", 0, auth="optional", clear_password=True)
USERS = {"anna": str(make_hash(b"secret", b"salt")), "Ben": str(make_hash(b"other", b"salt"))}
STRANGERS = Access((ip_network("10.0.0.0/8"),))


def plain(user: str = "anna", password: str = "secret") -> str:
    return b64encode(f"\0{user}\0{password}".encode()).decode()


ANNA, WRONG = plain(), plain(password="wr0ng")
ENVELOPE = ("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>")


@asynccontextmanager
async def greeted(
    listen: Listen = OPEN,
    intake: MemoryIntake | None = None,
    limits: Limits = LIMITS,
    **options: Any,
) -> AsyncIterator[Peer]:
    """Run a reception with users, and a client that said EHLO."""
    intake = intake or MemoryIntake(STRANGERS)
    async with (
        serving(intake, SETTINGS, limits, listens=[listen], users=USERS, **options) as reception,
        connected(reception) as peer,
    ):
        await peer.ask("EHLO pc")
        yield peer


# Where it is offered


async def test_it_is_offered_twice_for_clients_of_any_age() -> None:
    async with greeted() as peer:
        lines = (await peer.ask("EHLO pc")).split("\n")
        assert "250-AUTH PLAIN LOGIN" in lines
        assert "250-AUTH=PLAIN LOGIN" in lines


async def test_it_is_not_offered_in_clear_and_why_is_told() -> None:
    async with greeted(replace(OPEN, clear_password=False)) as peer:
        assert "AUTH" not in await peer.ask("EHLO pc")
        reply = await peer.ask(f"AUTH PLAIN {ANNA}")
        assert reply[:9] == "503 5.5.1"
        assert "only over an encrypted connection" in reply


async def test_it_is_not_offered_where_there_is_none() -> None:
    async with greeted(replace(OPEN, auth="none")) as peer:
        assert "AUTH" not in await peer.ask("EHLO pc")
        assert "turn authentication off" in await peer.ask(f"AUTH PLAIN {ANNA}")


# What it grants


@pytest.mark.parametrize(
    "commands",
    [
        [f"AUTH PLAIN {ANNA}"],
        ["auth plain", ANNA],
        ["AUTH LOGIN", b64encode(b"ANNA").decode(), b64encode(b"secret").decode()],
        [f"AUTH login {b64encode(b'anna').decode()}", b64encode(b"secret").decode()],
    ],
)
async def test_who_logs_in_may_send_anywhere(commands: list[str]) -> None:
    intake = MemoryIntake(STRANGERS)
    async with greeted(intake=intake) as peer:
        assert (await peer.ask(*ENVELOPE))[:3] == "554"
        assert (await peer.ask("RSET", *commands)) == "235 2.7.0 Authentication successful"
        assert (await peer.ask(*ENVELOPE, "DATA", "."))[:3] == "250"
    client = intake.messages[0].client
    assert (client.user, client.sasl_method) == ("anna", commands[0].split()[1].upper())
    assert client.protocol == "ESMTPA"


async def test_it_outlives_ehlo_and_rset() -> None:
    async with greeted() as peer:
        assert (await peer.ask(f"AUTH PLAIN {ANNA}", "RSET", "EHLO pc", *ENVELOPE))[:3] == "250"


async def test_where_it_is_optional_a_neighbour_needs_none() -> None:
    async with greeted(intake=MemoryIntake()) as peer:
        assert (await peer.ask(*ENVELOPE))[:3] == "250"


async def test_where_it_is_required_a_neighbour_needs_it_too() -> None:
    async with greeted(replace(OPEN, auth="required"), MemoryIntake()) as peer:
        reply = await peer.ask(ENVELOPE[0])
        assert reply[:9] == "530 5.7.0"
        assert "turn on authentication" in reply
        assert (await peer.ask(f"AUTH PLAIN {WRONG}", ENVELOPE[0]))[:9] == "530 5.7.0"
        assert (await peer.ask(f"AUTH PLAIN {ANNA}", *ENVELOPE))[:3] == "250"


@pytest.mark.parametrize("is_neighbour", [True, False])
async def test_any_password_is_taken_where_the_owner_says_so_and_grants_nothing(is_neighbour: bool) -> None:
    intake = MemoryIntake() if is_neighbour else MemoryIntake(STRANGERS)
    async with greeted(replace(OPEN, auth="any"), intake) as peer:
        assert (await peer.ask(f"AUTH PLAIN {plain('who', 'ever')}"))[:9] == "235 2.7.0"
        assert (await peer.ask(f"AUTH PLAIN {ANNA}"))[:9] == "503 5.5.1"
        assert (await peer.ask(*ENVELOPE))[:3] == ("250" if is_neighbour else "554")
        if is_neighbour:
            assert (await peer.ask("DATA", "."))[:3] == "250"
            assert (intake.messages[0].client.user, intake.messages[0].client.protocol) == ("", "ESMTP")


async def test_messages_of_an_hour_are_counted_by_user() -> None:
    async with greeted(intake=MemoryIntake(), limits=Limits(messages_per_hour=1)) as peer:
        assert (await peer.ask(f"AUTH PLAIN {ANNA}", *ENVELOPE, "DATA", "."))[:3] == "250"
        assert (await peer.ask(ENVELOPE[0]))[:9] == "450 4.7.1"
        # Whoever comes from the same address has an hour of its own.
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(*peer.writer.get_extra_info("peername"))
            other = Peer(reader, writer)
            await other.reply()
            assert (await other.ask("EHLO pc", *ENVELOPE))[:3] == "250"
            await other.close()


# What is refused


async def test_a_wrong_password_is_refused_and_another_try_allowed() -> None:
    async with greeted() as peer:
        reply = await peer.ask(f"AUTH PLAIN {WRONG}")
        assert reply[:9] == "535 5.7.8"
        assert (await peer.ask(*ENVELOPE))[:3] == "554"
        assert (await peer.ask("RSET", f"AUTH PLAIN {ANNA}"))[:3] == "235"


async def test_it_is_refused_twice_and_in_a_transaction() -> None:
    async with greeted() as peer:
        assert (await peer.ask(ENVELOPE[0], f"AUTH PLAIN {ANNA}"))[:9] == "503 5.5.1"
        assert (await peer.ask("RSET", f"AUTH PLAIN {ANNA}"))[:3] == "235"
        assert (await peer.ask(f"AUTH PLAIN {ANNA}"))[:9] == "503 5.5.1"


async def test_a_cancelled_exchange_leaves_the_session_as_it_was() -> None:
    async with greeted() as peer:
        assert (await peer.ask("AUTH LOGIN", "*"))[:9] == "501 5.7.0"
        assert (await peer.ask(f"AUTH PLAIN {ANNA}"))[:3] == "235"


async def test_who_guesses_on_and_on_is_sent_away() -> None:
    async with greeted() as peer:
        for _ in range(5):
            assert (await peer.ask(f"AUTH PLAIN {WRONG}"))[:3] == "535"
        for _ in range(14):
            assert (await peer.ask(f"AUTH PLAIN {ANNA}"))[:3] == "454"
        assert (await peer.ask(f"AUTH PLAIN {ANNA}"))[:3] == "454"
        assert (await peer.reply())[:3] == "421"


async def test_a_response_of_any_length_is_borne() -> None:
    async with greeted() as peer:
        for response in ("A" * 12_288, "A" * 200_000):
            assert (await peer.ask("AUTH PLAIN", response))[:9] == "535 5.7.8"
        assert (await peer.ask(f"AUTH PLAIN {ANNA}"))[:3] == "235"


async def test_a_client_may_vanish_while_it_is_asked_or_checked(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(MemoryIntake(), listens=[OPEN], users=USERS) as reception:
        for commands in ("AUTH LOGIN\r\n", f"AUTH PLAIN {WRONG}\r\n"):
            async with connected(reception) as peer:
                peer.send(commands.encode())
                await peer.reader.read(1)
                peer.writer.transport.abort()
        async with asyncio.timeout(10):
            while reception._shared.sessions:
                await asyncio.sleep(0.01)
    assert "Traceback" not in caplog.text


# What is logged


async def test_no_password_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    name, password = (b64encode(word).decode() for word in (b"anna", b"secret"))
    async with greeted() as peer:
        for commands in (
            [f"AUTH PLAIN {WRONG}"],
            ["AUTH LOGIN", name, b64encode(b"wr0ng").decode()],
            ["AUTH LOGIN", name, "*"],
            ["AUTH PLAIN", WRONG + "!"],
            [f"AUTH PLAIN {WRONG} {ANNA}"],
            [f"AUTH CRAM-MD5 {ANNA}", ANNA, password],
            [f"AUTH LOGIN {name}", password],
            [f"AUTH PLAIN {ANNA}"],
            [ANNA],
        ):
            await peer.ask(*commands)
    assert "sasl_username=anna" in caplog.text
    for secret in ("secret", "wr0ng", ANNA, WRONG, password, b64encode(b"wr0ng").decode()):
        assert secret not in caplog.text


async def test_a_failed_login_makes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")
    async with greeted() as peer:
        await peer.ask(f"AUTH PLAIN {WRONG}", "QUIT")
    assert [record.getMessage() for record in caplog.records if record.name == "relay"] == [
        "localhost[127.0.0.1]: SASL PLAIN authentication failed: wrong password, sasl_username=anna"
    ]


async def test_the_user_is_logged_with_the_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay")
    intake = MemoryIntake(STRANGERS)
    async with greeted(intake=intake) as peer:
        await peer.ask(f"AUTH PLAIN {plain('BEN', 'other')}", *ENVELOPE, "DATA", ".")
    queued = Queued(0x3F, Envelope("a@b.test", (Recipient("c@d.test"),)), 10, 5, False, 100.0)
    events.accepted(queued, intake.messages[0].client, "<1@pc>")
    line = caplog.records[-1].getMessage()
    assert line.startswith(
        "3F: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username=ben, message-id="
    )
    assert ", from=<a@b.test>, " in line
