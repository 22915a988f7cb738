"""Text that every room writes the same way."""

from __future__ import annotations

from ipaddress import ip_address


def make_plain(text: str) -> str:
    """Return what others wrote as one line of the same length, with nothing that a terminal could obey.

    White space becomes spaces, and what else cannot be shown a question mark.
    """
    if text.isprintable():
        return text
    return "".join(" " if c.isspace() else c if c.isprintable() else "?" for c in text)


def make_line(text: str, longest: int | None = None) -> str:
    """Return what others wrote as one plain line with single spaces, cut (" ...") to a length."""
    line = make_plain(" ".join(text.split()))
    return line if longest is None or len(line) <= longest else f"{line[: longest - 4]} ..."


def join_port(host: str, port: int) -> str:
    """Return an address and a port as one; IPv6 stands in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ip(text: str) -> bool:
    """Whether a text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
