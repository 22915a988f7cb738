"""How the page says things: spans of time, sizes, replies, how it all stands. Pure; returns plain text."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from relay.mail.notification import clean as clean_all

Tone = Literal["good", "busy", "wait", "bad"]

_JOINERS = "\u200c\u200d"
"""They make one letter, or one picture, of several."""
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_SAID = re.compile(
    r"host (?P<name>[^\[ ]*)(?:\[(?P<address>[^\]]*)\])?(?::\d+)? said: (?P<words>.*?)"
    r"(?: \(in reply to (?P<command>.*) command\))?",
    re.DOTALL,
)
_CONNECT = re.compile(r"connect to (?P<name>[^\[\s]+)\[[^\]]*\](?::\d+)?: (?P<why>.*)", re.DOTALL)
_CODES = re.compile(r"(?P<code>[245]\d\d)(?:[ -](?P<status>[245]\.\d{1,3}\.\d{1,3}))?(?: |$)")
_HOP = re.compile(r"(?:(?P<account>[^=\[\]]+)=)?(?P<lmtp>lmtp:)?\[?(?P<host>[^\]]*?)\]?(?::(?P<port>\d+))?")
_MEANINGS = {
    "1.1": "there is no such mailbox",
    "1.2": "there is no such domain",
    "1.6": "the recipient has moved",
    "1.8": "the sender's address is not accepted",
    "1.10": "the domain takes no mail",
    "2.1": "the mailbox is closed for now",
    "2.2": "the mailbox is full",
    "2.3": "the message is too big",
    "3.1": "the server has no room",
    "3.2": "the server takes no mail just now",
    "3.4": "the message is too big",
    "4.1": "the server does not answer",
    "4.2": "the connection was lost",
    "4.3": "the name can't be looked up just now",
    "4.4": "there is no server for this domain",
    "5.3": "too many recipients at once",
    "7.0": "a rule of the server forbids it for now",
    "7.1": "a rule of the server forbids it",
    "7.8": "the login is refused",
    "7.9": "the login is refused",
    "7.23": "SPF does not allow mail from here",
    "7.25": "the reverse name of this address is missing",
    "7.26": "neither SPF nor DKIM vouch for the sender",
    "7.28": "too much mail came from here lately",
}
"""Enhanced status codes without their class (RFC 3463, RFC 7372 and the IANA registry)."""


@dataclass(frozen=True, slots=True)
class Said:
    """A reply in plain words, and as it came."""

    plain: str
    full: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The first line of the page."""

    tone: Tone
    words: str


def clean(text: str) -> str:
    """Return one line that shows what it is: what has no shape, or turns the direction, becomes "?"."""
    if text.isprintable():
        return text
    parts = re.split(f"([{_JOINERS}])", text)
    return "".join(part if part in _JOINERS else clean_all(part) for part in parts)


def count(number: int, word: str) -> str:
    """Return "1 message" or "2 messages"."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"


def span(seconds: float) -> str:
    """Return "3 minutes": the largest whole unit."""
    for unit, length in _UNITS:
        if seconds >= length:
            return count(int(seconds // length), unit)
    return "a moment"


def distance(moment: float, now: float) -> str:
    """Return "in 3 minutes", "3 minutes ago" or "just now"."""
    if abs(moment - now) < 1:
        return "just now"
    return f"in {span(moment - now)}" if moment > now else f"{span(now - moment)} ago"


def moment(seconds: float) -> str:
    """Return day and time here, such as "Tue 24 Nov 2026 14:03:07"."""
    return time.strftime("%a %d %b %Y %H:%M:%S", time.localtime(seconds))


def delay(seconds: float) -> str:
    """Return a delay as a chart names it: "0.3 s", "12 s", "3 min", "2 h"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    unit, length = next(pair for pair in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= pair[1])
    return f"{seconds / length:.0f} {unit}"


def size(number: int) -> str:
    """Return a size with one unit, such as "12.3 kB"."""
    value = float(number)
    units = ["GB", "MB", "kB", "bytes"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop()
    return f"{value:.0f} {units[-1]}" if value == number or value >= 100 else f"{value:.1f} {units[-1]}"


def explain(reply: str) -> Said:
    """Return what ``Attempt.explain`` says, made plain where its codes have a known meaning."""
    text = clean(reply)
    said = _SAID.fullmatch(text)
    if said is None:
        connect = _CONNECT.fullmatch(text)
        return (
            Said(f"no connection to {connect['name']}: {connect['why']}", text) if connect else Said(text, "")
        )
    who = said["name"] or said["address"] or "the server"
    codes = _CODES.match(said["words"])
    words = said["words"][codes.end() :] if codes else said["words"]
    if codes and codes["code"].startswith("2"):
        return Said(f"{who} took it", text)
    status = (codes["status"] or "") if codes else ""
    meaning = _MEANINGS.get(status.partition(".")[2], "")
    if meaning:
        return Said(f"{who}: {meaning}", text)
    if codes and codes["code"] in {"530", "534", "535", "538"}:
        return Said(f"{who}: the login is refused", text)
    return Said(f"{who} says: {words}" if words else f"{who} refused it", text)


def name_next_hop(key: str) -> str:
    """Return a next hop's key (``NextHop.key``) as a person says it: "isp (smtp.example.com)"."""
    found = _HOP.fullmatch(key)
    if found is None or not found["host"]:
        return key
    port = found["port"]
    place = found["host"] if port in {None, "25", "465", "587"} else f"{found['host']} port {port}"
    if found["lmtp"]:
        return f"mailboxes ({place})"
    return f"{found['account']} ({place})" if found["account"] else place


def summarise(
    messages: int,
    recipients: Mapping[str, int],
    next_hops: Sequence[Mapping[str, Any]],
    problems: Sequence[str],
) -> Summary:
    """Return how things are; the arguments are those of relay.web.facts."""
    blocked = [hop for hop in next_hops if hop["state"] == "blocked"]
    held = recipients.get("held", 0)
    waits = (
        f"{count(messages, 'message')} {'waits' if messages == 1 else 'wait'}"
        if messages
        else "Nothing waits"
    )
    words = f"{waits}, {count(held, 'recipient')} on hold." if held else f"{waits}."
    words = " ".join([words, *_describe_blocked(blocked)])
    if problems:
        return Summary("bad", f"{count(len(problems), 'thing')} to mend. {words}")
    if blocked or recipients.get("deferred") or held:
        return Summary("wait", words)
    return Summary("busy", words) if messages else Summary("good", "All is well: nothing waits.")


def _describe_blocked(blocked: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(blocked) > 2:
        return [f"{len(blocked)} next hops give no session."]
    return [f"{name_next_hop(hop['name'])} {_describe_failure(hop['failure'])}." for hop in blocked]


def _describe_failure(failure: str) -> str:
    plain = explain(failure).plain.lower()
    if "login" in plain or "authenticat" in plain:
        return "refuses the login"
    return "wants no session" if "said:" in failure else "does not answer"
