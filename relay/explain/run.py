"""A whole explanation: the message followed, its way told, and the same as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from relay.config.model import Config
from relay.config.places import Places
from relay.explain.passage import Copy, Passage, Servers, follow
from relay.explain.story import sum_up, tell
from relay.explain.words import Step
from relay.mail.attempt import Attempt
from relay.mail.envelope import Client, Envelope
from relay.mail.headers import split_content
from relay.mail.learned import NOTHING_LEARNED, Learned
from relay.mail.route import NextHop
from relay.oauth.tokens import Tokens
from relay.wiring import Wiring, accounts_of


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a message, and why."""

    passage: Passage
    steps: Sequence[Step]
    verdict: str

    @property
    def is_smooth(self) -> bool:
        """Whether the message would be taken, and each copy has a way."""
        return not any(step.is_obstacle for step in self.steps)

    def as_data(self) -> dict[str, object]:
        """Return the same for programs (docs/explain.md)."""
        passage = self.passage
        return {
            "smooth": self.is_smooth,
            "verdict": self.verdict,
            "reply": str(passage.reply),
            "held": passage.is_held,
            "steps": [asdict(step) for step in self.steps],
            "copies": [_describe(copy, passage) for copy in passage.copies],
        }


async def explain(
    config: Config,
    places: Places,
    client: Client,
    envelope: Envelope,
    content: bytes,
    learned: Learned = NOTHING_LEARNED,
) -> Explanation:
    """Return what would become of a message. Sends nothing and stores nothing."""
    tokens = Tokens(accounts_of(config))
    wiring = Wiring.of(config, tokens)
    passage = await follow(wiring, client, envelope, content, learned)
    steps = tell(wiring, tokens, places, passage)
    return Explanation(passage, steps, sum_up(steps))


def _describe(copy: Copy, passage: Passage) -> dict[str, object]:
    via = copy.route.via
    return {
        "recipient": copy.recipient.address,
        "original": copy.recipient.original,
        "mail_from": copy.reverse_path,
        "rcpt_to": copy.address,
        "way": via.key if isinstance(via, NextHop) else type(via).__name__.lower(),
        "internal": copy.route.internal,
        "servers": _list(passage.servers[via]) if isinstance(via, NextHop) else [],
        "headers": [_decode(header) for header in split_content(copy.header)[0]],
    }


def _list(servers: Servers) -> list[dict[str, object]]:
    """Return the servers of a next hop; none where they can't be found."""
    if isinstance(servers, Attempt):
        return []
    return [{"name": host.name, "addresses": host.addresses} for host in servers]


def _decode(header: bytes) -> str:
    return header.decode("utf-8", "surrogateescape").replace("\r\n", "\n").rstrip("\n")
