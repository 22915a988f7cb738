"""Reports: who gets one, its structure (RFC 3464, RFC 6522, RFC 6533), its words, and what Postfix does."""

import email
import email.message
import email.utils
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.attempt import Attempt, Failed, Outcome, State
from relay.mail.dsn import (
    RETURN_LIMIT,
    Plan,
    Report,
    ReportSettings,
    build_report,
    plan_reports,
    returned_size,
)
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.lifecycle import judge
from relay.mail.notification import Kind
from relay.mail.reply import Reply, parse_text

NOW = 1_700_000_000.0
DAY = 86400.0
SETTINGS = ReportSettings("relay.test", 5 * DAY, "master@home.test")
HEADER = (
    b"From: Chris <chris@home.test>\r\n"
    b"Subject: =?utf-8?q?L=27=C3=A9t=C3=A9?=\r\n\tau bord de la mer\r\n"
    b"Date: Mon, 02 Feb 2015 10:00:00 +0000\r\n"
)
CONTENT = HEADER + b"\r\nHello\r\n.\r\n--=_2.1700000000\r\n"
OK = Attempt(
    Reply(250, "2.0.0", "Ok: queued"), host="mx.d.test[192.0.2.1]:25", command="end of DATA", is_remote=True
)
UNKNOWN = Attempt(
    Reply(550, "5.1.1", "<bad@d.test>:\nUser unknown"),
    host="mx.d.test[192.0.2.1]:25",
    command="RCPT TO",
    is_remote=True,
)
REFUSED = Attempt(Reply(450, "4.4.1", "connect to mx.d.test[192.0.2.1]:25: Connection refused"))


def make_message(
    *recipients: Recipient,
    content: bytes = CONTENT,
    header_size: int | None = None,
    is_report: bool = False,
    **envelope: Any,
) -> Message:
    envelope.setdefault("reverse_path", "chris@home.test")
    return Message(
        1,
        Envelope(recipients=recipients or (Recipient("bad@d.test"),), **envelope),
        size=len(content),
        header_size=content.find(b"\r\n\r\n") + 2 if header_size is None else header_size,
        body_is_8bit=not content.isascii(),
        received_at=NOW - 5 * DAY,
        is_report=is_report,
    )


def report(
    kind: Kind,
    attempt: Attempt = UNKNOWN,
    recipient: Recipient = Recipient("bad@d.test"),  # noqa: B008 - immutable
    *,
    content: bytes = CONTENT,
    to: str = "chris@home.test",
    settings: ReportSettings = SETTINGS,
    **envelope: Any,
) -> Report:
    message = make_message(recipient, content=content, **envelope)
    plan = Plan(kind, to, (Failed(recipient, attempt),))
    original = content[: returned_size(kind, message)]
    return build_report(plan, message, original, settings, recipients=[plan.to], number=2, now=NOW)


HEADER_NAMES = [
    "Received",
    "Date",
    "From",
    "Subject",
    "To",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Message-Id",
]


class Parsed:
    """A report taken apart; asserts on the way what every report must fulfil."""

    def __init__(self, report: Report) -> None:
        content, message = report.content, report.message
        self.message = message
        header, _, self.body = content.partition(b"\r\n\r\n")
        assert message.size == len(content)
        assert message.header_size == len(header) + 2
        assert message.body_is_8bit == (not self.body.isascii())
        assert message.envelope.is_8bitmime == message.body_is_8bit
        assert message.envelope.is_smtputf8 == (not header.isascii())
        assert message.envelope.reverse_path == ""
        assert message.is_report
        assert b"\n" not in content.replace(b"\r\n", b"")
        assert b"\r" not in content.replace(b"\r\n", b"")
        self.mime = email.message_from_bytes(content)
        lines = re.split(r"\r\n(?![ \t])", header.decode())
        self.headers = dict(line.split(": ", 1) for line in lines)
        assert list(self.headers) == self.mime.keys() == HEADER_NAMES
        assert self.mime.get_content_type() == "multipart/report"
        assert self.mime.get_param("report-type") == "delivery-status"
        self.parts = self._split()
        assert len(self.parts) == 3
        for part, (headers, body) in zip(self.mime.get_payload(), self.parts, strict=True):
            assert isinstance(part, email.message.Message)
            assert not part.defects
            encoding = headers["Content-Transfer-Encoding"]
            assert encoding == ("7bit" if body.isascii() else "8bit")
        is_8bit = any(not body.isascii() for _, body in self.parts)
        assert self.headers["Content-Transfer-Encoding"] == ("8bit" if is_8bit else "7bit")
        assert not self.mime.defects

    def _split(self) -> list[tuple[dict[str, str], bytes]]:
        boundary = self.mime.get_param("boundary")
        assert isinstance(boundary, str)
        assert len(boundary) <= 70
        delimiter = b"--" + boundary.encode()
        assert self.body.startswith(delimiter + b"\r\n")
        assert self.body.endswith(b"\r\n" + delimiter + b"--\r\n")
        assert self.body.count(delimiter) == 4
        parts = []
        for chunk in self.body.split(delimiter)[1:4]:
            header, _, body = chunk[2:].partition(b"\r\n\r\n")
            headers = dict(email.message_from_bytes(header).items())
            assert list(headers) == ["Content-Description", "Content-Type", "Content-Transfer-Encoding"]
            parts.append((headers, body[:-2]))
        return parts

    @property
    def types(self) -> list[str]:
        return [headers["Content-Type"] for headers, _ in self.parts]

    @property
    def text(self) -> str:
        return self.parts[0][1].decode()

    @property
    def words(self) -> str:
        """The text with its lines joined."""
        return re.sub(r"\r\n *(> )?", " ", self.text)

    @property
    def returned(self) -> bytes:
        return self.parts[2][1]

    @property
    def status(self) -> list[dict[str, str]]:
        """The blocks of the delivery status, its fields unfolded."""
        text = self.parts[1][1].decode("ascii" if "global" not in self.types[1] else "utf-8")
        assert text.endswith("\r\n")
        blocks = []
        for block in text.removesuffix("\r\n").split("\r\n\r\n"):
            lines = re.sub(r"\r\n +", " ", block).split("\r\n")
            fields = [re.fullmatch(r"([A-Za-z-]+): (.*\S.*)", line) for line in lines]
            assert all(fields)
            pairs = [(field[1], field[2]) for field in fields if field]
            assert len(dict(pairs)) == len(pairs)
            blocks.append(dict(pairs))
        assert set(blocks[0]) - {"Original-Envelope-Id"} == {
            "Reporting-MTA",
            "X-Relay-Queue-ID",
            "Arrival-Date",
        }
        for fields_of_one in blocks[1:]:
            required = {"Original-Recipient", "Final-Recipient", "Action", "Status", "Diagnostic-Code"}
            assert set(fields_of_one) - {"Remote-MTA", "Will-Retry-Until"} == required
            assert fields_of_one["Action"] in {"failed", "delayed", "relayed", "delivered"}
            assert re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", fields_of_one["Status"])
        return blocks


def plan(
    *outcomes: tuple[Recipient, State, Attempt],
    reverse_path: str = "chris@home.test",
    is_late: bool = True,
) -> dict[str, list[str]]:
    """Return kind to addresses of what is planned for a message to these recipients."""
    message = make_message(*(recipient for recipient, _, _ in outcomes), reverse_path=reverse_path)
    results = [Outcome(1, recipient.index, state, attempt) for recipient, state, attempt in outcomes]
    plans = plan_reports(
        message, reversed(results), to="chris@home.test", postmaster="master@home.test", is_late=is_late
    )
    return {
        f"{plan.kind} to {plan.to}": [failed.recipient.address for failed in plan.about] for plan in plans
    }


def plan_about_report(message: Message, state: State, postmaster: str = "master@home.test") -> list[Plan]:
    outcome = Outcome(message.number, 0, state, UNKNOWN)
    return plan_reports(message, [outcome], to="", postmaster=postmaster, is_late=True)


class TestPlan:
    def test_one_report_of_each_kind_in_the_order_of_the_recipients(self) -> None:
        assert plan(
            (Recipient("a@d.test", index=0), State.BOUNCED, UNKNOWN),
            (Recipient("b@d.test", index=1), State.EXPIRED, REFUSED),
            (Recipient("c@d.test", index=2), State.DEFERRED, REFUSED),
            (Recipient("d@d.test", index=3, notify="SUCCESS"), State.DELIVERED, OK),
            (Recipient("e@d.test", index=4), State.DELIVERED, OK),
        ) == {
            "failure to chris@home.test": ["a@d.test", "b@d.test"],
            "delay to chris@home.test": ["c@d.test"],
            "success to chris@home.test": ["d@d.test"],
        }

    def test_no_delay_warning_before_its_time(self) -> None:
        assert plan((Recipient("a@d.test"), State.DEFERRED, REFUSED), is_late=False) == {}

    @pytest.mark.parametrize("notify", ["NEVER", "SUCCESS", "DELAY", "FAILURE", "FAILURE,DELAY", ""])
    def test_notify_decides(self, notify: str) -> None:
        recipient = Recipient("a@d.test", notify=notify)
        assert bool(plan((recipient, State.BOUNCED, UNKNOWN))) == ("FAILURE" in notify or not notify)
        assert bool(plan((recipient, State.EXPIRED, REFUSED))) == ("FAILURE" in notify or not notify)
        assert bool(plan((recipient, State.DEFERRED, REFUSED))) == ("DELAY" in notify or not notify)
        assert bool(plan((recipient, State.DELIVERED, OK))) == ("SUCCESS" in notify)

    def test_no_success_report_where_the_next_hop_makes_it(self) -> None:
        attempt = Attempt(OK.reply, is_remote=True, passes_dsn=True)
        assert plan((Recipient("a@d.test", notify="SUCCESS"), State.DELIVERED, attempt)) == {}

    def test_held_recipient_is_nobodys_business(self) -> None:
        assert plan((Recipient("a@d.test"), State.HELD, UNKNOWN)) == {}

    def test_null_reverse_path_is_never_reported_about(self) -> None:
        outcome = (Recipient("a@d.test", notify="SUCCESS,FAILURE,DELAY"), State.BOUNCED, UNKNOWN)
        assert plan(outcome, reverse_path="") == {}

    def test_lost_bounce_goes_to_the_postmaster_once(self) -> None:
        bounce = report("failure").message
        (second,) = plan_about_report(bounce, State.EXPIRED)
        assert (second.kind, second.to) == ("failure", "master@home.test")
        double = build_report(
            second, bounce, b"", SETTINGS, recipients=[second.to], number=3, now=NOW
        ).message
        assert plan_about_report(double, State.BOUNCED) == []

    def test_late_bounce_is_not_warned_about(self) -> None:
        assert plan_about_report(report("failure").message, State.DEFERRED) == []

    def test_lost_bounce_without_a_postmaster_makes_no_report(self) -> None:
        assert plan_about_report(report("failure").message, State.BOUNCED, postmaster="") == []

    @pytest.mark.parametrize("kind", ["delay", "success"])
    def test_lost_warning_or_notice_is_let_go(self, kind: Kind) -> None:
        assert plan_about_report(report(kind).message, State.BOUNCED) == []

    def test_lost_bounce_to_the_postmaster_is_not_repeated(self) -> None:
        message = report("failure", to="Master@home.test").message
        assert message.envelope.recipients[0].notify == "NEVER"


class TestReport:
    def test_envelope_and_headers(self) -> None:
        parsed = Parsed(report("failure"))
        assert parsed.message.number == 2
        assert parsed.message.received_at == NOW
        assert parsed.message.envelope.recipients == (Recipient("chris@home.test", notify="FAILURE"),)
        headers = parsed.headers
        assert headers["Received"].startswith("by relay.test (relay)\r\n\tid 2; ")
        assert headers["From"] == "Mail Delivery System <master@home.test>"
        assert headers["To"] == "chris@home.test"
        assert headers["Subject"] == "Undelivered Mail Returned to Sender"
        assert headers["Auto-Submitted"] == "auto-replied"
        assert headers["Message-Id"] == "<20231114221320.2@relay.test>"
        assert headers["Date"] in headers["Received"]

    def test_comes_from_mailer_daemon_without_a_postmaster(self) -> None:
        parsed = Parsed(report("failure", settings=ReportSettings("relay.test", DAY)))
        assert parsed.headers["From"] == "Mail Delivery System <MAILER-DAEMON@relay.test>"
        assert parsed.message.envelope.recipients[0].notify == "FAILURE"
        assert "reply to this message" not in parsed.words

    def test_offers_help_to_others_than_the_postmaster(self) -> None:
        assert "reply to this message" in Parsed(report("failure")).words
        assert "reply to this message" not in Parsed(report("failure", to="master@home.test")).words

    def test_bounce_says_what_happened(self) -> None:
        parsed = Parsed(report("failure"))
        assert parsed.types == ["text/plain; charset=utf-8", "message/delivery-status", "message/rfc822"]
        assert parsed.status[1] == {
            "Original-Recipient": "rfc822; bad@d.test",
            "Final-Recipient": "rfc822; bad@d.test",
            "Action": "failed",
            "Status": "5.1.1",
            "Remote-MTA": "dns; mx.d.test",
            "Diagnostic-Code": "smtp; 550 5.1.1 <bad@d.test>: User unknown",
        }
        assert parsed.status[0]["Reporting-MTA"] == "dns; relay.test"
        assert parsed.status[0]["X-Relay-Queue-ID"] == "1"
        assert parsed.returned == CONTENT
        assert "Your message could not be delivered to the recipient below." in parsed.text
        assert "    Subject: L'été au bord de la mer\r\n    Date: Mon, 02 Feb 2015" in parsed.text
        assert "The mail server mx.d.test answered (to RCPT TO):" in parsed.words
        assert "    > 550 5.1.1 <bad@d.test>: User unknown\r\n" in parsed.text
        assert "check the address for typing errors" in parsed.words

    def test_returned_lines_that_look_like_the_boundary_end_nothing(self) -> None:
        assert b"--=_2.1700000000" in CONTENT
        assert Parsed(report("failure")).returned == CONTENT

    def test_expired_message_keeps_its_temporary_status(self) -> None:
        parsed = Parsed(report("failure", REFUSED))
        assert parsed.status[1]["Action"] == "failed"
        assert parsed.status[1]["Status"] == "4.4.1"
        assert parsed.status[1]["Diagnostic-Code"].startswith("X-Relay; connect to mx.d.test[192.0.2.1]:25:")
        assert "Remote-MTA" not in parsed.status[1]
        assert "It was tried for 5 days. At the last attempt, this happened:" in parsed.words
        assert "please send it again" in parsed.words

    def test_delay_warning(self) -> None:
        parsed = Parsed(report("delay", REFUSED, ret="FULL"))
        assert parsed.headers["Subject"] == "Delayed Mail (still being retried)"
        assert parsed.types[2] == "text/rfc822-headers"
        assert parsed.returned == HEADER
        assert parsed.status[1]["Action"] == "delayed"
        until = parsed.status[1]["Will-Retry-Until"]
        assert email.utils.parsedate_to_datetime(until).timestamp() == NOW
        assert "do not need to send your message again" in parsed.words
        assert until in parsed.words
        assert "At the last attempt, this happened:" in parsed.words

    def test_success_notice(self) -> None:
        parsed = Parsed(report("success", OK, ret="FULL"))
        assert parsed.headers["Subject"] == "Successful Mail Delivery Report"
        assert parsed.returned == HEADER
        assert parsed.status[1]["Action"] == "relayed"
        assert parsed.status[1]["Remote-MTA"] == "dns; mx.d.test"
        assert "it has reached the recipient below" in parsed.words

    @pytest.mark.parametrize(
        ("host", "next_hop", "name"),
        [
            ("mx.d.test[192.0.2.1]:24", "lmtp:[mx.d.test]:24", "mx.d.test"),
            ("relay.test[/run/lmtp]", "lmtp:/run/lmtp", "relay.test"),
        ],
    )
    def test_what_a_mailbox_server_took_is_delivered(self, host: str, next_hop: str, name: str) -> None:
        parsed = Parsed(report("success", replace(OK, host=host, next_hop=next_hop)))
        assert parsed.status[1]["Action"] == "delivered"
        assert parsed.status[1]["Remote-MTA"] == f"dns; {name}"

    def test_delivery_without_another_server(self) -> None:
        parsed = Parsed(report("success", Attempt(Reply(250, "2.0.0", "discarded"))))
        assert parsed.status[1]["Action"] == "delivered"
        assert "This happened: discarded" in parsed.words

    def test_postmaster_is_told_of_a_lost_bounce(self) -> None:
        bounce = report("failure")
        recipient = bounce.message.envelope.recipients[0]
        double = Plan("failure", "master@home.test", (Failed(recipient, UNKNOWN),))
        parsed = Parsed(
            build_report(
                double,
                bounce.message,
                bounce.content,
                SETTINGS,
                recipients=[double.to],
                number=0x2A,
                now=NOW + 1,
            )
        )
        assert parsed.headers["Subject"] == "Postmaster Copy: Undelivered Mail"
        assert parsed.headers["To"] == "master@home.test"
        assert parsed.returned == bounce.content
        assert parsed.message.envelope.recipients[0].notify == "NEVER"
        assert "has not been told what it says" in parsed.words
        assert "Please check the address" not in parsed.words

    def test_several_recipients(self) -> None:
        recipients = (Recipient("a@d.test"), Recipient("b@d.test", original="list@home.test", index=1))
        message = make_message(*recipients)
        both = Plan("failure", "chris@home.test", tuple(Failed(each, UNKNOWN) for each in recipients))
        parsed = Parsed(
            build_report(both, message, CONTENT, SETTINGS, recipients=[both.to], number=2, now=NOW)
        )
        assert "the recipients below" in parsed.words
        assert "<list@home.test>, which goes to <b@d.test>" in parsed.words
        assert [block["Original-Recipient"] for block in parsed.status[1:]] == [
            "rfc822; a@d.test",
            "rfc822; list@home.test",
        ]

    def test_possible_duplicate_is_told(self) -> None:
        attempt = Attempt(Reply(450, "4.4.2", "timed out"), is_possible_duplicate=True)
        assert "it may have arrived" in Parsed(report("failure", attempt)).words

    @pytest.mark.parametrize(
        ("status", "advice"),
        [
            ("5.1.2", "behind the @"),
            ("5.1.10", "behind the @"),
            ("5.2.2", "mailbox is full"),
            ("5.3.4", "too big"),
            ("5.7.1", "rules forbid it"),
            ("5.7.26", "rules forbid it"),
            ("5.6.7", "such letters"),
            ("5.0.0", "hardly help"),
        ],
    )
    def test_advice_fits_the_status(self, status: str, advice: str) -> None:
        attempt = Attempt(Reply(550, status, "no"), host="mx.d.test[192.0.2.1]:25", is_remote=True)
        parsed = Parsed(report("failure", attempt))
        assert advice in parsed.words
        assert "mx.d.test answered:" in parsed.words

    def test_server_without_a_name_is_named_by_its_address(self) -> None:
        attempt = Attempt(Reply(550, "", "no"), host="[192.0.2.1]:25", is_remote=True)
        assert Parsed(report("failure", attempt)).status[1]["Remote-MTA"] == "dns; 192.0.2.1"

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0, "less than a minute"),
            (60, "1 minute."),
            (7199, "1 hour."),
            (7200, "2 hours."),
            (DAY, "1 day."),
            (-60, "less than a minute"),
        ],
    )
    def test_time_in_the_queue(self, seconds: float, words: str) -> None:
        message = make_message()
        expired = Plan("failure", "chris@home.test", (Failed(Recipient("bad@d.test"), REFUSED),))
        now = message.received_at + seconds
        parsed = Parsed(
            build_report(expired, message, CONTENT, SETTINGS, recipients=[expired.to], number=2, now=now)
        )
        assert f"tried for {words}" in parsed.words


class TestParameters:
    def test_envid_and_orcpt_are_decoded(self) -> None:
        recipient = Recipient("bad@d.test", orcpt="rfc822;Orig+2Btag@d.test")
        parsed = Parsed(report("failure", recipient=recipient, envid="QQ+2B314+3D159"))
        assert parsed.status[0]["Original-Envelope-Id"] == "QQ+314=159"
        assert parsed.status[1]["Original-Recipient"] == "rfc822;Orig+tag@d.test"

    def test_encoded_line_ends_inject_nothing(self) -> None:
        recipient = Recipient("bad@d.test", orcpt="rfc822;a+0D+0AStatus:+202.0.0+0D+0A+0D+0AX:+20y")
        parsed = Parsed(report("failure", recipient=recipient, envid="a+0D+0AX-Evil:+20b+FF"))
        assert parsed.status[0]["Original-Envelope-Id"] == "a  X-Evil: b?"
        assert parsed.status[1]["Original-Recipient"] == "rfc822;a  Status: 2.0.0    X: y"
        assert parsed.status[1]["Status"] == "5.1.1"

    @pytest.mark.parametrize("ret", ["", "FULL"])
    def test_large_message_returns_its_header_only(self, ret: str) -> None:
        content = HEADER + b"\r\n" + b"x" * (RETURN_LIMIT - len(HEADER) - 2)
        assert Parsed(report("failure", content=content, ret=ret)).returned == content
        assert Parsed(report("failure", content=content + b"x", ret=ret)).returned == HEADER

    def test_headers_only_when_asked(self) -> None:
        parsed = Parsed(report("failure", ret="HDRS"))
        assert parsed.types[2] == "text/rfc822-headers"
        assert parsed.returned == HEADER

    def test_what_is_returned_bounds_what_must_be_read(self) -> None:
        message = make_message(content=CONTENT)
        assert returned_size("failure", message) == len(CONTENT)
        assert returned_size("delay", message) == len(HEADER)
        huge = make_message(content=b"X: y\r\n" * 20_000, header_size=120_000)
        assert returned_size("failure", huge) == RETURN_LIMIT

    def test_huge_header_is_cut_at_a_line(self) -> None:
        content = b"X-Long: header\r\n" * 10_000
        returned = Parsed(report("failure", content=content, header_size=len(content))).returned
        assert returned == content[: len(returned)]
        assert returned.endswith(b"\r\n")
        assert RETURN_LIMIT - 16 < len(returned) <= RETURN_LIMIT

    def test_message_without_a_header(self) -> None:
        parsed = Parsed(report("delay", content=b"\r\nHello\r\n", header_size=0))
        assert parsed.returned == b""
        assert "Subject:" not in parsed.text


class TestBeyondAscii:
    def test_8bit_body_is_returned_as_it_is(self) -> None:
        content = b"Content-Type: text/plain; charset=iso-8859-1\r\n\r\nvoil\xe0\r\n"
        parsed = Parsed(report("failure", content=content))
        assert parsed.returned == content
        assert parsed.message.body_is_8bit

    def test_ascii_report_is_7bit(self) -> None:
        parsed = Parsed(report("failure", content=b"Subject: hello\r\n\r\nHello\r\n"))
        assert not parsed.message.body_is_8bit
        assert not parsed.message.envelope.is_smtputf8

    def test_remote_words_are_readable_in_the_text(self) -> None:
        attempt = Attempt(Reply(550, "5.1.1", "refusé \udce9"), host="mx[::1]:25", is_remote=True)
        parsed = Parsed(report("failure", attempt))
        assert "> 550 5.1.1 refusé \ufffd" in parsed.text
        assert parsed.status[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 refus? ?"

    def test_smtputf8_message_gets_global_parts(self) -> None:
        recipient = Recipient("badä@d.test")
        attempt = Attempt(Reply(550, "5.1.1", "refusé"), host="mx[::1]:25", is_remote=True)
        parsed = Parsed(report("failure", attempt, recipient, to="sénder@home.test", is_smtputf8=True))
        assert parsed.types[1:] == ["message/global-delivery-status", "message/global"]
        assert parsed.status[1]["Final-Recipient"] == "utf-8; badä@d.test"
        assert parsed.status[1]["Diagnostic-Code"] == "smtp; 550 5.1.1 refusé"
        assert parsed.message.envelope.is_smtputf8
        headers_only = Parsed(report("delay", REFUSED, recipient, is_smtputf8=True))
        assert headers_only.types[2] == "message/global-headers"
        assert not headers_only.message.envelope.is_smtputf8

    def test_other_message_shows_such_addresses_in_seven_bits(self) -> None:
        parsed = Parsed(report("failure", recipient=Recipient("bad+ä@d.test")))
        assert parsed.status[1]["Final-Recipient"] == r"utf-8; bad\x{2B}\x{E4}@d.test"

    @pytest.mark.parametrize(
        ("field", "shown"),
        [
            (b"Subject: voil\xc3\xa0", "voilà"),
            (b"Subject: voil\xe0", "voilà"),
            (b"SUBJECT : upper", "upper"),
            (b"Subject: =?nonsense?q?a=3F?=", "=?nonsense?q?a=3F?="),
            (b"Subject: =?utf-8?b?A?=", "=?utf-8?b?A?="),
            (b"Subject: =?utf-8?q?=FF?=", "=?utf-8?q?=FF?="),
            (b"Subject: \xc3\xa0 =?utf-8?q?a?=", "à =?utf-8?q?a?="),
            (b"X: Subject: no\r\n Subject: no\r\nSubject: yes", "yes"),
        ],
    )
    def test_subject_is_decoded_where_it_can_be(self, field: bytes, shown: str) -> None:
        parsed = Parsed(report("failure", content=field + b"\r\n\r\nSubject: body\r\n"))
        assert f"    Subject: {shown}\r\n" in parsed.text
        assert parsed.text.count("Subject: ") == 1


hostile = st.text(
    st.one_of(
        st.sampled_from('\r\n\t\0 \x7f\x85\u2028\u202e\xa0\udcff-=_.:;()<>@"\\+'), st.characters()
    ).filter(lambda c: not "\ud800" <= c <= "\udc7f" and not "\udd00" <= c <= "\udfff"),
    max_size=60,
)
blocks = st.lists(
    st.one_of(
        st.sampled_from(
            [b"Subject: =?utf-8?q?=0D=0A=0D=0A--=5F2?=", b"--=_2.1700000000--", b"--", b"Date: x"]
        ),
        st.binary(max_size=80).map(lambda line: re.sub(rb"[\r\n]", b"", line)),
    ),
    max_size=6,
).map(lambda lines: b"".join(line + b"\r\n" for line in lines if line))


class TestHostileInput:
    @given(
        words=hostile,
        host=hostile,
        code=st.integers(0, 999),
        is_remote=st.booleans(),
        is_global=st.booleans(),
    )
    def test_remote_words_stay_in_their_place(
        self, words: str, host: str, code: int, is_remote: bool, is_global: bool
    ) -> None:
        attempt = Attempt(Reply(code, "", words), host="mx" + host, command="DATA", is_remote=is_remote)
        parsed = Parsed(report("failure", attempt, is_smtputf8=is_global))
        assert len(parsed.status) == 2
        assert parsed.returned == CONTENT

    @given(address=hostile, original=hostile, orcpt=hostile, envid=hostile, is_global=st.booleans())
    def test_addresses_stay_in_their_place(
        self, address: str, original: str, orcpt: str, envid: str, is_global: bool
    ) -> None:
        recipient = Recipient("a" + address, original=original, orcpt=f"rfc822;{orcpt}")
        parsed = Parsed(
            report("delay", REFUSED, recipient, to="a" + address, envid=f"e{envid}", is_smtputf8=is_global)
        )
        assert len(parsed.status) == 2
        assert parsed.returned == HEADER

    @given(header=blocks, body=blocks, kind=st.sampled_from(["failure", "delay"]))
    def test_content_stays_in_its_place(self, header: bytes, body: bytes, kind: Kind) -> None:
        content = header + b"\r\n" + body
        parsed = Parsed(report(kind, content=content, header_size=len(header)))
        assert parsed.returned == (content if kind == "failure" else header)

    @given(letter=st.sampled_from("xé€😀\xa0 "), count=st.integers(200, 3000))
    def test_no_line_is_too_long(self, letter: str, count: int) -> None:
        long = letter * count
        attempt = Attempt(Reply(550, "5.1.1", long), host=f"{long}[::1]:25", is_remote=True)
        recipient = Recipient("bad@d.test", original=long, orcpt=f"rfc822;{long}")
        content = b"Subject: " + long.encode() + b"\r\n\r\nHello\r\n"
        parsed = Parsed(
            report("failure", attempt, recipient, content=content, ret="HDRS", envid=long, is_smtputf8=True)
        )
        for _, body in parsed.parts[:2]:
            assert max(map(len, body.split(b"\r\n"))) <= 998


# What Postfix recorded

VECTORS = Path(__file__).parent / "vectors"
SAID = re.compile(r"host (\S+) said: (\d{3}) (.*?)(?: \(in reply to (.*) command\))?")
LEFT_OUT = {"aliases-030", "aliases-051", "dsn-069", "dsn-072"}
"""The first two tell of an alias, not of an attempt; the bounces of the others reach nobody."""


def load_cases() -> list[dict[str, Any]]:
    """Return the cases in scope that are about reports or end in one."""
    scope = set((VECTORS / "scope.txt").read_text().split())
    inexpressible = {line.split()[0] for line in (VECTORS / "inexpressible.txt").read_text().splitlines()}
    return [
        case
        for path in sorted((VECTORS / "cases").glob("*.json"))
        for case in json.loads(path.read_text())
        if set(case["tags"]) <= scope and case["id"] not in inexpressible | LEFT_OUT
        if case["area"] == "dsn" or any("dsn" in relayed for relayed in case["expected"]["relayed"])
    ]


def utf8(text: str) -> str:
    """Return what the recordings hold byte by byte."""
    return text.encode("latin-1").decode()


def read_parameter(command: str, name: str) -> str:
    found = re.search(rf" {name}=(\S+)", command)
    return found[1] if found else ""


def read_attempt(disposition: dict[str, str], *, passes_dsn: bool) -> Attempt:
    status, relay, text = disposition["dsn"], disposition["relay"], disposition["text"]
    if disposition["status"] == "sent":
        reply = parse_text(250, text.removeprefix("250 "))
        return Attempt(reply, host=relay, is_remote=True, passes_dsn=passes_dsn)
    said = SAID.fullmatch(text)
    if said is None:
        return Attempt(Reply(int(status[0]) * 100 + 50, status, text))
    reply = parse_text(int(said[2]), said[3])
    return Attempt(reply, host=f"{said[1]}:25", command=said[4], is_remote=True)


def read_message(case: dict[str, Any]) -> tuple[Message, bytes, list[Attempt]]:
    """Return the message that a case sends, its content, and what became of its recipients."""
    steps = [step for session in case["input"]["sessions"] for step in session["steps"]]
    sent = [step.get("send", "").encode("latin-1") for step in steps]
    text = b"".join(sent).decode(errors="replace")
    mail = re.search(r"(?im)^MAIL FROM: ?<(.*?)>.*", text)
    content = next((step[:-3] for step in sent if step.endswith(b"\r\n.\r\n")), b"")
    commands = {found[1]: found[0] for found in re.finditer(r"(?im)^RCPT TO: ?<(.*?)>.*", text)}
    hops = case.get("next_hops", {}).values()
    passes_dsn = not any("no_ehlo" in hop or "DSN" not in hop.get("ehlo", "DSN") for hop in hops)
    recipients: list[Recipient] = []
    attempts = []
    for disposition in case["expected"]["dispositions"]:
        original = disposition.get("orig_to", "")
        command = commands.get(original or disposition["to"])
        if command is not None:
            recipients.append(
                Recipient(
                    disposition["to"],
                    original,
                    orcpt=read_parameter(command, "ORCPT"),
                    notify=read_parameter(command, "NOTIFY"),
                    index=len(recipients),
                )
            )
            attempts.append(read_attempt(disposition, passes_dsn=passes_dsn))
    message = make_message(
        *recipients,
        content=content,
        reverse_path=mail[1] if mail else "",
        ret=read_parameter(mail[0], "RET") if mail else "",
        envid=read_parameter(mail[0], "ENVID") if mail else "",
        is_smtputf8=mail is not None and "SMTPUTF8" in mail[0],
    )
    return message, content, attempts


def strict_view(to: str, types: list[str], fields: list[dict[str, str]], *, has_body: bool) -> dict[str, Any]:
    """Return what has to agree with a recording."""
    names = ("Final-Recipient", "Original-Recipient", "Action", "Status")
    rows = [[block[name].rpartition(";")[2].strip() for name in names] for block in fields]
    return {"to": to, "types": types, "recipients": sorted(rows), "has_body": has_body}


@pytest.mark.parametrize("case", load_cases(), ids=lambda case: case["id"])
def test_reports_are_those_that_postfix_sent(case: dict[str, Any]) -> None:
    expected = [
        strict_view(
            utf8(relayed["rcpt"][0]["to"]),
            [part["content_type"] for part in relayed["dsn"]["parts"]],
            [{name: utf8(value) for name, value in block} for block in relayed["dsn"]["per_recipient"]],
            has_body=relayed["dsn"]["returned"]["has_body"],
        )
        for relayed in case["expected"]["relayed"]
        if "dsn" in relayed
    ]
    message, content, attempts = read_message(case)
    lifetime = 0.0 if case["postfix"]["main_cf"].get("maximal_queue_lifetime") == "0" else 100 * DAY
    outcomes = [
        Outcome(1, index, judge(attempt, message, now=NOW, lifetime=lifetime), attempt)
        for index, attempt in enumerate(attempts)
    ]
    plans = plan_reports(
        message,
        outcomes,
        to=expected[0]["to"] if expected else message.envelope.reverse_path,
        postmaster="master@home.test",
        is_late="delay_warning_time" in case["tags"],
    )
    actual = []
    for plan in plans:
        original = content[: returned_size(plan.kind, message)]
        parsed = Parsed(
            build_report(plan, message, original, SETTINGS, recipients=[plan.to], number=2, now=NOW)
        )
        actual.append(
            strict_view(
                parsed.headers["To"],
                [part.partition(";")[0] for part in parsed.types],
                parsed.status[1:],
                has_body=parsed.returned.partition(b"\r\n\r\n")[2] != b"",
            )
        )
    assert actual == expected
