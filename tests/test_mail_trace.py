from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from relay.mail.envelope import Client, Recipient
from relay.mail.trace import (
    HOP_LIMIT,
    delivery_headers,
    format_date,
    format_message_id,
    has_too_many_hops,
    missing_headers,
    received_header,
    was_delivered_to,
)

NOW = 1_422_871_200.0  # Mon, 02 Feb 2015 10:00:00 UTC
CLIENT = Client("192.0.2.1", "host.client.test", "client.test", "ESMTP")


@pytest.fixture(autouse=True)
def _time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC0")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_received_names_a_single_recipient() -> None:
    assert received_header(CLIENT, "gw.test", "3F", NOW, "a b@dest.test") == (
        b"Received: from client.test (host.client.test [192.0.2.1])\r\n"
        b"\tby gw.test (relay) with ESMTP id 3F\r\n"
        b'\tfor <"a b"@dest.test>; Mon, 02 Feb 2015 10:00:00 +0000\r\n'
    )


def test_received_names_none_of_several_recipients() -> None:
    assert received_header(CLIENT, "gw.test", "3F", NOW) == (
        b"Received: from client.test (host.client.test [192.0.2.1])\r\n"
        b"\tby gw.test (relay) with ESMTP id 3F;\r\n"
        b"\tMon, 02 Feb 2015 10:00:00 +0000\r\n"
    )


def test_received_marks_an_ipv6_address() -> None:
    assert b"(unknown [IPv6:2001:db8::1])" in received_header(Client("2001:db8::1"), "gw.test", "3F", NOW)


def test_a_client_that_gave_no_name_is_named_by_its_reverse_name() -> None:
    header = received_header(Client("192.0.2.1", "host.test"), "gw.test", "3F", NOW)
    assert header.startswith(b"Received: from host.test (host.test [192.0.2.1])\r\n")


@pytest.mark.parametrize(
    ("helo", "shown"),
    [
        ('bad(name);x\\"y,z<q>', "bad?name??x??y,z?q?"),
        ("foo bar", "foo?bar"),
        ("a@b", "a?b"),
        ("a\tb\x00", "a?b?"),
        ("a'b`c%d", "a'b`c%d"),
        ("[127.0.0.1]", "[127.0.0.1]"),
        ("café", "café"),
        ("caf\udce9", "caf?"),
    ],
)
def test_odd_characters_of_a_client_name_become_question_marks(helo: str, shown: str) -> None:
    header = received_header(Client("192.0.2.1", helo=helo), "gw.test", "3F", NOW)
    assert header.startswith(f"Received: from {shown} (unknown ".encode())


def test_a_recipient_cannot_break_the_line() -> None:
    header = received_header(CLIENT, "gw.test", "3F", NOW, "a\r\nX: y@dest.test")
    assert header.count(b"\r\n") == 3
    assert b'for <"a\\?\\?X: y"@dest.test>;' in header


@pytest.mark.parametrize(
    ("zone", "date"),
    [
        ("UTC0", "Mon, 02 Feb 2015 10:00:00 +0000"),
        ("CET-1CEST,M3.5.0,M10.5.0", "Mon, 02 Feb 2015 11:00:00 +0100"),
        ("NST3:30", "Mon, 02 Feb 2015 06:30:00 -0330"),
        ("XXX-13:45", "Mon, 02 Feb 2015 23:45:00 +1345"),
    ],
)
def test_a_date_has_the_local_offset(monkeypatch: pytest.MonkeyPatch, zone: str, date: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert format_date(NOW) == date


def test_a_message_id_has_the_time_in_utc() -> None:
    assert format_message_id(NOW, "3F", "gw.test") == "<20150202100000.3F@gw.test>"


def test_fifty_hops_with_ours_are_too_many() -> None:
    hops = [b"Received: x\r\n", b"X-Received: x\r\n"]
    assert not has_too_many_hops(hops * (HOP_LIMIT - 2))
    assert has_too_many_hops([*hops * (HOP_LIMIT - 2), b"RECEIVED : y\r\n"])


def missing(*present: str, reverse_path: str = "joe@gw.test") -> list[bytes]:
    return missing_headers(set(present), reverse_path, "gw.test", "3F", NOW)


def test_missing_headers_come_in_postfix_order() -> None:
    assert missing("to", "subject") == [
        b"Message-Id: <20150202100000.3F@gw.test>\r\n",
        b"Date: Mon, 02 Feb 2015 10:00:00 +0000\r\n",
        b"From: joe@gw.test\r\n",
    ]


def test_nothing_is_added_to_what_is_there() -> None:
    assert missing("from", "date", "message-id") == []


def test_a_resent_header_asks_for_its_kind() -> None:
    assert missing("from", "date", "message-id", "resent-bcc", "resent-date") == [
        b"Resent-Message-Id: <20150202100000.3F@gw.test>\r\n",
        b"Resent-From: joe@gw.test\r\n",
    ]
    assert missing("from", "date", "message-id", "resent-foo") == []


@pytest.mark.parametrize(
    ("reverse_path", "value"),
    [
        ("", "MAILER-DAEMON"),
        ("se nder@client.test", '"se nder"@client.test'),
        ("é@client.test", "é@client.test"),
    ],
)
def test_from_is_made_of_the_reverse_path(reverse_path: str, value: str) -> None:
    assert missing("date", "message-id", reverse_path=reverse_path) == [f"From: {value}\r\n".encode()]


def test_the_copy_in_a_mailbox_names_both_ends_of_its_way() -> None:
    recipient = Recipient("chris@home.test", original="a b@Home.test")
    assert delivery_headers("ann@far.test", recipient) == (
        b'Return-Path: <ann@far.test>\r\nX-Original-To: "a b"@Home.test\r\nDelivered-To: chris@home.test\r\n'
    )


def test_a_recipient_without_an_alias_is_the_original_one() -> None:
    headers = delivery_headers("", Recipient("jos\u00e9@home.test"))
    assert headers.decode().splitlines() == [
        "Return-Path: <>",
        "X-Original-To: jos\u00e9@home.test",
        "Delivered-To: jos\u00e9@home.test",
    ]


def test_no_address_breaks_a_header_of_a_copy() -> None:
    headers = delivery_headers("a\r\nX: y@far.test", Recipient("b\n\x7f\udcff@home.test", original="c\x00@d"))
    assert headers == (
        b'Return-Path: <"a\\?\\?X: y"@far.test>\r\n'
        b'X-Original-To: "c?"@d\r\n'
        b'Delivered-To: "b\\??\xff"@home.test\r\n'
    )


@pytest.mark.parametrize(
    "address", ["chris@home.test", "a b@home.test", "a\nb@home.test", "\u00e9\udcff@home.test"]
)
def test_a_message_that_comes_back_is_known_by_its_header(address: str) -> None:
    headers = delivery_headers("", Recipient(address.upper(), original="other@home.test")).splitlines(
        keepends=True
    )
    assert was_delivered_to(address, headers)
    assert not was_delivered_to("other@home.test", headers)
    assert not was_delivered_to(address, headers[:2])
