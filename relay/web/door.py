"""Letting requests in: each is judged here before any page sees it, and browsers log in here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

from aiohttp import BasicAuth, web
from aiohttp.typedefs import Handler

from relay import events
from relay.config.secrets import SecretError
from relay.web.guard import (
    COOKIE_SECONDS,
    Guesses,
    Sessions,
    find_client,
    is_equal,
    is_known_host,
    is_loopback,
    is_own_form,
)

DELAY_SECONDS = 1.0
"""How long the reply to a wrong password takes."""
COOKIE = "relay_session"
SESSION: web.RequestKey[str] = web.RequestKey("session", str)
"""The secret of the request's session; "" where none is needed."""
IS_TRUSTED: web.RequestKey[bool] = web.RequestKey("is_trusted", bool)
"""Whether the request may see everything."""

_OPEN = ("/healthz", "/login")
_FOR_PROGRAMS = ("/healthz", "/metrics")
_FORM = "application/x-www-form-urlencoded"
_BARRED = "Too many wrong passwords came from your address or proxy. Wait ten minutes, then try again."


class Door:
    """Who may pass."""

    def __init__(self, names: Collection[str], password: Callable[[], str] | None) -> None:
        """``names`` are this machine's; ``password`` reads it, and may raise SecretError; None: no login."""
        self._names = frozenset(name.lower() for name in names)
        self._password = password
        self._sessions = Sessions(time.monotonic)
        self._guesses = Guesses(time.monotonic)
        self._warned_of = ""

    @property
    def has_password(self) -> bool:
        """Whether browsers log in."""
        return self._password is not None

    def token(self, request: web.Request) -> str:
        """Return what the forms of a page must send back."""
        return self._sessions.token(request.get(SESSION, ""))

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer requests that may not pass, hand on the others."""
        if not is_known_host(request.headers.get("Host", ""), self._names):
            return web.Response(
                status=421,
                text="This page answers only to its own names. Open it by the IP address of this machine.\n",
            )
        request[SESSION] = ""
        request[IS_TRUSTED] = not self.has_password
        if self._password is not None:
            try:
                await self._recognise(request, self._password())
                self._warned_of = ""
            except SecretError as error:
                self._warn(f"nobody can log in to the status page: {error}")
        is_open = request.path in _OPEN or request.path.startswith("/static/")
        if not (request[IS_TRUSTED] or is_open):
            return _ask_for_login(request)
        if request.method not in {"GET", "HEAD"} and not await self._is_ours(request):
            raise web.HTTPForbidden(
                text="This did not come from this page, or the page is old. Go back, reload, try again.\n"
            )
        return await handler(request)

    async def log_in(self, request: web.Request) -> str | web.Response:
        """Take a password from the login form: return the answer, or why there is none."""
        peer, client = _origin(request)
        form = await request.post()
        given = form.get("password")
        if self._password is None:
            return web.Response(status=303, headers={"Location": "/"})
        if self._guesses.is_barred(peer, client):
            events.page_login_failed(client, "too many failures")
            return _BARRED
        try:
            password = self._password()
        except SecretError as error:
            return f"The password of this page can't be read: {error}."
        if not (isinstance(given, str) and is_equal(given, password)):
            await self._refuse(peer, client)
            return "This is not the password."
        self._guesses.forget(peer, client)
        response = web.Response(status=303, headers={"Location": "/"})
        secret = self._sessions.open(password)
        response.set_cookie(
            COOKIE, secret, max_age=COOKIE_SECONDS, httponly=True, samesite="Strict", path="/"
        )
        return response

    def log_out(self, request: web.Request) -> web.Response:
        """End the session of a request."""
        self._sessions.close(request[SESSION])
        response = web.Response(status=303, headers={"Location": "/login"})
        response.del_cookie(COOKIE, path="/")
        return response

    def may_know(self, request: web.Request) -> bool:
        """Whether a request may be told what is wrong: with the password, or from this machine."""
        is_near = is_loopback(request.remote or "") and "X-Forwarded-For" not in request.headers
        return request[IS_TRUSTED] or is_near

    async def _recognise(self, request: web.Request, password: str) -> None:
        """Note whose request it is, by its cookie; programs send the password with each request."""
        secret = request.cookies.get(COOKIE, "")
        if secret and self._sessions.has(secret, password):
            request[SESSION], request[IS_TRUSTED] = secret, True
            return
        header = request.headers.get("Authorization")
        if header is None or request.path not in _FOR_PROGRAMS:
            return
        peer, client = _origin(request)
        try:
            given = BasicAuth.decode(header, "utf-8").password
        except ValueError:
            return
        if self._guesses.is_barred(peer, client):
            events.page_login_failed(client, "too many failures")
        elif is_equal(given, password):
            self._guesses.forget(peer, client)
            request[IS_TRUSTED] = True
        else:
            await self._refuse(peer, client)

    def _warn(self, sentence: str) -> None:
        """Log what is wrong, once."""
        if sentence != self._warned_of:
            events.warned(sentence)
        self._warned_of = sentence

    async def _refuse(self, peer: str, client: str) -> None:
        self._guesses.note(peer, client)
        events.page_login_failed(client, "wrong password")
        await asyncio.sleep(DELAY_SECONDS)

    async def _is_ours(self, request: web.Request) -> bool:
        """Whether a form came from a page of this session."""
        if request.content_type != _FORM or not is_own_form(request.headers):
            return False
        try:
            form: Any = await request.post()
        except (ValueError, LookupError, web.RequestPayloadError, ConnectionError):
            return False  # it is no form, or who sends it is gone
        token = form.get("token")
        return isinstance(token, str) and self._sessions.is_token(token, request[SESSION])


def _origin(request: web.Request) -> tuple[str, str]:
    """Return the address that a request comes from, and the one that it was sent for."""
    peer = request.remote or ""
    return peer, find_client(peer, request.headers.getall("X-Forwarded-For", []))


def _ask_for_login(request: web.Request) -> web.Response:
    if request.path in _FOR_PROGRAMS:
        return web.Response(
            status=401,
            headers={"WWW-Authenticate": 'Basic realm="relay", charset="UTF-8"'},
            text="This needs the password of the status page, with any user name.\n",
        )
    return web.Response(status=303, headers={"Location": "/login"})
