"""Where mail may go: ``[transport]``, ``relayhost`` and ``[sender_relayhost]``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from relay.config.problems import suggest
from relay.config.sections import Section
from relay.config.smarthosts import Smarthosts, next_hop_of
from relay.config.values import (
    KEY_DOMAIN,
    one_of,
    parse_address_key,
    parse_flag,
    parse_host,
    parse_ip,
    parse_local_part,
    parse_port,
    parse_text,
)
from relay.mail.address import fold
from relay.mail.reply import Reply
from relay.mail.route import ByLocal, ByMx, Discard, NextHop, Refuse, Tls, TransportEntry, Via

_SMTP_PORT = 25
_TLS: Mapping[str, Tls] = MappingProxyType(
    {
        "verify": "starttls",
        "starttls": "starttls",
        "implicit": "implicit",
        "opportunistic": "opportunistic",
        "none": "none",
    }
)
_POSTFIX_TRANSPORT = re.compile(r"(?:smtp|relay|lmtp|local|virtual):(?!\d+$)")
_NO_NEXT_HOP = re.compile(r"(?:error|retry|discard):")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?:(:)(.*))?")
_STATUS = re.compile(r"[245](\.\d{1,3}\.\d{1,3})(?:\s+|$)", re.ASCII)


def read_transport(
    section: Section, smarthosts: Smarthosts, local_domains: frozenset[str]
) -> Mapping[str, TransportEntry]:
    """Return the transport table under folded keys (transport(5)); ``local_domains`` are folded too."""

    def parse_value(value: object) -> Via:
        return _parse_via(parse_text(value), smarthosts)

    entries = {}
    for written, key in section.own_keys(_parse_transport_key):
        is_internal = False
        if section.has_table(written):
            table = section.table(written)
            via = table.require("via", parse_value)
            is_internal = table.read("internal", parse_flag, False)
            via = _read_tls(table, via)
            table.reject_unknown()
        else:
            via = section.require(written, parse_value)
        if via is not None:
            entries[key] = TransportEntry(via, is_internal)
        if isinstance(via, ByLocal) and key.rpartition("@")[2] not in local_domains:
            section.reject('is "local", but this is none of the domains under [local]', written)
    return MappingProxyType(entries)


def _read_tls(table: Section, via: Via | None) -> Via | None:
    """Return a way with the TLS that its entry demands."""
    tls = _TLS.get(table.read("tls", one_of(*_TLS), ""))
    if tls is None or via is None:
        return via
    if not isinstance(via, ByMx | NextHop):
        table.reject('is of use only where mail goes to another server: via "mx" or a host', "tls")
    elif isinstance(via, NextHop) and via.smarthost:
        table.reject(f"belongs into [smarthost.{via.smarthost}], for all mail that goes there", "tls")
    elif tls == "implicit" and (isinstance(via, ByMx) or via.port == _SMTP_PORT):
        table.reject('"implicit" needs a host with its port, as in "[mail.example.org]:465"', "tls")
    else:
        return replace(via, tls=tls)
    return via


def parse_relayhost(smarthosts: Smarthosts) -> Callable[[object], NextHop]:
    """Return the parser of ``relayhost`` and of the values of ``[sender_relayhost]``."""

    def parse(value: object) -> NextHop:
        return _parse_next_hop(parse_text(value), smarthosts, keywords=(), is_relayhost=True)

    return parse


def read_sender_relayhost(section: Section, smarthosts: Smarthosts) -> Mapping[str, NextHop]:
    """Return the next hops of senders under folded keys (sender_dependent_relayhost_maps, postconf(5))."""
    entries = {}
    for written, key in section.own_keys(_parse_sender_key):
        if hop := section.require(written, parse_relayhost(smarthosts)):
            entries[key] = hop
    return MappingProxyType(entries)


def _parse_sender_key(key: str) -> str:
    wanted = 'matches no sender; a key is "user@domain" or "@domain"'
    if "@" not in key:
        raise ValueError(wanted)
    return parse_address_key(key, wanted)


def _parse_transport_key(key: str) -> str:
    if key == "*":
        return key
    local, at, domain = key.rpartition("@")
    if at:
        if local and KEY_DOMAIN.fullmatch(domain) and domain[0] != ".":
            return fold(f"{parse_local_part(local)}@{domain}")
    elif KEY_DOMAIN.fullmatch(key.removeprefix(".")) and not key.startswith("*") and not key.endswith("."):
        return fold(key)
    raise ValueError('matches no recipient; a key is "user@domain", "domain", ".domain" or "*"')


def _parse_via(text: str, smarthosts: Smarthosts) -> Via:
    if text == "mx":
        return ByMx()
    if text == "local":
        return ByLocal()
    if text == "discard":
        return Discard()
    if text.startswith("error:"):
        return parse_refusal(text)
    return _parse_next_hop(text, smarthosts, keywords=("mx", "local", "discard", "error:"))


def parse_refusal(value: str) -> Refuse:
    """Return the refusal of "error:STATUS TEXT", as Postfix's error(8) has it.

    The status is made permanent; both parts may be missing.
    """
    text = value.removeprefix("error:").strip()
    if not text.isprintable():
        raise ValueError("the text behind error: must be one line of printable characters")
    status = _STATUS.match(text)
    enhanced = f"5{status[1]}" if status else "5.1.1"
    words = text[status.end() :] if status else text
    return Refuse(Reply(550, enhanced, words or "Mail for this address is not accepted here"))


def _parse_next_hop(
    text: str, smarthosts: Smarthosts, *, keywords: tuple[str, ...], is_relayhost: bool = False
) -> NextHop:
    if smarthost := smarthosts.get(text):
        return next_hop_of(text, smarthost)
    if prefix := _POSTFIX_TRANSPORT.match(text):
        raise ValueError(
            f'leave out "{prefix[0]}"; the host stands alone, as in "[192.168.0.9]" or "example.org"'
        )
    if keyword := _NO_NEXT_HOP.match(text):
        raise ValueError(f'"{keyword[0]}" cannot stand here; name a host or a smarthost')
    if text.count("[") != text.count("]"):
        raise ValueError('a bracket is missing; it is written "[host]" or "[host]:port"')
    if address := parse_ip(text) or parse_ip(f"[{text}]"):
        return NextHop(address, is_relayhost=is_relayhost)
    host, colon, port = text.partition(":")
    if bracketed := _BRACKETED.fullmatch(text):
        host, colon, port = bracketed.groups("")
    elif not colon and "." not in host:
        hint = suggest(host, (*keywords, *smarthosts)) or f'; a host of that name is written "[{host}]"'
        raise ValueError(f"there is no [smarthost.{host}]{hint}")
    name = parse_host(host)
    return NextHop(
        name,
        parse_port(port) if colon else 25,
        use_mx=not bracketed and not parse_ip(name),
        is_relayhost=is_relayhost,
    )
