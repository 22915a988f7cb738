"""The path of a MAIL or RCPT command: finding the one address in it, as leniently as Postfix does.

Display names, comments, source routes, groups of one, missing and doubled angle brackets pass. Nothing passes
that could not be delivered, or that would mean two addresses.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv6Address

from relay.mail.address import complete, split_address

LONGEST_ADDRESS = 2030
"""Characters. A longer one does not fit into a command of 2048 bytes (postconf(5), line_length_limit)."""
LONGEST_DOMAIN = 255
"""Characters (RFC 5321 section 4.5.3.1.2)."""

_TOKEN = re.compile(
    r"""
      \s++
    | (?P<comment>\()
    | (?P<mark>[<>@,;:.])
    | "(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)"
    | (?P<word>\[[^]\\]*+(?:\\.[^]\\]*+)*+\]|(?:[^\s<>@,;:."\[(\\]++|\\.)++)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_COMMENT_EDGE = re.compile(r"\\.|[()]", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SHAPE = re.compile(
    r"""
    [,;]*+
    (?P<bracket>[w@.]*+<++)?+     # display name
    [,;]*+
    (?:w:(?=.*;))?+               # name of a group
    (?:@[w@.,]*+:)*+              # source route (RFC 5321 appendix C)
    (?P<address>(?:w(?!w)|[@.:])*+)
    (?(bracket)[,;]*+>)
    [>,;]*+
    """,
    re.VERBOSE,
)
"""A path with each word written as ``w`` and each mark as itself."""
# What nearly all paths look like: they need no scan.
_SIMPLE_PATH = re.compile(r"<([0-9A-Za-z_+=/][-.0-9A-Za-z_+=/]*@[0-9A-Za-z.-]*[A-Za-z])>")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]|[^\S ]")
"""What no command can carry, quoted or not: control characters, and white space beyond the blank."""
_LABEL = r"(?!-)[-0-9A-Za-z_\x80-\U0010ffff]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"(?![0-9.-]*\Z){_LABEL}(?:\.{_LABEL})*")
_OCTET = r"0*(?:\d|[1-9]\d|1\d\d|2[0-4]\d|25[0-5])"
_IPV4_LITERAL = re.compile(rf"\[{_OCTET}(?:\.{_OCTET}){{3}}\]", re.ASCII)


def parse_path(text: str, *, is_smtputf8: bool) -> str | None:
    """Return the internal form of the address in a path, "" for the null one, None where it is no address.

    Without ``is_smtputf8`` its domain must be ASCII.
    """
    simple = _SIMPLE_PATH.fullmatch(text)
    address = simple[1] if simple else _find_address(text)
    return address if not address or _is_usable(address, is_smtputf8) else None


def is_domain(text: str) -> bool:
    """Whether mail can be for this domain: a host name that is not a number, or an address literal."""
    if text.startswith("["):
        return bool(_IPV4_LITERAL.fullmatch(text)) or _is_ipv6_literal(text)
    return len(text) <= LONGEST_DOMAIN and bool(_HOST_NAME.fullmatch(text))


def _find_address(text: str) -> str | None:
    tokens = _scan(text)
    if tokens is None:
        return None
    match = _SHAPE.fullmatch("".join(kind for kind, _ in tokens))
    if match is None:
        return None
    return "".join(word for _, word in tokens[match.start("address") : match.end("address")])


def _scan(text: str) -> list[tuple[str, str]] | None:
    """Return (``w``, unquoted word) and (mark, mark) without comments; None where something is left open."""
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        kind = match.lastgroup
        if kind == "comment":
            position = _end_of_comment(text, position)
        elif kind == "mark":
            tokens.append((match[0], match[0]))
        elif kind:
            tokens.append(("w", _ESCAPED.sub(r"\1", match[kind])))
    return tokens if position == len(text) else None


def _end_of_comment(text: str, position: int) -> int:
    """Return where a comment opened before ``position`` ends; beyond the text where it never does."""
    depth = 1
    for match in _COMMENT_EDGE.finditer(text, position):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    return len(text) + 1


def _is_usable(address: str, is_smtputf8: bool) -> bool:
    """Whether an address can be given to other servers and programs, once it is complete."""
    if len(address) > LONGEST_ADDRESS or address[0] == "-" or _CONTROL.search(address):
        return False
    _, domain = split_address(complete(address, "localhost"))
    return (is_smtputf8 or domain.isascii()) and is_domain(domain)


def _is_ipv6_literal(text: str) -> bool:
    if not (text[:6].upper() == "[IPV6:" and text.endswith("]")):
        return False
    try:
        return IPv6Address(text[6:-1]).scope_id is None
    except AddressValueError:
        return False
