"""MAIL and RCPT lines, and what keeps an address or a parameter out of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.commands import mail_command, rcpt_command, refuse_message, refuse_recipient
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply

SENDER = "MAIL FROM:<sender@client.test>"


def envelope(
    *recipients: str | Recipient, reverse_path: str = "sender@client.test", **values: object
) -> Envelope:
    named = tuple(r if isinstance(r, Recipient) else Recipient(r) for r in recipients)
    return Envelope(reverse_path, named, **values)  # type: ignore[arg-type]  # what a test gives is its affair


def offers(*keywords: str) -> dict[str, str]:
    return {keyword.split(" ")[0]: keyword.partition(" ")[2] for keyword in keywords}


@pytest.mark.parametrize(
    ("given", "offered", "line"),
    [
        (envelope("a@b.test"), (), SENDER),
        (envelope("a@b.test", reverse_path=""), (), "MAIL FROM:<>"),
        (envelope("a@b.test", reverse_path="a b@c.test"), (), 'MAIL FROM:<"a b"@c.test>'),
        (envelope("a@b.test"), ("SIZE 100", "8BITMIME", "DSN", "SMTPUTF8"), f"{SENDER} SIZE=99"),
        (envelope("a@b.test", is_8bitmime=True), ("8BITMIME",), f"{SENDER} BODY=8BITMIME"),
        (envelope("a@b.test", is_8bitmime=True), (), SENDER),
        (envelope("a@b.test", is_smtputf8=True), ("SMTPUTF8",), SENDER),
        (envelope("\u00fc@b.test"), ("SMTPUTF8",), f"{SENDER} SMTPUTF8"),
        (
            envelope("a@b.test", reverse_path="\u00fc@b.test"),
            ("SMTPUTF8",),
            "MAIL FROM:<\u00fc@b.test> SMTPUTF8",
        ),
        (envelope("a@b.test", envid="abc+2B1", ret="HDRS"), ("DSN",), f"{SENDER} ENVID=abc+2B1 RET=HDRS"),
        (envelope("a@b.test", envid="abc+2B1", ret="HDRS"), (), SENDER),
        (envelope("a@b.test", envid="x\r\nRSET", ret="FULL X=1"), ("DSN",), SENDER),
    ],
)
def test_mail_carries_what_the_server_offers(given: Envelope, offered: tuple[str, ...], line: str) -> None:
    command = mail_command(
        given, 99, is_8bit=given.is_8bitmime, has_8bit_header=False, offers=offers(*offered)
    )
    assert command == f"{line}\r\n".encode()


@pytest.mark.parametrize(("is_smtputf8", "line"), [(True, f"{SENDER} SMTPUTF8"), (False, SENDER)])
def test_an_8bit_header_asks_for_smtputf8_if_the_client_did(is_smtputf8: bool, line: str) -> None:
    given = envelope("a@b.test", is_smtputf8=is_smtputf8)
    command = mail_command(given, 9, is_8bit=False, has_8bit_header=True, offers={"SMTPUTF8": ""})
    assert command == f"{line}\r\n".encode()


@pytest.mark.parametrize(
    ("recipient", "line"),
    [
        (Recipient("a@b.test"), "<a@b.test> ORCPT=rfc822;a@b.test"),
        (Recipient("postmaster"), "<postmaster> ORCPT=rfc822;postmaster"),
        (Recipient("a b@c.test"), '<"a b"@c.test> ORCPT=rfc822;"a+20b"@c.test'),
        (Recipient("a@b.test", original="x+y=z@b.test"), "<a@b.test> ORCPT=rfc822;x+2By+3Dz@b.test"),
        (Recipient("\u00fc\\@b.test"), '<"\u00fc\\\\"@b.test> ORCPT=utf-8;"\\x{FC}\\x{5C}\\x{5C}"@b.test'),
        (Recipient("a@b.test", original="\udce9@b.test"), "<a@b.test>"),
        (
            Recipient(
                "a@b.test", original="z@b.test", orcpt="rfc822;orig+40x@b.test", notify="SUCCESS,DELAY"
            ),
            "<a@b.test> ORCPT=rfc822;orig+40x@b.test NOTIFY=SUCCESS,DELAY",
        ),
        (Recipient("a@b.test", orcpt="rfc822;a b", notify="NEVER\r\nRSET"), "<a@b.test>"),
    ],
)
def test_rcpt_carries_the_options_of_the_recipient(recipient: Recipient, line: str) -> None:
    assert rcpt_command(recipient, {"DSN": ""}) == f"RCPT TO:{line}\r\n".encode()
    assert rcpt_command(recipient, {}) == f"RCPT TO:{line.partition('> ')[0].removesuffix('>')}>\r\n".encode()


UTF8_REQUIRED = Reply(550, "5.6.7", "SMTPUTF8 is required, but was not offered by host mx.test")
BAD_SENDER = Reply(553, "5.1.7", "the sender's address has characters that no command can carry")
BAD_RECIPIENT = Reply(553, "5.1.3", "the recipient's address has characters that no command can carry")
TOO_BIG = Reply(552, "5.3.4", "message size 1001 exceeds size limit 1000 of server mx.test")


@pytest.mark.parametrize(
    ("given", "has_8bit_header", "offered", "refusal"),
    [
        (envelope("a@b.test"), False, (), None),
        (envelope("a@b.test"), False, ("SIZE 1000",), TOO_BIG),
        (envelope("a@b.test"), False, ("SIZE 1001",), None),
        (envelope("a@b.test"), False, ("SIZE 0",), None),
        (envelope("a@b.test"), False, ("SIZE",), None),
        (envelope("a@b.test"), False, ("SIZE much",), None),
        (envelope("a@b.test"), False, ("SIZE \u0663",), None),
        (envelope("a@b.test", reverse_path="\u00e9@b.test"), False, (), UTF8_REQUIRED),
        (envelope("a@b.test", reverse_path="\u00e9@b.test"), False, ("SMTPUTF8",), None),
        (envelope("a@b.test", is_smtputf8=True), True, (), UTF8_REQUIRED),
        (envelope("a@b.test", is_smtputf8=True), True, ("SMTPUTF8",), None),
        (envelope("a@b.test", is_smtputf8=True), False, (), None),
        (envelope("a@b.test"), True, (), None),
        (envelope("\u00e9@b.test"), False, (), None),
    ],
)
def test_a_message_is_refused_where_the_server_cannot_take_it(
    given: Envelope, has_8bit_header: bool, offered: tuple[str, ...], refusal: Reply | None
) -> None:
    answer = refuse_message(
        given, 1001, has_8bit_header=has_8bit_header, offers=offers(*offered), server="mx.test"
    )
    assert answer == refusal


@pytest.mark.parametrize(
    ("address", "offered", "refusal"),
    [
        ("a@b.test", (), None),
        ("postmaster", (), None),
        ("a b@c.test", (), None),
        ('q"\\>@c.test', (), None),
        ("u@[127.0.0.1]", (), None),
        ("", (), BAD_RECIPIENT),
        ("\u00e9@b.test", (), UTF8_REQUIRED),
        ("\u00e9@b.test", ("SMTPUTF8",), None),
    ],
)
def test_a_recipient_is_refused_where_the_server_cannot_be_given_it(
    address: str, offered: tuple[str, ...], refusal: Reply | None
) -> None:
    assert refuse_recipient(Recipient(address), offers=offers(*offered), server="mx.test") == refusal


INJECTIONS = [
    "a\r\nRSET@b.test",
    "a@b.test> SIZE=1",
    "a@b.test\r\nRSET",
    "a@b.test\nRSET",
    "a\0@b.test",
    "a@b\ttest",
    "a@b c",
    'a@"b c"',
    "a\x7f@b.test",
    "a@b\u2028c",
]


@pytest.mark.parametrize("address", INJECTIONS)
def test_no_address_gets_a_second_command_or_parameter_through(address: str) -> None:
    offered = {"SMTPUTF8": ""}
    assert refuse_recipient(Recipient(address), offers=offered, server="mx.test") == BAD_RECIPIENT
    given = envelope("a@b.test", reverse_path=address)
    assert refuse_message(given, 1, has_8bit_header=False, offers=offered, server="mx.test") == BAD_SENDER


@given(st.text(st.sampled_from('ab@.<>" \\\r\n\t\0\u00e9\udce9'), min_size=1, max_size=12))
def test_whatever_is_let_through_is_one_line_with_one_path(address: str) -> None:
    recipient = Recipient(address)
    if refuse_recipient(recipient, offers={"SMTPUTF8": ""}, server="mx.test") is None:
        line = rcpt_command(recipient, {})
        assert line.endswith(b">\r\n")
        unquoted = re.sub(rb'^RCPT TO:<("(?:[^"\\]|\\.)*")?', b"", line.removesuffix(b">\r\n"))
        assert not re.search(rb'[\x00-\x20<>"\x7f]', unquoted)
        assert not re.search(rb"[\x00-\x1f]", line.removesuffix(b"\r\n"))
