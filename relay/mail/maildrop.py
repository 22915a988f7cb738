"""The form in which a program of this machine leaves a message for the relay: batch SMTP.

A file holds MAIL and RCPT commands as RFC 5321 has them, a line DATA, and the content as it is, to its end.
"""

from __future__ import annotations

from collections.abc import Iterable

from relay.mail.address import quote_address
from relay.mail.commands import parse_mail, parse_rcpt, split_command
from relay.mail.envelope import Envelope
from relay.mail.reply import Reply

DATA = b"DATA\r\n"
LONGEST_ENVELOPE = 1_000_000
"""Bytes of the lines in front of a content."""
WAKE = ".wake"
"""The socket in the maildrop at which a byte says that there is a message."""


def write_envelope(envelope: Envelope) -> bytes:
    """Return the lines in front of a content."""
    addresses = (envelope.reverse_path, *(recipient.address for recipient in envelope.recipients))
    is_smtputf8 = envelope.is_smtputf8 or not all(map(str.isascii, addresses))
    mail = [f"MAIL FROM:<{quote_address(envelope.reverse_path)}>", "SMTPUTF8" if is_smtputf8 else ""]
    mail += _parameters(RET=envelope.ret, ENVID=envelope.envid)
    lines = [mail]
    for recipient in envelope.recipients:
        parameters = _parameters(NOTIFY=recipient.notify, ORCPT=recipient.orcpt)
        lines.append([f"RCPT TO:<{quote_address(recipient.address)}>", *parameters])
    text = "".join(" ".join(filter(None, line)) + "\r\n" for line in lines)
    return text.encode("utf-8", "surrogateescape") + DATA


def _parameters(**values: str) -> list[str]:
    return [f"{name}={value}" for name, value in values.items() if value]


def check_envelope(lines: bytes) -> None:
    """Raise ValueError where ``read_envelope`` could not read what ``write_envelope`` wrote."""
    if len(lines) > LONGEST_ENVELOPE:
        raise ValueError("there are too many recipients")
    read_envelope(lines.removesuffix(DATA).splitlines(keepends=True))


def read_envelope(lines: Iterable[bytes]) -> Envelope:
    """Return the envelope that lines up to DATA say. Raises ValueError where they say none."""
    mail, *rest = [split_command(line) for line in lines] or [("", b"")]
    sender = parse_mail(mail[1])
    if mail[0] != "MAIL" or isinstance(sender, Reply):
        raise ValueError("it begins with no MAIL command")
    recipients = []
    for index, (verb, argument) in enumerate(rest):
        recipient = parse_rcpt(argument, is_smtputf8=sender.is_smtputf8)
        if verb != "RCPT" or isinstance(recipient, Reply):
            raise ValueError(f"its line {index + 2} is no RCPT command")
        recipients.append(recipient)
    if not recipients:
        raise ValueError("it names no recipient")
    return Envelope(
        sender.reverse_path,
        tuple(recipients),
        given_reverse_path=sender.reverse_path,
        ret=sender.ret,
        envid=sender.envid,
        is_smtputf8=sender.is_smtputf8,
    )
