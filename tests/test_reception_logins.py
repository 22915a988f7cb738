"""Judging logins: who is let in, and what becomes of those who guess."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from functools import cache

import pytest

from relay.mail import passwords
from relay.mail.envelope import Client
from relay.mail.passwords import PasswordHash, make_hash
from relay.reception import logins as logins_module
from relay.reception import replies
from relay.reception.logins import MOST_FAILURES, Logins
from relay.reception.sasl import Credentials

ANNA = Client("192.168.0.7", "pc.lan")
BEN = Client("192.168.0.8", "nas.lan")


@cache
def hash_of(password: bytes) -> str:
    return str(make_hash(password, b"salt"))


def claim(user: str = "anna", password: bytes = b"secret") -> Credentials:
    return Credentials("PLAIN", user, password)


WRONG = claim(password=b"wrong")


@pytest.fixture
def logins() -> Iterator[Logins]:
    made = Logins({"Anna": hash_of(b"secret"), "ben": hash_of(b"other")}, delay_seconds=0)
    yield made
    made.close()


async def fail(logins: Logins, times: int, client: Client = ANNA, credentials: Credentials = WRONG) -> None:
    for _ in range(times):
        assert await logins.judge(client, credentials) is replies.LOGIN_FAILED


async def test_who_knows_the_password_is_let_in(logins: Logins) -> None:
    assert await logins.judge(ANNA, claim()) is None
    assert await logins.judge(ANNA, claim("ben", b"other")) is None


async def test_nobody_else_is(logins: Logins) -> None:
    for credentials in (WRONG, claim("ben"), claim("carl"), claim(""), claim(password=b"")):
        assert await logins.judge(ANNA, credentials) is replies.LOGIN_FAILED
    nobody = Logins({})
    nobody._delay_seconds = 0
    assert await nobody.judge(ANNA, claim("", b"")) is replies.LOGIN_FAILED
    nobody.close()


async def test_a_name_that_does_not_exist_takes_as_long_as_a_wrong_password(
    logins: Logins, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[tuple[int, int, int]] = []
    derive = passwords._derive

    def observed(password: bytes, settings: PasswordHash) -> bytes:
        costs.append((settings.log2_n, settings.r, settings.p))
        return derive(password, settings)

    monkeypatch.setattr(passwords, "_derive", observed)
    await fail(logins, 1)
    await fail(logins, 1, credentials=claim("carl"))
    assert costs == [(14, 8, 1)] * 2


async def test_failures_are_logged_in_one_line_without_the_password(
    logins: Logins, caplog: pytest.LogCaptureFixture
) -> None:
    await fail(logins, 1)
    await fail(logins, 1, credentials=claim("carl"))
    start = "pc.lan[192.168.0.7]: SASL PLAIN authentication failed:"
    assert [record.getMessage() for record in caplog.records] == [
        f"{start} wrong password, sasl_username=anna",
        f"{start} no such name in [users], sasl_username=carl",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_who_fails_too_often_is_not_listened_to(
    logins: Logins, caplog: pytest.LogCaptureFixture
) -> None:
    await fail(logins, MOST_FAILURES)
    for credentials in (WRONG, claim()):
        assert await logins.judge(ANNA, credentials) is replies.LOGIN_BARRED
    assert replies.LOGIN_BARRED.code == 454
    assert "too many failures, sasl_username=anna" in caplog.records[-1].getMessage()


async def test_others_are_let_in_all_the_same(logins: Logins) -> None:
    await fail(logins, MOST_FAILURES)
    assert await logins.judge(BEN, claim()) is None
    assert await logins.judge(ANNA, claim("ben", b"other")) is None


async def test_a_success_makes_failures_forgotten(logins: Logins) -> None:
    for _ in range(3):
        await fail(logins, MOST_FAILURES - 1)
        assert await logins.judge(ANNA, claim()) is None


async def test_failures_are_forgotten_in_time(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    await fail(logins, MOST_FAILURES)
    monkeypatch.setattr(logins_module, "MEMORY_SECONDS", 0.0)
    assert await logins.judge(ANNA, claim()) is None


async def test_many_guesses_at_once_are_as_good_as_one_after_the_other(logins: Logins) -> None:
    answers = await asyncio.gather(*(logins.judge(ANNA, WRONG) for _ in range(3 * MOST_FAILURES)))
    assert answers.count(replies.LOGIN_FAILED) == MOST_FAILURES
    assert answers.count(replies.LOGIN_BARRED) == 2 * MOST_FAILURES


async def test_who_guesses_on_many_connections_does_not_keep_others_waiting(logins: Logins) -> None:
    order: list[str] = []

    async def judge(client: Client, credentials: Credentials) -> None:
        await logins.judge(client, credentials)
        order.append(credentials.user)

    guesses = [judge(BEN, claim(f"guess {number}")) for number in range(6)]
    await asyncio.gather(*guesses, judge(ANNA, claim()))
    assert order.index("anna") <= 1
    assert not logins._turns_of


async def test_the_memory_for_failures_is_bounded(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins_module, "MOST_GUESSERS", 2)
    for name in ("a", "b" * 10_000, "c"):
        await fail(logins, 1, credentials=claim(name))
    assert [*logins._failures] == [("192.168.0.7", "b" * 64), ("192.168.0.7", "c")]
    assert all(len(times) == 1 for times in logins._failures.values())


async def test_a_wrong_password_is_answered_late_and_holds_nobody_up() -> None:
    logins = Logins({"anna": hash_of(b"secret")}, delay_seconds=1000)
    guess = asyncio.create_task(logins.judge(BEN, WRONG))
    while not logins._failures:
        await asyncio.sleep(0.01)
    assert await logins.judge(ANNA, claim()) is None
    assert not guess.done()
    guess.cancel()
    await asyncio.wait([guess])
    assert await logins.judge(ANNA, claim()) is None
    logins.close()


class SlowHash:
    """A hash whose check can be held up, and that counts how many go on at once."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.running = self.most = self.checks = 0

    def is_of(self, password: bytes) -> bool:
        self.running += 1
        self.checks += 1
        self.most = max(self.most, self.running)
        self.may_end.wait(10)
        self.running -= 1
        return password == b"secret"


async def test_passwords_are_checked_one_at_a_time_and_the_loop_goes_on(logins: Logins) -> None:
    slow = SlowHash()
    logins._users["anna"] = slow  # type: ignore[assignment]  # a hash, as far as a check goes
    clients = [Client(f"10.0.0.{number}") for number in range(6)]
    tasks = [asyncio.create_task(logins.judge(client, claim())) for client in clients]
    while not slow.running:
        await asyncio.sleep(0.01)
    for task in tasks[:2]:
        task.cancel()  # the clients vanish: one that is being checked, one that waits
    await asyncio.sleep(0.01)
    assert slow.running == 1
    slow.may_end.set()
    assert await asyncio.gather(*tasks[2:]) == [None] * 4
    assert (slow.most, slow.checks) == (1, 5)


async def test_users_may_change(logins: Logins) -> None:
    logins.configure({"anna": hash_of(b"other")})
    assert await logins.judge(ANNA, claim(password=b"other")) is None
    await fail(logins, 1, credentials=claim())
    await fail(logins, 1, credentials=claim("ben", b"other"))
