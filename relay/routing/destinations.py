"""What becomes of an address: refused, handed to the postmaster, or given a route."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from relay.mail.address import fold, split_address
from relay.mail.reply import Reply
from relay.mail.rewrite import Home
from relay.mail.route import NextHop, Refuse, Route, TransportEntry
from relay.routing.table import entry_for, route

POSTMASTER = "postmaster"
RESERVED = frozenset({"root", POSTMASTER, "mailer-daemon"})
"""Users of local domains whose mail is the postmaster's (RFC 5321 section 4.5.1), folded."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """The configured ways out."""

    transport: Mapping[str, TransportEntry]
    relayhost: NextHop | None
    home: Home
    """Mail for its ``local_domains`` stays here, unless the transport table says otherwise."""
    postmaster: str
    """Takes the mail of reserved users; "" where there is none."""
    sender_relayhost: Mapping[str, NextHop] = field(default_factory=lambda: MappingProxyType({}))
    """Relayhosts by sender, folded."""

    def expand(self, address: str, given: str = "") -> str:
        """Return where mail for an address goes: to the postmaster if it is that of a reserved user.

        ``given`` is the address before it was completed: "postmaster" without a domain is ours even where
        addresses are completed with a domain that is hosted elsewhere (RFC 5321 section 4.5.1).
        """
        is_ours = fold(given) == POSTMASTER or (self._is_reserved(address) and self._is_local(address))
        return self.postmaster if self.postmaster and is_ours else address

    def route(self, address: str, sender: str = "") -> Route:
        """Return the way to an address, for mail of a (rewritten) sender.

        The transport table comes before everything else.
        """
        if self._is_local(address):
            return Route(Refuse(self._explain_refusal(address)))
        return route(
            address,
            self.transport,
            self.relayhost,
            self.home,
            sender=sender,
            sender_relayhost=self.sender_relayhost,
        )

    def _is_local(self, address: str) -> bool:
        domain = fold(split_address(address)[1])
        return domain in self.home.local_domains and entry_for(address, self.transport, self.home) is None

    def _is_reserved(self, address: str) -> bool:
        user, _ = self.home.divide_local(split_address(address)[0])
        return fold(user) in RESERVED

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
