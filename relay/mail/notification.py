"""The part of a report that people read: which message, for whom, what the server said, what to do now."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

from relay.mail.address import quote_address
from relay.mail.attempt import Attempt, Failed
from relay.mail.encoded_words import decode_words
from relay.mail.envelope import Message
from relay.mail.lifecycle import age
from relay.mail.trace import format_date
from relay.texts import make_plain

Kind = Literal["failure", "delay", "success"]

_WIDTH = 76
_LONG_WORD = re.compile(r"[^ ]{240}(?=[^ ])")
"""At four bytes a character, within the 998 bytes of a line (RFC 5321 section 4.5.3.1.6)."""
_SUBJECT_LIMIT = 500
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))

_REPORT_OPENING = (
    "A report by this relay about a message could not be delivered to {recipients}, "
    "who has not been told what it says. It is attached; please look into it."
)
_HELP = "If you need help, reply to this message: the person who looks after this relay will read it."
_OPENINGS: dict[Kind, str] = {
    "failure": "Your message could not be delivered to {recipients}.",
    "delay": (
        "This is only a warning: you do not need to send your message again. It came in {age} ago, and has "
        "not been delivered yet to {recipients}. It will be tried until {deadline}; if it cannot be "
        "delivered by then, you will be told."
    ),
    "success": (
        "You asked to be told when your message is delivered: it has reached {recipients}, or the next "
        "server on the way there. Should it fail to get through farther on, that server will tell you."
    ),
}

_UNKNOWN_HOST = "The part of the address behind the @ does not take mail. Please check it for typing errors."
_ADVICE = {
    "1.1": "Please check the address for typing errors, or ask the recipient for the current one.",
    "1.2": _UNKNOWN_HOST,
    "1.8": "It is the address that you send from that has to be mended.",
    "1.10": _UNKNOWN_HOST,
    "4.4": _UNKNOWN_HOST,
    "2.2": "The recipient's mailbox is full. Try again in a few days, or reach the recipient in another way.",
    "2.3": "The message is too big. Send it in smaller parts, or share its attachments in another way.",
    "3.4": "The message is too big. Send it in smaller parts, or share its attachments in another way.",
    "6.7": "The servers on the way cannot handle addresses with such letters. Ask for a plainer address.",
}
"""What the sender can do, by enhanced status code without its class (RFC 3463, RFC 7505, RFC 6531)."""
_POLICY_ADVICE = "The other side's rules forbid it. Show its answer to the person who looks after your mail."
_OTHER_ADVICE = "Sending it again as it is will hardly help. Reach the recipient in another way."
_EXPIRED_ADVICE = "It will not be tried again. If it still matters, please send it again."


def clean(text: str) -> str:
    """Return one line of valid Unicode: white space becomes a space, what cannot be shown a question mark."""
    return make_plain(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def wrap(text: str, *, indent: str = "", hanging_indent: str | None = None) -> list[str]:
    """Return the lines of a paragraph, cleaned; only a word longer than any line may be is divided."""
    return textwrap.wrap(
        _LONG_WORD.sub(r"\g<0> ", clean(text)),
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hanging_indent is None else hanging_indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def get_server_name(attempt: Attempt) -> str:
    """Return the name of the server that an attempt spoke to, its address where it has none."""
    name, _, rest = attempt.host.partition("[")
    return name or rest.partition("]")[0]


def write_notification(
    kind: Kind,
    message: Message,
    about: Sequence[Failed],
    header: bytes,
    *,
    hostname: str,
    deadline: float,
    now: float,
    offers_help: bool,
) -> str:
    """Return the text, its lines ending in CRLF.

    ``header`` is the header block of the message, ``deadline`` when it expires, ``offers_help`` whether
    somebody reads an answer.
    """
    opening = _REPORT_OPENING if message.is_report else _OPENINGS[kind]
    opening = opening.format(
        recipients="the recipient below" if len(about) == 1 else "the recipients below",
        age=_format_duration(age(message, now)),
        deadline=format_date(deadline),
    )
    lines = [f"This is the mail relay at {hostname}.", "", *wrap(opening), ""]
    lines += _identify(header)
    for failed in about:
        lines += [*_name_recipient(failed), *_explain(kind, message, failed.attempt, now), ""]
    if offers_help:
        lines += wrap(_HELP)
    return "".join(f"{line}\r\n" for line in lines)


def _identify(header: bytes) -> Iterable[str]:
    """Return the lines by which the sender recognises the message."""
    for name in ("Subject", "Date"):
        value = _find_header(header, name)
        if value:
            yield from wrap(f"{name}: {value}", indent="    ", hanging_indent="        ")
    yield ""


def _find_header(header: bytes, name: str) -> str:
    """Return the decoded value of the first header of that name, "" where there is none."""
    pattern = rb"(?im)^%s[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)" % name.encode()
    found = re.search(pattern, header)
    if found is None:
        return ""
    return decode_words(found[1].replace(b"\r\n", b"")[:_SUBJECT_LIMIT])


def _name_recipient(failed: Failed) -> list[str]:
    recipient = failed.recipient
    line = f"<{quote_address(recipient.address)}>"
    if recipient.original not in {"", recipient.address}:
        line = f"<{quote_address(recipient.original)}>, which goes to {line}"
    return wrap(line, hanging_indent="    ")


def _explain(kind: Kind, message: Message, attempt: Attempt, now: float) -> list[str]:
    """Return what happened, in the words of the one who decided it, and what the sender can do."""
    is_expired = kind == "failure" and not attempt.reply.is_permanent
    if attempt.is_remote:
        command = f" (to {attempt.command})" if attempt.command else ""
        lead, words = f"the mail server {get_server_name(attempt)} answered{command}:", str(attempt.reply)
    else:
        lead, words = "this happened:", attempt.explain()
    if is_expired:
        lead = f"It was tried for {_format_duration(age(message, now))}. At the last attempt, {lead}"
    elif kind == "delay":
        lead = f"At the last attempt, {lead}"
    else:
        lead = lead[0].upper() + lead[1:]
    lines = [*wrap(lead, indent="    "), *wrap(words, indent="    > ")]
    if attempt.is_possible_duplicate:
        lines += wrap("The message was sent whole but not confirmed: it may have arrived.", indent="    ")
    if kind == "failure" and not message.is_report:
        lines += wrap(_EXPIRED_ADVICE if is_expired else _advise(attempt.reply.dsn), indent="    ")
    return lines


def _advise(status: str) -> str:
    detail = status.partition(".")[2]
    return _ADVICE.get(detail) or (_POLICY_ADVICE if detail.startswith("7.") else _OTHER_ADVICE)


def _format_duration(seconds: float) -> str:
    for unit, length in _UNITS:
        count = int(seconds // length)
        if count:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return "less than a minute"
