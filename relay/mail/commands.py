"""SMTP commands: what a client asks for, or the Reply that tells a person what is wrong with it.

The syntax is as lax as that of Postfix's smtpd(8). Nothing here depends on the state of a session.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from relay.mail.envelope import Recipient
from relay.mail.path import is_domain, parse_path
from relay.mail.reply import Reply

LARGEST_SIZE = 10**18
"""Bytes. A SIZE parameter beyond is taken for this."""

_VERB = re.compile(rb"\s*+(\S*+)\s*+(.*)", re.DOTALL)
_FOREIGN_VERBS = frozenset({"CONNECT", "GET", "POST"})
_HEADER_NAME = re.compile(r"[^:]+:")
_WORD = re.compile(
    rb"""
    (?:
        [^\s<"\\]++
      | <(?:[^>"\\]++|\\.|"(?:[^"\\]++|\\.)*+")*+>
      | "(?:[^"\\]++|\\.)*+"
      | \\.
      | [<"\\].*+
    )++
    """,
    re.VERBOSE | re.DOTALL,
)
"""One word of a command: angle brackets and quotes hold blanks together, to the end where one stays open."""
_CHUNK = re.compile(rb"(\d{1,18})(\s+LAST)?", re.IGNORECASE)
_SIZE = re.compile(r"0*+([0-9]*+)")
_XTEXT = re.compile(r"(?:\+[0-9A-Fa-f]{2}|[!-*,-~])+")
_XTEXT_CODE = re.compile(r"\+(..)")
_ORCPT = re.compile(r"(?!utf-8;)[!-:<-~]+;(?:\+[0-9A-F]{2}|[!-*,-~\x80-\U0010ffff])*", re.IGNORECASE)
_ORCPT_UTF8 = re.compile(r"utf-8;(?:\\x\{[0-9A-F]{1,6}\}|[!-\[\]-~\x80-\U0010ffff])*", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^ -~]")
_QUOTED_LENGTH = 60

_BAD_MAIL = Reply(
    501,
    "5.5.4",
    "The sender is missing: it must be given as MAIL FROM:<anna@example.com>, with the address in <>.",
)
_BAD_RCPT = Reply(
    501,
    "5.5.4",
    "The recipient is missing: it must be given as RCPT TO:<anna@example.com>, with the address in <>.",
)
_BAD_VRFY = Reply(
    501, "5.5.4", "The address is missing: it must be given behind the command, as in VRFY anna@example.com."
)
_BAD_SENDER = Reply(
    501,
    "5.1.7",
    "The address of the sender is not an e-mail address. It must look like anna@example.com: "
    "please correct it in the account settings of the mail program.",
)
_BAD_RECIPIENT = Reply(
    501,
    "5.1.3",
    "The address of the recipient is not an e-mail address. It must look like anna@example.com: "
    "please correct it and send the message again.",
)
_BAD_BDAT = Reply(
    521,
    "5.5.4",
    "BDAT must be followed by the number of bytes to come, and by LAST at the end. The connection is closed.",
)
_BAD_SIZE = Reply(501, "5.5.4", "The mail program gave a message size that is not a number.")
_BINARY = Reply(501, "5.5.4", "This server takes no binary mail (BODY=BINARYMIME): send it as 8BITMIME.")
_BAD_ETRN = Reply(500, "5.5.4", "ETRN must be followed by one domain.")
_BAD_ETRN_DOMAIN = Reply(501, "5.5.4", "ETRN must be followed by a domain such as example.com.")
_NO_ETRN = Reply(459, "4.3.0", "This server retries waiting mail by itself: there is no need to ask for it.")


@dataclass(frozen=True, slots=True)
class Mail:
    """What a MAIL command says."""

    reverse_path: str
    """Internal form; "" is the null reverse-path."""
    size: int = 0
    """The SIZE parameter, bytes (RFC 1870); 0 where the client gave none."""
    ret: str = ""
    """FULL, HDRS or "" (RFC 3461 section 4.3)."""
    envid: str = ""
    """As given, in xtext (RFC 3461 section 4.4)."""
    is_8bitmime: bool = False
    is_smtputf8: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """What a BDAT command announces (RFC 3030 section 2)."""

    size: int
    """Bytes."""
    is_last: bool


def split_command(line: bytes) -> tuple[str, bytes]:
    """Return the verb of a command line in upper case ("" where there is none), and its argument.

    A NUL ends the line, as in Postfix.
    """
    match = _VERB.match(line.partition(b"\0")[0].rstrip())
    assert match
    return match[1].decode("utf-8", "surrogateescape").upper(), match[2]


def is_foreign(verb: str) -> bool:
    """Whether an unknown verb shows that the client does not speak SMTP: a mail header, HTTP, noise."""
    return verb in _FOREIGN_VERBS or not "A" <= verb[0] <= "Z" or bool(_HEADER_NAME.match(verb))


def parse_mail(argument: bytes) -> Mail | Reply:
    """Return what MAIL asks for, or why not. AUTH= (RFC 4954 section 5) is ignored."""
    path, *parameters = _split_words(argument, b"FROM:") or [""]
    if not path:
        return _BAD_MAIL
    is_smtputf8 = "SMTPUTF8" in map(str.upper, parameters)
    reverse_path = parse_path(path, is_smtputf8=is_smtputf8)
    if reverse_path is None:
        return _BAD_SENDER
    mail = Mail(reverse_path, is_smtputf8=is_smtputf8)
    for parameter in parameters:
        result = _add_to_mail(mail, parameter)
        if isinstance(result, Reply):
            return result
        mail = result
    return mail


def parse_rcpt(argument: bytes, *, is_smtputf8: bool = False) -> Recipient | Reply:
    """Return the recipient that RCPT names, or why not.

    ``is_smtputf8`` is what MAIL said: without it a domain must be ASCII.
    """
    path, *parameters = _split_words(argument, b"TO:") or [""]
    if not path:
        return _BAD_RCPT
    address = parse_path(path, is_smtputf8=is_smtputf8)
    if not address:
        return _BAD_RECIPIENT
    recipient = Recipient(address)
    for parameter in parameters:
        result = _add_to_recipient(recipient, parameter)
        if isinstance(result, Reply):
            return result
        recipient = result
    return recipient


def parse_vrfy(argument: bytes) -> Recipient | Reply:
    """Return the recipient that VRFY asks about, or why not."""
    path, *parameters = _split_words(argument, b"") or [""]
    if not path:
        return _BAD_VRFY
    is_smtputf8 = [*map(str.upper, parameters)] == ["SMTPUTF8"]
    address = parse_path(path, is_smtputf8=is_smtputf8)
    return Recipient(address) if address and (is_smtputf8 or not parameters) else _BAD_RECIPIENT


def parse_bdat(argument: bytes) -> Chunk | Reply:
    """Return the chunk that BDAT announces, or why not: then nobody knows where the next command starts."""
    match = _CHUNK.fullmatch(argument)
    return Chunk(int(match[1]), bool(match[2])) if match else _BAD_BDAT


def answer_etrn(argument: bytes) -> Reply:
    """Return the reply to ETRN (RFC 1985), which is always a refusal."""
    domains = argument.decode("utf-8", "surrogateescape").split()
    if len(domains) != 1:
        return _BAD_ETRN
    return _NO_ETRN if is_domain(domains[0].lstrip("@#")) else _BAD_ETRN_DOMAIN


def _split_words(argument: bytes, keyword: bytes) -> list[str]:
    """Return path and parameters behind a keyword, nothing where the keyword is missing."""
    if argument[: len(keyword)].upper() != keyword:
        return []
    return [word.decode("utf-8", "surrogateescape") for word in _WORD.findall(argument, len(keyword))]


def _add_to_mail(mail: Mail, parameter: str) -> Mail | Reply:
    keyword, equals, value = parameter.partition("=")
    match keyword.upper() + equals:
        case "SMTPUTF8" | "AUTH=":
            return mail
        case "SIZE=":
            return _add_size(mail, value)
        case "BODY=" if value.upper() in {"7BIT", "8BITMIME"}:
            return replace(mail, is_8bitmime=value.upper() == "8BITMIME")
        case "BODY=" if value.upper() == "BINARYMIME":
            return _BINARY
        case "RET=":
            is_good = not mail.ret and value.upper() in {"FULL", "HDRS"}
            return replace(mail, ret=value.upper()) if is_good else _refuse_value(parameter)
        case "ENVID=":
            is_good = not mail.envid and _is_printable_xtext(value)
            return replace(mail, envid=value) if is_good else _refuse_value(parameter)
    return _refuse_parameter(parameter)


def _add_size(mail: Mail, value: str) -> Mail | Reply:
    match = _SIZE.fullmatch(value)
    if not value or match is None:
        return _BAD_SIZE
    return replace(mail, size=int(match[1] or "0") if len(match[1]) <= 18 else LARGEST_SIZE)


def _add_to_recipient(recipient: Recipient, parameter: str) -> Recipient | Reply:
    keyword, equals, value = parameter.partition("=")
    match keyword.upper() + equals:
        case "NOTIFY=":
            wanted = [*dict.fromkeys(filter(None, value.upper().split(",")))]
            is_good = not recipient.notify and _is_notify(wanted)
            return replace(recipient, notify=",".join(wanted)) if is_good else _refuse_value(parameter)
        case "ORCPT=":
            is_good = not recipient.orcpt and bool(_ORCPT.fullmatch(value) or _ORCPT_UTF8.fullmatch(value))
            return replace(recipient, orcpt=value) if is_good else _refuse_value(parameter)
    return _refuse_parameter(parameter)


def _is_notify(wanted: list[str]) -> bool:
    return wanted == ["NEVER"] or (wanted != [] and {*wanted} <= {"SUCCESS", "FAILURE", "DELAY"})


def _is_printable_xtext(value: str) -> bool:
    codes = _XTEXT_CODE.findall(value)
    return bool(_XTEXT.fullmatch(value)) and all(32 <= int(code, 16) < 127 for code in codes)


def _refuse_parameter(parameter: str) -> Reply:
    return Reply(
        555,
        "5.5.4",
        f"The mail program asked for something that this server does not offer: {_quote(parameter)}",
    )


def _refuse_value(parameter: str) -> Reply:
    return Reply(
        501,
        "5.5.4",
        f"The mail program sent an option that makes no sense or came twice: {_quote(parameter)}",
    )


def _quote(text: str) -> str:
    """Return the start of a client's words, fit for a reply."""
    return _UNPRINTABLE.sub("?", text[:_QUOTED_LENGTH])
