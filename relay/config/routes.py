"""Where mail may go: ``[smarthost.NAME]``, ``[transport]`` and ``relayhost``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from relay.config.model import Smarthost
from relay.config.problems import suggest
from relay.config.sections import Section
from relay.config.values import (
    KEY_DOMAIN,
    count_from,
    one_of,
    parse_flag,
    parse_host,
    parse_ip,
    parse_local_part,
    parse_port,
    parse_text,
)
from relay.mail.address import fold
from relay.mail.reply import Reply
from relay.mail.route import ByMx, Discard, NextHop, Refuse, TransportEntry, Via

Smarthosts = Mapping[str, Smarthost]

_RESERVED_NAMES = ("mx", "discard", "error")
_SMARTHOST_NAME = re.compile(r"[A-Za-z0-9_-]+")
_POSTFIX_TRANSPORT = re.compile(r"(?:smtp|relay|lmtp|local|virtual):(?!\d+$)")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?:(:)(.*))?")
_STATUS = re.compile(r"[245](\.\d{1,3}\.\d{1,3})(?:\s+|$)", re.ASCII)


def read_smarthosts(section: Section) -> Smarthosts:
    """Return the ``[smarthost.NAME]`` tables by name."""
    smarthosts = {}
    for name, _ in section.own_keys(_parse_smarthost_name):
        table = section.table(name)
        smarthosts[name] = Smarthost(
            host=table.require("host", parse_host) or "",
            port=table.read("port", count_from(1, 65535), 25),
            tls=table.read("tls", one_of("opportunistic", "none"), "opportunistic"),
        )
        table.reject_unknown()
    return MappingProxyType(smarthosts)


def read_transport(section: Section, smarthosts: Smarthosts) -> Mapping[str, TransportEntry]:
    """Return the transport table under folded keys (transport(5))."""

    def parse_value(value: object) -> Via:
        return _parse_via(parse_text(value), smarthosts)

    entries = {}
    for written, key in section.own_keys(_parse_transport_key):
        is_internal = False
        if section.has_table(written):
            table = section.table(written)
            via = table.require("via", parse_value)
            is_internal = table.read("internal", parse_flag, False)
            table.reject_unknown()
        else:
            via = section.require(written, parse_value)
        if via is not None:
            entries[key] = TransportEntry(via, is_internal)
    return MappingProxyType(entries)


def parse_relayhost(smarthosts: Smarthosts) -> Callable[[object], NextHop]:
    """Return the parser of ``relayhost``."""

    def parse(value: object) -> NextHop:
        return _parse_next_hop(parse_text(value), smarthosts, keywords=(), is_relayhost=True)

    return parse


def _parse_smarthost_name(name: str) -> str:
    if name in _RESERVED_NAMES:
        raise ValueError(f'"{name}" has a meaning of its own in [transport]; choose another name')
    if not _SMARTHOST_NAME.fullmatch(name):
        raise ValueError("the name of a smarthost has letters, digits, - and _ only")
    return name


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
    if text == "discard":
        return Discard()
    if text.startswith("error:"):
        return Refuse(_parse_refusal(text.removeprefix("error:").strip()))
    return _parse_next_hop(text, smarthosts, keywords=("mx", "discard", "error:"))


def _parse_refusal(text: str) -> Reply:
    """Return the reply of Postfix's error(8): the status is made permanent, and both parts may be missing."""
    if not text.isprintable():
        raise ValueError("the text behind error: must be one line of printable characters")
    status = _STATUS.match(text)
    enhanced = f"5{status[1]}" if status else "5.1.1"
    words = text[status.end() :] if status else text
    return Reply(550, enhanced, words or "Mail for this address is not accepted here")


def _parse_next_hop(
    text: str, smarthosts: Smarthosts, *, keywords: tuple[str, ...], is_relayhost: bool = False
) -> NextHop:
    if smarthost := smarthosts.get(text):
        return NextHop(smarthost.host, smarthost.port, tls=smarthost.tls, is_relayhost=is_relayhost)
    if prefix := _POSTFIX_TRANSPORT.match(text):
        raise ValueError(
            f'leave out "{prefix[0]}"; the host stands alone, as in "[192.168.0.9]" or "example.org"'
        )
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
