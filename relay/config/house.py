"""The mailboxes of the house: ``[local]`` and ``[aliases]``, and what they come to together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from relay.config.model import Config, Local
from relay.config.problems import suggest
from relay.config.routes import parse_refusal
from relay.config.sections import Section
from relay.config.values import (
    describe,
    one_of,
    parse_address_key,
    parse_domain,
    parse_host,
    parse_local_part,
    parse_named_address,
    parse_port,
    parse_replacement,
    parse_text,
)
from relay.mail.address import fold, split_address
from relay.mail.aliases import ANYBODY, Aliases, Targets
from relay.mail.destinations import Destinations, Mailboxes
from relay.mail.rewrite import Home
from relay.mail.route import NextHop, Refuse

LMTP_PORT = 24
LONGEST_SOCKET = 107
"""Bytes of a socket's path (unix(7))."""
MOST_MEMBERS = 1000
"""Addresses in one alias."""
SOMEBODY = "somebody"
"""Stands for the users that a key such as "@domain" is for."""
_USER_FIELD = "{user}"
EVERYBODY = ("*",)
"""The ``users`` of a house whose LMTP server knows who has a mailbox."""
_NO_MAIL = re.compile(r"[|/:]")


def read_local(section: Section, hostname: str) -> Local:
    """Return who and what is local."""
    default = Local(domains=tuple(dict.fromkeys((hostname, "localhost"))))
    lmtp = section.read("lmtp", _parse_lmtp, None)
    local = Local(
        domains=section.read_list("domains", parse_domain, default.domains),
        users=section.read("users", _parse_users, EVERYBODY if lmtp else ()),
        accept=section.read("accept", one_of("networks", "anyone"), default.accept),
        maildir=str(section.read_path("maildir", None) or ""),
        lmtp=lmtp,
    )
    section.reject_unknown()
    if not section.has_wrong_values:
        _check_mailboxes(section, local)
    return local


def read_aliases(section: Section) -> tuple[Aliases, Mapping[str, str]]:
    """Return the aliases, and how each of their keys was written."""
    entries: dict[str, Targets | Refuse] = {}
    written_as: dict[str, str] = {}
    for written, key in section.own_keys(_parse_alias_key):
        alias = section.require(written, _alias_parser(key))
        if isinstance(alias, Refuse) and key in {"postmaster", "mailer-daemon"}:
            section.reject("must reach somebody (RFC 5321 section 4.5.1)", written)
        elif alias:
            entries[key] = alias
            written_as[key] = written
    return Aliases(MappingProxyType(entries)), MappingProxyType(written_as)


def destinations_of(config: Config) -> Destinations:
    """Return what becomes of addresses under a configuration."""
    literals = (f"[{listen.host}]" for listen in config.listen)
    domains = frozenset(map(fold, (*config.local.domains, *literals, "[127.0.0.1]", "localhost")))
    local = config.local
    return Destinations(
        config.transport,
        config.relayhost,
        Home(config.domain, domains, "+"),
        config.postmaster,
        config.sender_relayhost,
        config.aliases,
        Mailboxes(
            MappingProxyType({fold(user): user for user in local.users if local.users != EVERYBODY}),
            local.maildir,
            local.lmtp,
            is_open=local.users == EVERYBODY,
        ),
        choose_user_domain(config.domain, local),
    )


def choose_user_domain(domain: str, local: Local) -> str:
    """Return the domain of users that are named alone: that of unfinished addresses, if it is local."""
    return domain if not local.domains or domain in local.domains else local.domains[0]


def find_dead_ends(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each alias that leads to nobody, by its folded key, with the reason."""
    destinations = destinations_of(config)
    named = dict(config.aliases.entries)
    anybody = named.pop(ANYBODY, None)
    if anybody and destinations.mailboxes.is_open:
        yield ANYBODY, 'would never be asked: the mailbox server knows who is there (users = "*")'
    elif anybody and (reason := _explain_dead_end(ANYBODY, anybody, destinations)):
        yield ANYBODY, reason
        destinations = replace(destinations, aliases=Aliases(named))
    for key, targets in named.items():
        if reason := _explain_dead_end(key, targets, destinations):
            yield key, reason


def _explain_dead_end(key: str, targets: Targets | Refuse, destinations: Destinations) -> str:
    """Return why an alias leads to nobody, or to somebody who is not there; else ""."""
    if isinstance(targets, Refuse):
        return ""
    address = _example(key, destinations)
    reached = destinations.expand(address)
    if reached == (address,) and address not in map(fold, destinations.step(address)):
        return "goes round in a circle"
    for end in reached:
        user, domain = split_address(end)
        if user != SOMEBODY and _is_nobody(end, destinations):
            name = user if domain == destinations.user_domain else end
            remedy = "; add the user under [local], or write a full address elsewhere"
            remedy = suggest(name, list(destinations.mailboxes.users)) or remedy
            return f'leads to "{name}", who has no mailbox here{remedy}'
    return ""


def is_deliverable(address: str, config: Config) -> bool:
    """Whether mail for an address reaches somebody."""
    destinations = destinations_of(config)
    return any(not _is_nobody(end, destinations) for end in destinations.expand(address))


def _is_nobody(address: str, destinations: Destinations) -> bool:
    return destinations.is_local(address) and isinstance(destinations.route(address).via, Refuse)


def _example(key: str, destinations: Destinations) -> str:
    """Return an address that a key is for."""
    local, domain = split_address(key)
    if not domain:
        return f"{SOMEBODY if key == ANYBODY else key}@{destinations.user_domain}"
    return key if local else f"{SOMEBODY}{key}"


def _check_mailboxes(section: Section, local: Local) -> None:
    if local.maildir and local.lmtp:
        section.reject(
            "mailboxes are kept here (maildir) or by a server (lmtp): take one of the two out", "lmtp"
        )
    elif local.users == EVERYBODY and not local.lmtp:
        section.reject(
            '"*" needs lmtp, the server that knows who has a mailbox; else name the users', "users"
        )
    elif local.users and not (local.maildir or local.lmtp):
        section.reject('users need a place for their mail: maildir = "/var/mail/{user}", or lmtp', "users")
    elif local.maildir and not local.users:
        section.reject('say who has a mailbox: users = ["chris", "marc"]', "maildir")
    elif local.maildir and _USER_FIELD not in local.maildir:
        section.reject('needs {user} where the name of the user stands, as in "/var/mail/{user}"', "maildir")


def _parse_users(value: object) -> tuple[str, ...]:
    if value == "*":
        return EVERYBODY
    if not isinstance(value, list):
        raise ValueError(f'must be a list such as ["chris", "marc"], or "*", not {describe(value)}')
    users = tuple(_parse_user(parse_text(item)) for item in value)
    for place, user in enumerate(users):
        if fold(user) in map(fold, users[:place]):
            raise ValueError(f'"{user}" is there twice; case does not count')
    return users


def _parse_user(text: str) -> str:
    if "@" in text:
        raise ValueError(f'"{text}" is an address; write only what stands before the "@"')
    name = parse_local_part(text)
    if "+" in name or "/" in name or name.startswith(".") or not name.isprintable():
        raise ValueError(f'"{text}" cannot be the name of a mailbox: no "+", no "/", no dot in front')
    return name


def _parse_lmtp(value: object) -> NextHop:
    text = parse_text(value).removeprefix("unix:").removeprefix("inet:")
    if text.startswith("/"):
        if len(text.encode()) > LONGEST_SOCKET:
            raise ValueError(f"the path of a socket has at most {LONGEST_SOCKET} characters")
        return NextHop(text, 0, tls="none", is_lmtp=True)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(LMTP_PORT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return NextHop(parse_host(host), parse_port(port), tls="none", is_lmtp=True)


def _parse_alias_key(key: str) -> str:
    wanted = 'matches no address; a key is "user", "user@domain", "@domain" or "*"'
    return key if key == ANYBODY else parse_address_key(key, wanted)


def _alias_parser(key: str) -> Callable[[object], Targets | Refuse]:
    """Return the parser of an alias's value: one target, a list of them, or a refusal."""

    def parse(value: object) -> Targets | Refuse:
        if isinstance(value, list):
            if not 0 < len(value) <= MOST_MEMBERS:
                raise ValueError(f"must name somebody, and at most {MOST_MEMBERS}")
            return tuple(_parse_target(parse_text(item), key) for item in value)
        text = parse_text(value)
        return parse_refusal(text) if text.startswith("error:") else (_parse_target(text, key),)

    return parse


def _parse_target(text: str, key: str) -> str:
    if text.startswith("error:"):
        raise ValueError('"error:" stands alone, not in a list')
    if _NO_MAIL.match(text):
        raise ValueError(f'"{text}": aliases go to users and addresses, not to programs or files')
    address, _ = parse_named_address(text)
    if "," in address and '"' not in address:
        listed = ", ".join(f'"{part.strip()}"' for part in address.split(","))
        raise ValueError(f"several are written as a list: [{listed}]")
    return parse_replacement(address, key)
