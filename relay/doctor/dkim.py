"""The DKIM keys in DNS: there, and those that the relay signs with."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from relay.config.model import Dkim
from relay.doctor.finding import Finding, Kind, Severity
from relay.mail.dkim import SigningKey
from relay.routing.lookup import Ask, State

_USELESS = (
    "Receivers can't verify the signatures: it is as if the mail had none, and much of it ends up as junk."
)
_SEE = "`relay dkim {domain}` prints it."

PUBLISHED = Kind(
    "dkim.published", Severity.OK, "{name} publishes the key that mail of {domain} is signed with"
)
MISSING = Kind(
    "dkim.missing",
    Severity.PROBLEM,
    "mail of {domain} is signed, but its key is not in DNS: there is no TXT record {name}",
    _USELESS,
    f"Add the record where the DNS of {{domain}} is managed: {_SEE} It may take an hour to show.",
)
MISPLACED = Kind(
    "dkim.misplaced",
    Severity.PROBLEM,
    "the key of {domain} stands in DNS under {found}, and not under {name}",
    _USELESS,
    'The form adds ".{domain}" by itself: give the record the name {short} there.',
)
SEVERAL = Kind(
    "dkim.several",
    Severity.PROBLEM,
    "{name} has {count} TXT records with keys; receivers take any one of them, or none",
    _USELESS,
    f"Leave only the right one: {_SEE}",
)
REVOKED = Kind(
    "dkim.revoked",
    Severity.PROBLEM,
    "{name} says that its key is revoked (p= is empty)",
    "Receivers take the signatures for wrong.",
    "Make a key under another name, `relay dkim {domain} --selector NEW`, and publish that.",
)
WRONG = Kind(
    "dkim.wrong",
    Severity.PROBLEM,
    "the TXT record {name} does not fit the key that mail of {domain} is signed with: {fault} ({record})",
    _USELESS,
    f"Put the right record into DNS: {_SEE}",
)
TESTING = Kind(
    "dkim.testing",
    Severity.WARNING,
    "{name} says that DKIM is only tried out (t=y)",
    "Receivers may treat the mail as if it had no signature.",
    "Take t=y out of the record, once mail arrives well.",
)
UNKNOWN = Kind(
    "dkim.unknown",
    Severity.WARNING,
    "the key of {domain} could not be looked up in DNS under {name}: {reason}",
    "Receivers that can't look it up either can't verify the signatures.",
    "Try again; if it stays, the name servers of {domain} are broken.",
)


async def check_key(domain: str, dkim: Dkim, ask: Ask) -> list[Finding]:
    """Judge what DNS says of the key of a domain (RFC 6376 section 3.6.1)."""
    short = f"{dkim.selector}._domainkey"
    name = f"{short}.{domain}"
    answer = await ask(name, "TXT")
    about: dict[str, Any] = {"domain": domain, "name": name}
    if answer.state is State.FAILED:
        return [UNKNOWN.found(reason=answer.reason, **about)]
    if answer.state is not State.FOUND:
        found = f"{name}.{domain}"
        doubled = await ask(found, "TXT")
        return [
            MISPLACED.found(found=found, short=short, **about) if doubled.records else MISSING.found(**about)
        ]
    records = [record for record in answer.records if _looks_like_a_key(record)] or answer.records
    if len(records) > 1:
        return [SEVERAL.found(count=len(records), **about)]
    tags = parse_tags(records[0])
    if tags.get("p") == "":
        return [REVOKED.found(**about)]
    if fault := find_fault(tags, dkim.key):
        return [WRONG.found(fault=fault, record=records[0], **about)]
    if "y" in _list(tags.get("t", "")):
        return [TESTING.found(**about)]
    return [PUBLISHED.found(**about)]


def parse_tags(record: str) -> dict[str, str]:
    """Return the tags of a record by name (RFC 6376 section 3.2); what is no tag is left out."""
    pairs = (part.partition("=") for part in record.split(";") if "=" in part)
    return {name.strip(): value.strip() for name, _, value in pairs}


def find_fault(tags: dict[str, str], key: SigningKey) -> str:
    """Return why receivers can't verify the signatures of a key by a record with these tags; else ""."""
    public = "".join(tags.get("p", "").split())
    if tags.get("v", "DKIM1") != "DKIM1" or not public:
        return "it is no key record"
    if tags.get("k", "rsa") != key.kind:
        return f"it says k={tags.get('k', 'rsa')}, and the key is of the kind {key.kind}"
    if "sha256" not in _list(tags.get("h", "sha256")):
        return "its h= leaves out sha256"
    if not {"*", "email"} & set(_list(tags.get("s", "*"))):
        return "its s= leaves out email"
    if public == key.public:
        return ""
    if key.public.startswith(public):
        return f"it is cut off after {len(public)} of {len(key.public)} characters of p="
    return "it has another key" if _is_base64(public) else "its p= is damaged"


def _looks_like_a_key(record: str) -> bool:
    return "p" in parse_tags(record)


def _list(value: str) -> Sequence[str]:
    """Return the words of a tag that holds several."""
    return [word.strip() for word in value.split(":")]


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except binascii.Error:
        return False
    return True
