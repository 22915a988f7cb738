"""MAIL and RCPT as they go to a server: addresses, parameters, and what the server cannot take.

A server's *offers* are its EHLO keywords in upper case with their parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from relay.mail.address import quote_address
from relay.mail.envelope import Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.xtext import encode_xtext

Offers = Mapping[str, str]

_MAILBOX = re.compile(r'(?:"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*")?[^"\\<>\s\x00-\x1f\x7f]*')
_PARAMETER = re.compile(r"[!-<>-~]+")
_NOT_UNITEXT = re.compile(r"[^!-*,-<>-\[\]-~]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def refuse_message(
    envelope: Envelope, size: int, *, has_8bit_header: bool, offers: Offers, server: str
) -> Reply | None:
    """Return the permanent refusal of a message that the server cannot take, whoever it is for."""
    limit = offers.get("SIZE", "")
    if limit.isascii() and limit.isdecimal() and 0 < int(limit) < size:
        return Reply(552, "5.3.4", f"message size {size} exceeds size limit {limit} of server {server}")
    if not _is_safe(envelope.reverse_path):
        return Reply(553, "5.1.7", "the sender's address has characters that no command can carry")
    is_utf8 = not envelope.reverse_path.isascii() or (envelope.is_smtputf8 and has_8bit_header)
    return _require_utf8(server) if is_utf8 and "SMTPUTF8" not in offers else None


def refuse_recipient(recipient: Recipient, *, offers: Offers, server: str) -> Reply | None:
    """Return the permanent refusal of a recipient that the server cannot be given."""
    if not recipient.address or not _is_safe(recipient.address):
        return Reply(553, "5.1.3", "the recipient's address has characters that no command can carry")
    return None if recipient.address.isascii() or "SMTPUTF8" in offers else _require_utf8(server)


def mail_command(
    envelope: Envelope, size: int, *, is_8bit: bool, has_8bit_header: bool, offers: Offers
) -> bytes:
    """Return the MAIL line. The envelope holds the recipients that will be named."""
    words = [f"MAIL FROM:<{quote_address(envelope.reverse_path)}>"]
    if "SIZE" in offers:
        words.append(f"SIZE={size}")
    if "8BITMIME" in offers and is_8bit:
        words.append("BODY=8BITMIME")
    if "SMTPUTF8" in offers and _is_utf8(envelope, has_8bit_header=has_8bit_header):
        words.append("SMTPUTF8")
    if "DSN" in offers:
        words += _parameters(ENVID=envelope.envid, RET=envelope.ret)
    return _encode(words)


def rcpt_command(recipient: Recipient, offers: Offers) -> bytes:
    """Return the RCPT line. A missing ORCPT is made from the address that the client gave, as in Postfix."""
    words = [f"RCPT TO:<{quote_address(recipient.address)}>"]
    if "DSN" in offers:
        orcpt = recipient.orcpt or _original_recipient(recipient.original or recipient.address)
        words += _parameters(ORCPT=orcpt, NOTIFY=recipient.notify)
    return _encode(words)


def _is_safe(address: str) -> bool:
    """Whether nothing in the address could end it, or the line, before its end."""
    return _MAILBOX.fullmatch(quote_address(address)) is not None


def _is_utf8(envelope: Envelope, *, has_8bit_header: bool) -> bool:
    addresses = [envelope.reverse_path, *(recipient.address for recipient in envelope.recipients)]
    return not all(map(str.isascii, addresses)) or (envelope.is_smtputf8 and has_8bit_header)


def _parameters(**values: str) -> list[str]:
    """Return the parameters that are set; one that would not stay one word is left out."""
    return [f"{name}={value}" for name, value in values.items() if _PARAMETER.fullmatch(value)]


def _original_recipient(address: str) -> str:
    """Return an ORCPT value (RFC 3461 section 4.2, RFC 6533 section 3); "" for an address with odd bytes."""
    external = quote_address(address)
    if external.isascii():
        return "rfc822;" + encode_xtext(external)
    if _SURROGATE.search(external):
        return ""
    return "utf-8;" + _NOT_UNITEXT.sub(lambda match: f"\\x{{{ord(match[0]):X}}}", external)


def _encode(words: list[str]) -> bytes:
    return " ".join(words).encode("utf-8", "surrogateescape") + b"\r\n"


def _require_utf8(server: str) -> Reply:
    return Reply(550, "5.6.7", f"SMTPUTF8 is required, but was not offered by host {server}")
