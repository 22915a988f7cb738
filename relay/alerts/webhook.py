"""Alerts by HTTP: to ntfy (https://docs.ntfy.sh/publish/), Gotify (https://gotify.net/api-docs), or as JSON.

The address may hold a token: no exception that is raised here shows more of it than the host.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote

from relay.alerts.alert import LONGEST_TEXT, Alert, AlertError
from relay.config.alerts import split_webhook
from relay.config.model import Alerts as Settings
from relay.config.secrets import SecretError
from relay.http import explain_failure, make_opener
from relay.texts import make_line

TIMEOUT_SECONDS = 30.0
"""For each step of the exchange."""

Form = Literal["auto", "ntfy", "gotify", "json"]


def post(settings: Settings, environ: Mapping[str, str], alert: Alert) -> None:
    """Send an alert. Blocks; raises AlertError."""
    assert settings.webhook is not None
    try:
        parts = split_webhook(settings.webhook.read(environ))
    except ValueError as error:
        raise AlertError(f"the webhook {error}") from None
    except SecretError as error:
        raise AlertError(str(error)) from None
    request = build_request(parts, settings.form, alert)
    host = parts.hostname or ""
    try:
        with make_opener().open(request, timeout=TIMEOUT_SECONDS) as response:
            status = response.status
    except OSError as error:
        reason = make_line(explain_failure(error), LONGEST_TEXT)
        raise AlertError(f"webhook at {host}: {reason}") from None
    except (HTTPException, ValueError):
        raise AlertError(f"webhook at {host}: its answer is not HTTP") from None
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise AlertError(
            f"webhook at {host}: sends on to another address (HTTP status {status}): name that one"
        )
    if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        raise AlertError(f"webhook at {host}: answers with HTTP status {status}")


def choose_form(parts: SplitResult) -> Form:
    """Return what an address takes, as far as it shows that."""
    if (parts.hostname or "").startswith("ntfy"):
        return "ntfy"
    if parts.path.endswith("/message") and "token" in parse_qs(parts.query):
        return "gotify"
    return "json"


def build_request(parts: SplitResult, form: Form, alert: Alert) -> urllib.request.Request:
    """Return the request that hands over an alert; user and password of the address become a header."""
    is_over = alert.state == "over"
    account, _, place = parts.netloc.rpartition("@")
    headers = {"User-Agent": "relay", "Content-Type": "application/json"}
    if account:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(account).encode()).decode()}"
    match choose_form(parts) if form == "auto" else form:
        case "ntfy":
            headers["Content-Type"] = "text/plain; charset=utf-8"
            headers["Title"] = alert.title
            headers["Tags"] = "white_check_mark" if is_over else "warning"
            headers["Priority"] = "default" if is_over else "high"
            body = alert.text.encode()
        case "gotify":
            priority = 4 if is_over else 8
            body = json.dumps({"title": alert.title, "message": alert.text, "priority": priority}).encode()
        case _:
            body = json.dumps(alert.fields).encode()
    url = parts._replace(netloc=place, fragment="").geturl()
    return urllib.request.Request(url, body, headers)  # noqa: S310 - its scheme was checked
