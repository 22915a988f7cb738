"""Whom a remote's refusal is about: us as a sender, the message or the recipient.

Only a refusal of us can be mended by another way out. The table is the whole knowledge; tests/refusals.toml
holds the real texts that it was written for, each with its source.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from relay.mail.reply import Reply

LONGEST_TEXT = 2000
"""Characters of a reply's text that are looked at: the reason stands in its first lines."""


class Target(StrEnum):
    """Whom a refusal is about."""

    SENDER = "sender"
    """Us: this relay's address, name, reputation or rate, or the proof that it may send for the domain."""
    MESSAGE = "message"
    """The message, whoever brings it: its content, size or form, or the address of its sender."""
    RECIPIENT = "recipient"
    """The recipient: unknown, full, disabled, not served there, or not willing to get this mail."""
    GREYLIST = "greylist"
    """Nobody: come back later (RFC 6647). Always temporary."""
    OTHER = "other"
    """Not known: the reply means what its code says."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Whom a reply refuses, and why in a few words for people ("blocklist"); "" where it is not known."""

    target: Target
    reason: str


_Row = tuple[re.Pattern[str], Refusal]
_OTHER = Refusal(Target.OTHER, "")
_SPAM = Refusal(Target.MESSAGE, "spam")
_REPUTATION = Refusal(Target.SENDER, "reputation")
_POLICY = Refusal(Target.SENDER, "policy")


def _row(target: Target, reason: str, *beginnings: str) -> _Row:
    """Return a row that matches where a word begins one of these."""
    return re.compile(rf"\b(?:{'|'.join(beginnings)})"), Refusal(target, reason)


# The first row that matches decides. A row sees the reply as "550 5.7.1 some text", in small letters. Clear
# words about us come early: they stand in replies of every code, 5.1.1 too. No row takes more than some steps
# for each character: no repeat is within another, and those that nothing bounds begin once in a word or line.
_ROWS: tuple[_Row, ...] = (
    # Greylisting, and what postscreen, rspamd and Mimecast say in its place. With 5xx it is something else.
    _row(Target.GREYLIST, "greylisting", r"^4.*gr[ea]y-?list"),
    _row(
        Target.GREYLIST,
        "greylisting",
        r"^450 4\.3\.2 service currently unavailable|^451 4\.7\.1 try again later$",
        r"^451 internal resource (?:is )?temporarily unavailable",
    ),
    # A limit of one transaction: the next attempt keeps to it.
    _row(Target.OTHER, "", r"^452 4\.5\.3 "),
    # Google says "unsolicited mail" of what is in a message, too.
    _row(Target.MESSAGE, "spam", r"of your url domains"),
    # What a reply says of dynamic addresses and reverse names comes before the list that it has it from.
    _row(
        Target.SENDER,
        "dynamic address",
        r"dynamic(?:ally assigned)? (?:\(\w{1,20}\) )?(?:ip|address|host|range)|residential ip|dial-?up",
        r"email directly to our servers",
    ),
    _row(
        Target.SENDER,
        "reverse DNS",
        r"ptr\b|reverse (?:dns|lookup)|cannot find your (?:reverse )?hostname",
        r"ip (?:address \S+ does not|must) resolve",
    ),
    _row(
        Target.SENDER,
        "SPF, DKIM or DMARC",
        r"spf\b|dkim\b|dmarc\b|sender policy framework|unauthenticated email",
        r"5\.7\.9 message not accepted for policy",
    ),
    # Mimecast means the address that we come from.
    _row(Target.SENDER, "policy", r"^421 sender address blocked"),
    # The address or domain of the message's sender is the same on every way out. A list of domains (DBL) is
    # about it, or about links in the message.
    _row(
        Target.MESSAGE,
        "sender address",
        r"sender (?:address|black)|invalid sender|mail ?from (?:domain|invalid)|from: domain",
        r"unresolvable \S+ from|badmailfrom|anti-spoof|spoofed",
    ),
    _row(Target.MESSAGE, "spam", r"dbl\b"),
    # The recipient's own list of senders.
    _row(
        Target.RECIPIENT,
        "refused by the recipient",
        r"blacklisted by recipient|user's reject list|envelope blocked|blocked senders",
    ),
    _row(
        Target.SENDER,
        "blocklist",
        r"(?:black|block)[- ]?list|black ip\b|(?:dns|p|r)?bls?\b|blocked using|spamhaus|csi\.cloudmark\.com",
        r"(?<!not )listed (?:at|by|in|on)\b",
    ),
    _row(Target.SENDER, "EHLO name", r"(?:helo|ehlo)(?!/| first)"),
    _row(
        Target.SENDER,
        "encryption",
        r"tls (?:connection|required)|tls/sslv3 connection required|must issue a starttls",
    ),
    _row(
        Target.SENDER,
        "reputation",
        r"reputation|unsolicited|spam source|mail is blocked automatically|tss?\d\d\]",
        # Orange and La Poste: 1xx and 999 refuse the connection, 510 the sender.
        r"(?:ofr|lpn)\w*_(?:10[2-9]|510|999)\b",
    ),
    _row(
        Target.SENDER,
        "policy",
        r"client host|(?:dy|ou|sc)-00\d\b",
        # Microsoft: 4.7.5xx; 5.7.5xx without the recipient's (504, 505) and the message's (512); 5.7.6xx.
        r"^\d+ (?:4\.7\.5\d\d|5\.7\.50[6-8]|5\.7\.51[01]|5\.7\.6\d\d)\b",
    ),
    _row(
        Target.RECIPIENT,
        "too much mail",
        r"receiving mail|received too much|receive limit|excessive volume",
        r"recipient (?:has exceeded|thread limit)",
    ),
    _row(
        Target.RECIPIENT,
        "not served there",
        r"relay(?:ing)? (?:access )?(?:denied|disallowed|not (?:allowed|permitted)|operation)",
        r"(?:unable to|denies) relay\b|list of allowed hosts",
    ),
    _row(
        Target.RECIPIENT,
        "mailbox full",
        r"over ?(?:storage )?quota|quota (?:exceeded|limit|violation)|storage (?:allocation|space)",
        r"mailbox size|too many messages on",
    ),
    _row(
        Target.RECIPIENT,
        "mailbox disabled",
        r"(?:mailbox|account|user|recipient)\b.{0,40}\b(?:closed|disabled|inactive|isblocked|locked)\b",
        r"(?:archived|inactive|suspended) (?:email|mbox|recipient|user)\b",
        r"mailbox delivery failure|on the target address",
    ),
    _row(
        Target.RECIPIENT,
        "no such address",
        r"(?:account|addressee|mailbox|recipient|user)\b.{0,40}\b(?:unknown|not (?:exist|found))",
        r"(?:mailbox|recipient|user)\b.{0,40}(?:n't have|invalid|no longer|(?<!temporarily )unavailable)",
        r"(?:illegal|invalid|no such|unknown) (?:address|alias|mailbox|recipient|user)",
        r"(?:no longer|not a) valid|no mailbox here|unrouteable|(?:find the|banned) recipient",
        r"5\.1\.0 address rejected",
    ),
    _row(
        Target.RECIPIENT,
        "refused by the recipient",
        r"by destination|domain that you are sending to|allowed-senders",
        r"sender (?:was )?not authenticated (?:by|for)\b",
    ),
    _row(Target.SENDER, "authentication", r"authentication required|client was not authenticated"),
    _row(
        Target.SENDER,
        "rate",
        r"too many (?:concurrent )?(?:connections|e-mails|messages|sessions)\b|rate limit",
    ),
    _row(Target.MESSAGE, "loop", r"loop"),
    _row(Target.MESSAGE, "size", r"too (?:large|long)\b|size limits?\b"),
    _row(
        Target.MESSAGE,
        "form",
        r"rfc ?(?:5322|compliant)|malformed|linefeeds|from: header|invalid characters",
    ),
    _row(Target.MESSAGE, "virus or attachment", r"virus|attachment|security (?:issue|policies)"),
    _row(Target.SENDER, "policy", r"your (?:access|ip)\b|remote ip\b"),
    # A filter that knew more of the sender has said so above: this is about content, where there was some.
    _row(Target.MESSAGE, "spam", r"(?:anti-)?spam\b|content\b|message filtered|ph\d\d\]|ofr_506\b"),
    _row(Target.SENDER, "policy", r"policy|blocked|whitelist|sender rejected"),
    _row(Target.RECIPIENT, "no such address", r"^5.* recipient address rejected:"),
    # No word that is known: RFC 3463 and IANA's registry of enhanced status codes. 5.7 is security and
    # policy; 4.7 is often just a filter out of order.
    _row(Target.SENDER, "SPF, DKIM or DMARC", r"^\d+ \d\.7\.2[0-4679]\b"),
    _row(Target.SENDER, "reverse DNS", r"^\d+ \d\.7\.25\b"),
    _row(Target.SENDER, "policy", r"^\d+ #?5\.7\.\d"),
    _row(Target.RECIPIENT, "no such address", r"^\d+ 5\.1\.(?:[1236]|10)\b"),
)


def classify(reply: Reply, command: str) -> Refusal:
    """Return whom a reply refuses; ``command`` is what it answers, "" before MAIL (``Attempt.command``).

    A positive or intermediate reply is OTHER.
    """
    if not 400 <= reply.code < 600:
        return _OTHER
    words = f"{reply.code} {reply.enhanced} {reply.text[:LONGEST_TEXT]}".lower().split()
    # Addresses go: what people are called says nothing.
    line = " ".join(word for word in words if "@" not in word)
    for pattern, refusal in _ROWS:
        if pattern.search(line):
            # Who speaks of spam before there was content means us.
            return _REPUTATION if refusal == _SPAM and command != "end of DATA" else refusal
    # A server that does not even greet us has seen no message and no recipient (RFC 5321 section 3.1).
    return _POLICY if reply.is_permanent and not command else _OTHER
