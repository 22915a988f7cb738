"""What is worth an alert."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.alerts.conditions import PATIENCE_SECONDS, Conditions, Facts, judge, leaves, logins_in

GB = 10**9
WELL = Facts(now=10_000.0, free=50 * GB, size=100 * GB)
NOTHING = Conditions()


def judge_all(*facts: Facts, before: Conditions = NOTHING) -> list[set[str]]:
    """Return the causes after each of the facts, one after the other."""
    causes = []
    for one in facts:
        before = judge(one, before)
        causes.append(set(before.causes))
    return causes


def at(seconds: float, waiting: str | None = "", left_at: float | None = None) -> Facts:
    return replace(WELL, now=WELL.now + seconds, waiting=waiting, left_at=left_at)


def test_all_is_well() -> None:
    assert judge(WELL, NOTHING) == NOTHING


def test_mail_that_waits_for_an_hour_is_told_with_what_was_said_of_it() -> None:
    assert judge_all(at(0), at(3599), at(3600)) == [set(), set(), {"leaving"}]
    told = judge(at(3600, "450 later"), judge(at(0), NOTHING))
    assert told.causes["leaving"] == (
        "No mail has left for an hour, and mail waits. The oldest was last told: 450 later"
    )
    assert judge(at(3600), judge(at(0), NOTHING)).causes["leaving"].endswith("and mail waits.")


def test_the_hour_begins_anew_when_mail_leaves_or_none_waits() -> None:
    left = WELL.now + 1800
    assert judge_all(at(0), at(3600, left_at=left), at(5399, left_at=left), at(5400, left_at=left)) == [
        set(),
        set(),
        set(),
        {"leaving"},
    ]
    assert judge_all(at(0), at(60, None), at(120), at(3719), at(3720)) == [set()] * 4 + [{"leaving"}]


def test_it_is_over_when_mail_leaves_or_none_waits_any_more() -> None:
    assert judge_all(at(0), at(3600), at(3660), at(3720, left_at=WELL.now + 3700)) == [
        set(),
        {"leaving"},
        {"leaving"},
        set(),
    ]
    assert judge_all(at(0), at(3600), at(3660, None)) == [set(), {"leaving"}, set()]


def test_after_a_restart_what_was_told_is_not_over_before_mail_leaves() -> None:
    told = Conditions({"leaving": "No mail ..."})
    assert judge_all(at(0), at(60), at(120, left_at=WELL.now + 100), before=told) == [
        {"leaving"},
        {"leaving"},
        set(),
    ]
    assert judge_all(at(0, left_at=WELL.now), before=told) == [set()]
    assert judge_all(at(0, None), before=told) == [set()]


@pytest.mark.parametrize(
    ("free", "size", "begins", "stays"),
    [
        (10 * GB, 100 * GB, False, False),
        (4 * GB, 1000 * GB, True, True),
        (6 * GB, 1000 * GB, False, True),
        (7.5 * GB, 1000 * GB, False, False),
        (1.01 * GB, 10 * GB, False, True),
        (0.99 * GB, 10 * GB, True, True),
        (1.5 * GB, 10 * GB, False, False),
        (0, 10 * GB, True, True),
    ],
)
def test_a_disk_is_nearly_full_until_it_has_half_as_much_again(
    free: float, size: int, begins: bool, stays: bool
) -> None:
    facts = replace(WELL, free=int(free), size=size)
    assert ("disk" in judge(facts, NOTHING).causes) == begins
    assert ("disk" in judge(facts, Conditions({"disk": "told"})).causes) == stays


@pytest.mark.parametrize(
    ("free", "size", "words"),
    [
        (1_200_000_000, 50 * GB, "1.2 GB of 50.0 GB"),
        (1_040_000, 20_000_000, "1.0 MB of 20.0 MB"),
        (900, 20_000_000, "1 kB of 20.0 MB"),
    ],
)
def test_the_room_is_told(free: int, size: int, words: str) -> None:
    text = judge(replace(WELL, free=free, size=size), NOTHING).causes["disk"]
    assert text.startswith(f"The disk of the queue is nearly full: {words} are free. When it is full")


def test_logins_and_tokens_are_told_each_by_itself() -> None:
    facts = replace(WELL, logins={"isp": "no", "gmail": "token expired"}, tokens={"gmail": "log in again"})
    causes = judge(facts, NOTHING).causes
    assert causes == {"token:gmail": "log in again", "login:isp": "no"}
    assert logins_in(causes) == {"isp": "no"}


def test_a_queue_that_cannot_be_used_leaves_open_what_it_would_tell() -> None:
    before = Conditions({"disk": "full", "leaving": "none", "login:isp": "no"}, 17.0)
    broken = replace(WELL, queue_problem="broken", tokens={"gmail": "dead"})
    assert judge(broken, before) == Conditions(
        {"disk": "full", "leaving": "none", "queue": "broken", "token:gmail": "dead"}, 17.0
    )
    assert judge_all(broken, WELL, before=before)[1] == set()


@pytest.mark.parametrize(
    ("next_hop", "expected"),
    [
        ("isp=[10.0.0.5]:465", True),
        ("x.test:25", True),
        ("maildir", False),
        ("lmtp:[::1]:24", False),
        ("lmtp:/run/dovecot/lmtp", False),
    ],
)
def test_mail_for_mailboxes_here_does_not_leave(next_hop: str, expected: bool) -> None:
    assert leaves(next_hop) == expected


def test_an_hour_is_an_hour() -> None:
    assert PATIENCE_SECONDS == 3600
