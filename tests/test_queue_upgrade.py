"""Queues of earlier relays, stored by tests/queues/make.py, opened by this one."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from relay.mail.envelope import parse_queue_id
from relay.queue import schema
from tests.queues.letters import BEFORE, CLAIMED, GONE, HELD, QUICK, Letter
from tests.support.queue import content_files, query
from tests.support.service import Service, deliveries
from tests.support.smtp_server import ScriptedServer

STORED = Path(__file__).parent / "queues"
EARLIER = range(1, len(schema.MIGRATIONS))
LETTERS = (*BEFORE, *CLAIMED)
REPORTS = 2
"""One was waiting in the queue; one is on a failure that was not reported yet."""
TIMES_KILLED = 8
SETTINGS = """
relayhost = "[127.0.0.1]:{port}"
[queue]
path = "{path}"
lifetime = "36500d"
history = "36500d"
warn_after = "0s"
"""
"""The stored mail is as old as its file."""


def unpack(version: int, folder: Path) -> Path:
    """Return a copy of the queue of a version, as that relay left it when it was killed."""
    with tarfile.open(STORED / f"v{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "queue.db"


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def expected(letters: Iterable[Letter]) -> dict[tuple[str, str], bytes]:
    """Return what is to arrive, by sender and recipient."""
    return {(letter.sender, recipient): letter.content for letter in letters for recipient in letter.waiting}


def arrived(server: ScriptedServer) -> dict[tuple[str, str], bytes]:
    """Return what arrived that is no report, as it was sent."""
    taken = [one for one in deliveries(server) if one.reverse_path]
    pairs = [((one.reverse_path, to), one.without_trace) for one in taken for to in one.recipients]
    assert len(dict(pairs)) == len(pairs), "something arrived twice"
    return dict(pairs)


def check_reports(server: ScriptedServer) -> None:
    reports = {one.recipients: one.content for one in deliveries(server) if not one.reverse_path}
    assert set(reports) == {(f"later-told@{QUICK}",), (f"unreported@{QUICK}",)}
    for content in reports.values():
        assert f"Final-Recipient: rfc822; {GONE}@{QUICK}\r\n".encode() in content
        assert b"550 5.1.1 There is no such mailbox" in content


def check_options(server: ScriptedServer) -> None:
    commands = {command for session in server.sessions for command in session.commands}
    [sender] = [command for command in commands if command.startswith(b"MAIL FROM:<options@")]
    assert {b"RET=HDRS", b"ENVID=letter+2B1"} <= set(sender.split())
    [recipient] = [command for command in commands if b"NOTIFY=" in command and b"first" in command]
    assert {b"NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;first+2B1@{QUICK}".encode()} <= set(recipient.split())


async def check_history(relay: Service, version: int) -> None:
    found = json.loads((await relay.command("trace", "--json", f"@{QUICK}")).out)
    messages = {message["sender"].partition("@")[0]: message for message in found}
    assert set(messages) == {"", *(letter.name for letter in LETTERS)}
    assert all(message["finished_at"] for message in found)
    [delivered] = messages["delivered"]["recipients"]
    assert (delivered["state"], delivered["attempts"], len(delivered["history"])) == ("delivered", 1, 1)
    taken, later, gone, _ = messages["several"]["recipients"]
    assert [one["state"] for one in (taken, later, gone)] == ["delivered", "delivered", "bounced"]
    assert "There is no such mailbox" in gone["reply"]
    # Two attempts before, and one now. Versions 1 and 2 knew only the last of them.
    replies = [attempt["reply"] for attempt in later["history"]]
    assert ["The mailbox is busy" in reply for reply in replies] == [True] * (2 if version >= 3 else 1) + [
        False
    ]


@pytest.mark.parametrize("version", EARLIER)
async def test_nothing_is_lost_by_an_upgrade(tmp_path: Path, version: int) -> None:
    path = unpack(version, tmp_path)
    [(newest,)] = query(unpack(version, tmp_path / "copy"), "SELECT max(number) FROM message")
    async with ScriptedServer() as server:
        relay = Service(tmp_path, SETTINGS.format(port=server.port, path=path))
        async with relay:
            await relay.command("queue", "retry", "--all")
            released = [letter for letter in LETTERS if letter.name not in HELD]
            await relay.logged("status=sent", len(expected(released)) + REPORTS)
            assert arrived(server) == expected(released)
            assert (await relay.command("queue", "release", "--all")).out == "2 messages released\n"
            await relay.logged("removed", sum(1 for letter in LETTERS if letter.waiting) + REPORTS)
            assert arrived(server) == expected(LETTERS)
            check_reports(server)
            check_options(server)
            await check_history(relay, version)
            reply = await relay.send(b"Subject: new\r\n\r\n", f"new@{QUICK}")
            number = parse_queue_id(reply.split()[-1])
            assert number is not None
            assert number > newest
            await relay.logged(f"to=<new@{QUICK}>.*status=sent")
        assert not re.search("warning|error", relay.log)
        assert query(path, "PRAGMA user_version") == [(len(schema.MIGRATIONS),)]
        assert query(path, "PRAGMA integrity_check") == [("ok",)]
        assert content_files(path) == []
        async with relay:
            assert await relay.queue() == []


@pytest.mark.parametrize("version", EARLIER)
def test_an_upgrade_that_is_killed_is_done_by_the_next_start(tmp_path: Path, version: int) -> None:
    path = unpack(version, tmp_path / "whole")
    command = [sys.executable, "-m", "tests.queues.cut_short"]
    count = int(subprocess.run([*command, path, "0"], check=True, capture_output=True).stdout)
    whole = dump(path)
    for turn in range(TIMES_KILLED):
        path = unpack(version, tmp_path / str(turn))
        killed = subprocess.run([*command, path, str(1 + count * turn // TIMES_KILLED)], check=False)
        assert killed.returncode == -signal.SIGKILL
        schema.connect(path, 2**20).close()
        assert dump(path) == whole


def test_there_is_a_queue_of_each_earlier_version() -> None:
    stored = {int(file.name.removeprefix("v").removesuffix(".tar.xz")) for file in STORED.glob("v*.tar.xz")}
    assert set(EARLIER) <= stored, "store one of the last version before it changes: tests/queues/make.py"
