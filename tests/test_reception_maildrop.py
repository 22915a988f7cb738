"""The maildrop: what the relay takes in from it, refuses, leaves, and survives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import resource
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from tests.support.service import Service, deliveries
from tests.support.smtp_server import ScriptedServer

HOUSE = """
hostname = "gw1.maison.mrs"
[local]
users = ["chris"]
maildir = "mail/{user}"
[aliases]
root = "chris"
"""
ENVELOPE = b"MAIL FROM:<chris>\r\nRCPT TO:<root>\r\nDATA\r\n"
CONTENT = b"From: chris\r\nSubject: hello\r\n\r\nbody\r\n"


def maildrop(relay: Service) -> Path:
    return relay.queue_path.parent / "maildrop"


def leave(relay: Service, name: str, content: bytes = ENVELOPE + CONTENT) -> Path:
    """Put a file into the maildrop as ``relay send`` does, and say so."""
    folder = maildrop(relay)
    (folder / f".{name}").write_bytes(content)
    path = (folder / f".{name}").rename(folder / name)
    knock(relay)
    return path


def knock(relay: Service) -> None:
    folder = os.open(maildrop(relay), os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knocker:
            knocker.sendto(b"\n", f"/proc/self/fd/{folder}/.wake")
    finally:
        os.close(folder)


def mailbox(tmp_path: Path) -> list[str]:
    return [path.read_text() for path in sorted((tmp_path / "mail/chris/new").glob("*"))]


def send(relay: Service, *options: str, content: bytes = CONTENT) -> None:
    subprocess.run(
        [sys.executable, "-m", "relay", "send", *options],
        input=content,
        env={**os.environ, "RELAY_CONFIG": str(relay.config)},
        check=True,
    )


async def test_a_message_is_taken_in_at_once(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        folder = maildrop(relay)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o1733
        send(relay, "-F", "The Gateway", "root", content=b"Subject: disk\n\nfull\n")
        await relay.logged(r"client=\S+\[uid \d+\], message-id.*")
        await relay.logged(r"to=<chris@gw1\.maison\.mrs>, orig_to=<root>, relay=maildir, .*status=sent")
        assert [path.name for path in folder.iterdir()] == [".wake"]
    (message,) = mailbox(tmp_path)
    assert f"Received: by gw1.maison.mrs (relay, from userid {os.getuid()})\n\tid " in message
    assert "\n\tfor <root>; " in message
    assert "\nFrom: The Gateway <" in message
    assert message.endswith("\n\nfull\n")
    assert not (folder / ".wake").exists()


async def test_messages_of_a_time_without_a_relay_are_taken_in_at_the_start(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        await relay.stop()
        for _ in range(3):
            send(relay, "root")
        await relay.start()
        await relay.logged("relay=maildir, .*status=sent", 3)
    assert len(mailbox(tmp_path)) == 3


async def test_envelopes_and_headers_are_treated_as_those_of_any_client(tmp_path: Path) -> None:
    async with ScriptedServer() as hub:
        settings = (
            f'relayhost = "[127.0.0.1]:{hub.port}"\n{HOUSE}'
            "[sender_canonical]\nchris = 'chris@free.fr'\n"
            "[[header_checks]]\npattern = '^X-Secret:'\naction = 'IGNORE'\n"
        )
        async with Service(tmp_path, settings) as relay:
            content = b"X-Secret: 1\r\nBcc: hidden@x.test\r\nTo: you@x.test\r\n\r\nLF\nbare\rCR\r\n"
            leave(relay, "a", b"MAIL FROM:<chris>\r\nRCPT TO:<you@x.test>\r\nDATA\r\n" + content)
            await relay.logged("status=sent")
        (delivery,) = deliveries(hub)
        assert (delivery.reverse_path, delivery.recipients) == ("chris@free.fr", ("you@x.test",))
        assert b"X-Secret" not in delivery.content
        assert b"hidden" not in delivery.content
        assert delivery.content.endswith(b"\r\nFrom: chris@free.fr\r\n\r\nLF\r\nbare CR\r\n")


async def test_an_unknown_recipient_comes_back_as_a_report(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        leave(relay, "a", b"MAIL FROM:<root>\r\nRCPT TO:<who>\r\nDATA\r\n" + CONTENT)
        await relay.logged("to=<chris@gw1.maison.mrs>, .*relay=maildir, .*status=sent")
    (report,) = mailbox(tmp_path)
    assert "there is no such user at gw1.maison.mrs" in report


@pytest.mark.parametrize(
    ("settings", "content", "words"),
    [
        (
            "[[header_checks]]\npattern = '^Subject: hello'\naction = 'REJECT No hellos'\n",
            CONTENT,
            "No hellos",
        ),
        ("[limits]\nmessage_size = '1KB'\n", CONTENT + b"x" * 200_000, "too big"),
        ("", b"Received: x\r\n" * 60 + CONTENT, "in circles"),
    ],
)
async def test_a_refused_message_comes_back_as_a_report(
    tmp_path: Path, settings: str, content: bytes, words: str
) -> None:
    async with Service(tmp_path, HOUSE + settings) as relay:
        path = leave(relay, "a", ENVELOPE + content)
        await relay.logged("to=<chris@gw1.maison.mrs>, .*relay=maildir, .*status=sent")
        assert not path.exists()
        await relay.emptied()
    (report,) = mailbox(tmp_path)
    assert words in report.replace("\n    > ", " ")
    assert "Subject: hello" in report or "Received" in report


async def test_a_refused_message_of_nobody_is_logged(tmp_path: Path) -> None:
    settings = HOUSE + "[[header_checks]]\npattern = '^Subject:'\naction = 'REJECT'\n"
    async with Service(tmp_path, settings) as relay:
        leave(relay, "a", b"MAIL FROM:<>\r\nRCPT TO:<root>\r\nDATA\r\n" + CONTENT)
        await relay.logged("NOQUEUE: reject: sendmail from .*uid")
        assert await relay.queue() == []


async def test_what_is_no_message_is_set_aside_and_told_once(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        folder = maildrop(relay)
        (folder / "b-link").symlink_to(relay.config)
        os.mkfifo(folder / "c-fifo")
        (folder / "d-folder/full").mkdir(parents=True)
        os.link(relay.config, folder / "e-other-name")
        (folder / "0000000000000000000000000000.A").write_bytes(b"x")
        (folder / "f-endless").write_bytes(ENVELOPE[:-6] * 50_000)
        (folder / "g-long-line").write_bytes(b"MAIL FROM:<" + b"x" * 100_000)
        (folder / "h-empty").write_bytes(b"")
        leave(relay, "a")
        await relay.logged("maildrop: .* is set aside as .*: ", 8)
        await relay.logged("relay=maildir, .*status=sent")
        leave(relay, "z")
        await relay.logged("relay=maildir, .*status=sent", 2)
        assert relay.log.count("is set aside") == 8
        assert len([*folder.glob(".refused-*")]) == 8
        assert [path.name for path in folder.glob("[!.]*")] == []
        assert relay.config.exists()
    assert len(mailbox(tmp_path)) == 2


@pytest.mark.parametrize("name", ["x" * 254, "é" * 127, "a\nb", "a b.c", "\udcff\x1b[2J"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Its name while it is taken in must fit, and be known again after a kill."""
    async with Service(tmp_path, HOUSE) as relay:
        leave(relay, name)
        (queue_id,) = await relay.logged(r"(\w+): client=\S+\[uid \d+\]")
        await relay.logged(f"{queue_id}: removed")
        await relay.stop()
        (maildrop(relay) / f"{name[:50]}.{queue_id}").write_bytes(ENVELOPE + CONTENT)
        await relay.start()
        leave(relay, "next")
        await relay.logged(": removed", 2)
        await relay.emptied()
        assert [path.name for path in maildrop(relay).iterdir()] == [".wake"]
    assert len(mailbox(tmp_path)) == 2


async def test_what_is_in_the_way_of_the_socket_is_set_aside(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        await relay.stop()
        (maildrop(relay) / ".wake" / "full").mkdir(parents=True)
        send(relay, "root")
        await relay.start()
        await relay.logged("relay=maildir, .*status=sent")
        leave(relay, "a")
        await relay.logged("relay=maildir, .*status=sent", 2)


async def test_what_nobody_finished_is_deleted_after_a_day(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        await relay.stop()
        for name, age in ((".old", 100_000), (".slow", 100_000), (".young", 0)):
            path = maildrop(relay) / name
            path.write_bytes(b"MAIL")
            os.utime(path, (time.time() - age,) * 2)
        with (maildrop(relay) / ".slow").open("rb") as slow:
            fcntl.flock(slow, fcntl.LOCK_EX)  # as a job does that prints something once a day
            await relay.start()
            leave(relay, "a")
            await relay.logged("status=sent")
            assert sorted(path.name for path in maildrop(relay).iterdir()) == [".slow", ".wake", ".young"]


async def test_a_shortage_of_the_relay_costs_no_message(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        leave(relay, "first")
        await relay.logged(": removed")
        most = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        used = {int(path.name) for path in Path(f"/proc/{relay.pid}/fd").iterdir()}
        free = next(number for number in range(len(used) + 1) if number not in used)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (free, most[1]))
        path = leave(relay, "second")
        await relay.logged("maildrop .* can't be looked at now: Too many open files")
        assert path.exists()
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, most)
        knock(relay)
        await relay.logged(": removed", 2)
    assert len(mailbox(tmp_path)) == 2


async def test_a_message_being_taken_in_has_a_name_that_nobody_can_guess(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        await relay.stop()
        folder = maildrop(relay)
        (folder / ("b" * 32)).write_bytes(ENVELOPE + CONTENT + b"x\r\n" * 3_000_000)
        await relay.start()
        while not (names := [*folder.glob("[!.]*.*")]):
            assert not mailbox(tmp_path)
            await asyncio.sleep(0)
        assert names[0].name.startswith("b" * 32 + ".")
        await relay.logged("status=sent")


@pytest.mark.needs_root
async def test_a_message_waits_while_the_queue_has_no_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", disk], check=True)
    try:
        async with Service(tmp_path, f'{HOUSE}[queue]\npath = "{disk}/queue.db"\n') as relay:
            ballast = disk / "ballast"
            with ballast.open("wb") as file:
                while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 200_000:
                    file.write(b"x" * 100_000)
                    file.flush()
            leave(relay, "a")
            await relay.logged("maildrop: a message of .* waits there: 452")
            assert len([*maildrop(relay).glob("a.*")]) == 1
            ballast.unlink()
            knock(relay)
            await relay.logged("relay=maildir, .*status=sent")
            assert [path.name for path in maildrop(relay).iterdir()] == [".wake"]
    finally:
        subprocess.run(["umount", disk], check=True)
    assert len(mailbox(tmp_path)) == 1


async def test_a_message_that_was_taken_in_before_a_kill_is_not_taken_in_again(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE) as relay:
        leave(relay, "a")
        (queue_id,) = await relay.logged(r"(\w+): client=\S+\[uid \d+\]")
        await relay.logged(f"{queue_id}: removed")
        await relay.stop()
        # As a kill leaves it after the commit, before the file is deleted ...
        (maildrop(relay) / f"{'c' * 32}.{queue_id}").write_bytes(ENVELOPE + CONTENT)
        # ... and before the commit.
        (maildrop(relay) / f"{'d' * 32}.66105DE0DC19F").write_bytes(ENVELOPE + CONTENT)
        await relay.start()
        await relay.logged(": removed", 2)
        await relay.emptied()
        assert [path.name for path in maildrop(relay).iterdir()] == [".wake"]
    assert len(mailbox(tmp_path)) == 2


async def test_kills_at_any_time_lose_and_repeat_nothing(tmp_path: Path) -> None:
    random = Random(4)
    async with Service(tmp_path, HOUSE) as relay:
        for turn in range(6):
            for number in range(20):
                content = CONTENT.replace(b"hello", f"<{turn}.{number}>".encode())
                leave(relay, f"{turn:x}{number:030x}", ENVELOPE + content)
            await asyncio.sleep(random.uniform(0, 0.05))  # when the kill comes; nothing waits for it
            await relay.kill()
            await relay.start()
        async with asyncio.timeout(60):
            while [*maildrop(relay).glob("[!.]*")]:
                await asyncio.sleep(0.05)
        await relay.command("queue", "retry", "--all")  # those whose attempt was cut short
        await relay.emptied()
    subjects = sorted(re.findall(r"(?m)^Subject: <(.*)>$", "".join(mailbox(tmp_path))))
    assert subjects == sorted(f"{turn}.{number}" for turn in range(6) for number in range(20))
