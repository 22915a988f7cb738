"""What runs out one day: the certificate of the listeners, and the tokens of OAuth accounts."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from relay.doctor.finding import Finding, Kind, Severity
from relay.oauth.account import OAuthAccount
from relay.oauth.token_file import read_token

EXPIRY_DAYS = 14
"""How long before its expiry a certificate is told of; less where a quarter of its life is less."""
STALE_DAYS = 14
"""How old a token is that the relay, which renews each one weekly, could not renew."""

_DAY = 86400.0
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME = 0x17

VALID = Kind("certificate.valid", Severity.OK, "the certificate {path} is good until {day}")
EXPIRES = Kind(
    "certificate.expires",
    Severity.WARNING,
    "the certificate {path} expires on {day}",
    "From then on mail programs warn of it, or refuse to send.",
    "See why it was not renewed yet; the relay takes a new file by itself.",
)
EXPIRED = Kind(
    "certificate.expired",
    Severity.PROBLEM,
    "the certificate {path} has expired on {day}",
    "Mail programs warn of it, or refuse to send.",
    "Renew it; the relay takes the new file by itself.",
)
EARLY = Kind(
    "certificate.early",
    Severity.PROBLEM,
    "the certificate {path} is good only from {day} on",
    "Mail programs warn of it, or refuse to send; more likely it is the clock here that is wrong.",
    "Set the clock of this machine.",
)
UNREADABLE = Kind(
    "certificate.unreadable",
    Severity.PROBLEM,
    "the certificate {path} can't be read: {reason}",
    "Clients can't use TLS without it.",
    "Check certificate under [tls] of relay.toml, and that the relay's user may read the file.",
)
TOKEN_FRESH = Kind("token.fresh", Severity.OK, "smarthost {name} has a token, renewed on {day}")
TOKEN_MISSING = Kind(
    "token.missing",
    Severity.PROBLEM,
    "smarthost {name} has no token: {reason}",
    "Without it there is no login, and mail waits in the queue.",
    "Log in: `relay login {name}`.",
)
TOKEN_STALE = Kind(
    "token.stale",
    Severity.WARNING,
    "the token of smarthost {name} was last renewed on {day}",
    "A running relay renews it every week; providers withdraw a login that is not used for months.",
    "Let the relay run. If it does, log in again: `relay login {name}`.",
)


def check_certificate(path: Path, now: float) -> list[Finding]:
    """Judge the first certificate of a PEM file."""
    try:
        start, end = read_validity(path.read_bytes())
    except OSError as error:
        return [UNREADABLE.found(path=path, reason=error.strerror)]
    except ValueError as error:
        return [UNREADABLE.found(path=path, reason=error)]
    if now < start:
        return [EARLY.found(path=path, day=_day(start))]
    notice = min(EXPIRY_DAYS * _DAY, (end - start) / 4)
    kind = EXPIRED if now > end else EXPIRES if now > end - notice else VALID
    return [kind.found(path=path, day=_day(end))]


def check_token(account: OAuthAccount, now: float) -> list[Finding]:
    """Judge the token of an account by its file."""
    try:
        token = read_token(account.token_file)
    except OSError as error:
        return [TOKEN_MISSING.found(name=account.name, reason=f"{account.token_file}: {error.strerror}")]
    except ValueError as error:
        return [TOKEN_MISSING.found(name=account.name, reason=error)]
    kind = TOKEN_STALE if now - token.obtained_at > STALE_DAYS * _DAY else TOKEN_FRESH
    return [kind.found(name=account.name, day=_day(token.obtained_at))]


def read_validity(pem: bytes) -> tuple[float, float]:
    """Return from when until when the first certificate of a PEM text is good, in epoch seconds.

    Python reads a certificate only off a connection, so that its ASN.1 is read here (RFC 5280 section 4.1).
    Raises ValueError.
    """
    block = _PEM.search(pem)
    if block is None:
        raise ValueError("it holds no certificate in PEM form")
    try:
        body = next(_elements(base64.b64decode(block[1])))[1]
        certificate = next(_elements(body))[1]
        # An optional version, serial number, algorithm, issuer, validity.
        fields = [element for element in _elements(certificate) if element[0] != 0xA0]
        start, end = (_read_time(*element) for element in _elements(fields[3][1]))
    except (binascii.Error, LookupError, StopIteration, ValueError):
        raise ValueError("it is damaged") from None
    return start, end


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element in a row (DER). Raises LookupError."""
    while data:
        tag, size, offset = data[0], data[1], 2
        if size & 0x80:
            offset += size & 0x7F
            size = int.from_bytes(data[2:offset])
        yield tag, data[offset : offset + size]
        data = data[offset + size :]


def _read_time(tag: int, content: bytes) -> float:
    text = content.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
