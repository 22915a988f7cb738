"""One function per mail event: what the log says of it, in Postfix's words.

A line never holds content, a password or an AUTH exchange. The one exception is what the owner asks for: the
header checks WARN and INFO log the header that they match.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TextIO

from relay.config.model import Log
from relay.mail.attempt import Attempt, State
from relay.mail.envelope import Client, Envelope, Message, Recipient
from relay.mail.header_checks import Note
from relay.mail.learned import ANYWHERE, LearnedRoute
from relay.mail.reply import Reply

LONGEST_QUOTE = 500
"""Characters of a header that a line shows."""

_log = logging.getLogger("relay")


class _TextFormatter(logging.Formatter):
    """``2026-11-24T08:00:00+0000 QUEUEID: text``; above INFO the level stands before the text."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        if int(record.created) != self._second:
            self._second = int(record.created)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self._second))
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        line = f"{self._stamp} {level}{_printable(record.getMessage())}"
        return "\n    ".join([line, *_traceback(record)]) if record.exc_info else line


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time (epoch seconds), level, event, text and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = record.args if isinstance(record.args, Mapping) else {}
        line = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            **{name: _json_value(value) for name, value in fields.items()},
            "text": _printable(record.getMessage()),
        }
        if traceback := _traceback(record):
            line["traceback"] = "\n".join(traceback)
        return json.dumps(line)


class _Handler(logging.Handler):
    """Writes the log: what is said in one turn of the event loop in one piece.

    Mail goes on where that fails, be it a full disk or a reader that has gone.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(f"{self.format(record)}\n")
        except Exception:
            self.handleError(record)
            return
        if len(self._lines) == 1:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
            except RuntimeError:  # there is no loop here
                self.flush()

    def flush(self) -> None:
        self.acquire()
        try:
            lines, self._lines = self._lines, []
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()
        except OSError:
            pass
        finally:
            self.release()


def configure_logging(settings: Log) -> None:
    """Send the log to standard output in the form and from the level that the owner chose."""
    handler = _Handler(sys.stdout)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_JsonFormatter() if settings.format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    handler.setLevel(settings.level.upper())
    _choose_level()
    logging.getLogger("mail").setLevel(logging.CRITICAL)  # aiosmtpd's own account of each connection
    # No line names a thread or process: then they need not be found out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def observe(observer: logging.Handler) -> None:
    """Hand each event from INFO on to an observer too, whatever the log shows.

    The arguments of a record are the event's fields, with its name as ``event``.
    """
    _log.addHandler(observer)
    _choose_level()


def ignore(observer: logging.Handler) -> None:
    """Hand an observer no more events."""
    _log.removeHandler(observer)
    _choose_level()


def _choose_level() -> None:
    """Make no record that nobody wants."""
    levels = [handler.level for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]
    _log.setLevel(min([*levels, logging.INFO] if _log.handlers else levels, default=logging.WARNING))


def _printable(text: str) -> str:
    """Return a text with "?" for what could break a line, move the cursor or not be encoded."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def _json_value(value: object) -> object:
    return value if isinstance(value, int | float) else _printable(str(value))


def _traceback(record: logging.LogRecord) -> list[str]:
    if not record.exc_info:
        return []
    lines = logging.Formatter().formatException(record.exc_info).splitlines()
    return [_printable(line) for line in lines]


def _emit(level: int, event: str, text: str, /, **fields: object) -> None:
    """Log a text with its fields filled in, which are formatted only if the level is on.

    The record is made here: ``Logger.log`` would look for the line of code that called it.
    """
    if _log.isEnabledFor(level):
        record = logging.LogRecord(_log.name, level, "", 0, text, None, None)
        record.args = {"event": event, **fields}
        _log.handle(record)


# Service


def started(version: str, addresses: str, queue: str) -> None:
    """The relay answers clients."""
    _emit(
        logging.INFO,
        "started",
        "relay %(version)s listening on %(addresses)s; queue %(queue)s",
        version=version,
        addresses=addresses,
        queue=queue,
    )


def configured(changes: Sequence[str]) -> None:
    """A changed configuration is in force."""
    names = ", ".join(changes) or "nothing"
    _emit(logging.INFO, "configured", "relay.toml is applied; changed: %(changes)s", changes=names)


def configuration_rejected(problems: Sequence[str]) -> None:
    """A changed configuration has errors, and the one before it stays in force."""
    text = "; ".join(problems)
    _emit(
        logging.WARNING,
        "configuration_rejected",
        "the changed relay.toml is not applied, the relay goes on as before: %(problems)s",
        problems=text,
    )


def stopping(reason: str) -> None:
    """The relay finishes what is in flight."""
    _emit(logging.INFO, "stopping", "stopping: %(reason)s", reason=reason)


def stopped() -> None:
    """The relay has left nothing undone that it could do."""
    _emit(logging.INFO, "stopped", "stopped")


def listener_waits(address: str, reason: str) -> None:
    """A listen address does not exist yet."""
    _emit(
        logging.WARNING,
        "listener_waits",
        "listen address %(address)s is waited for: %(reason)s",
        address=address,
        reason=reason,
    )


def warned(text: str) -> None:
    """Something that the owner should mend."""
    _emit(logging.WARNING, "warning", "%(reason)s", reason=text)


def failed(what: str, error: BaseException) -> None:
    """A defect of ours: nothing is lost by it, the traceback is for a bug report."""
    fields = {"event": "failed", "what": what, "reason": repr(error)}
    _log.error("%(what)s: %(reason)s", fields, exc_info=error)


# Sessions


def connected(client: Client) -> None:
    """A client opened a session."""
    _emit(logging.DEBUG, "connect", "connect from %(client)s", client=client)


def disconnected(client: Client, commands: int) -> None:
    """A session ended in order."""
    _emit(
        logging.DEBUG,
        "disconnect",
        "disconnect from %(client)s commands=%(commands)d",
        client=client,
        commands=commands,
    )


def lost(client: Client, after: str) -> None:
    """A client vanished, or said nothing for too long."""
    _emit(
        logging.INFO,
        "lost",
        "lost connection after %(command)s from %(client)s",
        command=after,
        client=client,
    )


def encrypted(client: Client, version: str, cipher: str) -> None:
    """A client and the relay agreed on TLS."""
    _emit(
        logging.DEBUG,
        "tls",
        "Anonymous TLS connection established from %(client)s: %(version)s with cipher %(cipher)s",
        client=client,
        version=version,
        cipher=cipher,
    )


def handshake_failed(client: Client, reason: str) -> None:
    """A client and the relay could not agree on TLS."""
    _emit(
        logging.INFO,
        "tls_failed",
        "TLS handshake with %(client)s failed: %(reason)s",
        client=client,
        reason=reason,
    )


def page_opened(url: str) -> None:
    """Browsers are shown the status page."""
    _emit(logging.INFO, "page_opened", "the status page is at %(url)s", url=url)


def page_login_failed(client: str, reason: str) -> None:
    """Somebody gave a wrong password for the status page, or gave too many."""
    _emit(
        logging.WARNING,
        "page_login_failed",
        "status page: login from %(client)s failed: %(reason)s",
        client=client,
        reason=reason,
    )


def login_failed(client: Client, method: str, user: str, reason: str) -> None:
    """A client gave a wrong user name or password, or gave too many."""
    _emit(
        logging.WARNING,
        "login_failed",
        "%(client)s: SASL %(method)s authentication failed: %(reason)s, sasl_username=%(user)s",
        client=client,
        method=method,
        reason=reason,
        user=user[:LONGEST_QUOTE],
    )


def session_failed(client: Client, error: BaseException) -> None:
    """A session met a defect of ours; the client was told to come back."""
    failed(f"session with {client}", error)


def refused(client: Client, command: str, reply: Reply, reverse_path: str = "", recipient: str = "") -> None:
    """A command was refused."""
    _emit(
        logging.INFO,
        "reject",
        "NOQUEUE: reject: %(command)s from %(client)s: %(reply)s; "
        "from=<%(sender)s> to=<%(recipient)s> proto=%(protocol)s helo=<%(helo)s>",
        command=command,
        client=client,
        reply=reply,
        sender=reverse_path,
        recipient=recipient,
        protocol=client.protocol,
        helo=client.helo,
    )


# Messages


def accepted(message: Message, client: Client, message_id: str) -> None:
    """A message is on disk; its client may forget it."""
    login = {"sasl_method": client.sasl_method, "sasl_username": client.user} if client.sasl_method else {}
    _emit(
        logging.INFO,
        "accepted",
        "%(queue_id)s: client=%(client)s, "
        + ("sasl_method=%(sasl_method)s, sasl_username=%(sasl_username)s, " if login else "")
        + "message-id=%(message_id)s, from=<%(sender)s>, size=%(size)d, nrcpt=%(recipients)d",
        queue_id=message.queue_id,
        client=client,
        **login,
        message_id=message_id[:LONGEST_QUOTE],
        sender=message.envelope.reverse_path,
        size=message.size,
        recipients=len(message.envelope.recipients),
    )


def checked(queue_id: str, client: Client, envelope: Envelope, note: Note) -> None:
    """A header check acted on a message, or could not."""
    _emit(
        logging.WARNING if note.action == "WARN" else logging.INFO,
        "header_check",
        "%(queue_id)s: %(action)s: header %(header)s from %(client)s; from=<%(sender)s> "
        "to=<%(recipient)s> proto=%(protocol)s helo=<%(helo)s>" + (": %(words)s" if note.text else ""),
        queue_id=queue_id,
        action=note.action.lower(),
        header=note.header[:LONGEST_QUOTE],
        client=client,
        sender=envelope.reverse_path,
        recipient=envelope.recipients[0].address,
        protocol=client.protocol,
        helo=client.helo,
        words=note.text,
    )


_STATUS = {
    State.DELIVERED: "sent",
    State.DEFERRED: "deferred",
    State.HELD: "deferred",
    State.BOUNCED: "bounced",
    State.EXPIRED: "bounced",
}
"""What Postfix's log calls the states that an attempt leads to."""


def attempted(message: Message, recipient: Recipient, state: State, attempt: Attempt, now: float) -> None:
    """One recipient's attempt is over."""
    status = _STATUS[state]
    is_taken = attempt.is_remote and attempt.reply.is_positive
    _emit(
        logging.INFO,
        status,
        "%(queue_id)s: to=<%(recipient)s>, "
        + ("orig_to=<%(original)s>, " if recipient.original else "")
        + "relay=%(relay)s, delay=%(delay).2f, dsn=%(dsn)s, status=%(status)s (%(reply)s)",
        queue_id=message.queue_id,
        recipient=recipient.address,
        original=recipient.original,
        relay=attempt.host or "none",
        next_hop=attempt.next_hop,
        delay=round(max(0.0, now - message.received_at), 3),
        dsn=attempt.reply.dsn,
        status=status,
        reply=attempt.reply if is_taken else attempt.explain(),
    )


def detoured(message: Message, recipient: Recipient, attempt: Attempt, via: str) -> None:
    """A site refuses one recipient's mail because of us: it goes on over the fallback."""
    _emit(
        logging.INFO,
        "detoured",
        "%(queue_id)s: to=<%(recipient)s>, relay=%(relay)s, dsn=%(dsn)s, "
        "status=detoured to %(via)s (%(reply)s)",
        queue_id=message.queue_id,
        recipient=recipient.address,
        relay=attempt.host or "none",
        via=via,
        dsn=attempt.reply.dsn,
        reply=attempt.explain(),
    )


def learned(route: LearnedRoute) -> None:
    """From now on mail for a domain takes the fallback."""
    _emit(
        logging.WARNING if route.domain == ANYWHERE else logging.INFO,
        "route_learned",
        "mail for %(domain)s goes over the fallback %(via)s from now on (%(reason)s): %(reply)s",
        domain=route.domain,
        via=route.via,
        reason=route.reason,
        reply=route.reply,
    )


def forgotten(domain: str, why: str) -> None:
    """A learned route is no more."""
    _emit(
        logging.INFO,
        "route_forgotten",
        "mail for %(domain)s goes directly again: %(reason)s",
        domain=domain,
        reason=why,
    )


def reported(message: Message, kind: Literal["failure", "delay", "success"], report: Message) -> None:
    """A report about a message went into the queue."""
    names = {"failure": "non-delivery", "delay": "delay", "success": "delivery"}
    _emit(
        logging.INFO,
        "report",
        "%(queue_id)s: sender %(kind)s notification: %(report)s",
        queue_id=message.queue_id,
        kind=names[kind],
        report=report.queue_id,
    )


def next_hop_backed_off(next_hop: str, seconds: float, reason: str) -> None:
    """A next hop does not answer: its mail waits, one message probes."""
    _emit(
        logging.WARNING,
        "next_hop_down",
        "%(next_hop)s: no session; its mail waits %(seconds)d s before the next probe: %(reason)s",
        next_hop=next_hop,
        seconds=round(seconds),
        reason=reason,
    )


def login_refused(next_hop: str, seconds: float, reply: Reply) -> None:
    """A smarthost lets nobody in with the owner's account: its mail waits."""
    _emit(
        logging.WARNING,
        "login_refused",
        "%(next_hop)s: no session; its mail waits %(seconds)d s before the next login: %(reason)s",
        next_hop=next_hop,
        seconds=round(seconds),
        reason=reply.text,
    )


def next_hop_recovered(next_hop: str) -> None:
    """A next hop that had been down answers again."""
    _emit(logging.INFO, "next_hop_up", "%(next_hop)s: answers again", next_hop=next_hop)


def alerted(cause: str, state: Literal["begins", "over"], way: str, text: str) -> None:
    """The owner was told of something by other means than mail."""
    _emit(
        logging.INFO,
        "alert",
        "alert %(cause)s %(state)s, told by %(way)s: %(words)s",
        cause=cause,
        state=state,
        way=way,
        words=text,
    )


def alert_failed(cause: str, seconds: float, reason: str) -> None:
    """The owner could not be told of something."""
    _emit(
        logging.WARNING,
        "alert_failed",
        "alert %(cause)s is not told, and tried again in %(seconds)d s: %(reason)s",
        cause=cause,
        seconds=round(seconds),
        reason=reason,
    )


def alert_output(program: str, text: str) -> None:
    """The owner's program for alerts said something."""
    _emit(logging.DEBUG, "alert_output", "%(program)s: %(words)s", program=program, words=text)


def ehlo_named(name: str, address: str, reason: str) -> None:
    """The relay has another name towards next hops, or knows for the first time why it has this one."""
    _emit(
        logging.INFO,
        "ehlo_name",
        "the EHLO name is %(name)s: %(reason)s",
        name=name,
        address=address,
        reason=reason,
    )


def announced(report: Message, subject: str) -> None:
    """The postmaster is told something by mail."""
    _emit(
        logging.INFO,
        "announced",
        "%(queue_id)s: notice to the postmaster: %(words)s",
        queue_id=report.queue_id,
        words=subject,
    )


def commanded(command: str, chosen: str, count: int) -> None:
    """The owner acted on messages in the queue."""
    _emit(
        logging.INFO,
        "command",
        "queue %(command)s: %(count)d messages (%(chosen)s)",
        command=command,
        chosen=chosen,
        count=count,
    )


def commanded_route(command: str, domain: str) -> None:
    """The owner acted on a learned route."""
    _emit(logging.INFO, "command", "routes %(command)s: %(domain)s", command=command, domain=domain)


def listener_opened(address: str) -> None:
    """A listen address that was waited for is there now."""
    _emit(logging.INFO, "listener_opened", "listening on %(address)s too", address=address)


def removed(queue_id: str) -> None:
    """Nothing more is to be done for a message."""
    _emit(logging.INFO, "removed", "%(queue_id)s: removed", queue_id=queue_id)
