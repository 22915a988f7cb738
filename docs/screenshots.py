"""Makes status-page.png and status-page-phone.png: .venv/bin/python docs/screenshots.py

The page, its queue and the browser (Debian's chromium and chromium-driver) are real; the mail is made up.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from relay.mail.attempt import Attempt, Outcome, State
from relay.mail.envelope import Recipient
from relay.mail.reply import Reply
from tests.support.browser import DESKTOP, PHONE, browser, look, photograph
from tests.support.queue import SENT, accept
from tests.support.web import House, learned_route, login, next_hop, page

FOLDER = Path(__file__).parent
ISP = "isp=[smtp.orange.fr]:465"
DOWN = "connect to mail.example.net[203.0.113.9]:25: connection timed out"
SILENT = Attempt(Reply(451, "4.4.1", DOWN), next_hop="example.net:25")
FULL = Attempt(
    Reply(452, "4.2.2", "The email account that you tried to reach is over quota"),
    host="gmail-smtp-in.l.google.com[142.250.27.26]:25",
    command="RCPT TO",
    is_remote=True,
    next_hop="gmail.com:25",
)
UNKNOWN = Attempt(
    Reply(550, "5.1.1", "No such user"),
    host="mx.example.org[198.51.100.7]:25",
    command="RCPT TO",
    is_remote=True,
)
WAITING = (
    ("Photos of the garden", "chris@maison.example", "aunt@gmail.com", FULL, 5000),
    ("Invoice 2026-118 for the roof", "chris@maison.example", "office@example.net", SILENT, 9100),
)
DONE = (
    ("Scan_0042.pdf", "scanner@maison.example", "chris@maison.example", SENT),
    ("Re: Sunday", "marc@maison.example", "anna@example.org", SENT),
    ("Meeting on Friday", "chris@maison.example", "jonh@example.org", UNKNOWN),
    ("nas: backup finished", "nas@maison.example", "chris@maison.example", SENT),
)


async def furnish(house: House, now: float) -> None:
    """Make up a house and its last two days."""
    house.now = now
    for number, (subject, sender, address, attempt, age) in enumerate(WAITING):
        message = await accept(
            house.store,
            [Recipient(address)],
            reverse_path=sender,
            now=now - age,
            subject=subject,
            size=40_000,
        )
        due = now + 240 + 600 * number
        await house.store.record([Outcome(message.number, 0, State.DEFERRED, attempt, due)])
    for number, (subject, sender, address, attempt) in enumerate(DONE):
        message = await accept(
            house.store,
            [Recipient(address)],
            reverse_path=sender,
            now=now - 900 - 4000 * number,
            subject=subject,
            size=9000 + 70_000 * number,
        )
        state = State.DELIVERED if attempt is SENT else State.BOUNCED
        await house.store.record([Outcome(message.number, 0, state, attempt)], reported=[(message.number, 0)])
    house.hops = [
        next_hop(ISP, in_flight=1),
        next_hop("gmail.com:25"),
        next_hop("example.net:25", state="blocked", blocked_until=now + 840, failure=DOWN, waiting=1),
    ]
    house.accounts = [
        login("isp", "christian@orange.fr"),
        login("outlook", "chris@outlook.com", expires_at=now + 2700),
    ]
    await house.store.learn(
        learned_route(
            "friends.example",
            via=ISP,
            reason="dynamic address",
            reply="host mx1.friends.example[203.0.113.7] said: 554 5.7.1 Mail from dynamic addresses is not"
            " accepted (in reply to MAIL FROM command)",
            learned_at=now - 2 * 86400,
            expires_at=now + 28 * 86400,
        )
    )
    _make_up_the_past(house, now)


def _make_up_the_past(house: House, now: float) -> None:
    chance = random.Random(4)
    for hours in range(47, -1, -1):
        at = now - hours * 3600
        is_day = 7 <= time.localtime(at).tm_hour <= 22
        for _ in range(chance.randrange(2, 14) if is_day else chance.randrange(2)):
            outcome = chance.choice(["sent"] * 12 + ["deferred", "bounced"])
            fields = {"event": outcome, "next_hop": ISP, "delay": chance.lognormvariate(0, 1)}
            record = logging.LogRecord("relay", logging.INFO, "", 0, "", None, None)
            record.created, record.args = at, fields
            house.counts.emit(record)


def shoot(url: str) -> None:
    """Photograph the page for a desk by day and a phone by night."""
    with browser() as driver:
        look(driver, DESKTOP)
        driver.get(url)
        (FOLDER / "status-page.png").write_bytes(photograph(driver, 1180))
        look(driver, PHONE, dark=True, scale=1.25)
        driver.get(url)
        (FOLDER / "status-page-phone.png").write_bytes(photograph(driver, PHONE[1]))


async def main(work: Callable[[str], None] = shoot) -> None:
    """Serve the page and have it photographed."""
    with TemporaryDirectory() as folder:
        now = time.time()
        async with page(Path(folder), now=now - 9 * 86400) as house:
            await furnish(house, now)
            await asyncio.to_thread(work, house.web.url)


if __name__ == "__main__":
    asyncio.run(main())
