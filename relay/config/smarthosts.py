"""Servers that take mail for everywhere, and the accounts there: ``[smarthost.NAME]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from relay.config.model import Smarthost
from relay.config.problems import suggest
from relay.config.providers import ADDRESS, LOCAL, NAMES, NO_PROVIDER, PROVIDERS, Provider
from relay.config.secret_values import read_secret
from relay.config.sections import Section
from relay.config.values import count_from, one_of, parse_flag, parse_host, parse_rate, parse_text
from relay.mail.route import NextHop

Smarthosts = Mapping[str, Smarthost]

_RESERVED_NAMES = ("mx", "local", "discard", "error")
_SMARTHOST_NAME = re.compile(r"[A-Za-z0-9_-]+")
_USUAL_PORTS = {"implicit": 465, "starttls": 587}
_USERNAME_HINTS = {ADDRESS: "your full mail address", LOCAL: 'what stands before the "@" of your address'}
_OAUTH_KEYS = (
    "client_id",
    "client_secret",
    "client_secret_file",
    "client_secret_env",
    "tenant",
    "token_file",
)


def read_smarthosts(section: Section, token_folder: Path) -> Smarthosts:
    """Return the ``[smarthost.NAME]`` tables by name; ``token_folder`` is where OAuth tokens usually are."""
    smarthosts = {}
    for name, _ in section.own_keys(_parse_smarthost_name):
        smarthosts[name] = _read_smarthost(section.table(name), token_folder / f"{name}.json")
    return MappingProxyType(smarthosts)


def next_hop_of(name: str, smarthost: Smarthost) -> NextHop:
    """Return the next hop that a smarthost's name stands for."""
    return NextHop(
        smarthost.host,
        smarthost.port,
        tls=smarthost.tls,
        is_relayhost=True,
        smarthost=name,
        connections=smarthost.connections,
        rate=smarthost.rate,
        takes_null_sender=PROVIDERS.get(smarthost.provider, NO_PROVIDER).takes_null_sender,
    )


def _read_smarthost(table: Section, token_file: Path) -> Smarthost:
    provider = table.read("provider", _parse_provider, NO_PROVIDER)
    host = _read_host(table, provider)
    tls = table.read("tls", one_of("implicit", "starttls", "opportunistic", "none"), provider.tls)
    usual_port = provider.port if tls == provider.tls else _USUAL_PORTS.get(tls, 25)
    port = table.read("port", count_from(1, 65535), usual_port)
    username = table.read("username", parse_text, provider.fixed_username)
    password = read_secret(table, "password")
    usual_auth = "auto" if password and provider.auth == "xoauth2" else provider.auth
    auth = table.read("auth", one_of("auto", "plain", "login", "cram-md5", "xoauth2"), usual_auth)
    smarthost = Smarthost(
        host,
        port,
        tls,
        provider.name,
        username,
        password,
        auth,
        clear_password=table.read("clear_password", parse_flag, False),
        connections=table.read("connections", count_from(1), provider.connections),
        rate=table.read("rate", parse_rate, provider.rate),
        client_id=table.read("client_id", parse_text, ""),
        client_secret=read_secret(table, "client_secret"),
        tenant=table.read("tenant", parse_text, "common"),
        token_file=table.read_path("token_file", token_file if auth == "xoauth2" else None),
    )
    table.reject_unknown()
    if not table.has_wrong_values:
        _check_login(table, smarthost, provider)
    return smarthost


def _read_host(table: Section, provider: Provider) -> str:
    is_told = table.has("host") or table.has_wrong_values or provider.host
    if not is_told:
        what = f'"host": {provider.note}' if provider.name else '"host" or "provider"'
        table.reject(f"needs the key {what}")
    return table.read("host", parse_host, provider.host)


def _check_login(table: Section, smarthost: Smarthost, provider: Provider) -> None:
    if smarthost.auth == "xoauth2":
        _check_oauth(table, smarthost, provider)
    else:
        for key in filter(table.has, _OAUTH_KEYS):
            table.reject('is of use only with auth = "xoauth2"', key)
        if smarthost.username and not smarthost.password:
            hint = f" ({provider.note})" if provider.note else ""
            table.reject(f"needs a password for its username: password, password_file or password_env{hint}")
    if not smarthost.username and (provider.name or smarthost.password or smarthost.auth == "xoauth2"):
        hint = _USERNAME_HINTS.get(provider.username, "the user name that the provider gave you")
        table.reject(f'needs the key "username", {hint}')
    if smarthost.username and smarthost.tls in ("opportunistic", "none") and not smarthost.clear_password:
        table.reject(
            f'"{smarthost.tls}" could show the password to others: set "implicit" or "starttls"'
            " (or say clear_password = true if you really mean it)",
            "tls",
        )


def _check_oauth(table: Section, smarthost: Smarthost, provider: Provider) -> None:
    if not provider.oauth:
        known = ", ".join(name for name, row in PROVIDERS.items() if row.oauth)
        table.reject(f'"xoauth2" needs the key "provider", one of {known}', "auth")
    if not smarthost.client_id:
        table.reject(
            'needs the key "client_id" for auth = "xoauth2": the id of an application that you registered'
        )
    if smarthost.password:
        table.reject('no password is used with "xoauth2"; take out the password or this', "auth")


def _parse_smarthost_name(name: str) -> str:
    if name in _RESERVED_NAMES:
        raise ValueError(f'"{name}" has a meaning of its own in [transport]; choose another name')
    if not _SMARTHOST_NAME.fullmatch(name):
        raise ValueError("the name of a smarthost has letters, digits, - and _ only")
    return name


def _parse_provider(value: object) -> Provider:
    name = parse_text(value).lower()
    if name not in NAMES:
        hint = suggest(name, list(NAMES)) or f"; known are {', '.join(PROVIDERS)}"
        raise ValueError(f'"{name}" is not a known provider{hint}')
    return NAMES[name]
