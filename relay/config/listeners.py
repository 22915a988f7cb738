"""Where clients connect, and who may log in: ``[[listen]]``, ``[tls]`` and ``[users]``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from relay.config.model import Listen, ListenerTls
from relay.config.secret_values import refuse_hidden
from relay.config.sections import Section
from relay.config.values import one_of, parse_flag, parse_listen_address, parse_text
from relay.mail.passwords import parse_hash


def read_listeners(sections: list[Section], users: Mapping[str, str]) -> tuple[Listen, ...]:
    """Return the listening addresses; without any, the usual one."""
    listeners: list[Listen] = []
    for section in sections:
        listen = _read_listener(section)
        section.reject_unknown()
        is_taken = any((other.host, other.port) == (listen.host, listen.port) for other in listeners)
        if is_taken and not section.has_wrong_values:
            section.reject("is listened on already; keep one of them", "address")
        if listen.auth != "none" and not section.has_wrong_values:
            _check_login(section, listen, users)
        listeners.append(listen)
    return tuple(listeners) or (Listen(),)


def read_listener_tls(section: Section, *, is_needed: bool) -> ListenerTls:
    """Return the certificate of the listeners; its files are tried where it is needed."""
    tls = ListenerTls(
        certificate=section.read_path("certificate", None),
        key=section.read_path("key", None),
    )
    section.reject_unknown()
    for name, path in (("certificate", tls.certificate), ("key", tls.key)):
        if path and is_needed:
            _try_file(section, name, path)
        elif not section.has(name) and (is_needed or section.has("certificate") or section.has("key")):
            section.reject(f'needs the key "{name}", a file in PEM form, for listeners with TLS')
    return tls


def read_users(section: Section) -> Mapping[str, str]:
    """Return the password hashes by user name."""
    return MappingProxyType(
        {name: section.read(name, _parse_password_hash, "") for name, _ in section.own_keys(_parse_user_name)}
    )


def _read_listener(section: Section) -> Listen:
    default = Listen()
    host, port = section.read("address", parse_listen_address, (default.host, default.port))
    return Listen(
        host,
        port,
        tls=section.read("tls", one_of("none", "starttls", "implicit"), default.tls),
        tls_minimum=section.read("tls_minimum", one_of("1.0", "1.1", "1.2", "1.3"), default.tls_minimum),
        auth=section.read("auth", one_of("none", "optional", "required", "any"), default.auth),
        clear_password=section.read("clear_password", parse_flag, default.clear_password),
    )


def _check_login(section: Section, listen: Listen, users: Mapping[str, str]) -> None:
    if listen.auth != "any" and not users:
        section.reject(
            "nobody could log in: name users in [users], each with a hash made by `relay passwd`", "auth"
        )
    if listen.tls == "none" and not listen.clear_password:
        section.reject(
            'a password is never taken without TLS: set tls = "starttls" or "implicit"'
            " (or say clear_password = true if your network may read passwords)",
            "auth",
        )


def _try_file(section: Section, name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        section.reject(f"{path} can't be read: {error.strerror}", name)


def _parse_user_name(name: str) -> str:
    """Return the form in which user names are compared."""
    if not name or not name.isprintable():
        raise ValueError("a user name is one line of printable characters")
    return name.casefold()


def _parse_password_hash(value: object) -> str:
    text = refuse_hidden(parse_text(value))
    parse_hash(text)
    return text
