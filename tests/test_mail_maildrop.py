"""Batch SMTP in the maildrop: what is written is read, and nothing else is taken for an envelope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import complete
from relay.mail.envelope import Envelope, Recipient
from relay.mail.maildrop import DATA, read_envelope, write_envelope

WORDS = st.text(alphabet="abcé.+ \"'()", min_size=1, max_size=8).filter(lambda text: text.strip())
ADDRESSES = st.builds(lambda local, domain: f"{local}@{domain}", WORDS, st.sampled_from(["x.test", "é.test"]))
RECIPIENTS = st.builds(
    Recipient,
    ADDRESSES,
    notify=st.sampled_from(["", "NEVER", "SUCCESS,FAILURE"]),
    orcpt=st.sampled_from(["", "rfc822;a+2Bb@x.test"]),
)


def lines(data: bytes) -> list[bytes]:
    assert data.endswith(DATA)
    return data.removesuffix(DATA).splitlines(keepends=True)


@given(
    ADDRESSES | st.just(""),
    st.lists(RECIPIENTS, min_size=1, max_size=3),
    st.sampled_from(["", "FULL", "HDRS"]),
    st.sampled_from(["", "id+2B1"]),
)
def test_what_is_written_is_read(sender: str, recipients: list[Recipient], ret: str, envid: str) -> None:
    envelope = Envelope(sender, tuple(recipients), ret=ret, envid=envid)
    found = read_envelope(lines(write_envelope(envelope)))
    assert (found.reverse_path, found.given_reverse_path) == (sender, sender)
    assert found.recipients == envelope.recipients
    assert (found.ret, found.envid) == (ret, envid)
    texts = [sender, *(recipient.address for recipient in recipients)]
    assert found.is_smtputf8 == (not all(map(str.isascii, texts)))


def test_names_without_a_domain_are_kept() -> None:
    found = read_envelope(lines(write_envelope(Envelope("chris", (Recipient("root"),)))))
    assert (found.reverse_path, found.recipients) == ("chris", (Recipient("root"),))
    assert complete(found.reverse_path, "gw.test") == "chris@gw.test"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it begins with no MAIL command"),
        (b"RCPT TO:<a@b.test>\r\n", "it begins with no MAIL command"),
        (b"MAIL FROM:<a@b\r\n", "it begins with no MAIL command"),
        (b"MAIL FROM:<a@b.test>\r\n", "it names no recipient"),
        (b"MAIL FROM:<>\r\nRCPT TO:<a@b.test>\r\nRCPT TO:<>\r\n", "its line 3 is no RCPT command"),
        (b"MAIL FROM:<>\r\nMAIL FROM:<>\r\n", "its line 2 is no RCPT command"),
        (b'{"sender": 1}\r\n', "it begins with no MAIL command"),
    ],
)
def test_anything_else_is_no_envelope(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_envelope(data.splitlines(keepends=True))


@given(st.lists(st.binary(max_size=30), max_size=3))
def test_no_line_is_a_surprise(some: list[bytes]) -> None:
    try:
        envelope = read_envelope(some)
    except ValueError:
        return
    assert envelope.recipients
