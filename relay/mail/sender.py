"""The sender that mail leaves the house with, and the refusal of one that nobody outside could answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from relay.mail.address import complete, quote_address, split_address
from relay.mail.reply import Reply
from relay.mail.rewrite import Canonical, Home

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class SenderRules:
    """What is done to the sender of mail for the outside; one of the tables is empty (``rewrite.scope``)."""

    home: Home
    on_arrival: Canonical
    on_departure: Canonical

    def leave(self, reverse_path: str) -> str:
        """Return the sender that the outside sees, of one that is not null, as the client gave it."""
        return self._last_step(reverse_path)[1]

    def refuse(self, reverse_path: str) -> Reply:
        """Return the refusal of a sender whose domain does not exist; it says what mends it."""
        key, address = self._last_step(reverse_path)
        local, domain = split_address(address)
        is_local, user = self.home.is_local(domain), self.home.divide_local(local)[0]
        missing = user if is_local and _BARE_KEY.fullmatch(user) else quote_address(address)
        entry = f'{_show(missing)} = "your real address" under [sender_canonical]'
        if key:
            cure = f"In relay.toml, mend the entry {_show(key)} under [sender_canonical], which makes it"
        elif is_local:
            cure = f"In relay.toml, put {entry}"
        else:
            cure = f"Correct the address, or put {entry} in relay.toml"
        why = f"nobody outside could answer this sender, as the domain {domain} does not exist"
        return Reply(550, "5.1.8", f"<{quote_address(address)}>: {why}. {cure}.")

    def _last_step(self, reverse_path: str) -> tuple[str, str]:
        """Return the key that made the sender, "" where none did, and the sender."""
        *_, last = self._steps(reverse_path)
        return last

    def _steps(self, reverse_path: str) -> Iterator[tuple[str, str]]:
        address = complete(reverse_path, self.home.domain)
        yield "", address
        for key, rewritten, _ in self.on_arrival.steps(address, self.home):
            address = rewritten
            yield key, address
        match = self.on_departure.match(address, self.home)
        if match is not None:
            yield match[:2]


def _show(key: str) -> str:
    """Return a key as TOML has it."""
    return key if _BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
