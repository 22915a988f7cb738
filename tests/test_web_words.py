from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.attempt import Attempt
from relay.mail.reply import Reply
from relay.web import words
from tests.support.web import next_hop


def said(code: int, enhanced: str, text: str, host: str = "mx.example.net[192.0.2.1]:25") -> words.Said:
    attempt = Attempt(Reply(code, enhanced, text), host=host, command="RCPT TO", is_remote=True)
    return words.explain(attempt.explain())


@pytest.mark.parametrize(
    ("attempt", "plain"),
    [
        ((452, "4.2.2", "Over quota"), "mx.example.net: the mailbox is full"),
        ((550, "5.1.1", "Who?"), "mx.example.net: there is no such mailbox"),
        ((535, "", "Nope"), "mx.example.net: the login is refused"),
        ((250, "2.1.5", "Ok"), "mx.example.net took it"),
        ((451, "4.9.9", "Mercury is retrograde"), "mx.example.net says: Mercury is retrograde"),
        ((451, "", "Come back"), "mx.example.net says: Come back"),
        ((550, "5.0.0", ""), "mx.example.net refused it"),
    ],
)
def test_a_reply_is_put_into_plain_words(attempt: tuple[int, str, str], plain: str) -> None:
    assert said(*attempt).plain == plain
    assert said(*attempt).full.startswith("host mx.example.net[192.0.2.1] said: ")


def test_a_server_without_a_name_goes_by_its_address() -> None:
    assert said(452, "4.2.2", "Over quota", "[192.0.2.1]:25").plain == "192.0.2.1: the mailbox is full"


def test_what_the_relay_says_itself_stands_as_it_is() -> None:
    assert words.explain("the disk is full") == words.Said("the disk is full", "")
    connect = "connect to mx.example.net[192.0.2.1]:25: connection timed out"
    assert words.explain(connect) == words.Said(
        "no connection to mx.example.net: connection timed out", connect
    )


@given(st.text())
def test_any_reply_is_explained_in_something_that_can_be_shown(text: str) -> None:
    plain = words.explain(text).plain
    assert words.clean(plain) == plain
    plain = said(450, "4.2.2", text).plain
    assert words.clean(plain) == plain


def test_what_hides_or_turns_is_made_visible() -> None:
    assert words.clean("a\u202egnp.exe\x00\x1b[2J\udcff\n") == "a?gnp.exe??[2J\ufffd "
    assert words.clean("👨\u200d👩\u200d👧 été") == "👨\u200d👩\u200d👧 été"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("isp=[smtp.orange.fr]:465", "isp (smtp.orange.fr)"),
        ("example.org:25", "example.org"),
        ("[10.0.0.5]:2525", "10.0.0.5 port 2525"),
        ("[fd00::1]:25", "fd00::1"),
        ("lmtp:/run/dovecot/lmtp", "mailboxes (/run/dovecot/lmtp)"),
        ("lmtp:[127.0.0.1]:24", "mailboxes (127.0.0.1 port 24)"),
        ("", ""),
    ],
)
def test_a_next_hop_is_named_as_people_do(key: str, name: str) -> None:
    assert words.name_next_hop(key) == name


DOWN = next_hop("example.net:25", state="blocked", failure="connect to x[1.2.3.4]:25: refused")
LOGIN = next_hop(
    "isp=[smtp.x]:465",
    state="blocked",
    failure="host smtp.x[1.2.3.4] said: 535 5.7.8 no (in reply to AUTH command)",
)
GREETING = next_hop(
    "a.test:25",
    state="blocked",
    failure="host a.test[1.2.3.4] said: 554 go away (in reply to greeting command)",
)


@pytest.mark.parametrize(
    ("messages", "recipients", "hops", "problems", "tone", "text"),
    [
        (0, {}, [], [], "good", "All is well: nothing waits."),
        (0, {}, [next_hop("a.test:25")], [], "good", "All is well: nothing waits."),
        (1, {"queued": 1}, [], [], "busy", "1 message waits."),
        (3, {"deferred": 4}, [DOWN], [], "wait", "3 messages wait. example.net does not answer."),
        (1, {"held": 2}, [], [], "wait", "1 message waits, 2 recipients on hold."),
        (2, {"held": 1, "queued": 1}, [], [], "wait", "2 messages wait, 1 recipient on hold."),
        (0, {}, [LOGIN], [], "wait", "Nothing waits. isp (smtp.x) refuses the login."),
        (0, {}, [GREETING], [], "wait", "Nothing waits. a.test wants no session."),
        (1, {"deferred": 1}, [DOWN] * 3, [], "wait", "1 message waits. 3 next hops give no session."),
        (0, {}, [], ["x"], "bad", "1 thing to mend. Nothing waits."),
    ],
)
def test_the_first_line_says_how_things_are(
    messages: int, recipients: Any, hops: Any, problems: Any, tone: str, text: str
) -> None:
    assert words.summarise(messages, recipients, hops, problems) == words.Summary(tone, text)  # type: ignore[arg-type]


def test_spans_and_sizes() -> None:
    assert [words.span(s) for s in (0.5, 1, 59, 60, 7300, 200_000)] == [
        "a moment",
        "1 second",
        "59 seconds",
        "1 minute",
        "2 hours",
        "2 days",
    ]
    assert words.distance(100, 40) == "in 1 minute"
    assert words.distance(40, 100) == "1 minute ago"
    assert words.distance(100.5, 100) == "just now"
    assert [words.delay(s) for s in (0.32, 12, 130, 7300)] == ["0.3 s", "12 s", "2 min", "2 h"]
    sizes = [words.size(n) for n in (0, 999, 1234, 345_678, 50_000_000, 5_000_000_000_000)]
    assert sizes == ["0 bytes", "999 bytes", "1.2 kB", "346 kB", "50.0 MB", "5000 GB"]
    assert words.count(1200, "message") == "1,200 messages"
