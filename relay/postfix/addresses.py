"""Rewriting of addresses: canonical and generic tables (canonical(5), generic(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import MappingProxyType

from relay.mail.address import fold
from relay.mail.rewrite import Canonical, Home
from relay.postfix.patterns import Rule
from relay.postfix.source import Source

Entries = dict[str, str]

_LITERAL = r"(?:[A-Za-z0-9_=-]|\\[.+-])+"
_ONE_ADDRESS = re.compile(rf"\^({_LITERAL})@({_LITERAL})\$")
_ONE_USER = re.compile(rf"\^({_LITERAL})@(?:\.[*+])?\$?")
_ONE_DOMAIN = re.compile(rf"(?:\^?(\()?\.[*+](\))?)?@({_LITERAL})\$")
_EVERYBODY = re.compile(r"\^?\(?\.[*+]\)?\$?|[@.]")
_KEEPS_USER = re.compile(r"\$(?:1|\{1\}|\(1\))@(.+)")
_COMMENT = re.compile(r"\s+#.*", re.DOTALL)


def translate_rewriting(source: Source, home: Home) -> None:
    """Put [sender_canonical], [recipient_canonical] and [rewrite] into the draft."""
    both = _read_table(source, "canonical_maps", home)
    senders = _read_table(source, "sender_canonical_maps", home) | {}
    recipients = _read_table(source, "recipient_canonical_maps", home)
    generic = _read_table(source, "smtp_generic_maps", home)
    for key, value in both.items():
        senders.setdefault(key, value)
        recipients.setdefault(key, value)
    _put_senders(source, senders, generic, home)
    if recipients:
        source.draft.put(recipients, "recipient_canonical")


def _put_senders(source: Source, senders: Entries, generic: Entries, home: Home) -> None:
    draft = source.draft
    if generic and senders:
        entries = {key: _then(value, generic, home) for key, value in senders.items()} | {
            key: value for key, value in generic.items() if key not in senders
        }
        draft.remark(
            "sender_canonical_maps and smtp_generic_maps in one: it acts on what leaves for the outside.",
            "sender_canonical",
        )
    else:
        entries = senders or generic
    if not entries:
        return
    draft.put(entries, "sender_canonical")
    draft.put("external" if generic else "all", "rewrite", "scope")
    draft.remark(
        "From smtp_generic_maps: in the copies that leave for the outside."
        if generic
        else 'From sender_canonical_maps: in every copy. "external" would spare the mail of the house.',
        "rewrite",
    )


def _then(address: str, generic: Entries, home: Home) -> str:
    """Return what generic entries make of the outcome of a canonical entry."""
    if address.startswith("@"):
        return generic.get(address.lower(), address)
    table = Canonical(MappingProxyType({fold(key): (value, "") for key, value in generic.items()}))
    return table.rewrite_once(address if "@" in address else f"{address}@{home.domain}", home)[0]


def _read_table(source: Source, name: str, home: Home) -> Entries:
    entries: Entries = {}
    for key, value in source.entries(name).items():
        kept = _COMMENT.sub("", value)
        if kept != value:
            source.draft.lack(
                f"{name}: {key} {value}", f"a comment has a line of its own; only {kept} is taken"
            )
        entries[key] = kept
    for rule in source.rules(name):
        found = dict(_entries_of(rule, home))
        if not found:
            reason = (
                rule.reason or "the relay rewrites addresses, users and domains that are named, no patterns"
            )
            source.draft.lack(f"{rule.place}: {rule.result}", reason)
        for key, value in found.items():
            entries.setdefault(key, value)
        if len(found) > 1:
            source.draft.remark(
                f"A rule for everybody ({rule.place}) became one for each domain of ours.",
                "recipient_canonical" if name.startswith("recipient") else "sender_canonical",
            )
    return entries


def _entries_of(rule: Rule, home: Home) -> Iterator[tuple[str, str]]:
    """Yield entries that do what a rule does, where there are such."""
    if rule.pattern is None or rule.pattern.is_negated or rule.conditions:
        return
    text, result = rule.pattern.text, rule.result
    keeps_user = _KEEPS_USER.fullmatch(result)
    if "$" in result and not keeps_user:
        return
    if domain := _ONE_DOMAIN.fullmatch(text):
        if not keeps_user or (domain[1] and domain[2]):
            yield f"@{_plain(domain[3])}", f"@{keeps_user[1]}" if keeps_user else result
    elif keeps_user:
        return
    elif address := _ONE_ADDRESS.fullmatch(text):
        yield f"{_plain(address[1])}@{_plain(address[2])}", result
    elif user := _ONE_USER.fullmatch(text):
        yield _plain(user[1]), result
    elif _EVERYBODY.fullmatch(text):
        for name in sorted({*home.local_domains, home.domain}):
            yield f"@{name}", result


def _plain(literal: str) -> str:
    return literal.replace("\\", "").lower()
