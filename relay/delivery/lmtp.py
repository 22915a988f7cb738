"""Asking the mailbox server whom it knows, by a transaction that ends before DATA (RFC 2033)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from relay.delivery.agent import Connect, Endpoints, open_session
from relay.mail.attempt import Attempt
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from relay.mail.route import NextHop

SECONDS = 5.0
"""How long it may take in all: a client of the relay waits for it."""


async def verify_recipient(
    address: str, next_hop: NextHop, endpoints: Endpoints, connect: Connect
) -> Reply | None:
    """Return why a mailbox server takes no mail for an address, None where it takes some.

    A permanent reply is the server's own to RCPT, or says that the server cannot be given the address. What
    says nothing about the address, be it no session or a refusal of MAIL, makes a temporary reply.
    """
    reply: Reply | None = _unknown("it did not answer in time")
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            opened = await open_session(next_hop, endpoints, connect, set())
            if isinstance(opened, Attempt):
                return _unknown(opened.explain())
            try:
                reply = _judge(await opened.verify(Recipient(address)))
                await opened.quit()
            finally:
                opened.abort()
    return reply


def _judge(attempt: Attempt) -> Reply | None:
    if attempt.reply.is_positive:
        return None
    is_about_address = attempt.reply.is_permanent and attempt.command != "MAIL FROM"
    return attempt.reply if is_about_address else _unknown(attempt.explain())


def _unknown(reason: str) -> Reply:
    text = f"the mailbox server cannot say now whether it takes mail for this address: {reason}"
    return Reply(451, "4.3.0", text)
