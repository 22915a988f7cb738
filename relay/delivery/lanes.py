"""All lanes and mailboxes together: who takes how much, so that those that hang leave room to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.delivery.lane import Health, Lane, Tools, Transfer
from relay.delivery.maildir import MAILDIR, Maildirs
from relay.mail.attempt import Attempt, Scope
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from relay.mail.route import Discard, Mailbox, NextHop, Refuse

RECIPIENTS_PER_TRANSFER = 50
"""Recipients of one transaction (smtp_destination_recipient_limit)."""

_CROWDED = Reply(451, "4.3.2", "many messages wait for this next hop; this one waits for its turn")
_DISCARDED = Attempt(Reply(250, "2.0.0", "discarded, as the transport table says"))

Via = NextHop | Mailbox | Discard | Refuse


class Lanes:
    """The lanes by next hop, and the mailboxes."""

    def __init__(
        self, tools: Tools, maildirs: Maildirs, now: Callable[[], float], free: Callable[[], int]
    ) -> None:
        """``free`` tells how many more messages may be in delivery."""
        self._tools = tools
        self._maildirs = maildirs
        self._now = now
        self._free = free
        self._lanes: dict[NextHop, Lane] = {}
        self._is_closing = False
        self.is_crowded = False
        """Whether a lane was given no room for the sake of the others: a message that is done makes some."""

    @property
    def health(self) -> list[Health]:
        """How it is going with the next hops that are in use, or that failed lately."""
        return [lane.health for lane in self._lanes.values()]

    def submit(self, via: Via, transfer: Transfer) -> list[tuple[Recipient, Attempt]]:
        """Take a transfer by a route; return the recipients that find no room, with what they wait for."""
        match via:
            case NextHop() if self._is_closing:
                transfer.fail(None)
            case NextHop():
                return self._submit_to_lane(self._lane(via), transfer)
            case Mailbox():
                if not self._maildirs.submit(via, transfer):
                    return _turn_away(transfer, MAILDIR)
            case Discard():
                transfer.fail(_DISCARDED)
            case Refuse(reply):
                transfer.fail(Attempt(reply))
        return []

    def has_room(self, via: Via) -> bool:
        """Whether one more message finds room by a route; a lane that is blocked gives it back at once."""
        if isinstance(via, Mailbox):
            return self._maildirs.room() > 0
        lane, now = self._lanes.get(via) if isinstance(via, NextHop) else None, self._now()
        return lane is None or lane.is_blocked(now) or self._room(lane, now) > 0

    def caps(self, now: float, most: int) -> dict[str, int]:
        """Return how many messages each next hop takes, at most ``most``; forget lanes that are of no use."""
        self._lanes = {hop: lane for hop, lane in self._lanes.items() if not lane.is_disposable(now)}
        caps = {MAILDIR: self._maildirs.room()}
        for next_hop, lane in self._lanes.items():
            caps[next_hop.key] = min(self._room(lane, now), caps.get(next_hop.key, most))
        return caps

    def wait_for(self, via: Via) -> float | None:
        """Return until when mail waits for the lane of a route, as epoch second; None where there is none."""
        lane = self._lanes.get(via) if isinstance(via, NextHop) else None
        return None if lane is None else lane.wait()

    def next_probes(self, now: float) -> list[float]:
        """Return when each of the lanes that are blocked may be probed."""
        return [lane.blocked_until for lane in self._lanes.values() if lane.is_blocked(now)]

    def probe_now(self) -> None:
        """Let every next hop be probed at once."""
        for lane in self._lanes.values():
            lane.probe_now()

    def release(self, next_hop: NextHop) -> None:
        """Let no mail wait for a next hop that it does not go to any more."""
        if lane := self._lanes.get(next_hop):
            lane.release()

    def renew_connections(self) -> None:
        """Begin all further transfers over new connections."""
        for lane in self._lanes.values():
            lane.renew()

    async def close(self, grace_seconds: float) -> None:
        """Give up what waits, let what has begun finish within the grace, then abort it."""
        self._is_closing = True  # a detour may ask for a lane that is not there yet
        lanes = (lane.close(grace_seconds) for lane in self._lanes.values())
        await asyncio.gather(self._maildirs.close(grace_seconds), *lanes)

    def _lane(self, next_hop: NextHop) -> Lane:
        lane = self._lanes.get(next_hop)
        if lane is None:
            lane = self._lanes[next_hop] = Lane(next_hop, self._tools)
        return lane

    def _submit_to_lane(self, lane: Lane, transfer: Transfer) -> list[tuple[Recipient, Attempt]]:
        turned_away: list[tuple[Recipient, Attempt]] = []
        for part in transfer.split(RECIPIENTS_PER_TRANSFER):
            has_place = lane.is_blocked(self._now()) or self._share(lane) > 0
            if not (has_place and lane.submit(part)):
                turned_away += _turn_away(part, lane.next_hop.key)
        return turned_away

    def _room(self, lane: Lane, now: float) -> int:
        """Return how many more messages a lane takes."""
        return min(lane.room(now), self._share(lane))

    def _share(self, lane: Lane) -> int:
        """Return how many more messages a lane may hold, so that those that hang leave places to the others.

        That is half as many as there are free places (a dynamic threshold): however many lanes fill up, some
        places stay free, and a lane without any message gets one.
        """
        share = max(self._free() // 2 - lane.held, 0 if lane.held else 1)
        self.is_crowded = self.is_crowded or share == 0
        return share


def _turn_away(transfer: Transfer, next_hop: str) -> list[tuple[Recipient, Attempt]]:
    attempt = Attempt(_CROWDED, Scope.SITE, next_hop=next_hop)
    return [(recipient, attempt) for recipient in transfer.recipients]
