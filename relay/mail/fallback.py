"""Whether a failed attempt calls for another way out: the site refuses this relay, not the message."""

from __future__ import annotations

from relay.mail.attempt import Attempt
from relay.mail.refusal import Target, classify

PATIENCE = 1800.0
"""Seconds for which a temporary refusal of us is waited out: many sites defer strangers for a while."""
UNREACHED = "port 25 not reached"
"""The reason where a site never spoke."""


def find_reason(attempt: Attempt, age: float) -> str:
    """Return why mail is to go on over the fallback, in a few words; "" where it is not.

    That takes a definite reply that is about us, or a site none of whose servers can be connected to; never
    an attempt that may have delivered. ``age`` is that of the message, in seconds.
    """
    if attempt.is_unreachable:
        return UNREACHED
    reply = attempt.remote_reply or attempt.reply
    if attempt.is_possible_duplicate or not (attempt.is_remote or attempt.remote_reply):
        return ""
    refusal = classify(reply, attempt.command)
    is_in_time = reply.is_permanent or age >= PATIENCE
    return refusal.reason if refusal.target is Target.SENDER and is_in_time else ""
