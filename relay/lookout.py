"""What alerts are judged by, gathered from the rooms."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from relay.alerts.conditions import Facts, leaves
from relay.oauth.tokens import Tokens
from relay.queue.errors import QueueError
from relay.queue.rows import Entry
from relay.queue.store import Store

QUEUE_SECONDS = 30.0
"""How long the queue may take to answer."""


async def look(store: Store, tokens: Tokens, after: int) -> Facts:
    """Return how the queue and the tokens are; of mail, messages with numbers above ``after`` count."""
    facts = Facts(time.monotonic(), tokens=tokens.problems)
    try:
        async with asyncio.timeout(QUEUE_SECONDS):
            queue = await store.examine(after)
            numbers = [number for next_hop, number in queue.oldest.items() if leaves(next_hop)]
            oldest = await store.show(min(numbers)) if numbers else None
    except TimeoutError:
        problem = f"the queue {store.path} does not answer: see the system's log, check the disk"
        return replace(facts, queue_problem=problem)
    except (QueueError, OSError) as error:
        return replace(facts, queue_problem=str(error))
    waiting = None if oldest is None else _last_words(oldest)
    return replace(facts, waiting=waiting, free=queue.free, size=queue.size)


def _last_words(entry: Entry) -> str:
    """Return what was last said of a message that waits, "" if nothing was."""
    waiting = [recipient for recipient in entry.recipients if not recipient.state.is_final]
    return next((recipient.attempt.explain() for recipient in waiting if recipient.attempt), "")
