"""Addresses as strings: dividing, quoting, folding and completing them.

The *internal* form (see ``relay.mail.envelope``) has its local part unquoted, and its last "@" divides it.
The *external* form is what commands and headers show: there the local part is quoted where RFC 5321
section 4.1.2 asks for it. "" is the null address in both.
"""

from __future__ import annotations

import re

_DOT_STRING = re.compile(r'[^\x00-\x20\x7f()<>@,;:\\"\[\].]+(?:\.[^\x00-\x20\x7f()<>@,;:\\"\[\].]+)*')
_NEEDS_ESCAPE = re.compile(r'([\r\n"\\])')
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def split_address(address: str) -> tuple[str, str]:
    """Return local part and domain of an internal address; the domain is "" where there is none."""
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (address, "")


def join_address(local: str, domain: str) -> str:
    """Return the internal address of a local part and a domain, which may be ""."""
    return f"{local}@{domain}" if domain else local


def quote_local(local: str) -> str:
    """Return the external form of a local part: unchanged if it is a dot-string, else a quoted string.

    Characters beyond ASCII need no quotes.
    """
    if _DOT_STRING.fullmatch(local):
        return local
    return '"' + _NEEDS_ESCAPE.sub(r"\\\1", local) + '"'


def unquote_local(text: str) -> str:
    """Return the internal form of a local part: quotes around it and backslashes in it are taken off."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def quote_address(address: str) -> str:
    """Return the external form of an internal address, without angle brackets; "" stays ""."""
    if not address:
        return ""
    local, at, domain = address.rpartition("@")
    return quote_local(local) + at + domain if at else quote_local(address)


def unquote_address(text: str) -> str:
    """Return the internal form of an external address (no angle brackets); its last "@" divides it.

    ``"a b"@c`` becomes ``a b@c``. Nothing is refused: what is not quoted correctly is taken as it stands.
    """
    local, at, domain = text.rpartition("@")
    if not at or domain.endswith('"'):
        return unquote_local(text)
    return unquote_local(local) + at + domain


def fold(address: str) -> str:
    """Return the form under which an address or a key is looked up in a table: case does not count."""
    return address.casefold()


def complete(address: str, domain: str) -> str:
    """Return an internal address as Postfix makes it whole on arrival (trivial-rewrite(8)).

    Without "@", ``host!user`` becomes ``user@host``, ``user%host`` becomes ``user@host``, and anything else
    gets "@domain". A trailing dot of the domain is dropped, a lone "@" is the null address.
    """
    if address and "@" not in address:
        host, bang, user = address.partition("!")
        if not bang:
            user, percent, host = address.rpartition("%")
            if not percent:
                user, host = address, domain
        address = f"{user}@{host}"
    if address in {"", "@"}:
        return ""
    has_final_dot = address[-1] == "." and address[-2] not in ".@"
    return address[:-1] if has_final_dot else address
