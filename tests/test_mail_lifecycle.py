"""The state machine and the retry clock."""

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.attempt import Attempt, State
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.lifecycle import (
    TRANSITIONS,
    Moment,
    age,
    find_jump,
    is_late,
    judge,
    latest_sensible,
    next_attempt_at,
    rejuvenate,
)
from relay.mail.reply import Reply

QUEUE_PAGE = Path(__file__).parent.parent / "docs" / "queue.md"
NOW = 1_700_000_000.0
DAY = 86400.0
RETRY = (300.0, 600.0, 1200.0, 2400.0, 3600.0)
OK = Attempt(Reply(250, "2.0.0", "Ok"))
BUSY = Attempt(Reply(450, "4.2.1", "busy"))
UNKNOWN = Attempt(Reply(550, "5.1.1", "unknown"))

times = st.floats(-1e10, 1e10)


def make_message(received_at: float = NOW, *, is_report: bool = False, notify: str = "") -> Message:
    envelope = Envelope("" if is_report else "a@b.test", (Recipient("c@d.test", notify=notify),))
    return Message(1, envelope, 100, 50, False, received_at, is_report=is_report)


class TestTransitions:
    def test_every_state_is_in_the_table(self) -> None:
        assert set(TRANSITIONS) == set(State)

    def test_a_final_state_is_left_only_for_delivered(self) -> None:
        for state in State:
            if state.is_final:
                assert TRANSITIONS[state] <= {State.DELIVERED}
            else:
                assert TRANSITIONS[state] > {State.DELIVERED}

    def test_is_the_table_that_the_documentation_shows(self) -> None:
        rows = re.findall(r"^\| (.*) \| .* \| (`.*`.*) \|$", QUEUE_PAGE.read_text(), re.MULTILINE)
        documented = {
            (before, after)
            for befores, afters in rows
            for before in (list(State) if befores == "any" else re.findall(r"`(\w+)`", befores))
            for after in re.findall(r"`(\w+)`", afters)
            if before != after
        }
        assert documented == {(before, after) for before in State for after in TRANSITIONS[before]}

    @given(
        code=st.integers(0, 999),
        received_at=times,
        lifetime=st.floats(0, 1e7),
        is_report=st.booleans(),
        has_postmaster=st.booleans(),
    )
    def test_an_attempt_leads_only_where_the_table_allows(
        self, code: int, received_at: float, lifetime: float, is_report: bool, has_postmaster: bool
    ) -> None:
        message = make_message(received_at, is_report=is_report)
        attempt = Attempt(Reply(code, "", ""))
        state = judge(attempt, message, now=NOW, lifetime=lifetime, has_postmaster=has_postmaster)
        assert state in TRANSITIONS[State.QUEUED]
        assert state is State.DEFERRED or state in TRANSITIONS[State.DEFERRED]


class TestJudge:
    @pytest.mark.parametrize(
        ("attempt", "state"),
        [
            (OK, State.DELIVERED),
            (UNKNOWN, State.BOUNCED),
            (BUSY, State.DEFERRED),
            (Attempt(Reply(354, "", "nonsense")), State.DEFERRED),
            (Attempt(Reply(0, "", "nonsense")), State.DEFERRED),
            (Attempt(Reply(700, "", "nonsense")), State.DEFERRED),
        ],
    )
    def test_young_message(self, attempt: Attempt, state: State) -> None:
        assert judge(attempt, make_message(), now=NOW, lifetime=DAY) is state

    @pytest.mark.parametrize(
        ("attempt", "state"),
        [(OK, State.DELIVERED), (UNKNOWN, State.BOUNCED), (BUSY, State.EXPIRED)],
    )
    def test_old_message_expires_only_by_a_temporary_failure(self, attempt: Attempt, state: State) -> None:
        assert judge(attempt, make_message(NOW - DAY), now=NOW, lifetime=DAY) is state

    def test_no_lifetime_expires_at_the_first_temporary_failure(self) -> None:
        assert judge(BUSY, make_message(), now=NOW, lifetime=0) is State.EXPIRED

    def test_message_from_the_future_does_not_expire(self) -> None:
        assert judge(BUSY, make_message(NOW + 10 * DAY), now=NOW, lifetime=DAY) is State.DEFERRED

    @pytest.mark.parametrize("attempt", [UNKNOWN, BUSY])
    def test_lost_bounce_is_held_without_a_postmaster(self, attempt: Attempt) -> None:
        message = make_message(NOW - DAY, is_report=True, notify="FAILURE")
        assert judge(attempt, message, now=NOW, lifetime=DAY, has_postmaster=False) is State.HELD
        assert judge(attempt, message, now=NOW, lifetime=DAY) in {State.BOUNCED, State.EXPIRED}

    def test_lost_report_of_no_consequence_is_not_held(self) -> None:
        message = make_message(is_report=True, notify="NEVER")
        assert judge(UNKNOWN, message, now=NOW, lifetime=DAY, has_postmaster=False) is State.BOUNCED

    def test_deferred_report_is_not_held_yet(self) -> None:
        message = make_message(is_report=True, notify="FAILURE")
        assert judge(BUSY, message, now=NOW, lifetime=DAY, has_postmaster=False) is State.DEFERRED


class TestNextAttempt:
    @pytest.mark.parametrize(("number", "interval"), [(1, 300), (2, 600), (5, 3600), (6, 3600), (1000, 3600)])
    def test_intervals_in_order_then_the_last_one_again(self, number: int, interval: float) -> None:
        due_at = next_attempt_at(RETRY, number, NOW, 7)
        assert abs(due_at - NOW - interval) <= interval * 0.1

    @given(seed=st.integers(0), number=st.integers(1, 10**6), now=times)
    def test_is_pure_and_within_a_tenth(self, seed: int, number: int, now: float) -> None:
        due_at = next_attempt_at(RETRY, number, now, seed)
        assert due_at == next_attempt_at(RETRY, number, now, seed)
        interval = RETRY[min(number, 5) - 1]
        assert 0.9 * interval - 1e-3 <= due_at - now <= 1.1 * interval + 1e-3
        assert due_at <= latest_sensible(RETRY, now)

    def test_neighbours_are_spread(self) -> None:
        shifts = sorted(next_attempt_at((100.0,), 1, 0.0, seed) for seed in range(1000, 2000))
        assert shifts[0] < 91
        assert shifts[-1] > 109
        assert max(b - a for a, b in itertools.pairwise(shifts)) < 1


class TestAge:
    @given(received_at=times, now=times)
    def test_is_never_negative(self, received_at: float, now: float) -> None:
        assert age(make_message(received_at), now) == max(0.0, now - received_at)

    def test_late_from_the_moment_on(self) -> None:
        message = make_message(NOW - 100)
        assert is_late(message, NOW, 100)
        assert not is_late(message, NOW - 1, 100)

    def test_never_late_without_a_time(self) -> None:
        assert not is_late(make_message(NOW - 1e9), NOW, 0)

    def test_not_late_when_the_clock_was_set_back(self) -> None:
        assert not is_late(make_message(NOW + 1e6), NOW, 100)


@pytest.mark.parametrize(
    ("wall", "steady", "jump"),
    [
        (60.0, 60.0, 0.0),
        (3660.0, 60.0, 3600.0),
        (3600.0, 60.0, 0.0),
        (-3600.0, 60.0, 0.0),
        (1e9, 60.0, 1e9 - 60),
    ],
)
def test_a_jump_is_what_the_clock_ran_ahead_of_the_time_that_passed(
    wall: float, steady: float, jump: float
) -> None:
    assert find_jump(Moment(NOW, 100.0), Moment(NOW + wall, 100.0 + steady)) == jump


def test_a_message_is_no_older_for_a_jump() -> None:
    message = make_message(NOW)
    assert rejuvenate(message, 0.0) is message
    assert age(rejuvenate(message, 1e9), NOW + 1e9 + 5) == 5
