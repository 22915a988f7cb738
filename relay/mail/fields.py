"""Headers that hold addresses: taking them apart, exchanging addresses, putting them together again.

Nothing is refused and nothing is lost: what is no address by RFC 5322 is kept as it stands. The reading and
the layout are those of Postfix, so that the same addresses are found in odd headers and look the same after.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import NamedTuple

from relay.mail.address import complete, quote_address, quote_local
from relay.mail.mime import HEADER_SIZE_LIMIT

Rewrite = Callable[[str], tuple[str, str]]
"""From an internal address to the one that replaces it and its display name ("": keep what is there)."""

_ATOM, _QUOTED, _LITERAL, _COMMENT = "atom", "quoted", "literal", "comment"
_ADDRESS = "address"
_BARE = "bare"  # an address without "@"
_LOCAL = "local"  # one that not even "%" or "!" divides, unless in quotes
_ROUTED = "routed"  # an address that stood behind a source route
_GROUP = "group"  # the colon behind the name of a group
_NAME = "name"  # a display name from a table
_WORDS = frozenset({_ATOM, _QUOTED, _LITERAL})
_ADDRESSES = frozenset({_ADDRESS, _BARE, _LOCAL, _ROUTED})
_OPERANDS = _WORDS | _ADDRESSES | {_COMMENT, _NAME}
_ENDS_PHRASE = frozenset({">", ";", ",", ":", _GROUP})

_TOKEN = re.compile(
    r"""
      [ \t\r\n]++
    | (?P<comment>\()
    | "(?P<quoted>[^"\\]*+(?:\\.[^"\\]*+)*+)"?
    | \[(?P<literal>[^]\\]*+(?:\\.[^]\\]*+)*+)\]?
    | (?P<operator>[)<>@,;:.\]|%!])
    | (?P<atom>(?:[^ \t\r\n()<>@,;:.\]|%!"\[\\]++|\\.)++)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_PART = re.compile(r"\\.|[()]", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_NEEDS_QUOTES = re.compile(r'[\x00-\x20\x7f()<>@,;:.\[\]|%!"\\]')
_ODD_DOMAIN = re.compile(r'^(?!\[.*\]$).*[\x00-\x20\x7f()<>@,;:\[\]\\"]', re.DOTALL)
_NEEDS_ESCAPE = re.compile(r'([\r\n"\\])')
_PHRASE = re.compile(r"[\w!#$%&'*+/=?^`{|}~-]+(?: [\w!#$%&'*+/=?^`{|}~-]+)*", re.ASCII)
_LINE_LENGTH = 70
_WHOLE_ADDRESS = rb"""[^\s<>@,;:"()\[\]\\]++@[\w-]++(?:\.[\w-]++)*+"""
_WHOLE_MAILBOX = rb"""[ \t\r\n]*+(?:%b|[^<>@,;:"()\[\]\\]*+(?:"[^"\\]*+")?+[ \t\r\n]*+<%b>)?[ \t\r\n]*+""" % (
    (_WHOLE_ADDRESS,) * 2
)
_WHOLE_LIST = re.compile(rb"[^:]++:%b(?:,%b)*+" % ((_WHOLE_MAILBOX,) * 2))


class _Token(NamedTuple):
    kind: str
    """A name from above, or the operator itself."""
    text: str
    """Unquoted; of a comment as it stands."""


_COMMA = _Token(",", ",")


def rewrite_addresses(header: bytes, rewrite: Rewrite, domain: str = "") -> bytes:
    """Return an address header with each address replaced by what ``rewrite`` gives for it.

    With a ``domain``, incomplete addresses are completed first (``relay.mail.address.complete``). Where no
    address changes, the header itself is returned; else it is laid out anew. A header longer than
    HEADER_SIZE_LIMIT stays as it is, so that nobody can keep the relay busy with one.
    """
    if len(header) > HEADER_SIZE_LIMIT:
        return header
    name, _, _ = header.partition(b":")
    before = _parse(_value(header))
    after = _rewrite(before, rewrite, domain)
    return (
        header
        if after == before
        else _fold(name.rstrip() + b": " + _compose(after).encode("utf-8", "surrogateescape"))
    )


def find_addresses(header: bytes) -> list[str]:
    """Return the internal addresses in a header, however long it is; the null one is left out."""
    return [token.text for token in _parse(_value(header)) if token.kind in _ADDRESSES and token.text]


def is_complete(header: bytes) -> bool:
    """Return whether an address header is easily seen to hold whole addresses only: nothing to complete."""
    return _WHOLE_LIST.fullmatch(header) is not None


def _value(header: bytes) -> str:
    value = header.partition(b":")[2]
    return value.removesuffix(b"\r\n").decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def _scan(text: str) -> Iterator[_Token]:
    position = 0
    while match := _TOKEN.match(text, position):
        position = match.end()
        kind = match.lastgroup
        if kind is None:
            continue
        if kind == "operator":
            yield _Token(match[0], match[0])
        elif kind == _COMMENT:
            end = _find_end_of_comment(text, position)
            yield _Token(_COMMENT, text[position - 1 : end])
            position = end
        else:
            word = _ESCAPED.sub(r"\1", match[kind]) if "\\" in match[kind] else match[kind]
            if kind == _ATOM and _NEEDS_QUOTES.search(word):
                kind = _QUOTED
            word = word.replace("\n", " ")
            yield _Token(kind, f"[{word}]" if kind == _LITERAL else word)


def _find_end_of_comment(text: str, position: int) -> int:
    depth = 1
    for match in _COMMENT_PART.finditer(text, position):
        if match[0] == "(":
            depth += 1
        elif match[0] == ")":
            depth -= 1
            if not depth:
                return match.end()
    return len(text)


def _parse(text: str) -> list[_Token]:
    """Return the tokens of a header with those of each address made one, and missing commas put in.

    Read from right to left, because only what follows tells a phrase from an address. A comment moves
    behind the address that it stands in.
    """
    left = list(_scan(text))
    done: list[_Token] = []  # this and the next from right to left
    address: list[_Token] = []
    in_group = False
    takes_word = True  # whether a word would still belong to the address

    def end_address(*commas: _Token) -> None:
        if address:
            done.append(_join(address[::-1]))
            done.extend(commas)
            address.clear()

    while left:
        token = left.pop()
        kind = token.kind
        if kind == _COMMENT:
            done.append(token)
        elif kind in _WORDS:
            if not takes_word:
                end_address(_COMMA)
            address.append(token)
            takes_word = False
        elif kind == ">":
            end_address(_COMMA)
            done.append(token)
            while left and left[-1].kind != "<":
                (done if left[-1].kind == _COMMENT else address).append(left.pop())
            end_address()
            while left and left[-1].kind not in _ENDS_PHRASE:
                done.append(left.pop())
            if left and left[-1].kind == ":" and not in_group:
                done.append(left.pop())
            takes_word = True
        elif kind == ":" and in_group:
            end_address()
            done.append(_Token(_GROUP, ":"))
            while left and left[-1].kind != ",":
                done.append(left.pop())
        elif kind in {",", ";"}:
            end_address(*([_COMMA] if kind == ";" else []))
            done.append(token)
            in_group = in_group or kind == ";"
            takes_word = True
        else:
            address.append(token)
            takes_word = True
    end_address()
    return done[::-1]


def _join(tokens: list[_Token]) -> _Token:
    kinds = [token.kind for token in tokens]
    is_routed = kinds[0] == "@" and ":" in kinds[:-1]
    if is_routed:
        start = kinds.index(":") + 1
        tokens, kinds = tokens[start:], kinds[start:]
    address = "".join(token.text for token in tokens)
    if is_routed:
        return _Token(_ROUTED, address)
    if "@" in kinds:
        return _Token(_ADDRESS, address)
    return _Token(_LOCAL if {"%", "!"}.isdisjoint(kinds) else _BARE, address)


def _rewrite(tokens: list[_Token], rewrite: Rewrite, domain: str) -> list[_Token]:
    result: list[_Token] = []
    for token in tokens:
        if token.kind not in _ADDRESSES:
            result.append(token)
            continue
        address, name = rewrite(_complete(token, domain) if domain else token.text)
        is_same = address == token.text and token.kind != _ROUTED
        new = token if is_same else _Token(_ADDRESS, address)
        if name:
            _set_name(result, new, name)
        else:
            result.append(new)
    return result


def _complete(token: _Token, domain: str) -> str:
    if token.text and (token.kind == _LOCAL or (token.kind == _BARE and "@" in token.text)):
        return f"{token.text}@{domain}"  # what was quoted does not divide the address
    return complete(token.text, domain)


def _set_name(tokens: list[_Token], address: _Token, name: str) -> None:
    """Append an address with a display name, which replaces the phrase before it; comments stay."""
    if not tokens or tokens[-1].kind != "<":
        tokens += [_Token(_NAME, name), _Token("<", "<"), address, _Token(">", ">")]
        return
    start = len(tokens) - 1
    while start and tokens[start - 1].kind not in _ENDS_PHRASE:
        start -= 1
    phrase = tokens[start:-1]
    if " ".join(token.text for token in phrase) != name:
        comments = [token for token in phrase if token.kind == _COMMENT]
        tokens[start:-1] = [_Token(_NAME, name), *comments]
    tokens.append(address)


def _compose(tokens: list[_Token]) -> str:
    """Return the text of the tokens, with a line feed behind each comma."""
    parts = []
    for token, following in zip_longest(tokens, tokens[1:]):
        parts.append(_quote(token))
        if token.kind == ",":
            parts.append("\n")
        elif following is not None and (
            token.kind == _GROUP
            or following.kind == "<"
            or (token.kind in _OPERANDS and following.kind in _OPERANDS)
        ):
            parts.append(" ")
    return "".join(parts)


def _quote(token: _Token) -> str:
    kind, text = token
    if kind == _ADDRESS:
        local, at, domain = text.rpartition("@")
        if at and _ODD_DOMAIN.search(domain):  # it was quoted, and would be read as more than one word
            return f"{quote_local(local)}@{_quote_string(domain)}"
        return quote_address(text) or '""'
    if kind in {_BARE, _LOCAL}:
        return quote_local(text)
    if kind == _QUOTED:
        return _quote_string(text)
    if kind == _LITERAL:
        return text.replace("\\", "\\\\")
    return _quote_name(text) if kind == _NAME else text


def _quote_name(name: str) -> str:
    if not name.isascii():
        chunks = (name[i : i + 10].encode() for i in range(0, len(name), 10))  # at most 40 bytes of 45
        return " ".join(f"=?utf-8?b?{base64.b64encode(chunk).decode()}?=" for chunk in chunks)
    return name if _PHRASE.fullmatch(name) else _quote_string(name)


def _quote_string(text: str) -> str:
    return '"' + _NEEDS_ESCAPE.sub(r"\\\1", text) + '"'


def _fold(text: bytes) -> bytes:
    """Return a header ending in CRLF, as many of the text's lines joined as a line of the header takes."""
    result = bytearray()
    length = -1
    for line in text.split(b"\n"):
        length += 1 + len(line)
        if not result:
            result += line
        elif length < _LINE_LENGTH or not line:
            result += b" " + line
        else:
            result += b"\r\n" + line if line[:1] in b" \t" else b"\r\n\t" + line
            length = len(line)
    return bytes(result + b"\r\n")
