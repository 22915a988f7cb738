from __future__ import annotations

from collections.abc import Callable

import pytest

from relay.mail.arrival import ArrivalRules, arrange_headers
from relay.mail.header_checks import Inspected
from relay.mail.rewrite import Canonical, Home

HOME = Home("gw.test", frozenset({"gw.test"}))
RULES = ArrivalRules(
    "gw.test",
    HOME,
    Canonical({"root": ("chris@free.test", "Chris"), "s@x.test": ("s@y.test", "")}),
    Canonical({"root": ("inbox@free.test", "")}),
)
NO_TABLES = ArrivalRules("gw.test", HOME)
RECEIVED = b"Received: here\r\n"
WHOLE = [b"Message-ID: <x@y>\r\n", b"Date: now\r\n"]


def arrange(
    *headers: bytes,
    rules: ArrivalRules = RULES,
    inspect: Callable[[bytes], Inspected] | None = None,
) -> list[bytes]:
    """Return what is made of headers to which only From may be missing, without what is known before."""
    result = arrange_headers(
        rules,
        RECEIVED,
        [*WHOLE, *headers],
        reverse_path="joe@gw.test",
        queue_id="3F",
        now=0.0,
        inspect=inspect,
    )
    return [header for header in result if header not in {RECEIVED, *WHOLE}]


def test_our_received_header_comes_first_and_missing_headers_last() -> None:
    headers = arrange_headers(
        NO_TABLES, RECEIVED, [b"Subject: x\r\n"], reverse_path="joe@gw.test", queue_id="3F", now=0.0
    )
    assert headers[:2] == [RECEIVED, b"Subject: x\r\n"]
    assert [header.partition(b":")[0] for header in headers[2:]] == [b"Message-Id", b"Date", b"From"]
    assert headers[-1] == b"From: joe@gw.test\r\n"


def test_headers_that_name_hidden_recipients_or_belong_to_delivery_are_dropped() -> None:
    headers = arrange(
        b"Bcc: a@b.test,\r\n c@d.test\r\n",
        b"bCC: a@b.test\r\n",
        b"Return-Path: <a@b.test>\r\n",
        b"Content-Length: 3\r\n",
        b"X-Bcc: a@b.test\r\n",
        b"From: a@b.test\r\n",
    )
    assert headers == [b"X-Bcc: a@b.test\r\n", b"From: a@b.test\r\n"]


def test_a_dropped_resent_header_still_counts_as_present() -> None:
    headers = arrange(b"Resent-Bcc: a@b.test\r\n", b"Resent-Date: now\r\n", b"From: a@b.test\r\n")
    assert [header.partition(b":")[0] for header in headers] == [
        b"Resent-Date",
        b"From",
        b"Resent-Message-Id",
        b"Resent-From",
    ]


@pytest.mark.parametrize("rules", [RULES, NO_TABLES])
def test_incomplete_addresses_are_completed_with_and_without_tables(rules: ArrivalRules) -> None:
    assert arrange(b"From: joe\r\n", b"To:  X  <a@b.test>\r\n", b"X-To: joe\r\n", rules=rules) == [
        b"From: joe@gw.test\r\n",
        b"To:  X  <a@b.test>\r\n",
        b"X-To: joe\r\n",
    ]


def test_each_kind_of_header_has_its_own_table() -> None:
    assert arrange(b"From: root\r\n", b"To: root@GW.test\r\n", b"Reply-To: Me <s@x.test>\r\n") == [
        b"From: Chris <chris@free.test>\r\n",
        b"To: inbox@free.test\r\n",
        b"Reply-To: Me <s@y.test>\r\n",
    ]


def test_headers_are_inspected_as_they_came_and_ours_first() -> None:
    seen: list[bytes] = []

    def inspect(header: bytes) -> Inspected:
        seen.append(header)
        return Inspected((), header)

    assert arrange(b"Bcc: x\r\n", b"From: root\r\n", inspect=inspect) == [
        b"From: Chris <chris@free.test>\r\n"
    ]
    assert seen == [RECEIVED, *WHOLE, b"Bcc: x\r\n", b"From: root\r\n"]


def test_a_replaced_header_is_rewritten_or_dropped_but_a_prepended_one_is_not() -> None:
    answers = {
        b"X-A: 1\r\n": Inspected((), b"From: root\r\n"),
        b"X-B: 1\r\n": Inspected((), b"Bcc: root\r\n"),
        b"X-C: 1\r\n": Inspected((b"To: root\r\n", b"Bcc: root\r\n"), b"X-C: 1\r\n"),
    }
    headers = arrange(*answers, inspect=lambda header: answers.get(header, Inspected((), header)))
    assert headers == [
        b"From: Chris <chris@free.test>\r\n",
        b"To: root\r\n",
        b"Bcc: root\r\n",
        b"X-C: 1\r\n",
    ]


def test_an_ignored_header_counts_as_missing() -> None:
    headers = arrange(
        b"From: a@b.test\r\n",
        inspect=lambda header: Inspected((), None if header.startswith(b"From") else header),
    )
    assert headers == [b"From: joe@gw.test\r\n"]


def test_envelope_addresses_are_completed_and_rewritten() -> None:
    assert RULES.rewrite_sender("root") == "chris@free.test"
    assert RULES.rewrite_sender("") == ""
    assert RULES.rewrite_sender("joe") == "joe@gw.test"
    assert RULES.rewrite_recipient("root@gw.test.") == "inbox@free.test"
    assert NO_TABLES.rewrite_recipient("joe%b.test") == "joe@b.test"
