"""Requests by HTTP to servers that hold our secrets."""

from __future__ import annotations

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
