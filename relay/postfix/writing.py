"""A draft as the text of relay.toml, with its comments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from relay.config.problems import KeyPath, format_path
from relay.config.writing import write_body, write_comment, write_pair
from relay.postfix.draft import Draft, Lack
from relay.texts import make_line

_TOP = {
    "hostname": "The relay's own name.",
    "helo_name": "The name that it gives to other servers.",
    "domain": "Completes addresses that have no domain (myorigin).",
    "postmaster": "Gets mail for root and other reserved names, and reports that reach nobody else.",
    "relayhost": "Where all mail goes that nothing below routes.",
    "fallback": "Where mail goes on when a site will not have it from here (smtp_fallback_relay).",
    "prefer": "Which addresses of a server are tried first (inet_protocols, smtp_address_preference).",
}
_TABLES = {
    "listen": "Where clients connect.",
    "access": "Who may send mail through this relay (mynetworks).",
    "tls": "The certificate that clients are shown.",
    "smarthost": "A server that takes mail for everywhere, and the account there.",
    "transport": "Routes for some recipients (transport_maps).",
    "sender_relayhost": "Smarthosts for some senders (sender_dependent_relayhost_maps).",
    "sender_canonical": "Addresses that are replaced by others.",
    "recipient_canonical": "Recipients that are replaced by others (recipient_canonical_maps).",
    "rewrite": "Where sender_canonical acts.",
    "header_checks": "A rule over headers; the first that matches a header decides.",
    "aliases": "Who gets the mail of an address instead (alias_maps, virtual_alias_maps).",
    "local": "The domains whose mail stays here, and the mailboxes.",
    "queue": "The queue.",
    "limits": "Limits for clients.",
}


def write_toml(draft: Draft, made_of: str) -> str:
    """Return the text; ``made_of`` is the folder that it was made of."""
    head = [
        f"Made by `relay import-postfix` from {made_of}.",
        "Try it with `relay check`; what each setting means stands in relay.toml.example.",
        *draft.remarks.get((), []),
    ]
    lines = [*write_comment(head), ""]
    for key, words in _TOP.items():
        if key in draft.document:
            lines += [
                *write_comment([words, *draft.remarks.get((key,), [])]),
                *write_pair(key, draft.document[key]),
                "",
            ]
    for key, words in _TABLES.items():
        value = draft.document.get(key)
        if isinstance(value, list):
            for place, block in enumerate(value):
                path: KeyPath = (key, place)
                lines += [
                    *write_comment([words if not place else "", *draft.remarks.get(path, [])]),
                    f"[[{key}]]",
                ]
                lines += [*_body(block), *_offers(draft, path), ""]
        elif key == "smarthost" and isinstance(value, dict):
            for name, table in value.items():
                path = (key, name)
                lines += [*write_comment([words, *draft.remarks.get(path, [])]), f"[{format_path(path)}]"]
                lines += [*_body(table), ""]
        elif isinstance(value, dict) or (key,) in draft.offers:
            lines += [*write_comment([words, *draft.remarks.get((key,), [])]), f"[{key}]"]
            lines += [*_body(value if isinstance(value, dict) else {}), *_offers(draft, (key,)), ""]
    return "\n".join([*lines, *_write_lacks(draft.lacks)]).rstrip() + "\n"


def _write_lacks(lacks: Iterable[Lack]) -> Iterator[str]:
    by_reason: dict[str, list[str]] = {}
    for what, reason in lacks:
        by_reason.setdefault(reason, []).append(what)
    if by_reason:
        yield "# What has no equivalent here, and why:"
    for reason, whats in by_reason.items():
        yield "#"
        yield from write_comment([f"{reason}:"])
        for what in whats:
            yield f"#   {make_line(what)}"


def _offers(draft: Draft, path: KeyPath) -> list[str]:
    return [f"#{make_line(line)}" for line in draft.offers.get(path, [])]


def _body(table: object) -> list[str]:
    return write_body(table) if isinstance(table, dict) else []
