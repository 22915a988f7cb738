"""The certificate of the listeners, and why a TLS handshake with a client fails."""

from __future__ import annotations

import ssl
import warnings
from collections.abc import Iterable
from pathlib import Path

from relay import events
from relay.config.model import ListenerTls

_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_OLD_VERSIONS = frozenset({"1.0", "1.1"})
_NO_TRUST = "it does not trust the certificate of this server"
_NO_TLS = "what it sent is not TLS; perhaps it wants STARTTLS, or no encryption"
_TOO_OLD = (
    "its TLS versions are not those of this server; an old device may need a [[listen]] of its own with "
    'tls_minimum = "1.0"'
)
_REASONS = {
    "HTTP_REQUEST": _NO_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": _TOO_OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _TOO_OLD,
    "NO_SHARED_CIPHER": _TOO_OLD,
    "TLSV1_ALERT_UNKNOWN_CA": _NO_TRUST,
    "SSLV3_ALERT_BAD_CERTIFICATE": _NO_TRUST,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _NO_TRUST,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _NO_TRUST,
}
"""By OpenSSL's name for what went wrong."""

Stamp = tuple[tuple[int, int, int] | None, ...]
"""Tells one state of the files from another: inode, time of change and size of each that is there."""


class CertificateError(Exception):
    """The certificate cannot be used; the text says why, to the owner."""


class Certificate:
    """The certificate of the listeners with its key, loaded anew when the files change.

    Changed files that cannot be used are warned of once; what was loaded before stays in force.
    """

    def __init__(self, files: ListenerTls, minimums: Iterable[str]) -> None:
        """Load it for listeners with these ``tls_minimum``. Raises CertificateError."""
        self._files = files
        self._stamp = _take_stamp(files)
        self._contexts = _load(files, minimums)

    def context(self, minimum: str) -> ssl.SSLContext:
        """Return what a handshake needs at a listener with this ``tls_minimum``."""
        stamp = _take_stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._contexts = _load(self._files, self._contexts)
            except CertificateError as error:
                events.warned(f"{error}; the certificate that was there before stays in use")
        return self._contexts[minimum]


def explain_failure(error: OSError) -> str:
    """Return why a handshake with a client failed."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return _REASONS.get(error.reason, error.reason.lower().replace("_", " "))
    if isinstance(error, ConnectionAbortedError):  # asyncio's word for its deadline
        return "it did not finish in time"
    return "the client closed the connection"


def _take_stamp(files: ListenerTls) -> Stamp:
    return tuple(_stamp_file(path) for path in (files.certificate, files.key))


def _stamp_file(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def _load(files: ListenerTls, minimums: Iterable[str]) -> dict[str, ssl.SSLContext]:
    contexts = {minimum: _make_context(minimum) for minimum in minimums}
    for context in contexts.values():
        _load_certificate(context, files)
    return contexts


def _make_context(minimum: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if minimum not in _OLD_VERSIONS:
        context.minimum_version = _VERSIONS[minimum]
        return context
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the owner knows that the version is old
        context.minimum_version = _VERSIONS[minimum]
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL signs with SHA-1, as they need, at no other level
    return context


def _load_certificate(context: ssl.SSLContext, files: ListenerTls) -> None:
    certificate, key = files.certificate, files.key
    if certificate is None or key is None:
        raise CertificateError("a listener with TLS needs certificate and key in [tls] of relay.toml")
    for path in (certificate, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{path} of [tls] cannot be read: {error.strerror}") from error
    try:
        context.load_cert_chain(certificate, key, password="")  # else OpenSSL asks on the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(
                f"the key {key} does not belong to the certificate {certificate}"
            ) from error
        raise CertificateError(
            f"the certificate {certificate} or its key {key} cannot be used: both must be in PEM form, and "
            "the key without a passphrase"
        ) from error
