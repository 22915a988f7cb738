"""The relay killed at each step of a detour (docs/queue.md): the mail arrives, once where it can be known."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.internet import online
from tests.support.service import Service
from tests.support.smtp_server import Script
from tests.torture.kill_at import SAID

KILL = Path(__file__).parent / "torture" / "kill_at.py"
LEARN = "INTO learned_route"
OUTCOME = r"SET\s+state = iif"
REFUSING = Script().but(RCPT=b"554 5.7.1 Client host [203.0.113.7] blocked using zen.spamhaus.org\r\n")
RELAY = """
fallback = "[smtp.isp.test]"
[queue]
retry = ["1s"]
path = "{path}"
[dns]
nameservers = ["{dns}"]
"""


@pytest.mark.needs_root  # for port 25
@pytest.mark.parametrize(
    ("moment", "pattern", "direct", "copies"),
    [
        ("before-commit", LEARN, 2, 1),
        ("after-commit", LEARN, 1, 1),
        ("before-commit", OUTCOME, 2, 1),
        ("after-commit", OUTCOME, 2, 1),
    ],
)
async def test_a_detour_is_taken_up_again(
    tmp_path: Path, moment: str, pattern: str, direct: int, copies: int
) -> None:
    names = {"smtp.isp.test": {"A": ["127.0.9.1"]}}
    async with online(
        {"isp.test": Script(), "dest.test": REFUSING, "free.test": Script()}, names
    ) as internet:
        toml = RELAY.format(path=tmp_path / "queue.db", dns=":".join(map(str, internet.dns.address)))
        dying = Service(tmp_path, toml, under=(sys.executable, KILL, moment, pattern))
        await dying.start()
        with suppress(ConnectionError):
            await dying.send(b"Subject: hi\r\n\r\nHello.\r\n", "bob@dest.test", sender="chris@free.test")
        await dying.logged(SAID)
        await dying.kill()
        async with Service(tmp_path, toml) as relay:
            await relay.emptied()
        (site,) = internet.servers["dest.test"]
        assert len(site.sessions) == direct
        assert internet.taken("isp.test")["bob@dest.test", b"hi"] == copies
