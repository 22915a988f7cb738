"""Stores the queue of an earlier relay: python -m tests.queues.make CHECKOUT FILE

To be run once for each version of the tables, with the last code that has it, before the next comes:

    mkdir /tmp/old && git archive COMMIT | tar x -C /tmp/old
    .venv/bin/python -m tests.queues.make /tmp/old tests/queues/v4.tar.xz

That relay gets the letters of letters.py, and is killed while some are being sent and one is being received.
What it leaves is packed as it is: the database, its write-ahead log, and the folder of contents.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.queues.letters import BEFORE, CLAIMED, HALF_RECEIVED, HELD_SUBJECT, QUICK, REPLIES, SLOW, Letter
from tests.support.service import Service
from tests.support.smtp_server import HANG, OK, Script, ScriptedServer

SETTINGS = """
hostname = "gw1.maison.mrs"
[[listen]]
address = "127.0.0.1:0"
[queue]
path = "{folder}/queue.db"
[transport]
"{quick}" = "[127.0.0.1]:{quick_port}"
"{slow}" = "[127.0.0.1]:{slow_port}"
[[header_checks]]
pattern = '^Subject: {held}'
action = "HOLD"
"""
SECONDS_TO_SETTLE = 2
"""In which a lone relay has written whatever it will."""


def answer(line: bytes) -> bytes:
    """Return the reply to RCPT."""
    name = line.partition(b"<")[2].decode()
    return next((reply for start, reply in REPLIES.items() if name.startswith(start)), OK)


async def submit(relay: Service, letter: Letter) -> None:
    """Send a letter."""
    async with relay.client() as peer:
        commands = [f"RCPT TO:<{recipient}>{letter.recipient_options}" for recipient in letter.recipients]
        sender = f"MAIL FROM:<{letter.sender}>{letter.sender_options}"
        for command in ("EHLO client", sender, *commands):
            peer.send(f"{command}\r\n".encode())
            assert (await peer.reply()).startswith("250"), command
        assert (await peer.ask("DATA")).startswith("354")
        peer.send(letter.content + b".\r\n")
        assert (await peer.reply()).startswith("250")


async def main(checkout: Path, target: Path) -> None:
    """Make the queue, and pack it."""
    os.chdir(checkout)  # there `python -m relay` finds its code
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            ScriptedServer(Script().but(RCPT=answer)) as quick,
            ScriptedServer(Script(greeting=HANG)) as slow,
        ):
            relay = Service(folder)
            relay.config.write_text(
                SETTINGS.format(
                    folder=folder,
                    quick=QUICK,
                    quick_port=quick.port,
                    slow=SLOW,
                    slow_port=slow.port,
                    held=HELD_SUBJECT,
                )
            )
            await relay.start()
            await fill(relay)
        with tarfile.open(target, "w:xz") as archive:
            for path in sorted(folder.glob("queue.db*")):
                if path.name in {"queue.db", "queue.db-wal", "queue.db.content"}:
                    archive.add(path, path.name)
    print(relay.log)


async def fill(relay: Service) -> None:
    """Send all letters, and kill the relay."""
    for letter in BEFORE:
        await submit(relay, letter)
    await relay.logged("sender non-delivery notification", 2)
    await asyncio.sleep(SECONDS_TO_SETTLE)
    await relay.stop()  # what was in the log is now in the database
    await relay.start()
    again = await relay.command("queue", "retry", "--from", f"several@{QUICK}")
    assert again.status == 0, again
    held = await relay.command("queue", "hold", "--from", f"held-by-owner@{QUICK}")
    assert held.status == 0, held
    for letter in CLAIMED:
        await submit(relay, letter)
    async with relay.client() as peer:
        await peer.ask("EHLO client", f"MAIL FROM:<{HALF_RECEIVED.sender}>", f"RCPT TO:<x@{QUICK}>", "DATA")
        peer.send(HALF_RECEIVED.content)
        await asyncio.sleep(SECONDS_TO_SETTLE)
        print(json.dumps(await relay.queue(), indent=2))
        await relay.kill()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute()))
