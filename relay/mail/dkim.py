"""DKIM signatures (RFC 6376, RFC 8463): what is hashed and signed, and the header that tells it.

Headers and body are canonicalised ``relaxed/relaxed``: a server on the way that folds a header anew or drops
white space at the end of a line, as many do, leaves the signature good.
"""

from __future__ import annotations

import base64
import hashlib
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from relay.mail.address import fold, split_address
from relay.mail.fields import find_addresses
from relay.mail.headers import header_name, split_content
from relay.mail.mime import HEADER_SIZE_LIMIT

GUARDED = ("from", "reply-to", "to", "cc", "subject")
"""Headers that are signed whether or not they are there: nobody can add one (RFC 6376 section 8.15)."""
SIGNED = (
    *GUARDED,
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "sender",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "resent-date",
    "resent-from",
    "resent-to",
    "resent-cc",
    "list-id",
    "list-help",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "list-subscribe",
    "list-post",
    "list-owner",
    "list-archive",
)
"""Headers that are signed where they are there, so that nobody can add a second one (section 5.4.1)."""

_WHITE_SPACE = re.compile(rb"[ \t\r\n]+")
_LINE_LENGTH = 72


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The key of a domain; two are equal if their public halves are."""

    kind: Literal["rsa", "ed25519"]
    """As the tag ``k=`` names it (RFC 6376 section 3.6.1)."""
    public: str
    """The public half in base64, as the tag ``p=`` has it."""
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    """Returns the signature of a SHA-256 hash."""

    @property
    def record(self) -> str:
        """The text of the DNS record that publishes it."""
        return f"v=DKIM1; k={self.kind}; p={self.public}"


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs what authors in a domain write."""

    domain: str
    selector: str
    key: SigningKey

    def sign(self, block: bytes, body_hash: bytes, now: float) -> bytes:
        """Return the DKIM-Signature header for a message with this header block; it belongs above it.

        The block must be as it leaves. ``body_hash`` is that of ``BodyHash``, ``now`` is in epoch seconds.
        """
        fields = list(_choose(split_content(block)[0]))
        header = self._describe([name for name, _ in fields], body_hash, now)
        signed = b"".join([*(canonical for _, canonical in fields), relax_header(header)[:-2]])
        signature = _encode(self.key.sign(hashlib.sha256(signed).digest()))
        return header[:-2] + "\r\n\t".join(textwrap.wrap(signature, _LINE_LENGTH)).encode() + b"\r\n"

    def _describe(self, names: Iterable[str], body_hash: bytes, now: float) -> bytes:
        """Return the header without its signature, which is its last tag."""
        lines = textwrap.wrap(f"h={': '.join(names)};", _LINE_LENGTH, break_on_hyphens=False)
        tags = (
            f"DKIM-Signature: v=1; a={self.key.kind}-sha256; c=relaxed/relaxed;",
            f"d={self.domain}; s={self.selector}; t={int(now)};",
            *(line.replace(": ", ":") for line in lines),
            f"bh={_encode(body_hash)};",
            "b=",
        )
        return "\r\n\t".join(tags).encode() + b"\r\n"


class BodyHash:
    """The SHA-256 hash of a body, canonicalised while it streams (RFC 6376 section 3.4.4).

    It is fed what follows the header block: the empty line, then the body. Lines end in CRLF; the last one
    may lack it.
    """

    def __init__(self) -> None:
        self._skip = 2
        """Bytes of the empty line that are still to come."""
        self._held = b""
        """The end of what was fed, where it depends on what follows: a space, a CR, or both."""
        self._all = hashlib.sha256()
        self._text = self._all.copy()
        """As ``_all``, without the empty lines at the end."""
        self._ending = b""
        """What ends the last line, where there is any."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._skip:
            skipped = chunk[: self._skip]
            self._skip -= len(skipped)
            chunk = chunk[len(skipped) :]
        data = (self._held + chunk).replace(b"\t", b" ")
        while b"  " in data:
            data = data.replace(b"  ", b" ")
        data = data.replace(b" \r\n", b"\r\n")
        text = data.rstrip(b" \r\n")
        line_ends = data[len(text) : len(text) + 2 * data.count(b"\r\n", len(text))]
        self._held = data[len(text) + len(line_ends) :]
        if text:
            self._all.update(text)
            self._text = self._all.copy()
            self._ending = b"\r\n"
        self._all.update(line_ends)

    def digest(self) -> bytes:
        """Return the hash of what was fed: empty lines at the end don't count, a missing CRLF does."""
        whole = self._text.copy()
        whole.update(self._ending)
        return whole.digest()


def relax_header(header: bytes) -> bytes:
    """Return a header canonicalised, with its CRLF (RFC 6376 section 3.4.2)."""
    name, _, value = header.partition(b":")
    return name.rstrip(b" \t").lower() + b":" + _WHITE_SPACE.sub(b" ", value).strip(b" ") + b"\r\n"


def author_domain(headers: Iterable[bytes]) -> str:
    """Return the domain of the only author, in lower case and ASCII; "" unless one From has one address."""
    authors = [header for header in headers if header_name(header) == "from"]
    if len(authors) != 1 or len(authors[0]) > HEADER_SIZE_LIMIT:
        return ""
    addresses = find_addresses(authors[0])
    domain = fold(split_address(addresses[0])[1]) if len(addresses) == 1 else ""
    try:
        return domain if domain.isascii() else domain.encode("idna").decode()
    except UnicodeError:
        return ""


def _choose(headers: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the name of each header to be signed with its canonical form, b"" for one that is not there.

    Headers of one name come from the bottom up (section 5.4.2).
    """
    found: dict[str, list[bytes]] = {}
    for header in headers:
        found.setdefault(header_name(header), []).append(header)
    for name in SIGNED:
        present = found.get(name, [])
        for header in reversed(present):
            yield name, relax_header(header)
        if present or name in GUARDED:
            yield name, b""


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
