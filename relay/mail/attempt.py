"""What one delivery attempt came to, for one recipient, and the states that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from relay.mail.envelope import Message, Recipient
from relay.mail.reply import Reply


class State(StrEnum):
    """The state of one recipient of a queued message (docs/queue.md)."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    HELD = "held"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will be done for the recipient."""
        return self in {State.DELIVERED, State.BOUNCED, State.EXPIRED}


class Scope(StrEnum):
    """What a failure is about: how far its consequence reaches (Postfix, smtp_trouble.c)."""

    SITE = "site"
    """No session with the next hop: every message for it waits, one probes."""
    MESSAGE = "message"
    """This message, whoever it is for."""
    RECIPIENT = "recipient"
    """This recipient only."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The result of one attempt for one recipient: the reply decides, the rest explains."""

    reply: Reply
    """The remote's reply, or our own words where it never spoke."""
    scope: Scope = Scope.RECIPIENT
    host: str = ""
    """``name[address]:port`` of the server that was spoken to; "" where there was none."""
    command: str = ""
    """The command that was answered (``MAIL FROM``, ``RCPT TO``, ``DATA``, ``end of DATA``); "" else."""
    is_remote: bool = False
    """Whether the reply is the remote's own words."""
    remote_reply: Reply | None = None
    """What the server said, where ``reply`` is our own words about it."""
    is_unreachable: bool = False
    """Whether no server of the next hop could be connected to."""
    is_possible_duplicate: bool = False
    """Whether the content was sent whole and the reply never read: the next attempt may repeat it."""
    passes_dsn: bool = False
    """Whether the server offered DSN and was given NOTIFY: then it reports the delivery, not we."""
    next_hop: str = ""
    """``NextHop.key``; "" where no next hop was reached (discard, refusal by table)."""

    def explain(self) -> str:
        """Return one sentence for logs and reports: who said what to which command, as Postfix words it."""
        if not self.is_remote:
            return self.reply.text.replace("\n", " ")
        words = f"host {self.host.rpartition(':')[0] or self.host} said: {self.reply}"
        return f"{words} (in reply to {self.command} command)" if self.command else words


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the queue records of an attempt: the recipient's new state."""

    number: int
    index: int
    state: State
    attempt: Attempt
    next_attempt_at: float = 0.0
    """Epoch seconds; meaningful for a deferred recipient."""
    was_tried: bool = True
    """Whether there was an attempt; else ``attempt`` says why the recipient goes on waiting."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A message handed out by the queue for one attempt, its retry already booked."""

    message: Message
    """Its envelope holds just the recipients of this attempt."""
    attempt_number: int = 1
    """1 for the first attempt of these recipients."""
    is_warned: bool = False
    """Whether its sender was already told that it is late."""
    content: bytes | None = None
    """The whole content where it is small and still in memory; else the queue is asked for it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A recipient that a report is about, with what happened."""

    recipient: Recipient
    attempt: Attempt
