"""Checking passwords, slowly for whoever guesses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from relay import events
from relay.mail.envelope import Client
from relay.mail.passwords import SALT_SIZE, PasswordHash, parse_hash
from relay.mail.reply import Reply
from relay.reception import replies
from relay.reception.sasl import Credentials

DELAY_SECONDS = 1.0
"""How long the reply to a wrong password takes."""
MOST_FAILURES = 5
MEMORY_SECONDS = 600.0
"""Who failed so often in this time is not listened to until the first failure is forgotten."""
MOST_GUESSERS = 10_000
"""Pairs of address and user whose failures are remembered."""
LONGEST_USER = 64
"""Characters by which users are told apart when failures are counted."""

_NOBODY = PasswordHash(bytes(SALT_SIZE), bytes(32))
"""Checked where there is no such user, so that a client cannot tell by the time that it takes."""

_Guesser = tuple[str, str]


class Logins:
    """Judges logins, one at a time: a check takes 16 MiB and a good part of a second.

    Each address waits for itself first, and then for one check of each other address at most: who guesses on
    many connections does not keep others out.
    Failures count for a user at an address: behind NAT, an address alone would be a whole house.
    """

    def __init__(self, users: Mapping[str, str], *, delay_seconds: float = DELAY_SECONDS) -> None:
        """``users`` are hashes by user name."""
        self._delay_seconds = delay_seconds
        self._turn = asyncio.Lock()
        self._turns_of: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By address, of those who wait or are judged."""
        # The lock alone would not do: the check of a client that vanishes goes on.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="passwords")
        self._failures: dict[_Guesser, list[float]] = {}
        self.configure(users)

    def configure(self, users: Mapping[str, str]) -> None:
        """Follow a changed configuration from the next login on."""
        self._users = {name.casefold(): parse_hash(text) for name, text in users.items()}

    async def judge(self, client: Client, credentials: Credentials) -> Reply | None:
        """Return why a client may not log in, None where it may."""
        guesser = client.address, credentials.user[:LONGEST_USER]
        turn_of_address = self._turns_of.setdefault(client.address, asyncio.Lock())
        async with turn_of_address, self._turn:
            if self._count(guesser) >= MOST_FAILURES:
                events.login_failed(client, credentials.method, credentials.user, "too many failures")
                return replies.LOGIN_BARRED
            if await self._is_right(credentials):
                self._failures.pop(guesser, None)
                return None
            self._note(guesser)
        known = credentials.user in self._users
        reason = "wrong password" if known else "no such name in [users]"
        events.login_failed(client, credentials.method, credentials.user, reason)
        await asyncio.sleep(self._delay_seconds)
        return replies.LOGIN_FAILED

    def close(self) -> None:
        """Check nothing more."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def _is_right(self, credentials: Credentials) -> bool:
        known = self._users.get(credentials.user)
        check = (known or _NOBODY).is_of
        loop = asyncio.get_running_loop()
        is_right = await loop.run_in_executor(self._worker, check, credentials.password)
        return is_right and known is not None

    def _count(self, guesser: _Guesser) -> int:
        """Return how often this failed lately."""
        since = asyncio.get_running_loop().time() - MEMORY_SECONDS
        return sum(time > since for time in self._failures.get(guesser, ()))

    def _note(self, guesser: _Guesser) -> None:
        times = self._failures.pop(guesser, [])
        times.append(asyncio.get_running_loop().time())
        self._failures[guesser] = times[-MOST_FAILURES:]  # behind all others: the first is forgotten first
        if len(self._failures) > MOST_GUESSERS:
            del self._failures[next(iter(self._failures))]
