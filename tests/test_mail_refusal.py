"""Whom a remote refuses: real texts with their sources, the codes without known words, and hostile texts."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.refusal import _ROWS, LONGEST_TEXT, Refusal, Target, classify
from relay.mail.reply import Reply, parse_text

COMMANDS = ("", "MAIL FROM", "RCPT TO", "DATA", "end of DATA")
DMARC = "SPF, DKIM or DMARC"
OTHER = Refusal(Target.OTHER, "")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of tests/refusals.toml."""

    expected: Refusal
    command: str
    reply: Reply
    source: str

    def __str__(self) -> str:
        return f"{self.reply} ({self.source})"


def read_corpus() -> list[Row]:
    text = Path(__file__).with_name("refusals.toml").read_text(encoding="utf-8")
    return [
        Row(Refusal(Target(target), reason), command, read(reply), source["url"])
        for source in tomllib.loads(text)["source"]
        for target, reason, command, reply in source["rows"]
    ]


def read(line: str) -> Reply:
    return parse_text(int(line[:3]), line[4:])


CORPUS = read_corpus()


@pytest.mark.parametrize("row", CORPUS, ids=str)
def test_a_real_refusal_is_about_whom_its_source_says(row: Row) -> None:
    assert classify(row.reply, row.command) == row.expected


def test_the_corpus_is_broad_and_names_its_sources() -> None:
    replies = [(row.reply, row.command) for row in CORPUS]
    assert len(replies) == len(set(replies)) >= 140
    assert all(row.source.startswith(("https://", "http://")) for row in CORPUS)
    assert all(row.command in COMMANDS for row in CORPUS)
    assert {row.expected.target for row in CORPUS} == set(Target)
    assert len({row.source for row in CORPUS}) >= 50


CODES = (
    ("550 5.7.20", Refusal(Target.SENDER, DMARC)),
    ("550 5.7.23", Refusal(Target.SENDER, DMARC)),
    ("421 4.7.26", Refusal(Target.SENDER, DMARC)),
    ("421 4.7.27", Refusal(Target.SENDER, DMARC)),
    ("550 5.7.29", Refusal(Target.SENDER, DMARC)),
    ("550 5.7.25", Refusal(Target.SENDER, "reverse DNS")),
    ("451 4.7.25", Refusal(Target.SENDER, "reverse DNS")),
    ("554 5.7.1", Refusal(Target.SENDER, "policy")),
    ("550 5.7.0", Refusal(Target.SENDER, "policy")),
    ("550 5.7.28", Refusal(Target.SENDER, "policy")),
    ("550 5.7.999", Refusal(Target.SENDER, "policy")),
    ("550 5.1.1", Refusal(Target.RECIPIENT, "no such address")),
    ("550 5.1.10", Refusal(Target.RECIPIENT, "no such address")),
    ("450 4.7.1", OTHER),
    ("454 4.7.0", OTHER),
    ("450 4.1.1", OTHER),
    ("550 5.1.0", OTHER),
    ("550 5.1.11", OTHER),
    ("550 5.2.2", OTHER),
    ("550 5.6.0", OTHER),
    ("550 5.17.1", OTHER),
    ("554 ", OTHER),
)


@pytest.mark.parametrize(("code", "expected"), CODES)
def test_without_known_words_the_code_decides(code: str, expected: Refusal) -> None:
    assert classify(read(f"{code} No."), "end of DATA") == expected


def test_each_row_of_the_table_is_needed() -> None:
    deciding = {id(classify(row.reply, row.command)) for row in CORPUS}
    deciding |= {id(classify(read(f"{code} No."), "end of DATA")) for code, _ in CODES}
    assert [refusal for _, refusal in _ROWS if id(refusal) not in deciding] == []


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("550 5.1.1 blocked using zen.spamhaus.org", Refusal(Target.SENDER, "blocklist")),
        ("550 5.7.1 message content rejected as spam", Refusal(Target.MESSAGE, "spam")),
        ("554 5.7.1 <u@a.test>: Recipient address rejected: User unknown", CODES[11][1]),
        ("550 5.7.1 Client host rejected: no spam here", Refusal(Target.SENDER, "policy")),
        ("451 4.7.1 Greylisted: user unknown yet", Refusal(Target.GREYLIST, "greylisting")),
    ],
)
def test_clear_words_are_stronger_than_the_code(reply: str, expected: Refusal) -> None:
    assert classify(read(reply), "end of DATA") == expected


@pytest.mark.parametrize("command", ["", "MAIL FROM", "RCPT TO", "DATA"])
def test_spam_that_nobody_has_seen_yet_means_us(command: str) -> None:
    assert classify(read("554 5.7.1 No spam please"), command) == Refusal(Target.SENDER, "reputation")


def test_what_addresses_are_called_says_nothing() -> None:
    reply = read(
        "550 5.1.1 <dynamic-ip.blacklist@spamhaus.example>: Recipient address rejected: User unknown"
    )
    assert classify(reply, "RCPT TO") == Refusal(Target.RECIPIENT, "no such address")


def test_who_does_not_even_greet_refuses_us() -> None:
    for command, expected in ((c, OTHER if c else Refusal(Target.SENDER, "policy")) for c in COMMANDS):
        assert classify(read("554 No SMTP service here"), command) == expected
        assert classify(read("421 Closing"), command) == OTHER


def test_greylisting_is_temporary() -> None:
    assert classify(read("550 Greylisted"), "RCPT TO").target != Target.GREYLIST
    assert classify(read("450 Greylisted"), "RCPT TO").target == Target.GREYLIST


@pytest.mark.parametrize("code", [220, 250, 251, 299, 354])
def test_what_is_no_refusal_is_about_nobody(code: int) -> None:
    assert classify(Reply(code, "", "blocked using zen.spamhaus.org"), "") == OTHER


ENHANCED = st.from_regex(r"(?:[245]\.[0-9]{1,3}\.[0-9]{1,3})?", fullmatch=True)
REPLIES = st.builds(
    Reply,
    st.integers(200, 599),
    ENHANCED,
    st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("utf-8", "surrogateescape")),
)


@given(REPLIES, st.sampled_from(COMMANDS))
def test_any_reply_has_a_refusal(reply: Reply, command: str) -> None:
    refusal = classify(reply, command)
    assert (refusal.reason == "") == (refusal.target == Target.OTHER)
    assert refusal.target != Target.GREYLIST or 400 <= reply.code < 500


@given(
    st.sampled_from(CORPUS), st.randoms(use_true_random=False), st.sampled_from(["\n", "  ", "\r\n", "\t"])
)
def test_letter_case_and_white_space_say_nothing(row: Row, random: Random, space: str) -> None:
    text = "".join(random.choice((c.upper(), c.lower())) if c.isascii() else c for c in row.reply.text)
    reply = Reply(row.reply.code, row.reply.enhanced, space.join(text.split(" ")))
    assert classify(reply, row.command) == row.expected


@given(st.sampled_from(CORPUS), st.text())
def test_only_the_beginning_of_a_text_counts(row: Row, rest: str) -> None:
    beginning = row.reply.text.ljust(LONGEST_TEXT)
    reply = Reply(row.reply.code, row.reply.enhanced, beginning + rest)
    assert classify(reply, row.command) == row.expected


@given(
    st.sampled_from(sorted({row.reply.code for row in CORPUS})), ENHANCED, st.text("äöüß 0123", max_size=99)
)
def test_unknown_words_say_what_their_code_says(code: int, enhanced: str, text: str) -> None:
    refusal = classify(Reply(code, enhanced, text), "RCPT TO")
    if enhanced.startswith("5.7."):
        assert refusal.target == Target.SENDER
    elif enhanced in {"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"}:
        assert refusal.target == Target.RECIPIENT
    elif not enhanced[1:].startswith(".7."):
        assert refusal == OTHER


@pytest.mark.parametrize(
    "piece",
    [
        "user ",
        "user",
        "ofr_",
        "4",
        "ip address ",
        "unresolvable x",
        "\udcff",
        "İ",
        "\n",
        "@",
        " ",
        "gre",
        "a@b ",
    ],
)
def test_a_hostile_text_is_read_and_forgotten(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    for code in (450, 550):
        assert classify(Reply(code, "", text), "RCPT TO") == OTHER
