"""The pages: each a handler that asks for facts and fills a template."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web
from aiohttp.typedefs import Handler

import relay
from relay.web import metrics, views, words
from relay.web.checkup import Checkup
from relay.web.counts import Counts
from relay.web.door import Door
from relay.web.facts import Facts
from relay.web.views import AskError, MissingError, ask

LONGEST_SEARCH = 200
PATIENCE_SECONDS = 5.0
"""How long the queue may take to answer before it counts as stuck."""
_FOLDER = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers would not say where a form comes from
    "Server": "relay",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_COMMANDS = {"retry": "retried", "hold": "put on hold", "release": "released", "delete": "deleted"}
_ROUTE_COMMANDS = {"pin", "forget"}
_QUEUE_ID = re.compile(r"[0-9A-F]{1,16}")


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Give each response what keeps other sites, and hostile text, from doing harm."""
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


class Pages:
    """All that can be looked at."""

    def __init__(
        self, facts: Facts, counts: Counts, checkup: Checkup, door: Door, now: Callable[[], float]
    ) -> None:
        self._facts = facts
        self._counts = counts
        self._checkup = checkup
        self._door = door
        self._now = now
        self._files = {path.name: path.read_bytes() for path in (_FOLDER / "static").iterdir()}
        self._version = hashlib.sha256(b"".join(sorted(self._files.values()))).hexdigest()[:12]
        self._templates = _load_templates()

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        """Return the routes of the application."""
        return [
            web.get("/", self._house),
            web.get("/messages", self._search),
            web.get(r"/message/{id:[0-9A-F]{1,16}}", self._message),
            web.post("/act", self._act),
            web.post("/route", self._change_route),
            web.get("/doctor", self._doctor),
            web.post("/doctor", self._start_doctor),
            web.get("/login", self._login),
            web.post("/login", self._log_in),
            web.post("/logout", self._log_out),
            web.get("/healthz", self._healthz),
            web.get("/metrics", self._metrics),
            web.get(r"/static/{name:[a-z.]+}", self._static),
        ]

    @web.middleware
    async def excuse(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Say why there is nothing to show."""
        try:
            return await handler(request)
        except MissingError:
            return self._explain(request, 404, "There is no such message, or its history is over.")
        except AskError as error:
            return self._explain(request, 503, str(error))

    # Pages

    async def _house(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "")
        view = await views.show_house(
            self._facts,
            self._counts,
            self._checkup,
            self._now(),
            after=after if _is_id(after) else "",
        )
        return self._render(request, "house.html", **view)

    async def _search(self, request: web.Request) -> web.Response:
        text = request.query.get("q", "").strip()[:LONGEST_SEARCH]
        before = request.query.get("before", "")
        view = await views.show_search(self._facts, text, before if _is_id(before) else "")
        return self._render(request, "search.html", **view)

    async def _message(self, request: web.Request) -> web.Response:
        view = await views.show_one(self._facts, request.match_info["id"])
        return self._render(request, "message.html", **view)

    async def _act(self, request: web.Request) -> web.Response:
        """Do what a button says, and go back to its page."""
        form: Any = await request.post()
        command, queue_id = form.get("command"), form.get("id", "")
        if not (command in _COMMANDS and (_is_id(queue_id) or (command == "retry" and queue_id == "all"))):
            return self._explain(request, 400, "This button is not known here.")
        chosen = {} if queue_id == "all" else {"ids": [queue_id]}
        reply = await ask(self._facts, {"command": command, **chosen})
        is_of_message = form.get("back") == "message" and queue_id != "all" and command != "delete"
        place = f"/message/{queue_id}" if is_of_message else "/"
        return _go_to(f"{place}?did={command}&count={int(reply['changed'])}")

    async def _change_route(self, request: web.Request) -> web.Response:
        """Keep or forget a learned route, as a button says, and go back to the first page."""
        form: Any = await request.post()
        command, domain = form.get("command"), form.get("domain", "")
        if not (command in _ROUTE_COMMANDS and domain):
            return self._explain(request, 400, "This button is not known here.")
        await ask(self._facts, {"command": command, "domain": domain})
        return _go_to("/#routes")

    async def _doctor(self, request: web.Request) -> web.Response:
        return self._render(request, "doctor.html", checkup=self._checkup)

    async def _start_doctor(self, _: web.Request) -> web.Response:
        self._checkup.start()
        return _go_to("/doctor")

    async def _login(self, request: web.Request) -> web.Response:
        return self._render(request, "login.html", reason="")

    async def _log_in(self, request: web.Request) -> web.Response:
        answer = await self._door.log_in(request)
        if isinstance(answer, str):
            return self._render(request, "login.html", status=403, reason=answer)
        return answer

    async def _log_out(self, request: web.Request) -> web.Response:
        return self._door.log_out(request)

    # For programs

    async def _healthz(self, request: web.Request) -> web.Response:
        """Say whether mail flows: 200 also where something is to be mended, 503 where the queue is stuck."""
        problems = [*self._facts.problems()]
        status, word = 200, "degraded" if problems else "ok"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await ask(self._facts, {"command": "count"})
        except (AskError, TimeoutError) as error:
            status, word = 503, "failing"
            problems.append(str(error) or "the queue does not answer")
        found = {"status": word, "problems": problems}
        if not self._door.may_know(request):
            del found["problems"]
        return web.Response(status=status, text=f"{json.dumps(found)}\n", content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        try:
            queue = await ask(self._facts, {"command": "count"})
        except AskError as error:
            return web.Response(status=503, text=f"{error}\n")
        body = metrics.expose(
            self._counts,
            queue,
            self._facts.commits(),
            len(self._facts.problems()),
            self._now(),
        )
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _static(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._files:
            raise web.HTTPNotFound
        return web.Response(
            body=self._files[name],
            content_type=_TYPES[Path(name).suffix],
            charset="utf-8",
            headers={"Cache-Control": "public, max-age=31536000, immutable"},
        )

    # Templates

    def _render(self, request: web.Request, template: str, status: int = 200, **view: object) -> web.Response:
        text = self._templates.get_template(template).render(
            now=self._now(),
            version=relay.__version__,
            files=self._version,
            token=self._door.token(request),
            has_logout=self._door.has_password and template != "login.html",
            did=_describe_deed(request),
            **view,
        )
        return web.Response(status=status, text=text, content_type="text/html")

    def _explain(self, request: web.Request, status: int, sentence: str) -> web.Response:
        return self._render(request, "sorry.html", status=status, sentence=sentence)


def _load_templates() -> jinja2.Environment:
    """Return the templates; whatever they are given is escaped, and cannot hide what it is."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        auto_reload=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    for function in (words.count, words.span, words.distance, words.moment, words.size):
        environment.filters[function.__name__] = function
    return environment


def _finalize(value: object) -> object:
    return words.clean(value) if type(value) is str else value  # Markup is what was escaped already


def _describe_deed(request: web.Request) -> str:
    """Return what the last button did, which the address of the page tells."""
    number = request.query.get("count", "")
    deed = _COMMANDS.get(request.query.get("did", ""))
    return (
        f"{words.count(int(number), 'message')} {deed}."
        if deed and re.fullmatch("[0-9]{1,9}", number)
        else ""
    )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(_QUEUE_ID.fullmatch(value))


def _go_to(place: str) -> web.Response:
    return web.Response(status=303, headers={"Location": place})
