"""Header checks: what each action does, what is matched, and what Postfix did in the recorded cases."""

import json
from pathlib import Path
from typing import Any

import pytest
import regex

from relay.mail.header_checks import (
    Action,
    Decision,
    HeaderCheck,
    Inspected,
    Inspection,
    Note,
    act_on_parts,
    arrival_checks,
    external_checks,
)
from relay.mail.headers import split_content
from relay.mail.mime import HEADER_SIZE_LIMIT, PartScanner
from relay.mail.reply import Reply
from tests.support.postfix_tables import make_pattern, parse_header_checks

VECTORS = Path(__file__).parent / "vectors"
DROPPED = {"bcc", "resent-bcc", "return-path", "content-length"}
COMPLETED = {"message-id", "date", "from"}
# An unknown and an empty action are configuration errors here.
NOT_EXPRESSIBLE = {"header_checks-007", "header_checks-008"}


def check(pattern: str, action: str, text: str = "", scope: Any = "all") -> HeaderCheck:
    return HeaderCheck(regex.compile(pattern, regex.IGNORECASE | regex.DOTALL), Action(action), text, scope)


def inspect(header: bytes, *checks: HeaderCheck) -> Inspected:
    return Inspection(checks).inspect(header)


def refuse(text: str) -> Reply | None:
    inspection = Inspection([check("^X:", "REJECT", text)])
    inspection.inspect(b"X: 1\r\n")
    return inspection.refusal


def test_decisions_are_told_the_first_of_them() -> None:
    rules = check("^(X)-A", "REPLACE", "$1-B: 1"), check("^X-Part", "HOLD"), check("^Y", "DUNNO")
    inspection = Inspection(rules)
    for header in (b"X-A: 1\r\n", b"Z: 1\r\n", b"Y: 1\r\n"):
        inspection.inspect(header)
    inspection.inspect_part(b"X-Part: 1\r\n")
    inspection.inspect_part(b"Y: 2\r\n")
    assert inspection.decisions == [
        Decision(rules[0], b"X-A: 1\r\n", Inspected((), b"X-B: 1\r\n"), b"X-B: 1"),
        Decision(rules[2], b"Y: 1\r\n", Inspected((), b"Y: 1\r\n"), b""),
        Decision(rules[1], b"X-Part: 1\r\n", Inspected((), b"X-Part: 1\r\n"), b""),
    ]
    for _ in range(1000):
        inspection.inspect(b"Y: 1\r\n")
    assert len(inspection.decisions) == 100


class TestTheMatchedText:
    def test_is_the_whole_header_without_its_last_line_end(self) -> None:
        assert inspect(b"X: a\r\n", check("^X: a\\Z", "IGNORE")).header is None

    def test_has_folds_as_line_feed_and_white_space(self) -> None:
        assert inspect(b"X: a\r\n\tb\r\n c\r\n", check("^X: a\\n\\tb\\n c$", "IGNORE")).header is None

    def test_dot_matches_a_fold(self) -> None:
        assert inspect(b"X: a\r\n\tb\r\n", check("^X: a.*b$", "IGNORE")).header is None

    def test_case_is_ignored_for_ascii_only(self) -> None:
        header = "x: É\r\n".encode()
        assert inspect(header, check("^X: É", "IGNORE")).header is None
        assert inspect(header, check("^X: é", "IGNORE")).header == header

    def test_space_before_the_colon_is_not_seen(self) -> None:
        assert inspect(b"X-Sp \t: v\r\n", check("^X-Sp: v$", "IGNORE")).header is None

    def test_bytes_that_are_no_text_are_matched_one_by_one(self) -> None:
        assert inspect(b"X: caf\xe9 \xff\r\n", check(r"^X: caf\xe9 .$", "IGNORE")).header is None

    def test_text_beyond_ascii_is_matched_by_its_utf_8_bytes(self) -> None:
        header = "X: café\r\n".encode()
        assert inspect(header, check("^X: café$", "IGNORE")).header is None
        assert inspect(header, check(r"^X: caf\xc3\xa9$", "IGNORE")).header is None
        assert inspect(header, check("^X: caf.$", "IGNORE")).header == header

    @pytest.mark.parametrize("pattern", ["(?u)^X: a", "^X: (?<né>a)"])
    def test_pattern_that_insists_on_characters_works_for_ascii(self, pattern: str) -> None:
        assert inspect(b"X: a\r\n", check(pattern, "IGNORE")).header is None

    def test_is_cut_at_the_size_limit(self) -> None:
        header = b"X: " + b"a" * HEADER_SIZE_LIMIT + b"END\r\n"
        assert inspect(header, check("END", "IGNORE")).header == header
        assert inspect(header, check("^X:", "IGNORE")).header is None

    def test_check_is_equal_to_another_of_the_same_pattern(self) -> None:
        assert check("^X: é", "IGNORE") == check("^X: é", "IGNORE")


class TestPatternThatTakesTooLong:
    SLOW = check("^X: (a+)+b", "REJECT")
    HEADER = b"X: " + b"a" * 5000 + b"\r\n"

    def test_does_not_match_and_is_noted(self) -> None:
        inspection = Inspection([self.SLOW, check("^X:", "IGNORE")])
        assert inspection.inspect(self.HEADER).header is None
        assert inspection.refusal is None
        assert inspection.notes == [
            Note(Action.WARN, "X", "the pattern ^X: (a+)+b takes too long here and is left out")
        ]

    def test_is_not_tried_again_for_the_message(self) -> None:
        inspection = Inspection([self.SLOW])
        for _ in range(3):
            inspection.inspect(self.HEADER)
        inspection.inspect(b"X: ab\r\n")
        assert len(inspection.notes) == 1
        assert inspection.refusal is None

    def test_many_headers_that_take_a_little_too_long_are_no_way_out(self) -> None:
        slow = check("^X: (a|aa)+$", "REJECT")
        inspection = Inspection([slow, check("^X:", "IGNORE")])
        for length in range(8, 33):
            for _ in range(50):
                assert inspection.inspect(b"X: " + b"a" * length + b"!\r\n").header is None
        assert [note.action for note in inspection.notes] == [Action.WARN]

    def test_many_headers_alone_set_no_check_aside(self) -> None:
        inspection = Inspection([check("^X: last$", "REJECT")])
        for _ in range(20_000):
            inspection.inspect(b"X: y\r\n")
        inspection.inspect(b"X: last\r\n")
        assert inspection.refusal is not None


class TestDecision:
    def test_first_check_that_matches_decides_about_a_header(self) -> None:
        checks = [check("^X:", "DUNNO"), check("^[XY]:", "IGNORE")]
        assert inspect(b"X: 1\r\n", *checks).header == b"X: 1\r\n"
        assert inspect(b"Y: 1\r\n", *checks).header is None

    def test_header_without_a_match_is_the_same_object(self) -> None:
        header = b"X : 1\r\n"
        assert inspect(header, check("^Y:", "IGNORE")).header is header

    @pytest.mark.parametrize("action", ["REJECT", "DISCARD", "PASS", "REDIRECT"])
    def test_some_actions_end_the_inspection(self, action: str) -> None:
        inspection = Inspection([check("^X:", action, "q@hold.test"), check("^Y:", "IGNORE")])
        inspection.inspect(b"X: 1\r\n")
        assert inspection.is_over
        assert inspection.inspect(b"Y: 1\r\n") == Inspected((), b"Y: 1\r\n")

    @pytest.mark.parametrize(
        "action", ["HOLD", "BCC", "PREPEND", "REPLACE", "WARN", "INFO", "DUNNO", "STRIP"]
    )
    def test_others_do_not(self, action: str) -> None:
        inspection = Inspection([check("^X:", action, "A: a@b"), check("^Y:", "IGNORE")])
        inspection.inspect(b"X: 1\r\n")
        assert not inspection.is_over
        assert inspection.inspect(b"Y: 1\r\n").header is None


class TestReject:
    @pytest.mark.parametrize(
        ("text", "reply"),
        [
            ("", Reply(550, "5.7.1", "message content rejected")),
            ("no pills", Reply(550, "5.7.1", "no pills")),
            ("5.7.9 No pills", Reply(550, "5.7.9", "No pills")),
            ("5.7.9", Reply(550, "5.7.9", "message content rejected")),
            ("4.3.0 later", Reply(451, "4.3.0", "later")),
            ("554 5.7.0 No", Reply(550, "5.7.1", "554 5.7.0 No")),
            ("2.0.0 fine", Reply(550, "5.7.1", "2.0.0 fine")),
        ],
    )
    def test_reply(self, text: str, reply: Reply) -> None:
        assert refuse(text) == reply

    def test_fold_in_a_group_stays_on_the_one_line_of_the_reply(self) -> None:
        inspection = Inspection([check("^X: (.*)", "REJECT", "no $1")])
        inspection.inspect(b"X: a\r\n\tb\r\n")
        assert inspection.refusal == Reply(550, "5.7.1", "no a b")

    @pytest.mark.parametrize("words", ["x" * 5000, "\N{EURO SIGN}" * 5000])
    def test_long_words_of_a_header_are_cut_to_a_line_of_a_reply(self, words: str) -> None:
        inspection = Inspection([check("^X: (.*)", "REJECT", "no $1")])
        inspection.inspect(f"X: {words}\r\n".encode())
        assert inspection.refusal is not None
        assert 1990 < len(inspection.refusal.encode()) <= 2048

    def test_bytes_that_are_no_text_are_shown_as_question_marks(self) -> None:
        inspection = Inspection([check("^X: (.*)", "REJECT", "no $1")])
        inspection.inspect(b"X: \xff\xe9\r\n")
        assert inspection.refusal == Reply(550, "5.7.1", "no ??")


class TestEditing:
    def test_a_note_has_the_groups_filled_in(self) -> None:
        inspection = Inspection([check("^X: (.*)", "REJECT", "5.7.1 no $1 here")])
        inspection.inspect(b"X: spam\r\n")
        assert inspection.notes == [Note(Action.REJECT, "X", "5.7.1 no spam here")]

    def test_strip_is_noted_and_ignore_is_not(self) -> None:
        inspection = Inspection([check("^X:", "STRIP", "private"), check("^Y:", "IGNORE")])
        assert inspection.inspect(b"X: secret\r\n").header is None
        assert inspection.inspect(b"Y: secret\r\n").header is None
        assert inspection.notes == [Note(Action.STRIP, "X", "private")]

    def test_prepend_keeps_the_header(self) -> None:
        assert inspect(b"X: 1\r\n", check("^X:", "PREPEND", "Y: 2")) == ((b"Y: 2\r\n",), b"X: 1\r\n")

    def test_replace(self) -> None:
        assert inspect(b"X: 1\r\n", check("^X:(.*)", "REPLACE", "Y:$1")) == ((), b"Y: 1\r\n")

    @pytest.mark.parametrize("action", ["PREPEND", "REPLACE"])
    @pytest.mark.parametrize("text", ["", "no header", "two words: x", "$1"])
    def test_text_that_is_no_header_is_noted_and_left_out(self, action: str, text: str) -> None:
        inspection = Inspection([check("^X: (.*)", action, text)])
        assert inspection.inspect(b"X: 1\r\n") == ((), b"X: 1\r\n")
        rule = f"{action} {text}".rstrip()
        assert inspection.notes == [Note(Action.WARN, "X", f'{rule} is left out: a header is "Name: value"')]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("Y: $1 ${2} $(1)", "Y: a b a"),
            ("Y: $$1", "Y: $1"),
            ("Y: $3$", "Y: $"),
            ("Y: $9${10}$0", "Y: X: a b"),
            ("Y: é $2", "Y: é b"),
        ],
    )
    def test_references(self, text: str, expected: str) -> None:
        inspected = inspect(b"X: a b\r\n", check("^X: (a) (b)(c)?", "REPLACE", text))
        assert inspected.header == expected.encode() + b"\r\n"

    def test_bytes_survive_in_groups(self) -> None:
        header = b"X: \xff\xc3\xa9\r\n"
        assert inspect(header, check("^X(.*)", "REPLACE", "Y$1")).header == b"Y: \xff\xc3\xa9\r\n"

    def test_folds_survive_in_groups(self) -> None:
        header = b"X: a\r\n\tb\r\n"
        assert inspect(header, check("^X(.*)", "REPLACE", "Y$1")).header == b"Y: a\r\n\tb\r\n"

    def test_line_feed_in_the_text_never_begins_another_header(self) -> None:
        header = b"X: a\r\n b\r\n"
        checked = check("^X: (a\\n) (.*)", "REPLACE", "Y: $1Bcc: $2\n\n")
        assert inspect(header, checked).header == b"Y: a\r\n\tBcc: b\r\n"


class TestRecipients:
    def test_redirect_and_bcc_fill_in_groups(self) -> None:
        inspection = Inspection(
            [check("^X: (.*)", "BCC", "$1@arch.test"), check("^Y: (.*)", "REDIRECT", "$1@hold.test")]
        )
        for header in (b"X: a\r\n", b"X: b\r\n", b"X: a\r\n", b"Y: q\r\n"):
            inspection.inspect(header)
        assert inspection.bcc == ["a@arch.test", "b@arch.test"]
        assert inspection.redirect_to == "q@hold.test"
        assert [note.action for note in inspection.notes] == ["BCC", "BCC", "BCC", "REDIRECT"]

    @pytest.mark.parametrize("action", ["REDIRECT", "BCC"])
    def test_what_is_no_address_is_noted_and_left_out(self, action: str) -> None:
        inspection = Inspection([check("^X:", action, "joe"), check("^Y:", "IGNORE")])
        inspection.inspect(b"X: 1\r\n")
        assert inspection.redirect_to is None
        assert inspection.bcc == []
        assert inspection.inspect(b"Y: 1\r\n").header is None
        assert inspection.notes == [Note(Action.WARN, "X", f"{action} joe is left out: it needs user@domain")]


class TestNotes:
    def test_only_warn_and_info_give_the_header(self) -> None:
        inspection = Inspection(
            [check("^A:", "WARN", "why"), check("^B:", "INFO"), check("^C:", "HOLD"), check("^D:", "DUNNO")]
        )
        for header in (b"A: 1\r\n 2\r\n", b"B: 1\r\n", b"C: 1\r\n", b"D: 1\r\n"):
            inspection.inspect(header)
        assert inspection.notes == [("WARN", "A: 1\n 2", "why"), ("INFO", "B: 1", ""), ("HOLD", "C", "")]
        assert inspection.is_held

    def test_flood_is_bounded(self) -> None:
        inspection = Inspection([check("^X:", "WARN")])
        for _ in range(1000):
            inspection.inspect(b"X: 1\r\n")
        assert len(inspection.notes) == 100


class TestPartHeaders:
    @pytest.mark.parametrize("action", ["IGNORE", "REPLACE", "PREPEND", "STRIP", "PASS", "DUNNO"])
    def test_these_actions_do_nothing(self, action: str) -> None:
        checks = [check("^X:", action, "Y: 1"), check("^X:", "REJECT")]
        inspection = Inspection(checks)
        inspection.inspect_part(b"X: 1\r\n")
        assert not inspection.is_over
        assert inspection.notes == []
        assert not act_on_parts(checks[:1])

    def test_the_others_act(self) -> None:
        checks = [check("^A:", "BCC", "a@b"), check("^B:", "DISCARD")]
        inspection = Inspection(checks)
        for header in (b"A: 1\r\n", b"Z: 1\r\n", b"B: 1\r\n"):
            inspection.inspect_part(header)
        assert inspection.bcc == ["a@b"]
        assert inspection.is_discarded
        assert act_on_parts(checks)


def test_checks_are_told_apart_by_their_time() -> None:
    early, late = check("^X:", "IGNORE"), check("^X:", "IGNORE", scope="external")
    assert arrival_checks([late, early]) == (early,)
    assert external_checks([late, early]) == (late,)


def recorded_cases() -> list[dict[str, Any]]:
    scope = set((VECTORS / "scope.txt").read_text().split())
    inexpressible = {
        line.split()[0] for line in (VECTORS / "inexpressible.txt").read_text().splitlines() if line
    }
    cases = json.loads((VECTORS / "cases" / "header_checks.json").read_text())
    left_out = inexpressible | NOT_EXPRESSIBLE
    return [case for case in cases if set(case["tags"]) <= scope and case["id"] not in left_out]


def checks_of(case: dict[str, Any]) -> list[HeaderCheck]:
    [table] = case["config"]["checks"]["header_checks"]
    return [
        check(make_pattern(pattern, flags), action, text)
        for pattern, flags, action, text in parse_header_checks(table["text"])
    ]


def content_of(steps: list[dict[str, Any]]) -> tuple[int, bytes]:
    """Return which step sends the content, and the content."""
    for place, step in enumerate(steps):
        if step.get("send", "").endswith("\r\n.\r\n") or step.get("send") == ".\r\n":
            return place, step["send"].encode("latin-1").removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
    raise AssertionError("no content")


def apply(checks: list[HeaderCheck], content: bytes) -> tuple[Inspection, list[bytes]]:
    received = b"Received: from client.test (localhost [127.0.0.1])\r\n\tby relay.oracle.test (relay)\r\n"
    headers, rest = split_content(content)
    inspection = Inspection(checks)
    result: list[bytes] = []
    for header in (received, *headers):
        inspected = inspection.inspect(header)
        result += inspected.prepended
        if inspected.header is not None:
            result.append(inspected.header)
    scanner = PartScanner(headers)
    for header in scanner.feed(rest) + scanner.finish():
        inspection.inspect_part(header)
    return inspection, result


def shown(header: bytes) -> list[str]:
    name, _, value = header.decode("latin-1").partition(":")
    value = value.removesuffix("\r\n").replace("\r\n", "\n").removeprefix(" ")
    return [name, "" if name == "Received" else value]


def compare_headers(case: dict[str, Any], result: list[bytes], recorded: list[list[str]]) -> None:
    mine = [shown(header) for header in result if shown(header)[0].lower() not in DROPPED]
    theirs = [[name, "" if name == "Received" else value] for name, value in recorded]
    if "sender_canonical" in case["tags"]:
        mine, theirs = ([[n, "" if n == "From" else v] for n, v in headers] for headers in (mine, theirs))
    assert theirs[: len(mine)] == mine
    assert {name.lower() for name, _ in theirs[len(mine) :]} <= COMPLETED


@pytest.mark.parametrize("case", recorded_cases(), ids=lambda case: case["id"])
def test_recorded_case(case: dict[str, Any]) -> None:
    expected = case["expected"]
    checks = checks_of(case)
    for session, replies in zip(case["input"]["sessions"], expected["sessions"], strict=True):
        place, content = content_of(session["steps"])
        inspection, result = apply(checks, content)
        answer = replies[place]["replies"][-1]
        if inspection.refusal:
            assert answer["code"] == inspection.refusal.code
            assert answer["lines"] == [str(inspection.refusal)]
            continue
        assert answer["code"] == 250
        messages = [message for message in expected["relayed"] if not message.get("dsn")]
        outcomes = messages + expected["queue"] + expected["dispositions"]
        assert inspection.is_discarded == (not outcomes)
        held = [message for message in expected["queue"] if message["queue"] == "hold"]
        assert inspection.is_discarded or inspection.is_held == bool(held)
        for message in messages + held:
            compare_headers(case, result, message["headers"])
        compare_recipients(inspection, expected)


def compare_recipients(inspection: Inspection, expected: dict[str, Any]) -> None:
    reached = {
        address
        for line in expected["dispositions"]
        for address in (line["to"], line.get("orig_to"))
        if address
    }
    if inspection.redirect_to and not inspection.is_held:
        assert {recipient["to"] for message in expected["relayed"] for recipient in message["rcpt"]} == {
            inspection.redirect_to
        }
    assert set(inspection.bcc) <= reached
