"""Any bytes in any order: sessions and the queue against models, every parser against what it promises.

In CI for a minute, under ``make fuzz`` for an hour. What fails is printed by Hypothesis: bytes become a file
in seeds/, an order of commands a test of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.torture.conftest import Figure
from tests.torture.fuzz_house import House
from tests.torture.fuzz_parsers import TARGETS, mutated, seeds
from tests.torture.fuzz_queue import Queue
from tests.torture.fuzz_session import Ledger, Sessions

HOUR = 3600.0
PRESSED = 2 + len(TARGETS)
"""Tests that share the hour."""
NO_CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house")) as opened:
        yield opened


def press(test: Callable[[settings], None], examples: int, *, is_whole: bool, steps: int = 50) -> None:
    """Run a test with so many examples; in the whole trial again with others, for its share of the time."""
    until = time.monotonic() + float(os.environ.get("FUZZ_SECONDS", HOUR)) / PRESSED
    chosen = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=NO_CHECKS)
    if is_whole:
        chosen = settings(chosen, derandomize=False)
    test(chosen)
    while is_whole and time.monotonic() < until:
        test(chosen)


def test_sessions_are_answered_by_the_book_and_mail_arrives_as_it_was(
    house: House, is_whole: bool, figure: Figure
) -> None:
    ledger = Ledger()

    class Machine(Sessions):
        pass

    Machine.house, Machine.ledger = house, ledger
    press(lambda chosen: run_state_machine_as_test(Machine, settings=chosen), 40, is_whole=is_whole)
    for what in ("sessions", "replies", "messages"):
        figure("fuzz", f"{what} compared with the model", getattr(ledger, what))


def test_the_queue_is_what_a_dictionary_would_be(is_whole: bool, figure: Figure) -> None:
    class Machine(Queue):
        pass

    press(lambda chosen: run_state_machine_as_test(Machine, settings=chosen), 80, is_whole=is_whole)
    figure("fuzz", "calls of the queue compared with the model", Machine.calls)


@pytest.mark.parametrize("name", TARGETS)
def test_parsers_keep_their_promises_for_any_bytes(name: str, is_whole: bool, figure: Figure) -> None:
    check, _ = TARGETS[name]
    tried = 0
    for seed in seeds(name):
        check(seed)

    def look(chosen: settings) -> None:
        @chosen
        @given(mutated(name))
        def attempt(data: bytes) -> None:
            nonlocal tried
            tried += 1
            check(data)

        attempt()

    press(look, 200, is_whole=is_whole)
    figure("fuzz", f"inputs of {name}", tried)
