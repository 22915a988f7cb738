"""What the page asks of the rest of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Facts(Protocol):
    """The relay as the page sees it."""

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request of the control socket says, and return the reply (relay/queue/control.py)."""
        ...

    def next_hops(self) -> Sequence[Mapping[str, Any]]:
        """Return what is known of each next hop that was used lately.

        ``name``; ``state``: ``ok`` or ``blocked``; ``blocked_until``: epoch second of the next probe, or
        None; ``waiting`` and ``in_flight``: transfers; ``failure``: why there was no session, or "".
        """
        ...

    def logins(self) -> Sequence[Mapping[str, Any]]:
        """Return the accounts at smarthosts.

        ``smarthost``; ``account``: the user name there; ``expires_at``: epoch second at which the token ends,
        None where there is none; ``problem``: a sentence, or "".
        """
        ...

    def problems(self) -> Sequence[str]:
        """Return what the owner must mend, a sentence each: errors of a changed relay.toml, dead tokens."""
        ...

    def commits(self) -> tuple[int, float]:
        """Return how many transactions were committed, and the seconds that their fsyncs took altogether."""
        ...
