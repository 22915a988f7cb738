from __future__ import annotations

import pytest

from relay.mail.rewrite import Canonical, Home, rewrite_address, rewrite_headers

HOME = Home("gw.test", frozenset({"local.test", "[127.0.0.1]"}))
PLUS = Home("gw.test", frozenset({"local.test"}), "+-")


def canonical(*entries: tuple[str, str]) -> Canonical:
    return Canonical({key: (value, "") for key, value in entries})


JOE = canonical(
    ("joe@local.test", "full@new.test"), ("joe", "bare@new.test"), ("@local.test", "any@new.test")
)


@pytest.mark.parametrize(
    ("address", "result"),
    [
        ("joe@local.test", "full@new.test"),
        ("JOE@Local.TEST", "full@new.test"),
        ("joe@gw.test", "bare@new.test"),
        ("joe@[127.0.0.1]", "bare@new.test"),
        ("joe", "bare@new.test"),
        ("ann@local.test", "any@new.test"),
        ("joe@other.test", "joe@other.test"),
        ("joe@sub.local.test", "joe@sub.local.test"),
        ("joe@", "joe@"),
        ("", ""),
    ],
)
def test_the_full_address_comes_before_the_user_and_the_user_before_the_domain(
    address: str, result: str
) -> None:
    assert JOE.rewrite_once(address, HOME) == (result, "")


def test_a_domain_as_result_keeps_the_local_part_and_its_case() -> None:
    rules = canonical(("@old.test", "@New.test"), ("a@x.test", "@y.test"))
    assert rules.rewrite_once("a@b.C@OLD.test", HOME) == ("a@b.C@New.test", "")
    assert rules.rewrite_once("A@x.test", HOME) == ("A@y.test", "")


def test_a_result_without_domain_gets_the_default_domain() -> None:
    rules = canonical(("joe", "joseph"))
    assert rules.rewrite_once("joe@local.test", HOME) == ("joseph@gw.test", "")


def test_rewriting_on_arrival_is_repeated_until_nothing_changes() -> None:
    rules = canonical(("a@x", "b@x"), ("b@x", "c@x"), ("c@x", "C@X"))
    assert rules.rewrite("a@x", HOME) == ("C@X", "")
    assert rules.rewrite_once("a@x", HOME) == ("b@x", "")


def test_rewriting_tells_its_steps() -> None:
    rules = canonical(("a@x", "b@x"), ("@x", "@y"))
    assert list(rules.steps("a@X", HOME)) == [("a@x", "b@x", ""), ("@x", "b@y", "")]
    assert list(rules.steps("a@z", HOME)) == []


def test_an_entry_equal_to_itself_means_leave_alone() -> None:
    rules = canonical(("a@old.test", "a@old.test"), ("@old.test", "any@new.test"))
    assert rules.rewrite("a@old.test", HOME) == ("a@old.test", "")
    assert rules.rewrite("b@old.test", HOME) == ("any@new.test", "")


def test_a_circle_ends_after_ten_steps() -> None:
    assert canonical(("a@x", "b@x"), ("b@x", "a@x")).rewrite("a@x", HOME) == ("a@x", "")
    assert canonical(("@x", "@y"), ("@y", "@z"), ("@z", "@x")).rewrite("a@x", HOME) == ("a@y", "")


def test_the_last_display_name_on_the_way_counts() -> None:
    rules = Canonical({"a@x": ("b@x", "First"), "b@x": ("c@x", "Second"), "c@x": ("d@x", "")})
    assert rules.rewrite("a@x", HOME) == ("d@x", "Second")


def test_the_null_address_matches_nothing_but_its_own_key() -> None:
    assert canonical(("<>", "x@y"), ("@", "x@y")).rewrite("", HOME) == ("", "")
    assert canonical(("", "null@new.test")).rewrite("", HOME) == ("null@new.test", "")


@pytest.mark.parametrize(
    ("address", "result"),
    [
        ("joe+Ext@old.test", "new+Ext@new.test"),
        ("joe-x+y@old.test", "new-x+y@new.test"),
        ("ann+x@old.test", "annx@new.test"),
        ("z+q@cat.test", "catch@new.test"),
        ("z+q@keep.test", "z+q@kept.test"),
        ("bob+q@keep.test", "bob+q@other.test"),
        ("root+x@local.test", "bare+x@new.test"),
        ("root+e@local.test", "barext@new.test"),
        ("+joe@old.test", "+joe@old.test"),
        ("", ""),
    ],
)
def test_an_extension_that_no_key_has_is_passed_on(address: str, result: str) -> None:
    rules = canonical(
        ("joe@old.test", "new@new.test"),
        ("ann+x@old.test", "annx@new.test"),
        ("@cat.test", "catch@new.test"),
        ("@keep.test", "@kept.test"),
        ("bob@keep.test", "@other.test"),
        ("root", "bare@new.test"),
        ("root+e", "barext@new.test"),
    )
    assert rules.rewrite(address, PLUS) == (result, "")


def test_without_a_delimiter_there_is_no_extension() -> None:
    assert canonical(("joe@old.test", "new@new.test")).rewrite("joe+x@old.test", HOME)[0] == "joe+x@old.test"


def test_all_address_headers_of_a_copy_for_the_outside_are_rewritten_once() -> None:
    rules = Canonical({"a@x.test": ("b@x.test", "B"), "b@x.test": ("c@x.test", "")})
    headers = [
        b"From: A <a@x.test>\r\n",
        b"tO : a@x.test\r\n",
        b"Resent-Reply-To: a@x.test\r\n",
        b"Cc: root, y@z.test\r\n",
        b"X-To: a@x.test\r\n",
        b"Subject: a@x.test\r\n",
    ]
    assert rewrite_headers(headers, rules, HOME) == [
        b"From: B <b@x.test>\r\n",
        b"tO: B <b@x.test>\r\n",
        b"Resent-Reply-To: B <b@x.test>\r\n",
        *headers[3:],
    ]


def test_without_entries_a_copy_keeps_its_headers() -> None:
    headers = [b"To: root,  a@x.test\r\n"]
    assert rewrite_headers(iter(headers), Canonical(), HOME) == headers


def test_envelope_addresses_of_a_copy_are_rewritten_once() -> None:
    rules = canonical(("a@x", "b@x"), ("b@x", "c@x"), ("", "null@x"))
    assert rewrite_address("a@x", rules, HOME) == "b@x"
    assert rewrite_address("", rules, HOME) == ""
