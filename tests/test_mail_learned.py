"""Learned routes as values, and what calls for a detour."""

from __future__ import annotations

import pytest

from relay.mail.attempt import Attempt, Scope
from relay.mail.fallback import PATIENCE, UNREACHED, find_reason
from relay.mail.learned import ANYWHERE, LearnedRoute, detour, find_learned, may_detour
from relay.mail.reply import Reply
from relay.mail.route import Discard, NextHop, Route

ISP = NextHop("smtp.isp.test", 465, tls="implicit", smarthost="isp")
DIRECT = NextHop("dest.test", use_mx=True)
LEARNED = LearnedRoute("dest.test", ISP.key, "blocklist", "554 blocked", 0.0, 100.0)
BLOCKED = Reply(554, "5.7.1", "Client host [203.0.113.7] blocked using zen.spamhaus.org")
BUSY = Reply(451, "4.7.1", "Client host [203.0.113.7] blocked using zen.spamhaus.org")


def test_a_learned_route_takes_the_place_of_the_direct_one() -> None:
    found = detour(Route(DIRECT), ISP, {"dest.test": LEARNED})
    assert (found, found.rule, found.instead_of) == (Route(ISP), ("fallback",), DIRECT)


def test_what_was_learned_about_all_goes_for_each() -> None:
    assert detour(Route(DIRECT), ISP, {ANYWHERE: LEARNED}) == Route(ISP)
    assert find_learned({ANYWHERE: LEARNED}, "x.test") is LEARNED
    assert find_learned({}, "x.test") is None


@pytest.mark.parametrize(
    "route",
    [
        Route(DIRECT, rule=("transport", "dest.test")),
        Route(NextHop("dest.test"), rule=("relayhost",)),
        Route(NextHop("192.0.2.1")),
        Route(Discard()),
    ],
)
def test_only_mail_by_mx_that_no_line_routes_takes_a_detour(route: Route) -> None:
    assert not may_detour(route)
    assert detour(route, ISP, {"dest.test": LEARNED, ANYWHERE: LEARNED}) is route


def test_nothing_changes_without_a_fallback_or_for_other_domains() -> None:
    route = Route(DIRECT)
    assert detour(route, None, {"dest.test": LEARNED}) is route
    assert detour(route, ISP, {}) is route
    assert detour(route, ISP, {"other.test": LEARNED}) is route


def test_a_route_is_over_when_its_time_is_and_a_pinned_one_never() -> None:
    assert [LEARNED.is_expired(now) for now in (99.0, 100.0)] == [False, True]
    pinned = LearnedRoute("dest.test", ISP.key, "blocklist", "", 0.0, 100.0, is_pinned=True)
    assert not pinned.is_expired(1e9)


@pytest.mark.parametrize(
    ("attempt", "age", "reason"),
    [
        (Attempt(BLOCKED, is_remote=True, command="RCPT TO"), 0, "blocklist"),
        (Attempt(BUSY, is_remote=True, command="RCPT TO"), PATIENCE - 1, ""),
        (Attempt(BUSY, is_remote=True, command="RCPT TO"), PATIENCE, "blocklist"),
        (Attempt(Reply(451, "4.3.0", "refused to talk"), Scope.SITE, remote_reply=BLOCKED), 0, "blocklist"),
        (Attempt(Reply(451, "4.4.1", "connect to x"), Scope.SITE, is_unreachable=True), 0, UNREACHED),
        (Attempt(BLOCKED), 1e9, ""),
        (Attempt(BLOCKED, is_remote=True, is_possible_duplicate=True), 0, ""),
        (Attempt(Reply(550, "5.1.1", "no such user"), is_remote=True, command="RCPT TO"), 1e9, ""),
        (Attempt(Reply(250, "2.0.0", "blocked using zen.spamhaus.org"), is_remote=True), 1e9, ""),
    ],
)
def test_a_detour_takes_a_definite_refusal_of_us(attempt: Attempt, age: float, reason: str) -> None:
    assert find_reason(attempt, age) == reason
