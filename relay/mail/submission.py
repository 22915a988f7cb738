"""What a message says about itself where a program hands it over without an envelope (sendmail(1))."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from email.utils import formataddr

from relay.mail import fields
from relay.mail.address import quote_address
from relay.mail.headers import header_name

_RECIPIENTS = ("to", "cc", "bcc")


def find_addresses(text: str) -> list[str]:
    """Return the internal addresses in a list as headers have it, ``Name <a@b.test>, c``."""
    return fields.find_addresses(f"To: {text}\r\n".encode("utf-8", "surrogateescape"))


def find_recipients(headers: Sequence[bytes]) -> list[str]:
    """Return whom To, Cc and Bcc name or, where a Resent- header is there, their Resent- forms."""
    is_resent = any(header_name(header).startswith("resent-") for header in headers)
    names = {f"resent-{name}" if is_resent else name for name in _RECIPIENTS}
    found = (
        address
        for header in headers
        if header_name(header) in names
        for address in fields.find_addresses(header)
    )
    return [*dict.fromkeys(found)]


def make_from(full_name: str, sender: str) -> bytes:
    """Return a From header with the name of a person, in encoded words if need be (RFC 2047)."""
    text = full_name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    written = formataddr((name, "a@b")).removesuffix("<a@b>") if name else ""
    address = f"<{quote_address(sender)}>" if name else quote_address(sender)
    return f"From: {written}{address}\r\n".encode("utf-8", "surrogateescape")


def lacks_from(headers: Iterable[bytes]) -> bool:
    """Whether a message has no From header, nor one that says who sends it again."""
    return not any(header_name(header) in {"from", "resent-from"} for header in headers)


def full_name_of(gecos: str, login: str) -> str:
    """Return the name of a person from the comment field of passwd(5); ``&`` stands for the login."""
    return gecos.partition(",")[0].replace("&", login.capitalize()).strip()
