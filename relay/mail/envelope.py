"""The envelope (RFC 5321 section 2.3.1) and the facts that the queue keeps about a message.

Addresses are strings in the *internal* form: local part unquoted, then "@", then the domain; the last "@"
divides them. ``relay.mail.address`` converts to and from the quoted form of the wire. Bytes beyond UTF-8
are kept as surrogate escapes. The null reverse-path is "".
"""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN = "unknown"
LARGEST_NUMBER = 2**63 - 1
"""What a message number stays below."""


@dataclass(frozen=True, slots=True)
class Client:
    """The SMTP client of a session, as Received headers and log lines name it."""

    address: str
    """IP address without brackets; an IPv4-mapped IPv6 address is given as IPv4. ``uid N`` of a maildrop."""
    name: str = UNKNOWN
    """Reverse DNS name, verified by a forward look-up; else ``unknown``."""
    helo: str = ""
    """The name that the client gave with HELO or EHLO; "" where it gave none."""
    protocol: str = "SMTP"
    """The keyword of the Received header: SMTP, ESMTP, ESMTPSA, UTF8SMTP … (RFC 3848, RFC 6531)."""
    user: str = ""
    """The name that the client logged in with; "" where it did not."""
    sasl_method: str = ""
    """How it logged in: PLAIN, LOGIN; "" where it did not."""
    uid: int | None = None
    """The number of the user whose program left the message in the maildrop; None for a session."""

    def __str__(self) -> str:
        """Return ``name[address]``, the form of Postfix's log."""
        return f"{self.name}[{self.address}]"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward-path with its delivery status options (RFC 3461 section 4)."""

    address: str
    """Where the message goes, after rewriting; internal form."""
    original: str = ""
    """The address as the client gave it, internal form; "" where it is the same."""
    orcpt: str = ""
    """The ORCPT parameter as given (``rfc822;`` and xtext); "" where the client gave none."""
    notify: str = ""
    """The NOTIFY parameter in upper case (``NEVER`` or a list of SUCCESS, FAILURE, DELAY); "" by default."""
    index: int = 0
    """Its place among the recipients of its message: with the message's number, its identity in the queue."""

    @property
    def wants_failure(self) -> bool:
        """Whether a bounce is to be reported (the default)."""
        return not self.notify or "FAILURE" in self.notify

    @property
    def wants_delay(self) -> bool:
        """Whether a delay is to be reported (the default)."""
        return not self.notify or "DELAY" in self.notify

    @property
    def wants_success(self) -> bool:
        """Whether a delivery is to be reported (only when asked for)."""
        return "SUCCESS" in self.notify


@dataclass(frozen=True, slots=True)
class Envelope:
    """A reverse-path, its recipients and the parameters of MAIL."""

    reverse_path: str
    recipients: tuple[Recipient, ...]
    given_reverse_path: str = ""
    """The reverse-path as the client gave it, before rewriting on arrival."""
    ret: str = ""
    """The RET parameter: FULL, HDRS or ""."""
    envid: str = ""
    """The ENVID parameter as given (xtext); "" where the client gave none."""
    is_8bitmime: bool = False
    """Whether the client said BODY=8BITMIME."""
    is_smtputf8: bool = False
    """Whether the client said SMTPUTF8 (RFC 6531)."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the queue knows of a message, its content apart."""

    number: int
    """Unique for ever; the queue id is its hexadecimal form."""
    envelope: Envelope
    size: int
    """Bytes of the whole content."""
    header_size: int
    """Bytes of the header block at the start of the content, without the empty line that ends it."""
    body_is_8bit: bool
    """Whether a byte above 127 stands behind the header block."""
    received_at: float
    """Epoch seconds."""
    client: str = ""
    """``name[address]`` of the client; "" for our own reports."""
    is_report: bool = False
    """Whether we made it ourselves, to report about another message: nothing is ever reported about it."""
    message_id: str = ""
    """The Message-ID header (RFC 5322 section 3.6.4), as it stands; "" where there is none."""
    subject: str = ""
    """The subject as people read it; "" unless the history is to keep subjects (queue.history_subjects)."""

    @property
    def queue_id(self) -> str:
        """The name of the message in logs, headers and commands."""
        return format_queue_id(self.number)


def format_queue_id(number: int) -> str:
    """Return the queue id of a message number."""
    return f"{number:X}"


def parse_queue_id(text: str) -> int | None:
    """Return the message number of a queue id, or None where the text is none."""
    try:
        number = int(text, 16)
    except ValueError:
        return None
    return number if 0 <= number < LARGEST_NUMBER else None
