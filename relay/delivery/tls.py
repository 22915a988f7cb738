"""TLS towards servers: what is demanded of them, and what is wrong where it fails, in words.

*Verified* TLS proves that the server is the one that was meant (RFC 8314). *Opportunistic* TLS (RFC 7435)
hides mail from onlookers where the server lets it: certificates prove nothing there and are not looked at.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

_NOT_YET_VALID, _EXPIRED, _SELF_SIGNED, _NAME, _ADDRESS = 9, 10, 18, 62, 64
"""OpenSSL's X509_V_ERR codes of what is told in words of its own."""
_TOO_OLD = frozenset({"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"})
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"})
NOT_TLS = "what it sends is not TLS; check port and tls in relay.toml"


class TlsError(Exception):
    """TLS with a server does not work; the text says why."""


class _Handshake(ssl.SSLObject):
    """A handshake that says what is wrong with a certificate, not only that something is."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            words = _describe(error, self._refused_certificate())
            raise ssl.SSLCertVerificationError(error.errno, words) from error

    def _refused_certificate(self) -> Mapping[str, Any]:
        """Return the certificate as ``getpeercert`` would, or {} where Python keeps it to itself."""
        try:
            # getpeercert is for handshakes that succeeded; there is no public way for the others.
            return dict(self._sslobj.get_unverified_chain()[0].get_info())  # type: ignore[attr-defined]  # see above
        except (AttributeError, LookupError, TypeError):
            return {}


def verified() -> ssl.SSLContext:
    """Return TLS 1.2 or newer for servers that must prove their names.

    Trusted is whom the system trusts, or the store that SSL_CERT_FILE and SSL_CERT_DIR name.
    """
    return _verified(ssl.get_default_verify_paths())


@cache
def _verified(_store: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslobject_class = _Handshake
    return context


@cache
def opportunistic() -> ssl.SSLContext:
    """Return TLS for servers whose certificates nobody checks.

    Every version and cipher that OpenSSL still speaks is allowed: the alternative is no TLS at all.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def explain(error: OSError | ValueError) -> str:
    """Return why a handshake failed."""
    match error:
        case ssl.SSLCertVerificationError():
            return str(error.strerror)
        case ssl.SSLError(reason=reason) if reason in _TOO_OLD:
            return "it speaks no TLS 1.2 or newer"
        case ssl.SSLError(reason=reason) if reason in _NOT_TLS:
            return NOT_TLS
        case ssl.SSLEOFError():
            return "the connection was lost during the handshake"
        case ssl.SSLError(reason=reason):
            return f"the handshake failed ({(reason or str(error)).lower().replace('_', ' ')})"
        case ConnectionAbortedError():  # asyncio's own: the handshake took too long
            return "it did not finish the handshake in time"
        case OSError():
            return "the connection was lost during the handshake"
    return f"its name cannot be asked for ({error})"


def _describe(error: ssl.SSLCertVerificationError, certificate: Mapping[str, Any]) -> str:
    match error.verify_code:
        case code if code == _EXPIRED:
            return f"its certificate has expired{_day(' on ', certificate.get('notAfter'))}"
        case code if code == _NOT_YET_VALID:
            start = _day(" before ", certificate.get("notBefore")) or " yet"
            return f"its certificate is not valid{start}; is the clock right here?"
        case code if code == _SELF_SIGNED:
            return "its certificate is self-signed, so that nobody vouches for it"
        case code if code in {_NAME, _ADDRESS}:
            names = ", ".join(str(name) for _, name in certificate.get("subjectAltName", ()))
            return f"its certificate is for another name: {names or 'none at all'}"
    return f"its certificate is not trusted here ({error.verify_message})"


def _day(word: str, moment: str | None) -> str:
    if moment is None:
        return ""
    return word + time.strftime("%Y-%m-%d", time.gmtime(ssl.cert_time_to_seconds(moment)))
