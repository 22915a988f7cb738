"""What is done to the addresses and headers of a message when it arrives, in Postfix's order (cleanup(8))."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from relay.mail.address import complete
from relay.mail.fields import is_complete, rewrite_addresses
from relay.mail.header_checks import Inspected
from relay.mail.headers import header_name
from relay.mail.rewrite import RECIPIENT_HEADERS, SENDER_HEADERS, Canonical, Home
from relay.mail.trace import missing_headers

_DROPPED = frozenset({"bcc", "content-length", "resent-bcc", "return-path"})


@dataclass(frozen=True, slots=True)
class ArrivalRules:
    """The configuration of rewriting on arrival, and of what is kept of the headers."""

    hostname: str
    home: Home
    sender_canonical: Canonical = field(default_factory=Canonical)
    """Empty where senders are rewritten only in copies that leave for the outside."""
    recipient_canonical: Canonical = field(default_factory=Canonical)
    keeps_subject: bool = False
    """Whether the queue is told the subject, for its history."""

    def rewrite_sender(self, reverse_path: str) -> str:
        """Return a reverse-path completed and rewritten."""
        return self.sender_canonical.rewrite(complete(reverse_path, self.home.domain), self.home)[0]

    def rewrite_recipient(self, forward_path: str) -> str:
        """Return a forward-path completed and rewritten."""
        return self.recipient_canonical.rewrite(complete(forward_path, self.home.domain), self.home)[0]

    def rewrite_header(self, header: bytes) -> bytes:
        """Return a header with its addresses completed and rewritten, if it is one that holds addresses."""
        name = header_name(header)
        if name in SENDER_HEADERS:
            table = self.sender_canonical
        elif name in RECIPIENT_HEADERS:
            table = self.recipient_canonical
        else:
            return header
        if not table.entries and is_complete(header):
            return header
        home = self.home
        return rewrite_addresses(header, lambda address: table.rewrite(address, home), home.domain)


def arrange_headers(
    rules: ArrivalRules,
    received: bytes,
    headers: Iterable[bytes],
    *,
    reverse_path: str,
    queue_id: str,
    now: float,
    inspect: Callable[[bytes], Inspected] | None = None,
    is_ours: bool = True,
) -> list[bytes]:
    """Return the headers that a message is kept with, from our Received header and the client's headers.

    Each is inspected as it came, then rewritten or dropped; missing ones are added at the end. What strangers
    send to us, not ``is_ours``, is neither rewritten nor completed. ``reverse_path`` is the rewritten one.
    """
    result: list[bytes] = []
    present: set[str] = set()
    for given in (received, *headers):
        header = given
        if inspect is not None:
            inspected = inspect(given)
            result += inspected.prepended
            if inspected.header is None:
                continue
            header = inspected.header
        name = header_name(header)
        present.add(name)
        if name not in _DROPPED:
            result.append(rules.rewrite_header(header) if is_ours else header)
    if not is_ours:
        return result
    return result + missing_headers(present, reverse_path, rules.hostname, queue_id, now)
