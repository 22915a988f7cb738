"""What becomes of an address: who gets its mail, and by which route; or why it is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from relay.mail.address import complete, fold, join_address, split_address
from relay.mail.aliases import ANYBODY, Aliases
from relay.mail.reply import Reply
from relay.mail.rewrite import Home
from relay.mail.route import ByLocal, Mailbox, NextHop, Refuse, Route, Rule, TransportEntry
from relay.mail.transport import entry_for, route

POSTMASTER = "postmaster"
_ROLES = "abuse ftp hostmaster news noc postmaster security usenet uucp webmaster www"
_MACHINES = "bin cron daemon mailer-daemon operator root www-data"
RESERVED = frozenset(f"{_ROLES} {_MACHINES}".split())
"""Users of local domains whose mail is the postmaster's where nobody else takes it, folded.

Those of RFC 2142 sections 4 and 5, and the accounts in whose name machines send mail.
"""
MOST_ADDRESSES = 10_000
"""Addresses that one may expand to, with those on the way (postconf(5), virtual_alias_expansion_limit)."""


@dataclass(frozen=True, slots=True)
class Mailboxes:
    """The mailboxes of the house."""

    users: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Folded name to name."""
    maildir: str = ""
    """The path of a Maildir, with ``{user}`` for the name; "" where the LMTP server keeps the mailboxes."""
    lmtp: NextHop | None = None
    is_open: bool = False
    """Whether the LMTP server says who has a mailbox: then there are no ``users``."""

    def has(self, user: str) -> bool:
        """Whether a user is known here to have a mailbox."""
        return fold(user) in self.users

    def find(self, user: str) -> Mailbox | NextHop | None:
        """Return the way to a user's mailbox; None where there is none."""
        name = self.users.get(fold(user))
        if self.lmtp is not None:
            return self.lmtp if self.is_open or name is not None else None
        return Mailbox(name, Path(self.maildir.replace("{user}", name))) if name is not None else None


class Turn(NamedTuple):
    """One step of an expansion."""

    address: str
    """"" for the name that was given, where it is somebody here though it has no domain."""
    targets: tuple[str, ...]
    """What takes its place; itself where nothing does."""
    rule: Rule


@dataclass(frozen=True, slots=True)
class Destinations:
    """The configured ways out, and the mailboxes of the house."""

    transport: Mapping[str, TransportEntry]
    relayhost: NextHop | None
    home: Home
    """Mail for its ``local_domains`` stays here, unless the transport table says otherwise."""
    postmaster: str
    """Takes the mail of reserved users; "" where there is none."""
    sender_relayhost: Mapping[str, NextHop] = field(default_factory=lambda: MappingProxyType({}))
    """Relayhosts by sender, folded."""
    aliases: Aliases = field(default_factory=Aliases)
    mailboxes: Mailboxes = field(default_factory=Mailboxes)
    user_domain: str = ""
    """The local domain in which the name of a user stands alone."""

    def expand(self, address: str, given: str = "") -> tuple[str, ...]:
        """Return the addresses that mail for an address goes to, each once; itself where it has no alias.

        ``given`` is the address before it was completed. The addresses of an alias may be aliases; one that
        names itself keeps a copy, and a way that leads back to where it came from is left out.
        """
        if not (address or given):
            return (address,)
        reached: dict[str, str] = {}
        for turn in self.walk(address, given):
            if fold(turn.address) in map(fold, turn.targets):
                reached.setdefault(self.identity(turn.address), turn.address)
        return tuple(reached.values()) or (address,)

    def walk(self, address: str, given: str = "") -> Iterator[Turn]:
        """Yield the steps that ``expand`` takes."""
        begun, rule = self._begin(address, given)
        if begun != address:
            yield Turn("", (begun,), rule)
        waiting = [begun]
        seen: set[str] = set()
        while waiting and len(seen) < MOST_ADDRESSES:
            current = waiting.pop(0)
            if fold(current) in seen:
                continue
            seen.add(fold(current))
            turn = self._turn(current)
            yield turn
            waiting[:0] = [target for target in turn.targets if fold(target) != fold(current)]

    def step(self, address: str) -> tuple[str, ...]:
        """Return the addresses in the place of one; itself where nothing takes its place."""
        return self._turn(address).targets

    def route(self, address: str, sender: str = "") -> Route:
        """Return the way to an expanded address, for mail of a (rewritten) sender.

        The transport table comes before everything else.
        """
        alias = self.aliases.match(address, self.home)
        if alias is not None and isinstance(alias[1], Refuse):
            return Route(alias[1], rule=("aliases", alias[0]))
        if not self.is_local(address):
            return route(
                address,
                self.transport,
                self.relayhost,
                self.home,
                sender=sender,
                sender_relayhost=self.sender_relayhost,
            )
        mailbox = self.mailboxes.find(self._user(address))
        if mailbox is not None:
            rule = ("local", "users" if isinstance(mailbox, Mailbox) else "lmtp")
            return Route(mailbox, internal=True, rule=rule)
        others = self.aliases.of_anybody
        if isinstance(others, Refuse):
            return Route(others, rule=("aliases", ANYBODY))
        return Route(Refuse(self._explain_refusal(address)), rule=("local", "domains"))

    def is_local(self, address: str) -> bool:
        """Whether mail for an address stays here: its domain is local, and no transport entry is for it."""
        if fold(split_address(address)[1]) not in self.home.local_domains:
            return False
        entry = entry_for(address, self.transport, self.home)
        return entry is None or isinstance(entry.via, ByLocal)

    def identity(self, address: str) -> str:
        """Return what two addresses have in common that reach the same mailbox.

        An extension tells them apart where a mailbox server may file by it.
        """
        local, domain = split_address(fold(address))
        if not self.is_local(address):
            return join_address(local, domain)
        return local if self.mailboxes.lmtp else self._user(fold(address))

    def _begin(self, address: str, given: str) -> tuple[str, Rule]:
        """Return where expansion begins: a user or alias of ours that was given without a domain stays ours.

        That goes for "postmaster" too (RFC 5321 section 4.5.1), even where addresses are completed with a
        domain that is hosted elsewhere.
        """
        if not given or "@" in given:
            return address, ()
        here = join_address(given, self.user_domain)
        is_unchanged = fold(address) == fold(complete(given, self.home.domain))
        if is_unchanged and (self.aliases.find(here, self.home) or self._has_mailbox(here)):
            return here, ()
        if self.postmaster and fold(given) == POSTMASTER:
            return self.postmaster, ("postmaster",)
        return address, ()

    def _turn(self, address: str) -> Turn:
        targets, rule = self._targets(address)
        if targets is None or isinstance(targets, Refuse):
            return Turn(address, (address,), ())
        domain = self.user_domain or self.home.domain
        return Turn(address, tuple(complete(target, domain) for target in targets), rule)

    def _targets(self, address: str) -> tuple[tuple[str, ...] | Refuse | None, Rule]:
        alias = self.aliases.match(address, self.home)
        if alias is not None:
            return alias[1], ("aliases", alias[0])
        if not self.is_local(address) or self._has_mailbox(address):
            return None, ()
        if self.postmaster and self._is_reserved(address):
            return (self.postmaster,), ("postmaster",)
        return self.aliases.of_anybody, ("aliases", ANYBODY)

    def _has_mailbox(self, address: str) -> bool:
        return self.is_local(address) and self.mailboxes.has(self._user(address))

    def _is_reserved(self, address: str) -> bool:
        return fold(self._user(address)) in RESERVED

    def _user(self, address: str) -> str:
        return self.home.divide_local(split_address(address)[0])[0]

    def _explain_refusal(self, address: str) -> Reply:
        user, domain = split_address(address)
        if self._is_reserved(address) and not self.postmaster:
            return Reply(
                550,
                "5.1.1",
                f"mail for {user} goes to nobody yet. The owner of the relay can name somebody with "
                'postmaster = "you@example.org" in relay.toml.',
            )
        return Reply(
            550,
            "5.1.1",
            f"there is no such user at {domain}, whose mail stays on this server. Check the address.",
        )
