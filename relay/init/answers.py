"""The answers of somebody who sets up a relay, each checked at once: a ValueError says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from relay.config.loading import find_problems
from relay.config.model import PRIVATE_NETWORKS
from relay.config.problems import suggest
from relay.config.providers import DOMAINS, LOCAL, NAMES, NO_PROVIDER, PROVIDERS, UNKNOWN, Provider
from relay.config.values import (
    parse_host,
    parse_listen_address,
    parse_mail_address,
    parse_network,
    parse_port,
)
from relay.mail.address import fold, quote_address, split_address
from relay.mail.route import Tls
from relay.texts import join_port

DIRECT = "direct"
PRIVATE = "private"
"""Stands for all private networks."""
LONGEST_ADDRESS = 254
"""Characters (RFC 5321 section 4.5.3.1.3, less the angle brackets)."""
USUAL_TLS: dict[int, Tls] = {465: "implicit", 587: "starttls"}
"""What is spoken at these ports everywhere."""
UNVERIFIED: tuple[Tls, ...] = ("opportunistic", "none")
"""With these a server does not prove who it is, and gets no password."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server that takes the mail; ``port`` is 0 while nobody has said it."""

    provider: Provider
    host: str
    port: int = 0
    tls: Tls = "implicit"

    @property
    def name(self) -> str:
        """The NAME of its [smarthost.NAME]."""
        return self.provider.name.replace(".", "-") or "isp"


@dataclass(frozen=True, slots=True)
class Answers:
    """All that relay.toml is made of."""

    address: str
    """Of the owner, in internal form."""
    server: Server | None
    """None: mail goes straight to the recipients' own servers."""
    networks: tuple[str, ...]
    listen: str
    username: str = ""
    """"" where the server wants no login."""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    """Where the password is already."""
    client_id: str = ""
    """Of OAuth, in the place of a password."""


def tables_of_owner(address: str, hostname: str) -> dict[str, object]:
    """Return what relay.toml says of the owner, for a relay of that name.

    Made-up senders of the machine become the owner's address. Where the owner's own domain is named like the
    machine, its mail is elsewhere all the same, and the other names in it are real.
    """
    owner = quote_address(address)
    is_namesake = fold(split_address(address)[1]) == fold(hostname)
    made_up = {} if is_namesake else {f"@{hostname}": owner}
    return {
        "postmaster": owner,
        "sender_canonical": {"root": owner, **made_up},
        **({"local": {"domains": ["localhost"]}} if is_namesake else {}),
    }


def parse_address(text: str, hostname: str) -> str:
    """Return the internal form of the owner's address."""
    _require_plain(text)
    if len(text) > LONGEST_ADDRESS:
        raise ValueError(f"an address has at most {LONGEST_ADDRESS} characters")
    address = parse_mail_address(text)
    if not split_address(address)[0]:
        raise ValueError('the address has nothing before its "@"')
    document = {"hostname": hostname, **tables_of_owner(address, hostname)}
    if problems := find_problems(document, machine_name=hostname):
        raise ValueError(problems[0][1])
    return address


def find_provider(address: str) -> Provider | None:
    """Return the provider that gives out addresses like this one."""
    return DOMAINS.get(fold(split_address(address)[1]))


def parse_way(text: str) -> Server | None:
    """Return the server that is meant, or None for "direct".

    A provider is known by name, by its place in the list, by its domain, and by the name of its server;
    what else has the form of a host, with a port or without, is one.
    """
    _require_plain(text)
    word = text.lower()
    if word == DIRECT:
        return None
    if word.isascii() and word.isdecimal() and len(word) < 4:
        return _pick(int(word))
    hosts = {row.host: row for row in PROVIDERS.values() if row.host}
    provider = NAMES.get(word) or DOMAINS.get(word) or hosts.get(word)
    if provider:
        return server_of(provider)
    host, colon, port = word.rpartition(":")
    if colon and ":" not in host:
        number = parse_port(port)
        return Server(NO_PROVIDER, parse_host(host), number, USUAL_TLS.get(number, "starttls"))
    if "." not in word and ":" not in word and word != "localhost":
        hint = suggest(word, [*NAMES, DIRECT])
        raise ValueError(f'"{text}" is no provider that is known here, and no name of a server{hint}')
    return Server(NO_PROVIDER, parse_host(word))


def server_of(provider: Provider) -> Server:
    """Return the server that a provider's customers use; its host is "" where each has another."""
    return Server(provider, provider.host, provider.port, provider.tls)


def _pick(number: int) -> Server:
    if not 0 < number <= len(PROVIDERS):
        raise ValueError(f"the list has numbers from 1 to {len(PROVIDERS)}")
    return server_of([*PROVIDERS.values()][number - 1])


def parse_provider(text: str) -> Provider:
    """Return a provider by one of its names."""
    _require_plain(text)
    if text.lower() not in NAMES:
        raise ValueError(f'"{text}" is not a known provider{suggest(text.lower(), [*NAMES])}')
    return NAMES[text.lower()]


def parse_server_name(text: str) -> str:
    """Return the name or IP address of a server."""
    _require_plain(text)
    return parse_host(text)


def parse_tls(text: str) -> Tls:
    """Return the word for a kind of TLS."""
    known: tuple[Tls, ...] = ("implicit", "starttls", "opportunistic", "none")
    for word in known:
        if text.lower() == word:
            return word
    raise ValueError(f"it is one of {', '.join(known)}")


def usual_username(provider: Provider, address: str) -> str:
    """Return the name that the owner of an address probably logs in with; "" where nobody can tell."""
    if provider.fixed_username:
        return provider.fixed_username
    if provider.username == LOCAL:
        return split_address(address)[0]
    return "" if provider.username == UNKNOWN and provider.name else quote_address(address)


def parse_username(text: str) -> str:
    """Return a user name; "-" and nothing stand for no login."""
    _require_plain(text)
    return "" if text == "-" else text


def parse_client_id(text: str) -> str:
    """Return the client id of OAuth."""
    _require_plain(text)
    if not text:
        raise ValueError("nobody logs in without one")
    return text


def parse_password(text: str) -> str:
    """Return a password that a line of a file can hold."""
    if not text:
        raise ValueError("nothing was typed")
    if not text.isprintable():
        raise ValueError("there is a character in it that can't be seen; type it instead of pasting it")
    return text


def parse_networks(text: str) -> tuple[str, ...]:
    """Return networks that are divided by commas or spaces; "private" stands for all private ones."""
    _require_plain(text)
    networks: dict[str, None] = {}
    for word in text.replace(",", " ").split():
        named = PRIVATE_NETWORKS if word.lower() == PRIVATE else (parse_network(word),)
        networks.update(dict.fromkeys(map(str, named)))
    if not networks:
        raise ValueError("somebody must be allowed to send")
    document = {"access": {"networks": list(networks)}}
    if problems := find_problems(document, machine_name="relay"):
        raise ValueError(problems[0][1])
    return tuple(networks)


def parse_listen(text: str) -> str:
    """Return address and port of a port, or of an address with one."""
    _require_plain(text)
    is_port = text.isascii() and text.isdecimal()
    host, port = parse_listen_address(f"0.0.0.0:{text}" if is_port else text)
    if not port:
        raise ValueError('"0" is not a port that devices could be told')
    return join_port(host, port)


def _require_plain(text: str) -> None:
    if not text.isprintable():
        raise ValueError("there is a character in it that can't be seen")
