"""The owner's commands: what they do to a queue, and the socket on which the running service takes them.

A request is one JSON object on a line, and so is the reply: ``ok``, and ``error`` where that is false. The
commands are ping, count, list, show, trace, routes, pin, forget, retry, hold, release and delete.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relay import events
from relay.files import short_name
from relay.mail.attempt import State
from relay.mail.envelope import LARGEST_NUMBER, parse_queue_id
from relay.mail.learned import Learned, LearnedRoute
from relay.queue.errors import QueueError
from relay.queue.history import Trace, Tried
from relay.queue.rows import Entry, QueuedRecipient
from relay.queue.selection import Selection
from relay.queue.store import Store

_LONGEST_REQUEST = 1_000_000
_REQUEST_SECONDS = 10.0
_REPLY_SECONDS = 60.0


class NotRunningError(ConnectionError):
    """No service answers at the control socket."""


async def perform(store: Store, request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a request says and return the reply."""
    try:
        match request.get("command"):
            case "ping":
                return {"ok": True}
            case "count":
                return await _count(store)
            case "list":
                return await _list(store, request)
            case "show":
                return await _show(store, request)
            case "trace":
                return await _trace(store, request)
            case "routes":
                return {"ok": True, "routes": [_describe_learned(route) for route in store.learned.values()]}
            case "pin" | "forget" as command:
                return await _change_learned(store, command, request["domain"])
            case "retry" | "hold" | "release" | "delete" as command:
                return await _act(store, command, request)
            case unknown:
                return {"ok": False, "error": f"unknown command: {unknown}"}
    except QueueError as error:
        return {"ok": False, "error": str(error)}


async def _count(store: Store) -> dict[str, Any]:
    messages, oldest = await store.size()
    recipients = {state.value: number for state, number in (await store.counts()).items()}
    return {"ok": True, "messages": messages, "recipients": recipients, "oldest": oldest}


async def _list(store: Store, request: Mapping[str, Any]) -> dict[str, Any]:
    after = parse_queue_id(request.get("after", "0")) or 0
    entries = await store.list_messages(after, request["limit"], _selection(request))
    return {"ok": True, "messages": [_describe(entry) for entry in entries]}


async def _show(store: Store, request: Mapping[str, Any]) -> dict[str, Any]:
    entry = await _find(store, request["id"])
    if entry is None:
        return {"ok": False, "error": f"no message {request['id']} in the queue"}
    header = b"" if entry.finished_at else await store.read_header(entry)
    return {"ok": True, "message": {**_describe(entry), "header": header.decode("utf-8", "surrogateescape")}}


async def _trace(store: Store, request: Mapping[str, Any]) -> dict[str, Any]:
    before = parse_queue_id(request.get("before") or "") or LARGEST_NUMBER
    traces = await store.trace(request["text"], request["limit"], before)
    messages = [_describe_trace(trace) for trace in traces]
    return {"ok": True, "messages": messages, "since": await store.oldest()}


async def _act(store: Store, command: str, request: Mapping[str, Any]) -> dict[str, Any]:
    entries = {text: await _find(store, text) for text in request.get("ids") or ()}
    unknown = [text for text, entry in entries.items() if entry is None or entry.finished_at]
    action = {"retry": store.retry, "hold": store.hold, "release": store.release, "delete": store.delete}
    return {"ok": True, "changed": await action[command](_selection(request)), "unknown": unknown}


async def _change_learned(store: Store, command: str, domain: str) -> dict[str, Any]:
    route = store.learned.get(domain.lower())
    if route is None:
        return {"ok": False, "error": f"no route was learned for {domain}"}
    if command == "pin":
        await store.learn(replace(route, is_pinned=True))
    else:
        await store.forget([route.domain])
    return {"ok": True, "domain": route.domain}


async def _find(store: Store, queue_id: str) -> Entry | None:
    number = parse_queue_id(queue_id)
    return None if number is None else await store.show(number)


def _selection(request: Mapping[str, Any]) -> Selection:
    ids = request.get("ids")
    numbers = None if ids is None else frozenset(n for text in ids if (n := parse_queue_id(text)) is not None)
    return Selection(numbers, sender=request.get("from"), recipient=request.get("to"))


def _describe_selection(request: Mapping[str, Any]) -> str:
    words = [*(request.get("ids") or ())]
    words += [f"{side} <{request[side]}>" for side in ("from", "to") if request.get(side) is not None]
    return ", ".join(words) or "all"


def _describe(entry: Entry) -> dict[str, Any]:
    message = entry.message
    return {
        "id": message.queue_id,
        "sender": message.envelope.reverse_path,
        "client": message.client,
        "size": message.size,
        "received_at": message.received_at,
        "finished_at": entry.finished_at,
        "is_report": message.is_report,
        "message_id": message.message_id,
        "subject": message.subject,
        "recipients": [_describe_recipient(recipient) for recipient in entry.recipients],
    }


def _describe_recipient(queued: QueuedRecipient) -> dict[str, Any]:
    is_waiting = queued.state in {State.QUEUED, State.DEFERRED}
    return {
        "address": queued.recipient.address,
        "original": queued.recipient.original,
        "state": queued.state.value,
        "attempts": queued.attempts,
        "next_attempt_at": queued.next_attempt_at if is_waiting else None,
        "attempted_at": queued.attempted_at,
        "next_hop": queued.next_hop,
        "scope": queued.attempt.scope.value if queued.attempt else "",
        "host": queued.attempt.host if queued.attempt else "",
        "reply": queued.attempt.explain() if queued.attempt else "",
    }


def _describe_learned(route: LearnedRoute) -> dict[str, Any]:
    return {
        "domain": route.domain,
        "via": route.via,
        "reason": route.reason,
        "reply": route.reply,
        "learned_at": route.learned_at,
        "expires_at": None if route.is_pinned else route.expires_at,
        "is_pinned": route.is_pinned,
    }


def parse_learned(reply: Mapping[str, Any]) -> Learned:
    """Return the learned routes of a reply to ``routes``."""
    return {
        route["domain"]: LearnedRoute(**{**route, "expires_at": route["expires_at"] or math.inf})
        for route in reply["routes"]
    }


def _describe_trace(trace: Trace) -> dict[str, Any]:
    described, message = _describe(trace.entry), trace.entry.message
    given = message.envelope.given_reverse_path
    return {
        **described,
        "original_sender": "" if given == message.envelope.reverse_path else given,
        "recipients": [
            {**recipient, "history": [_describe_attempt(tried, message.received_at) for tried in attempts]}
            for recipient, attempts in zip(described["recipients"], trace.attempts, strict=True)
        ],
    }


def _describe_attempt(tried: Tried, received_at: float) -> dict[str, Any]:
    attempt = tried.attempt
    return {
        "at": tried.at,
        "next_hop": attempt.next_hop,
        "host": attempt.host,
        "reply": attempt.explain(),
        "delay": tried.at - received_at,
    }


class ControlServer:
    """Takes requests for the running service, at a socket beside the queue that only its user may open."""

    def __init__(
        self,
        store: Store,
        on_change: Callable[[], None],
        problems: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """Serve the commands on a queue.

        ``on_change`` is called after each command that may have made something due; ``problems`` gives the
        sentences that a ping is answered with: what the owner must mend.
        """
        self._store = store
        self._on_change = on_change
        self._problems = problems
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; where that fails, mail goes on without the commands."""
        path = _socket_path(self._store.path)
        listener = socket.socket(socket.AF_UNIX)
        try:
            path.unlink(missing_ok=True)  # a crash left it: the queue is ours
            os.fchmod(listener.fileno(), 0o600)
            with short_name(path) as name:
                listener.bind(name)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LONGEST_REQUEST)
        except OSError as error:
            listener.close()
            events.warned(
                f"commands like `relay queue` do not reach the relay: {path}: {error.strerror or error}"
            )

    async def close(self) -> None:
        """Listen no more, and break off what is under way."""
        if self._server is None:
            return
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        _socket_path(self._store.path).unlink(missing_ok=True)

    async def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request says, as one that comes over the socket, and return the reply."""
        try:
            reply = await perform(self._store, request)
        except (ValueError, TypeError, KeyError, AttributeError):
            return {"ok": False, "error": "not a request"}
        if request.get("command") == "ping" and (problems := [*self._problems()]):
            reply["problems"] = problems
        if "domain" in reply:
            events.commanded_route(request["command"], reply["domain"])
        if "changed" in reply:
            events.commanded(request["command"], _describe_selection(request), reply["changed"])
            self._on_change()
        return reply

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                line = await reader.readline()
            reply = await self._answer(line)
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            pass  # the client says nothing, too much, or is gone
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return await self.ask(json.loads(line))
        except ValueError:
            return {"ok": False, "error": "not a request"}


def request(queue_path: Path, message: Mapping[str, Any]) -> dict[str, Any]:
    """Send a request to the service that runs on a queue and return its reply.

    Raises NotRunningError where none does, and other OSErrors.
    """
    try:
        with short_name(_socket_path(queue_path)) as name, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_REPLY_SECONDS)
            connection.connect(name)
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as replies:
                line = replies.readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunningError(f"no relay is running on the queue {queue_path}") from error
    if not line:
        raise ConnectionError(f"the relay on the queue {queue_path} gave no answer: is it stopping?")
    reply: dict[str, Any] = json.loads(line)
    return reply


def _socket_path(queue_path: Path) -> Path:
    return queue_path.with_name(f"{queue_path.name}.sock")
