"""One function per mail event: what the log says of it, in Postfix's words.

A line never holds content, a password or an AUTH exchange. The one exception is what the owner asks for: the
header checks WARN and INFO log the header that they match.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from relay.log import emit, emit_defect
from relay.mail.attempt import Attempt, State
from relay.mail.envelope import Client, Envelope, Message, Recipient
from relay.mail.header_checks import Note
from relay.mail.learned import ANYWHERE, LearnedRoute
from relay.mail.reply import Reply

LONGEST_QUOTE = 500
"""Characters of a header that a line shows."""


# Service


def started(version: str, addresses: str, queue: str) -> None:
    """The relay answers clients."""
    emit(
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
    emit(logging.INFO, "configured", "relay.toml is applied; changed: %(changes)s", changes=names)


def configuration_rejected(problems: Sequence[str]) -> None:
    """A changed configuration has errors, and the one before it stays in force."""
    text = "; ".join(problems)
    emit(
        logging.WARNING,
        "configuration_rejected",
        "the changed relay.toml is not applied, the relay goes on as before: %(problems)s",
        problems=text,
    )


def stopping(reason: str) -> None:
    """The relay finishes what is in flight."""
    emit(logging.INFO, "stopping", "stopping: %(reason)s", reason=reason)


def stopped() -> None:
    """The relay has left nothing undone that it could do."""
    emit(logging.INFO, "stopped", "stopped")


def listener_waits(address: str, reason: str) -> None:
    """A listen address does not exist yet."""
    emit(
        logging.WARNING,
        "listener_waits",
        "listen address %(address)s is waited for: %(reason)s",
        address=address,
        reason=reason,
    )


def warned(text: str) -> None:
    """Something that the owner should mend."""
    emit(logging.WARNING, "warning", "%(reason)s", reason=text)


def failed(what: str, error: BaseException) -> None:
    """A defect of ours: nothing is lost by it, the traceback is for a bug report."""
    emit_defect("%(what)s: %(reason)s", error, what=what, reason=repr(error))


# Sessions


def connected(client: Client) -> None:
    """A client opened a session."""
    emit(logging.DEBUG, "connect", "connect from %(client)s", client=client)


def disconnected(client: Client, commands: int) -> None:
    """A session ended in order."""
    emit(
        logging.DEBUG,
        "disconnect",
        "disconnect from %(client)s commands=%(commands)d",
        client=client,
        commands=commands,
    )


def lost(client: Client, after: str) -> None:
    """A client vanished, or said nothing for too long."""
    emit(
        logging.INFO,
        "lost",
        "lost connection after %(command)s from %(client)s",
        command=after,
        client=client,
    )


def encrypted(client: Client, version: str, cipher: str) -> None:
    """A client and the relay agreed on TLS."""
    emit(
        logging.DEBUG,
        "tls",
        "Anonymous TLS connection established from %(client)s: %(version)s with cipher %(cipher)s",
        client=client,
        version=version,
        cipher=cipher,
    )


def handshake_failed(client: Client, reason: str) -> None:
    """A client and the relay could not agree on TLS."""
    emit(
        logging.INFO,
        "tls_failed",
        "TLS handshake with %(client)s failed: %(reason)s",
        client=client,
        reason=reason,
    )


def page_opened(url: str) -> None:
    """Browsers are shown the status page."""
    emit(logging.INFO, "page_opened", "the status page is at %(url)s", url=url)


def page_login_failed(client: str, reason: str) -> None:
    """Somebody gave a wrong password for the status page, or gave too many."""
    emit(
        logging.WARNING,
        "page_login_failed",
        "status page: login from %(client)s failed: %(reason)s",
        client=client,
        reason=reason,
    )


def login_failed(client: Client, method: str, user: str, reason: str) -> None:
    """A client gave a wrong user name or password, or gave too many."""
    emit(
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
    emit(
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
    emit(
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
    emit(
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
    emit(
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
    emit(
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
    emit(
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
    emit(
        logging.INFO,
        "route_forgotten",
        "mail for %(domain)s goes directly again: %(reason)s",
        domain=domain,
        reason=why,
    )


def reported(message: Message, kind: Literal["failure", "delay", "success"], report: Message) -> None:
    """A report about a message went into the queue."""
    names = {"failure": "non-delivery", "delay": "delay", "success": "delivery"}
    emit(
        logging.INFO,
        "report",
        "%(queue_id)s: sender %(kind)s notification: %(report)s",
        queue_id=message.queue_id,
        kind=names[kind],
        report=report.queue_id,
    )


def next_hop_backed_off(next_hop: str, seconds: float, reason: str) -> None:
    """A next hop does not answer: its mail waits, one message probes."""
    emit(
        logging.WARNING,
        "next_hop_down",
        "%(next_hop)s: no session; its mail waits %(seconds)d s before the next probe: %(reason)s",
        next_hop=next_hop,
        seconds=round(seconds),
        reason=reason,
    )


def login_refused(next_hop: str, seconds: float, reply: Reply) -> None:
    """A smarthost lets nobody in with the owner's account: its mail waits."""
    emit(
        logging.WARNING,
        "login_refused",
        "%(next_hop)s: no session; its mail waits %(seconds)d s before the next login: %(reason)s",
        next_hop=next_hop,
        seconds=round(seconds),
        reason=reply.text,
    )


def next_hop_recovered(next_hop: str) -> None:
    """A next hop that had been down answers again."""
    emit(logging.INFO, "next_hop_up", "%(next_hop)s: answers again", next_hop=next_hop)


def alerted(cause: str, state: Literal["begins", "over"], way: str, text: str) -> None:
    """The owner was told of something by other means than mail."""
    emit(
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
    emit(
        logging.WARNING,
        "alert_failed",
        "alert %(cause)s is not told, and tried again in %(seconds)d s: %(reason)s",
        cause=cause,
        seconds=round(seconds),
        reason=reason,
    )


def alert_output(program: str, text: str) -> None:
    """The owner's program for alerts said something."""
    emit(logging.DEBUG, "alert_output", "%(program)s: %(words)s", program=program, words=text)


def ehlo_named(name: str, address: str, reason: str) -> None:
    """The relay has another name towards next hops, or knows for the first time why it has this one."""
    emit(
        logging.INFO,
        "ehlo_name",
        "the EHLO name is %(name)s: %(reason)s",
        name=name,
        address=address,
        reason=reason,
    )


def announced(report: Message, subject: str) -> None:
    """The postmaster is told something by mail."""
    emit(
        logging.INFO,
        "announced",
        "%(queue_id)s: notice to the postmaster: %(words)s",
        queue_id=report.queue_id,
        words=subject,
    )


def commanded(command: str, chosen: str, count: int) -> None:
    """The owner acted on messages in the queue."""
    emit(
        logging.INFO,
        "command",
        "queue %(command)s: %(count)d messages (%(chosen)s)",
        command=command,
        chosen=chosen,
        count=count,
    )


def commanded_route(command: str, domain: str) -> None:
    """The owner acted on a learned route."""
    emit(logging.INFO, "command", "routes %(command)s: %(domain)s", command=command, domain=domain)


def listener_opened(address: str) -> None:
    """A listen address that was waited for is there now."""
    emit(logging.INFO, "listener_opened", "listening on %(address)s too", address=address)


def removed(queue_id: str) -> None:
    """Nothing more is to be done for a message."""
    emit(logging.INFO, "removed", "%(queue_id)s: removed", queue_id=queue_id)
