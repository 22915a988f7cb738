"""Single values of relay.toml: durations, sizes, names, addresses, networks.

Each parser takes what TOML gives and returns the value that the program uses, or raises ValueError with words
for the owner of the file. Host names are returned in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar

from relay.config.model import Network
from relay.mail.address import fold, unquote_local
from relay.mail.route import Rate

Word = TypeVar("Word", bound=str)

KEY_DOMAIN = re.compile(r'[^\x00-\x20\x7f@"<>(),;\\]+')
"""What may stand behind the "@" of a key: also a literal, or a domain beyond ASCII as SMTPUTF8 writes it."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE_SECONDS = {"s": 1, "min": 60, "hour": 3600, "day": 86400}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
_RATE = re.compile(r"(\d{1,9})/(s|min|hour|day)", re.ASCII)
_SIZE = re.compile(r"(\d{1,12}) ?([KMG]I?B|B)", re.ASCII | re.IGNORECASE)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LOCAL_PART = re.compile(r'[^\x00-\x20\x7f()<>@,;:\\"\[\]]+|"(?:[^"\\\r\n]|\\.)*"')
_DISPLAY = re.compile(r"(?P<name>.*?)\s*<(?P<address>[^<>]*)>", re.DOTALL)
_LITERAL = re.compile(r"\[[A-Za-z0-9.:]+\]")
_PORT = re.compile(r"\d{1,5}", re.ASCII)


def parse_text(value: object) -> str:
    """Return text as it stands; empty text is refused."""
    text = _require_text(value, "text in quotes")
    if not text:
        raise ValueError("must not be empty")
    return text


def parse_flag(value: object) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, without quotes, not {describe(value)}")
    return value


def one_of(*words: Word) -> Callable[[object], Word]:
    """Return a parser that accepts these words only."""
    *others, last = (f'"{word}"' for word in words)
    wanted = f"{', '.join(others)} or {last}" if others else last

    def parse(value: object) -> Word:
        text = _require_text(value, wanted)
        for word in words:
            if word == text:
                return word
        raise ValueError(f'must be {wanted}, not "{text}"')

    return parse


def count_from(minimum: int, maximum: int | None = None) -> Callable[[object], int]:
    """Return a parser of whole numbers within bounds."""
    bounds = f"{minimum} or more" if maximum is None else f"from {minimum} to {maximum}"

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number without quotes, not {describe(value)}")
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"must be {bounds}, not {value}")
        return value

    return parse


def parse_duration(value: object) -> float:
    """Return the seconds of "500ms", "30s", "5m", "4h" or "5d"."""
    text = _require_text(value, 'a duration in quotes, such as "30s", "5m", "4h" or "5d"')
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a duration; write for example "30s", "5m", "4h" or "5d"')
    number, unit = match.groups()
    return int(number) / 1000 if unit == "ms" else int(number) * _SECONDS[unit]


def parse_positive_duration(value: object) -> float:
    """Return the seconds of a duration that is more than none."""
    seconds = parse_duration(value)
    if not seconds:
        raise ValueError(f'"{value}" is too short')
    return seconds


def format_duration(seconds: float) -> str:
    """Return the shortest text from which ``parse_duration`` makes these seconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds % 1000:
        return f"{milliseconds}ms"
    whole = milliseconds // 1000
    unit = next((unit for unit in ("d", "h", "m") if whole and whole % _SECONDS[unit] == 0), "s")
    return f"{whole // round(_SECONDS[unit])}{unit}"


def parse_rate(value: object) -> Rate:
    """Return the rate of "30/min" or "1/s"; none at all is refused."""
    text = _require_text(value, 'a rate in quotes, such as "30/min"')
    match = _RATE.fullmatch(text)
    if match is None or not int(match[1]):
        raise ValueError(
            f'"{text}" is not a rate; write for example "1/s", "30/min", "100/hour" or "500/day"'
        )
    return Rate(int(match[1]), _RATE_SECONDS[match[2]])


def format_rate(rate: Rate) -> str:
    """Return the text from which ``parse_rate`` makes this rate."""
    unit = next(unit for unit, seconds in _RATE_SECONDS.items() if seconds == rate.seconds)
    return f"{rate.messages}/{unit}"


def parse_size(value: object) -> int:
    """Return the bytes of "25MB" (millions), "25 MiB" (powers of two) or a plain number; none is refused."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        text = _require_text(value, 'a size in quotes, such as "25MB" or "25 MiB"')
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError(f'"{text}" is not a size; write for example "25MB" or "25 MiB"')
        size = int(match[1]) * _BYTES[match[2].upper()]
    if size <= 0:
        raise ValueError("must be more than nothing")
    return size


def format_size(size: int) -> str:
    """Return the shortest text from which ``parse_size`` makes this number of bytes."""
    units = {"GB": "GB", "MB": "MB", "KB": "KB", "GIB": "GiB", "MIB": "MiB", "KIB": "KiB"}
    unit = next((unit for unit in units if size % _BYTES[unit] == 0), "B")
    return f"{size // _BYTES[unit]}{units.get(unit, unit)}"


def parse_path(value: object) -> Path:
    """Return a path of the file system."""
    text = parse_text(value)
    if not text.isprintable():
        raise ValueError("must be a path of printable characters")
    return Path(text)


def parse_domain(value: object) -> str:
    """Return a domain or host name in lower case; one label is enough."""
    text = _require_text(value, "a name in quotes")
    name = text.lower()
    labels = name.split(".")
    if all(map(_LABEL.fullmatch, labels)) and len(name) <= 253 and not labels[-1].isdigit():
        return name
    if not text.isascii() and (ascii_form := _encode_idna(name)):
        raise ValueError(f'"{text}" has letters beyond ASCII; write its ASCII form "{ascii_form}"')
    raise ValueError(f'"{text}" is not a host or domain name such as "mail.example.org"')


def parse_host(value: object) -> str:
    """Return a host name in lower case, or an IP address without brackets."""
    text = _require_text(value, "a host name or an IP address in quotes")
    try:
        return str(ip_address(text))
    except ValueError:
        return parse_domain(text)


def parse_ip(text: str) -> str:
    """Return an IPv4 address, or an IPv6 address that stands in brackets; "" for anything else."""
    is_bracketed = text.startswith("[") and text.endswith("]")
    try:
        address = ip_address(text[1:-1] if is_bracketed else text)
    except ValueError:
        return ""
    return str(address) if is_bracketed == (address.version == 6) else ""


def parse_port(text: str) -> int:
    """Return the number of a TCP port."""
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise ValueError(f'"{text}" is not a port, a number from 1 to 65535')
    return int(text)


def parse_listen_address(value: object) -> tuple[str, int]:
    """Return IP address and port of "0.0.0.0:25" or "[::]:25"; port 0 takes one that is free."""
    text = _require_text(value, 'an address and a port in quotes, such as "0.0.0.0:25"')
    host, colon, port = text.rpartition(":")
    if not colon or not (address := parse_ip(host)):
        raise ValueError(f'"{text}" is not an IP address and a port, such as "0.0.0.0:25" or "[::]:25"')
    return address, 0 if port == "0" else parse_port(port)


def parse_nameserver(value: object) -> tuple[str, int]:
    """Return IP address and port of "192.168.0.1", "127.0.0.1:5353", "fd00::1" or "[fd00::1]:53"."""
    text = _require_text(value, 'an IP address in quotes, such as "192.168.0.1"')
    if address := parse_ip(text) or parse_ip(f"[{text}]"):
        return address, 53
    host, colon, port = text.rpartition(":")
    if not colon or not (address := parse_ip(host)):
        raise ValueError(f'"{text}" is not an IP address, such as "192.168.0.1" or "127.0.0.1:5353"')
    return address, parse_port(port)


def parse_network(value: object) -> Network:
    """Return the network of "192.168.0.0/24" or of one of its hosts, "192.168.0.7/24"."""
    text = _require_text(value, 'a network in quotes, such as "192.168.0.0/24"')
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not a network, such as "192.168.0.0/24" or "fd00::/8"') from None


def parse_mail_address(value: object) -> str:
    """Return the internal form of a full address, in the case that it is written in."""
    text = _require_text(value, "a mail address in quotes")
    local, at, domain = text.rpartition("@")
    if not at or not domain:
        raise ValueError(f'"{text}" is not a full mail address such as "chris@example.org"')
    check_mail_domain(domain)
    return f"{parse_local_part(local)}@{domain}"


def check_mail_domain(text: str) -> None:
    """Raise ValueError if this can't stand behind the "@" of an address."""
    if not _LITERAL.fullmatch(text):
        parse_domain(text)


def parse_address_key(key: str, refusal: str) -> str:
    """Return the folded key of a table of addresses: "user@domain", "user" or "@domain".

    Raises ValueError, with the text of ``refusal`` where it is none of these.
    """
    local, at, domain = key.rpartition("@")
    if at and KEY_DOMAIN.fullmatch(domain) and domain[0] != ".":
        return fold(f"{parse_local_part(local)}@{domain}" if local else key)
    if not at and not key.startswith((".", "*")) and key:
        return fold(parse_local_part(key))
    raise ValueError(refusal)


def parse_named_address(text: str) -> tuple[str, str]:
    """Return the address and the display name, or "", of ``Name <address>``; the address is not looked at."""
    display = _DISPLAY.fullmatch(text)
    if display is None:
        return text, ""
    name = unquote_local(display["name"])
    if not name.isprintable():
        raise ValueError("a display name must be one line of printable characters")
    return display["address"], name


def parse_replacement(text: str, key: str) -> str:
    """Return what stands in the place of the addresses of a key: an address, a local part, or ``@domain``."""
    if text.startswith("@"):
        if not key.startswith("@"):
            raise ValueError(f'"{text}" keeps the local part, which only a key such as "@example.org" can do')
        check_mail_domain(text[1:])
        return text
    return parse_mail_address(text) if "@" in text else parse_local_part(text)


def parse_local_part(text: str) -> str:
    """Return the internal form of what stands before the "@", quoted or not."""
    if not _LOCAL_PART.fullmatch(text):
        raise ValueError(
            f'"{text}" can\'t stand before the "@" of an address; odd characters need double quotes'
            if text
            else 'the address has nothing before its "@"'
        )
    local = unquote_local(text)
    if not local:
        raise ValueError('the address has nothing before its "@"')
    return local


def describe(value: object) -> str:
    """Return what a TOML value is, in a home user's words."""
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number with a point"),
        (str, "text"),
        (list, "a list"),
        (dict, "a table"),
    )
    return next((words for kind, words in kinds if isinstance(value, kind)), "a date or time")


def _require_text(value: object, wanted: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be {wanted}, not {describe(value)}")
    return value


def _encode_idna(name: str) -> str:
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return ""
