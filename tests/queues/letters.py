"""What is in each stored queue: what was sent, and what had become of it when the relay was killed."""

from __future__ import annotations

from dataclasses import dataclass

QUICK, SLOW = "quick.test", "slow.test"
"""A next hop that answers at once by the name of the recipient, and one that never answers."""
TAKEN, LATER, GONE = "taken", "later", "gone"
REPLIES = {
    LATER: b"450 4.2.1 The mailbox is busy\r\n",
    GONE: b"550 5.1.1 There is no such mailbox\r\n",
}
"""What QUICK says of a recipient whose name begins like that; others it takes."""
HELD_SUBJECT = "to be held"


@dataclass(frozen=True)
class Letter:
    """A message; each has a sender of its own."""

    name: str
    recipients: tuple[str, ...]
    waiting: tuple[str, ...] = ()
    """The recipients that it is still to be sent to."""
    subject: str = "hello"
    lines: int = 0
    sender_options: str = ""
    recipient_options: str = ""

    @property
    def sender(self) -> str:
        """The reverse-path."""
        return f"{self.name}@{QUICK}"

    @property
    def message_id(self) -> str:
        """The Message-ID."""
        return f"<{self.name.encode().hex()}@{QUICK}>"

    @property
    def content(self) -> bytes:
        """The content as it was sent, without dots stuffed; no line of it begins with a dot."""
        header = f"From: {self.sender}\r\nTo: somebody@{QUICK}\r\nSubject: {self.subject}\r\n"
        header += f"Date: Mon, 22 May 2000 20:27:59 +0200\r\nMessage-ID: {self.message_id}\r\n\r\n"
        lines = (f"line {number} of {self.name}\r\n".encode() for number in range(self.lines))
        return header.encode() + b"\xe9\xe0\xe7 \x80\xff\r\n" + b"".join(lines)


BEFORE = (
    Letter("delivered", (f"{TAKEN}@{QUICK}",)),
    Letter(
        "several",
        (f"{TAKEN}@{QUICK}", f"{LATER}1@{QUICK}", f"{GONE}@{QUICK}", f"{LATER}2@{QUICK}"),
        waiting=(f"{LATER}1@{QUICK}", f"{LATER}2@{QUICK}"),
    ),
    Letter("large", (f"{LATER}@{QUICK}",), waiting=(f"{LATER}@{QUICK}",), lines=20_000),
    Letter(
        "zoé",
        (f"{LATER}-é@{QUICK}",),
        waiting=(f"{LATER}-é@{QUICK}",),
        sender_options=" SMTPUTF8 BODY=8BITMIME",
    ),
    Letter(
        "options",
        (f"{LATER}@{QUICK}",),
        waiting=(f"{LATER}@{QUICK}",),
        sender_options=" RET=HDRS ENVID=letter+2B1",
        recipient_options=f" NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first+2B1@{QUICK}",
    ),
    Letter("held-by-check", (f"{TAKEN}@{QUICK}",), waiting=(f"{TAKEN}@{QUICK}",), subject=HELD_SUBJECT),
    Letter("held-by-owner", (f"{LATER}@{QUICK}",), waiting=(f"{LATER}@{QUICK}",)),
    Letter("later-told", (f"{GONE}@{QUICK}",)),
)
"""Sent first. The report on the last one is deferred, those on the others are delivered."""
HELD = ("held-by-check", "held-by-owner")
CLAIMED = (
    Letter("unreported", (f"{GONE}@{QUICK}", f"x@{SLOW}"), waiting=(f"x@{SLOW}",)),
    Letter("claimed", (f"x@{SLOW}", f"y@{SLOW}"), waiting=(f"x@{SLOW}", f"y@{SLOW}")),
    Letter("claimed-large", (f"x@{SLOW}",), waiting=(f"x@{SLOW}",), lines=20_000),
)
"""Being sent when the relay was killed; of the first one, a failure was not reported yet."""
HALF_RECEIVED = Letter("half-received", (f"{TAKEN}@{QUICK}",), lines=20_000)
"""Being received then."""
