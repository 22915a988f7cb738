"""The OAuth 2.0 protocol as a client speaks it (RFC 6749, RFC 7636, RFC 8628). Blocks; logs nothing.

No exception raised here holds a token, a code or a client secret.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import secrets
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from ipaddress import ip_address
from urllib.parse import parse_qs, urlencode, urlsplit

from relay.http import explain_failure, make_opener
from relay.texts import make_line

TIMEOUT_SECONDS = 20.0
LARGEST_ANSWER = 65536
DEFAULT_LIFETIME = 3600.0
"""Seconds that an access token is good for, where the provider does not say."""
DEFAULT_INTERVAL = 5.0
"""Seconds between polls (RFC 8628 §3.2); slow_down adds as many again (§3.5)."""
LONGEST_DESCRIPTION = 300

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_CONFIDENTIAL = ("client_secret", "refresh_token", "device_code", "code", "code_verifier")
_TEMPORARY = ("server_error", "temporarily_unavailable")


class OAuthError(Exception):
    """The provider refused; ``code`` is its error code (RFC 6749 §5.2, RFC 8628 §3.5)."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code


class UnreachableError(Exception):
    """No usable answer came; the same request may succeed later."""


@dataclass(frozen=True, slots=True)
class Client:
    """The program as the provider knows it; a public client has no secret."""

    id: str
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token endpoint gave (RFC 6749 §5.1)."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    """"" where the provider gave none: an old one stays valid."""
    lifetime: float
    """Seconds."""


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """A device flow that has begun (RFC 8628 §3.2)."""

    device_code: str = field(repr=False)
    user_code: str
    verification_uri: str
    lifetime: float
    """Seconds."""
    interval: float
    """Seconds between polls, at least."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """An authorization code flow that has begun (RFC 6749 §4.1, with the PKCE of RFC 7636)."""

    url: str
    """Where the owner logs in."""
    redirect_uri: str
    state: str
    verifier: str = field(repr=False)


def refresh(endpoint: str, client: Client, refresh_token: str, scope: str) -> Grant:
    """Return a new access token (RFC 6749 §6). Raises OAuthError and UnreachableError."""
    return _ask_for_token(
        endpoint, client, {"grant_type": "refresh_token", "refresh_token": refresh_token, "scope": scope}
    )


def start_device_flow(endpoint: str, client: Client, scope: str) -> DeviceCode:
    """Return the code that the owner types at the provider. Raises OAuthError and UnreachableError."""
    answer = _post(endpoint, {**_identify(client), "scope": scope})
    try:
        return DeviceCode(
            device_code=_text(answer["device_code"]),
            user_code=_text(answer["user_code"]),
            verification_uri=_text(answer.get("verification_uri") or answer["verification_url"]),
            lifetime=_seconds(answer["expires_in"]),
            interval=_seconds(answer.get("interval", DEFAULT_INTERVAL)),
        )
    except (KeyError, ValueError):
        raise UnreachableError(f"{_host(endpoint)} answers nonsense") from None


def poll_device_flow(
    endpoint: str, client: Client, device: DeviceCode, sleep: Callable[[float], None] = time.sleep
) -> Grant:
    """Wait until the owner has agreed, and return the token (RFC 8628 §3.4).

    Raises OAuthError where the owner or the provider refuses or the code expires. A network that fails
    meanwhile is waited for.
    """
    fields = {"grant_type": _DEVICE_GRANT, "device_code": device.device_code}
    interval, waited = device.interval, 0.0
    while waited < device.lifetime:
        sleep(interval)
        waited += max(interval, 1.0)
        try:
            return _ask_for_token(endpoint, client, fields)
        except UnreachableError:
            interval = min(2 * interval, 60.0)
        except OAuthError as error:
            if error.code == "slow_down":
                interval += DEFAULT_INTERVAL
            elif error.code != "authorization_pending":
                raise
    raise OAuthError("expired_token", "nobody entered the code in time")


def start_code_flow(
    endpoint: str, client: Client, scope: str, redirect_uri: str, username: str = ""
) -> Authorization:
    """Return the address at which the owner logs in, with the secrets that belong to it."""
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    query = {
        "response_type": "code",
        "client_id": client.id,
        "redirect_uri": redirect_uri,
        "scope": scope,
        "state": state,
        "code_challenge": base64.urlsafe_b64encode(digest).decode("ascii").rstrip("="),
        "code_challenge_method": "S256",
        # Google gives a refresh token only if asked for one, and again only if the owner agrees again.
        "access_type": "offline",
        "prompt": "consent",
    }
    if username:
        query["login_hint"] = username
    return Authorization(f"{endpoint}?{urlencode(query)}", redirect_uri, state, verifier)


def read_redirect(authorization: Authorization, url: str) -> str:
    """Return the code of the address to which the provider sent the browser (RFC 6749 §4.1.2).

    Raises OAuthError with what the provider refused, and ValueError where it is another address.
    """
    query = parse_qs(url.strip("'\"<> \t\r\n").partition("?")[2].partition("#")[0])
    answer = {name: values[0] for name, values in query.items()}
    if "state" not in answer:
        raise ValueError("this is not the address that the browser ends at: it has no state= in it")
    if not secrets.compare_digest(answer["state"].encode(errors="replace"), authorization.state.encode()):
        raise ValueError("this address belongs to another login; use the link above")
    if "error" in answer:
        raise OAuthError(_first_line(answer["error"]), _first_line(answer.get("error_description", "")))
    if "code" not in answer:
        raise ValueError("this address has no code= in it; copy all of it")
    return answer["code"]


def exchange_code(endpoint: str, client: Client, authorization: Authorization, code: str) -> Grant:
    """Return the token for a code (RFC 6749 §4.1.3). Raises OAuthError and UnreachableError."""
    fields = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": authorization.redirect_uri,
        "code_verifier": authorization.verifier,
    }
    return _ask_for_token(endpoint, client, fields)


def _identify(client: Client) -> dict[str, str]:
    """Return the fields that say who asks; a provider refuses even an empty secret of a public client."""
    return {"client_id": client.id} | ({"client_secret": client.secret} if client.secret else {})


def _ask_for_token(endpoint: str, client: Client, fields: Mapping[str, str]) -> Grant:
    answer = _post(endpoint, {**_identify(client), **fields})
    try:
        return Grant(
            access_token=_text(answer["access_token"]),
            refresh_token=_text(answer["refresh_token"]) if answer.get("refresh_token") else "",
            lifetime=_seconds(answer.get("expires_in", DEFAULT_LIFETIME)),
        )
    except (KeyError, ValueError):
        raise UnreachableError(f"{_host(endpoint)} answers nonsense") from None


def _text(value: object) -> str:
    if not (isinstance(value, str) and value.isascii() and value.isprintable() and value):
        raise ValueError("not a printable text")
    return value


def _seconds(value: object) -> float:
    """Return a duration; some providers write it as text."""
    seconds = float(value) if isinstance(value, int | float | str) else -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("not a duration")
    return seconds


# HTTP


def _post(endpoint: str, fields: Mapping[str, str]) -> dict[str, object]:
    """Return the JSON object that an endpoint answers. Raises OAuthError and UnreachableError."""
    _check_endpoint(endpoint)
    given = {name: value for name, value in fields.items() if value}
    body = urlencode(given, errors="replace").encode("ascii")
    headers = {"Accept": "application/json", "User-Agent": "relay"}
    request = urllib.request.Request(endpoint, body, headers)  # noqa: S310 - its scheme was checked
    try:
        with make_opener().open(request, timeout=TIMEOUT_SECONDS) as response:
            status, answer = response.status, _parse(response.read(LARGEST_ANSWER))
    except (OSError, HTTPException, ValueError) as error:
        raise UnreachableError(
            f"{_host(endpoint)} does not answer: {_first_line(explain_failure(error))}"
        ) from None
    if status == HTTPStatus.OK:
        return answer
    code = answer.get("error")
    is_refusal = isinstance(code, str) and code not in _TEMPORARY
    if is_refusal and status < HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.TOO_MANY_REQUESTS:
        description = str(answer.get("error_description") or "")
        raise OAuthError(_first_line(_hide(str(code), fields)), _first_line(_hide(description, fields)))
    raise UnreachableError(f"{_host(endpoint)} answers with HTTP status {status}")


def _parse(text: bytes) -> dict[str, object]:
    """Return a JSON object, empty where the text is none."""
    with suppress(ValueError, RecursionError):
        answer = json.loads(text)
        if isinstance(answer, dict):
            return answer
    return {}


def _check_endpoint(endpoint: str) -> None:
    """Raise UnreachableError unless what is sent there is encrypted or stays on this machine."""
    parts = urlsplit(endpoint)
    if parts.scheme == "https":
        return
    with suppress(ValueError):
        if parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback:
            return
    raise UnreachableError(f"{endpoint} is not an https address")


def _host(endpoint: str) -> str:
    return urlsplit(endpoint).hostname or endpoint


def _hide(text: str, fields: Mapping[str, str]) -> str:
    """Return a provider's text without what we sent it in confidence, should it quote that."""
    for name in _CONFIDENTIAL:
        if value := fields.get(name):
            text = text.replace(value, "(secret)")
    return text


def _first_line(text: str) -> str:
    """Return the first line of a text, fit for a log and a terminal."""
    return make_line(next(iter(text.splitlines()), ""), LONGEST_DESCRIPTION)
