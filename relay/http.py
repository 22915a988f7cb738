"""Requests by HTTP to servers that hold our secrets."""

from __future__ import annotations

import ssl
import urllib.request


def make_opener() -> urllib.request.OpenerDirector:
    """Return an opener that honours https_proxy and no_proxy, and follows no redirect with our secrets."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),  # says so where a proxy is none of HTTP
    ):
        opener.add_handler(handler)
    return opener


def explain_failure(error: Exception) -> str:
    """Return why there was no answer."""
    cause = getattr(error, "reason", error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {cause.verify_message}"
    return getattr(cause, "strerror", None) or str(cause)
