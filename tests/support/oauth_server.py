"""A small OAuth 2.0 provider on the loopback interface, and what its users do in their browsers."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

CLIENT_ID = "the-relay"
LIFETIME = 3600
SECRET_MARK = "S3CR3T"
"""Is part of all that must be seen nowhere: tokens, codes, the client's secret."""
CLIENT_SECRET = f"{SECRET_MARK}-of-the-client"


@dataclass(frozen=True)
class Answer:
    """What an endpoint says."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(error: str, description: str = "", status: int = 400) -> Answer:
    """Return an error response (RFC 6749 §5.2)."""
    return Answer(status, json.dumps({"error": error, "error_description": description}).encode())


def success(**fields: object) -> Answer:
    """Return a response with a JSON object."""
    return Answer(200, json.dumps(fields).encode())


Step = Answer | Callable[[dict[str, str]], Answer]


class OAuthServer:
    """The provider; use it as a context manager. ``requests`` has the path and the form of each POST."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.script: deque[Step] = deque()
        """What is answered, in order, before the provider does what it should."""
        self.client_secret = ""
        """"" for a public client, which must not send one."""
        self.lifetime: object = LIFETIME
        self.rotates = False
        """Whether a refresh token is good for one use."""
        self.gives_refresh_token = True
        self.polls_before_consent = 0
        self.interval: object = 0
        self._access_tokens: set[str] = set()
        self._refresh_tokens: set[str] = set()
        self._codes: dict[str, dict[str, str]] = {}
        self._device_codes: set[str] = set()
        self._lock = Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = False
        if tls:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._scheme = "https" if tls else "http"
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_port

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the address of an endpoint: token, device or authorize."""
        return f"{self._scheme}://{host}:{self.port}/{path}"

    @property
    def grants(self) -> list[str]:
        """The grant types that the token endpoint was asked for."""
        return [form["grant_type"] for path, form in self.requests if path == "/token"]

    # What happens at the provider

    def issue_refresh_token(self) -> str:
        """Return a refresh token that is good."""
        token = _new("refresh")
        self._refresh_tokens.add(token)
        return token

    def accepts(self, access_token: str) -> bool:
        """Whether an access token is good."""
        return access_token in self._access_tokens

    def expire_access_tokens(self) -> None:
        """Forget all access tokens."""
        self._access_tokens.clear()

    def revoke(self) -> None:
        """Withdraw all that was granted, as an owner does who changes the password."""
        self._access_tokens.clear()
        self._refresh_tokens.clear()

    def agree_in_browser(self, url: str) -> str:
        """Do what the owner does at a link, and return the address that the browser is sent to."""
        parts = urlsplit(url)
        connection = HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", f"{parts.path}?{parts.query}")
        response = connection.getresponse()
        response.read()
        connection.close()
        assert response.status == 302, response.status
        location = response.getheader("Location")
        assert location
        return location

    # The endpoints

    def answer(self, path: str, form: dict[str, str]) -> Answer:
        with self._lock:
            self.requests.append((path, form))
            if self.script:
                step = self.script.popleft()
                return step if isinstance(step, Answer) else step(form)
            if form.get("client_id") != CLIENT_ID or form.get("client_secret", "") != self.client_secret:
                return refusal("invalid_client", "unknown client or wrong secret", 401)
            return self.begin_device_flow() if path == "/device" else self._grant(form)

    def authorize(self, query: dict[str, str]) -> str:
        """Return where the browser is sent when the owner has agreed."""
        assert query["client_id"] == CLIENT_ID
        assert query["response_type"] == "code"
        assert query["code_challenge_method"] == "S256"
        code = _new("code")
        self._codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'state': query['state'], 'code': code})}"

    def begin_device_flow(self) -> Answer:
        """Return what the device endpoint says, for a script."""
        code = _new("device")
        self._device_codes.add(code)
        return success(
            device_code=code,
            user_code="WDJB-MJHT",
            verification_uri=self.url("activate"),
            expires_in=900,
            interval=self.interval,
        )

    def _grant(self, form: dict[str, str]) -> Answer:
        match form["grant_type"]:
            case "refresh_token":
                return self._refresh(form["refresh_token"])
            case "authorization_code":
                return self._exchange(form)
            case _:
                return self._poll(form["device_code"])

    def _refresh(self, token: str) -> Answer:
        if token not in self._refresh_tokens:
            return refusal("invalid_grant", "Token has been expired or revoked.")
        if not self.rotates:
            return self._give(None)
        self._refresh_tokens.remove(token)
        return self._give(self.issue_refresh_token())

    def _exchange(self, form: dict[str, str]) -> Answer:
        query = self._codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            query is None
            or query["code_challenge"] != challenge
            or query["redirect_uri"] != form["redirect_uri"]
        ):
            return refusal("invalid_grant", "Bad Request")
        return self._give(self.issue_refresh_token())

    def _poll(self, device_code: str) -> Answer:
        if device_code not in self._device_codes:
            return refusal("bad_verification_code")
        if self.polls_before_consent:
            self.polls_before_consent -= 1
            return refusal("authorization_pending", "The user must input their code.")
        self._device_codes.remove(device_code)
        return self._give(self.issue_refresh_token())

    def _give(self, refresh_token: str | None) -> Answer:
        token = _new("access")
        self._access_tokens.add(token)
        fields: dict[str, Any] = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self.lifetime,
        }
        if refresh_token and self.gives_refresh_token:
            fields["refresh_token"] = refresh_token
        return success(**fields)


def _new(kind: str) -> str:
    return f"{SECRET_MARK}-{kind}-{secrets.token_hex(8)}"


def _handler(provider: OAuthServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._send(provider.answer(urlsplit(self.path).path, dict(parse_qsl(body.decode()))))

        def do_GET(self) -> None:
            location = provider.authorize(dict(parse_qsl(urlsplit(self.path).query)))
            self._send(Answer(302, b"", {"Location": location}))

        def _send(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
