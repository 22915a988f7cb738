"""The log: Postfix's words, one line an event whatever it quotes, as text and as JSON."""

from __future__ import annotations

import inspect
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import events
from relay import log as logs
from relay.config.model import Log
from relay.mail.attempt import Attempt, State
from relay.mail.envelope import Client, Envelope, Message, Recipient
from relay.mail.header_checks import Action, Note
from relay.mail.learned import ANYWHERE, LearnedRoute
from relay.mail.reply import Reply

CLIENT = Client("192.168.0.3", "pc.gw.test", "pc", "ESMTP")
REMOTE = "mx.x.test[1.2.3.4]:25"
SENT = Attempt(Reply(250, "2.0.0", "Ok: queued as 1"), host=REMOTE, command="end of DATA", is_remote=True)
REFUSED = Attempt(Reply(550, "5.1.1", "no such user"), host=REMOTE, command="RCPT TO", is_remote=True)
LATE = Attempt(Reply(451, "4.4.1", "connection refused"))
Call = tuple[Callable[..., None], tuple[Any, ...]]
"""An event and its arguments."""
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ")
HOSTILE = [
    "line\r\nbreak",
    "\x00\x07\x1b[2J\x7f",
    "\x85 \x9b2J",
    "\u2028 \u2029",
    "\u202egnp.exe",
    "\udce9\ud800",
    "%s %(queue_id)s {0} %",
    "élan 🎉",
    "x" * 200_000,
]


def make_message(text: str = "", *recipients: Recipient) -> Message:
    envelope = Envelope(text or "a@gw.test", recipients or (Recipient("b@x.test"),))
    return Message(0x3F, envelope, 1000, 300, False, 100.0)


def every_event(text: str) -> list[Call]:
    """Return every event with a text wherever a text can stand."""
    client = Client(text, text, text, text, text, text)
    recipient = Recipient(text, original=text)
    message = make_message(text, recipient)
    reply = Reply(550, text, text)
    attempt = Attempt(reply, host=text, command=text, is_remote=True)
    error = ValueError(text)
    return [
        (events.started, (text, text, text)),
        (events.configured, ([text, text],)),
        (events.configuration_rejected, ([text, text],)),
        (events.stopping, (text,)),
        (events.stopped, ()),
        (events.listener_waits, (text, text)),
        (events.warned, (text,)),
        (events.failed, (text, error)),
        (events.connected, (client,)),
        (events.disconnected, (client, 3)),
        (events.lost, (client, text)),
        (events.encrypted, (client, text, text)),
        (events.handshake_failed, (client, text)),
        (events.page_opened, (text,)),
        (events.page_login_failed, (text, text)),
        (events.login_failed, (client, text, text, text)),
        (events.session_failed, (client, error)),
        (events.refused, (client, text, reply, text, text)),
        (events.accepted, (message, client, text)),
        (events.checked, (text, client, message.envelope, Note(Action.WARN, text, text))),
        (events.attempted, (message, recipient, State.BOUNCED, attempt, 0.0)),
        (events.reported, (message, "failure", message)),
        (events.next_hop_backed_off, (text, 12.3, text)),
        (events.login_refused, (text, 12.3, attempt.reply)),
        (events.next_hop_recovered, (text,)),
        (events.removed, (text,)),
        (events.alerted, (text, "begins", text, text)),
        (events.alert_failed, (text, 12.3, text)),
        (events.alert_output, (text, text)),
        (events.ehlo_named, (text, text, text)),
        (events.announced, (message, text)),
        (events.commanded, (text, text, 2)),
        (events.commanded_route, (text, text)),
        (events.detoured, (message, recipient, attempt, text)),
        (events.learned, (LearnedRoute(text, text, text, text, 0.0, 1.0),)),
        (events.learned, (LearnedRoute(ANYWHERE, text, text, text, 0.0, 1.0),)),
        (events.forgotten, (text, text)),
        (events.listener_opened, (text,)),
    ]


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root, relay, aiosmtpd = (logging.getLogger(name) for name in (None, "relay", "mail"))
    handlers, levels = root.handlers[:], [logger.level for logger in (root, relay, aiosmtpd)]
    yield
    root.handlers[:] = handlers
    for logger, level in zip((root, relay, aiosmtpd), levels, strict=True):
        logger.setLevel(level)


def log(form: Any, *calls: Call, level: Any = "debug") -> list[str]:
    """Return the lines that events make on standard output, as a program would read them there."""
    buffer = io.BytesIO()
    stdout, sys.stdout = sys.stdout, io.TextIOWrapper(buffer, "ascii")
    try:
        logs.configure(Log(form, level))
        for event, arguments in calls:
            event(*arguments)
        output = buffer.getvalue()
    finally:
        sys.stdout = stdout
    assert not output or output.endswith(b"\n")
    return output.decode("utf-8").split("\n")[:-1]


def text_of(event: Callable[..., None], *arguments: Any) -> str:
    (line,) = log("text", (event, arguments))
    stamp = STAMP.match(line)
    assert stamp
    return line[stamp.end() :]


def json_of(event: Callable[..., None], *arguments: Any) -> dict[str, Any]:
    (line,) = log("json", (event, arguments))
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_every_event_is_tried_with_hostile_text() -> None:
    public = {
        function
        for name, function in inspect.getmembers(events, inspect.isfunction)
        if function.__module__ == events.__name__ and not name.startswith("_")
    }
    assert {event for event, _ in every_event("")} == public


@pytest.mark.parametrize("text", HOSTILE)
def test_every_event_is_one_line_of_text_that_can_be_printed(text: str) -> None:
    for call in every_event(text):
        line, *traceback = log("text", call)
        assert STAMP.match(line)
        assert line.isprintable()
        has_error = call[0] in {events.failed, events.session_failed}
        assert bool(traceback) == has_error
        assert all(row.isprintable() and row.startswith("    ") for row in traceback)


@pytest.mark.parametrize("text", HOSTILE)
def test_every_event_is_one_json_object_that_any_parser_takes(text: str) -> None:
    for call in every_event(text):
        (line,) = log("json", call)
        assert line.isascii()
        fields = json.loads(line)
        assert {"time", "level", "event", "text"} <= fields.keys()
        assert fields["text"].isprintable()
        json.dumps(fields, ensure_ascii=False).encode()  # no lone surrogate


class Observer(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.args, dict)
        self.seen.append(record.args["event"])


def test_an_observer_is_told_whatever_the_log_shows() -> None:
    observer = Observer()
    stopped, warned = (events.stopped, ()), (events.warned, ("the disk is full",))
    logs.observe(observer)
    try:
        assert len(log("text", stopped, (events.connected, (CLIENT,)), warned, level="warning")) == 1
        assert observer.seen == ["stopped", "warning"]
    finally:
        logs.ignore(observer)
    assert len(log("text", stopped, warned, level="warning")) == 1
    assert observer.seen == ["stopped", "warning"]


@given(text=st.text(st.characters(codec=None)))
def test_no_text_breaks_a_line(text: str) -> None:
    (line,) = log("text", (events.warned, (text,)))
    assert line.isprintable()
    assert json_of(events.warned, text)["reason"] == line.partition(" warning: ")[2]


class TestText:
    def test_a_refused_command(self) -> None:
        reply = Reply(554, "5.7.1", "<b@x.test>: relay access denied")
        assert text_of(events.refused, CLIENT, "RCPT", reply, "a@gw.test", "b@x.test") == (
            "NOQUEUE: reject: RCPT from pc.gw.test[192.168.0.3]: 554 5.7.1 <b@x.test>: relay access denied; "
            "from=<a@gw.test> to=<b@x.test> proto=ESMTP helo=<pc>"
        )

    def test_an_accepted_message(self) -> None:
        assert text_of(events.accepted, make_message(), CLIENT, "<1@pc>") == (
            "3F: client=pc.gw.test[192.168.0.3], message-id=<1@pc>, from=<a@gw.test>, size=1000, nrcpt=1"
        )
        user = replace(CLIENT, user="anna", sasl_method="LOGIN")
        assert text_of(events.accepted, make_message(), user, "<1@pc>").startswith(
            "3F: client=pc.gw.test[192.168.0.3], sasl_method=LOGIN, sasl_username=anna, message-id=<1@pc>, "
        )

    def test_tls_and_logins(self) -> None:
        assert text_of(events.encrypted, CLIENT, "TLSv1.3", "AES") == (
            "Anonymous TLS connection established from pc.gw.test[192.168.0.3]: TLSv1.3 with cipher AES"
        )
        assert text_of(events.handshake_failed, CLIENT, "it is too old") == (
            "TLS handshake with pc.gw.test[192.168.0.3] failed: it is too old"
        )
        assert text_of(events.login_failed, CLIENT, "PLAIN", "anna", "wrong password") == (
            "warning: pc.gw.test[192.168.0.3]: SASL PLAIN authentication failed: wrong password, "
            "sasl_username=anna"
        )

    @pytest.mark.parametrize(
        ("action", "words", "line"),
        [
            (Action.WARN, "look here", "warning: 3F: warn: header Subject: x from {}: look here"),
            (Action.INFO, "", "3F: info: header Subject: x from {}"),
            (Action.REDIRECT, "q@x.test", "3F: redirect: header Subject: x from {}: q@x.test"),
        ],
    )
    def test_a_header_check(self, action: Action, words: str, line: str) -> None:
        where = "pc.gw.test[192.168.0.3]; from=<a@gw.test> to=<b@x.test> proto=ESMTP helo=<pc>"
        note = Note(action, "Subject: x", words)
        assert text_of(events.checked, "3F", CLIENT, make_message().envelope, note) == line.format(where)

    @pytest.mark.parametrize(
        ("state", "attempt", "now", "line"),
        [
            (
                State.DELIVERED,
                SENT,
                100.123,
                f"relay={REMOTE}, delay=0.12, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 1)",
            ),
            (
                State.BOUNCED,
                REFUSED,
                101.0,
                f"relay={REMOTE}, delay=1.00, dsn=5.1.1, status=bounced ({REFUSED.explain()})",
            ),
            (
                State.DEFERRED,
                LATE,
                90.0,
                "relay=none, delay=0.00, dsn=4.4.1, status=deferred (connection refused)",
            ),
            (
                State.EXPIRED,
                LATE,
                432100.0,
                "relay=none, delay=432000.00, dsn=4.4.1, status=bounced (connection refused)",
            ),
            (
                State.HELD,
                LATE,
                100.0,
                "relay=none, delay=0.00, dsn=4.4.1, status=deferred (connection refused)",
            ),
        ],
    )
    def test_an_attempt(self, state: State, attempt: Attempt, now: float, line: str) -> None:
        arguments = make_message(), Recipient("b@x.test"), state, attempt, now
        assert text_of(events.attempted, *arguments) == f"3F: to=<b@x.test>, {line}"

    def test_an_attempt_for_another_address_than_was_given(self) -> None:
        recipient = Recipient("b@x.test", original="root")
        assert text_of(events.attempted, make_message(), recipient, State.DELIVERED, SENT, 100.0).startswith(
            "3F: to=<b@x.test>, orig_to=<root>, relay="
        )

    @pytest.mark.parametrize(
        ("kind", "name"), [("failure", "non-delivery"), ("delay", "delay"), ("success", "delivery")]
    )
    def test_a_report(self, kind: str, name: str) -> None:
        line = text_of(events.reported, make_message(), kind, make_message())
        assert line == f"3F: sender {name} notification: 3F"

    def test_the_level_stands_before_what_the_owner_should_see(self) -> None:
        assert text_of(events.warned, "mend it") == "warning: mend it"
        line, *traceback = log("text", (events.failed, ("delivery of 3F", ValueError("odd"))))
        assert STAMP.sub("", line) == "error: delivery of 3F: ValueError('odd')"
        assert traceback == ["    ValueError: odd"]

    def test_a_long_header_is_cut(self) -> None:
        line = text_of(events.accepted, make_message(), CLIENT, "x" * 10_000)
        assert line.count("x") == events.LONGEST_QUOTE


class TestJson:
    def test_has_the_fields_of_the_event_beside_its_text(self) -> None:
        fields = json_of(events.accepted, make_message(), CLIENT, "<1@pc>")
        assert fields.pop("time") > 0
        assert fields == {
            "level": "info",
            "event": "accepted",
            "queue_id": "3F",
            "client": "pc.gw.test[192.168.0.3]",
            "message_id": "<1@pc>",
            "sender": "a@gw.test",
            "size": 1000,
            "recipients": 1,
            "text": "3F: client=pc.gw.test[192.168.0.3], message-id=<1@pc>, from=<a@gw.test>, "
            "size=1000, nrcpt=1",
        }

    def test_an_attempt_is_the_event_that_its_status_names(self) -> None:
        fields = json_of(
            events.attempted, make_message(), Recipient("b@x.test"), State.DELIVERED, SENT, 100.5
        )
        assert (fields["event"], fields["delay"]) == ("sent", 0.5)
        assert fields["reply"] == "250 2.0.0 Ok: queued as 1"

    def test_has_the_traceback_of_a_defect(self) -> None:
        fields = json_of(events.failed, "delivery of 3F", ValueError("odd\nline"))
        assert fields["event"] == "failed"
        assert fields["traceback"] == "ValueError: odd\nline"


class TestLevels:
    def test_sessions_are_told_under_debug_only(self) -> None:
        told: list[Call] = [
            (events.connected, (CLIENT,)),
            (events.removed, ("3F",)),
            (events.warned, ("mend it",)),
        ]
        assert len(log("text", *told)) == 3
        assert len(log("text", *told, level="info")) == 2
        assert len(log("text", *told, level="warning")) == 1
        assert log("text", *told, level="error") == []

    def test_nothing_is_formatted_for_a_level_that_is_off(self) -> None:
        class Unprintable:
            def __str__(self) -> str:
                raise AssertionError

        assert log("text", (events.next_hop_recovered, (Unprintable(),)), level="warning") == []

    @pytest.mark.parametrize("form", ["text", "json"])
    def test_libraries_are_heard_from_warnings_on_and_aiosmtpd_never(self, form: str) -> None:
        def warn(name: str) -> None:
            logging.getLogger(name).warning("%s and %s", "this", "that")
            logging.getLogger(name).info("not this")

        (line,) = log(form, (warn, ("asyncio",)), (warn, ("mail.log",)))
        assert "this and that" in line


def test_standard_output_that_is_no_file_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    logs.configure(Log())
    events.removed("3F")
    assert stream.getvalue().endswith(" 3F: removed\n")


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_library_reports_has_its_traceback(form: str) -> None:
    def report() -> None:
        logging.getLogger("asyncio").error("a task failed", exc_info=ValueError("odd"))

    lines = log(form, (report, ()))
    assert "a task failed" in lines[0]
    assert "ValueError: odd" in lines[-1]
