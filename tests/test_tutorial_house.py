"""The chapters of the tutorial about mail at home, done with the relay.

"Premier test: messagerie locale", "Rediriger les messages", "Le serveur POP3" and "Le luxe du luxe": names,
addresses and messages are the tutorial's. Where its reader edits several files and reloads, the relay has one
file; where it installs an IMAP daemon, there is Dovecot.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support import dovecot
from tests.support.service import Service
from tests.test_tutorial import send_like_outlook_express

GATEWAY = 'hostname = "gateway2.maison.mrs"'
HOUSE = """
[local]
users = ["chris"]
"""
ALIASES = """
[aliases]
# Basic system aliases -- these MUST be present.
MAILER-DAEMON = "postmaster"
postmaster = "root"
# General redirections for pseudo accounts.
bin = "root"
daemon = "root"
games = "root"
ingres = "root"
nobody = "root"
system = "root"
toor = "root"
uucp = "root"
# Well-known aliases.
manager = "root"
dumper = "root"
operator = "root"
# trap decode to catch security attacks
decode = "root"
# Person who should get root's mail
root = "chris"
"""
"""The tutorial's /etc/postfix/aliases, in the form of relay.toml."""

NAMES = [
    *("MAILER-DAEMON", "postmaster", "bin", "daemon", "games", "ingres", "nobody", "system", "toor", "uucp"),
    *("manager", "dumper", "operator", "decode", "root"),
]
TEST = (
    b'From: "gateway2" <chris@gateway2.maison.mrs>\r\n'
    b"To: <root@gateway2.maison.mrs>\r\n"
    b"Subject: Test serveur POP\r\n"
    b"Date: Sun, 11 May 2003 18:00:00 +0200\r\n"
    b"Message-ID: <000a01c317d8$5a6b7c80$0a00a8c0@maison.mrs>\r\n"
    b"X-Mailer: Microsoft Outlook Express 6.00.2800.1106\r\n"
    b"\r\n"
    b"???\r\n"
)


def maildir(folder: Path, user: str = "chris") -> list[str]:
    """Return the messages in a mailbox."""
    return [path.read_text() for path in sorted((folder / "mail" / user / "new").iterdir())]


@pytest.mark.needs("bsd-mailx")
async def test_the_first_test_is_a_message_to_root_with_mail(tmp_path: Path) -> None:
    settings = f'hostname = "gw1.maison.mrs"{HOUSE}maildir = "mail/{{user}}"\n{ALIASES}'
    (tmp_path / "sendmail").symlink_to(Path(sys.executable).with_name("relay"))
    (tmp_path / "mailrc").write_text(f"set sendmail={tmp_path}/sendmail ask\n")
    async with Service(tmp_path, settings) as relay:
        mail = await asyncio.create_subprocess_exec(
            *("bsd-mailx", "-s", "test interne", "-r", "chris", "root"),
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, "MAILRC": f"{tmp_path}/mailrc", "RELAY_CONFIG": str(relay.config)},
        )
        await mail.communicate(b"coucou\n")
        assert mail.returncode == 0
        await relay.logged(
            r"to=<chris@gw1\.maison\.mrs>, orig_to=<root>, relay=maildir, delay=\S+ dsn=2\.0\.0, status=sent"
        )
    (message,) = maildir(tmp_path)
    assert "\nX-Original-To: root\nDelivered-To: chris@gw1.maison.mrs\n" in message
    assert "\nTo: root@gw1.maison.mrs\n" in message
    assert "\nSubject: test interne\n" in message
    assert message.endswith("\n\ncoucou\n")


async def test_the_table_of_aliases_sends_all_who_are_no_persons_to_chris(tmp_path: Path) -> None:
    async with Service(tmp_path, f'{GATEWAY}{HOUSE}maildir = "mail/{{user}}"\n{ALIASES}') as relay:
        for name in NAMES:
            reply = await relay.send(b"Subject: redirect\r\n\r\n", f"{name}@gateway2.maison.mrs", sender=name)
            assert reply.startswith("250 2.0.0 Ok: queued as ")
        await relay.logged(
            r"to=<chris@gateway2\.maison\.mrs>, orig_to=<[^>]*>, relay=maildir, .*status=sent", len(NAMES)
        )
        assert (await relay.send(b"", "personne@gateway2.maison.mrs")).startswith("550 5.1.1 ")
    originals = {message.partition("X-Original-To: ")[2].partition("\n")[0] for message in maildir(tmp_path)}
    assert originals == {f"{name}@gateway2.maison.mrs" for name in NAMES}


@pytest.mark.needs("dovecot")
async def test_a_message_to_root_is_read_in_the_mailbox_of_chris_with_pop3(tmp_path: Path) -> None:
    with dovecot.running() as box:
        settings = f'{GATEWAY}{HOUSE}lmtp = "{box.socket}"\n{ALIASES}'
        async with Service(tmp_path, settings) as relay:
            await send_like_outlook_express(
                relay, "chris@gateway2.maison.mrs", ["root@gateway2.maison.mrs"], TEST
            )
            await relay.logged(r"to=<chris@gateway2\.maison\.mrs>, .*status=sent")
        (message,) = await asyncio.to_thread(box.fetch, "chris")
        assert message.endswith(TEST.decode().replace("\r\n", "\n").removesuffix("\n").partition("From:")[2])


@pytest.mark.needs("dovecot")
async def test_the_height_of_luxury_is_an_address_without_the_name_of_the_machine(tmp_path: Path) -> None:
    domains = 'domains = ["gateway2.maison.mrs", "maison.mrs", "localhost"]\n'
    with dovecot.running() as box:
        settings = f'{GATEWAY}{HOUSE}{domains}lmtp = "{box.socket}"\n{ALIASES}'
        async with Service(tmp_path, settings) as relay:
            for address in ("chris@maison.mrs", "chris@gateway2.maison.mrs", "root@maison.mrs"):
                await send_like_outlook_express(relay, "chris@maison.mrs", [address], TEST)
            await relay.logged(r"orig_to=<root@maison\.mrs>.*status=sent|to=<chris@.*status=sent", 3)
        assert len(await asyncio.to_thread(box.fetch, "chris")) == 3
