"""The programs of a machine that send mail through ``sendmail``: mail, mutt, git, PHP, cron, and any user."""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.conftest import SEARCH_PATH
from tests.support.service import Finished, Service, deliveries, run_program
from tests.support.smtp_server import ScriptedServer

RELAY = Path(sys.executable).parent / "relay"
ME = pwd.getpwuid(os.getuid())
MY_NAME = ME.pw_gecos.partition(",")[0].replace("&", ME.pw_name.capitalize())
MY_ADDRESS = f"{ME.pw_name}@maison.mrs"
NOBODY = pwd.getpwnam("nobody")
SOURCE = Path(__file__).parents[1]

SUBJECT = "Un été à Marseille"
TEXT = "éèàçùî\n.\n..\n .\nFrom the end:\n\n.\nlast line\n"
"""What a program that ends a message at a dot, or takes dots off, would spoil."""
SETTINGS = """
domain = "maison.mrs"
relayhost = "[127.0.0.1]:{port}"
[local]
domains = ["maison.mrs"]
users = ["chris", "marc"]
maildir = "mail/{{user}}"
[aliases]
root = "chris"
"""

AS_NOBODY = f"""
import os, shutil, sys
# Who has no rights may be unable to read Python itself, where that is below /root.
from relay.cli import drop, main, send
"".encode("utf-8-sig")
os.setgroups([])
os.setgid({NOBODY.pw_gid})
os.setuid({NOBODY.pw_uid})
sys.argv[0] = "sendmail"
"""
SEND = "sys.exit(main.main())"


class House:
    """A relay as a process, mailboxes, the outside, and ``sendmail``: a link to the program ``relay``."""

    def __init__(self, folder: Path, relay: Service, outside: ScriptedServer) -> None:
        self.folder = folder
        self.relay = relay
        self.outside = outside
        self.sendmail = folder / "sendmail"
        self.sendmail.symlink_to(RELAY)
        self.maildrop = folder / "maildrop"

    async def run(self, *command: str | Path, given: str = "", **environ: str | Path) -> Finished:
        """Run a program that finds no settings but those of the test."""
        settings = {"HOME": self.folder, "RELAY_CONFIG": self.relay.config, "LC_ALL": "C.UTF-8", **environ}
        settings |= {"PATH": SEARCH_PATH}
        words = (f"{name}={value}" for name, value in settings.items())
        return await run_program("env", "--ignore-environment", *words, *command, given=given.encode())

    async def run_as_nobody(self, code: str, *arguments: str, given: str = "") -> Finished:
        """Run Python code as a user without rights, in a process that has the relay's modules."""
        return await self.run(
            sys.executable, "-c", AS_NOBODY + code, *arguments, given=given, PYTHONPATH=SOURCE
        )

    def mailbox(self, user: str) -> list[EmailMessage]:
        return [read(path.read_bytes()) for path in (self.folder / "mail" / user / "new").iterdir()]


@asynccontextmanager
async def open_house(folder: Path) -> AsyncIterator[House]:
    async with ScriptedServer() as outside, Service(folder, SETTINGS.format(port=outside.port)) as relay:
        yield House(folder, relay, outside)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        yield opened


def read(content: bytes) -> EmailMessage:
    message = message_from_bytes(content.replace(b"\r\n", b"\n"), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


async def arrived(
    house: House,
    *,
    envelope_sender: str = MY_ADDRESS,
    author: tuple[str, str] = (MY_NAME, MY_ADDRESS),
    subject: str = SUBJECT,
) -> EmailMessage:
    """Check a message to root and ami, with a copy for marc and a hidden one for anne; return it."""
    await house.relay.logged("status=sent", 4)
    [delivery] = deliveries(house.outside)
    assert delivery.reverse_path == envelope_sender
    assert sorted(delivery.recipients) == ["ami@machin.com", "anne@machin.com"]
    [for_chris], [for_marc] = house.mailbox("chris"), house.mailbox("marc")
    assert (for_chris["Delivered-To"], for_marc["Delivered-To"]) == ("chris@maison.mrs", "marc@maison.mrs")
    assert for_chris["Return-Path"] == f"<{envelope_sender}>"
    for message in (read(delivery.content), for_chris, for_marc):
        [sender] = message["From"].addresses
        assert (sender.display_name, sender.addr_spec) == author
        to = {address.addr_spec for address in message["To"].addresses}
        assert to == {"root@maison.mrs", "ami@machin.com"}
        assert [address.addr_spec for address in message["Cc"].addresses] == ["marc@maison.mrs"]
        assert message["Bcc"] is None
        assert "anne" not in str(message)
        assert message["Subject"] == subject
        assert message["Date"]
        assert message["Message-ID"]
        assert f"from userid {ME.pw_uid})" in message["Received"]
        assert TEXT in message.get_content()
    return for_chris


# Mail programs

ADDRESSES = ("-c", "marc", "-b", "anne@machin.com", "root", "ami@machin.com")


@pytest.mark.needs("bsd-mailx")
async def test_mail_of_bsd_mailx(house: House) -> None:
    (house.folder / "mailrc").write_text(f"set sendmail={house.sendmail}\n")
    mail = await house.run(
        *("bsd-mailx", "-s", SUBJECT, *ADDRESSES), given=TEXT, MAILRC=house.folder / "mailrc"
    )
    assert mail == Finished(0, "", "")
    message = await arrived(house)
    assert message.get_content() == TEXT


@pytest.mark.needs("bsd-mailx")
async def test_mail_of_bsd_mailx_in_the_name_of_somebody_else(house: House) -> None:
    (house.folder / "mailrc").write_text(f"set sendmail={house.sendmail}\n")
    options = ("-s", SUBJECT, "-r", "backup@maison.mrs")
    await house.run("bsd-mailx", *options, *ADDRESSES, given=TEXT, MAILRC=house.folder / "mailrc")
    await arrived(house, envelope_sender="backup@maison.mrs", author=("", "backup@maison.mrs"))


@pytest.mark.needs("s-nail")
async def test_s_nail(house: House) -> None:
    mail = await house.run("s-nail", "-:/", f"-Smta={house.sendmail}", "-s", SUBJECT, *ADDRESSES, given=TEXT)
    assert mail == Finished(0, "", "")
    message = await arrived(house)
    assert message.get_content() == TEXT


@pytest.mark.needs("s-nail")
async def test_s_nail_in_the_name_of_somebody_else(house: House) -> None:
    options = ("-s", SUBJECT, "-r", "Noël <noel@maison.mrs>", *ADDRESSES)
    await house.run("s-nail", "-:/", f"-Smta={house.sendmail}", *options, given=TEXT)
    await arrived(house, envelope_sender="noel@maison.mrs", author=("Noël", "noel@maison.mrs"))


@pytest.mark.needs("mutt")
async def test_mutt(house: House) -> None:
    (house.folder / "muttrc").write_text(
        f'set sendmail="{house.sendmail} -oem -oi"\nset hostname="maison.mrs"\nset copy=no\n'
    )
    mutt = await house.run("mutt", "-n", "-F", house.folder / "muttrc", "-s", SUBJECT, *ADDRESSES, given=TEXT)
    assert mutt == Finished(0, "", "")
    message = await arrived(house)
    assert message.get_content() == TEXT


# Other programs


@pytest.mark.needs("git", "/usr/lib/git-core/git-send-email")
@pytest.mark.parametrize("option", ["--smtp-server={}", "--sendmail-cmd={} -i"])
@pytest.mark.parametrize(
    ("options", "sender"), [([], MY_ADDRESS), (["--envelope-sender=auto"], "chris@maison.mrs")]
)
async def test_git_send_email(house: House, option: str, options: Sequence[str], sender: str) -> None:
    repository = house.folder / "repository"

    async def git(*arguments: str) -> None:
        author = {"GIT_AUTHOR_NAME": "Christian Caléca", "GIT_AUTHOR_EMAIL": "chris@maison.mrs"}
        committer = {name.replace("AUTHOR", "COMMITTER"): value for name, value in author.items()}
        done = await house.run(
            *("git", "-C", repository, *arguments), GIT_CONFIG_NOSYSTEM="1", **author, **committer
        )
        assert done.status == 0, done.err + done.out

    repository.mkdir()
    await git("init", "--quiet")
    (repository / "song").write_text("Cigales\n")
    await git("add", "song")
    await git("commit", "--quiet", "--cleanup=verbatim", "--message", f"{SUBJECT}\n\n{TEXT}")
    addresses = (
        "--to=root@maison.mrs",
        "--to=ami@machin.com",
        "--cc=marc@maison.mrs",
        "--bcc=anne@machin.com",
    )
    where = option.format(house.sendmail)
    await git(*("send-email", "--confirm=never", "--suppress-cc=all", where, *options, *addresses, "-1"))
    message = await arrived(
        house,
        envelope_sender=sender,
        author=("Christian Caléca", "chris@maison.mrs"),
        subject=f"[PATCH] {SUBJECT}",
    )
    assert "\n+Cigales\n" in message.get_content()


@pytest.mark.needs("php")
async def test_mail_of_php(house: House) -> None:
    code = 'exit(mail("root, ami@machin.com", $argv[1], stream_get_contents(STDIN), $argv[2]) ? 0 : 1);'
    sendmail = ("-d", f"sendmail_path={house.sendmail} -t -i")
    headers = (
        "Cc: marc\r\nBcc: anne@machin.com\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit"
    )
    php = await house.run("php", "-n", *sendmail, "-r", code, SUBJECT, headers, given=TEXT)
    assert php == Finished(0, "", "")
    message = await arrived(house)
    # PHP ends the message with a line end of its own.
    assert message.get_content() == TEXT + "\n"


# Cron

CRON_JOB = """
SHELL=/bin/sh
MAILTO=root
CONTENT_TYPE="text/plain; charset=utf-8"
@reboot root cat {text}
"""
PRIVATE_CRON = """
mount -t tmpfs none /run
mount -t tmpfs none /etc/cron.d
mount -t tmpfs none /var/spool/cron
mkdir /var/spool/cron/crontabs
mount --bind "$1/crontab" /etc/crontab
mount --bind "$2" /usr/sbin/sendmail
exec cron -f
"""
"""A cron that sees no job of this machine, but one, and takes the relay for sendmail."""
CRON_MESSAGE = f"""\
From: root (Cron Daemon)
To: root
Subject: Cron <root@gw1> cat text
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit
X-Cron-Env: <MAILTO=root>

{TEXT}"""


@pytest.mark.needs_root
@pytest.mark.needs("cron", "unshare", "sendmail")
async def test_cron_mails_what_its_jobs_print(house: House) -> None:
    (house.folder / "text").write_text(TEXT)
    (house.folder / "crontab").write_text(CRON_JOB.format(text=house.folder / "text"))
    environ = {**os.environ, "PATH": SEARCH_PATH, "RELAY_CONFIG": str(house.relay.config)}
    cron = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-ec", PRIVATE_CRON, "sh", house.folder, RELAY), env=environ
    )
    try:
        await house.relay.logged("status=sent")
    finally:
        cron.terminate()
        await cron.wait()
    [message] = house.mailbox("chris")
    assert b"\nFrom: root@maison.mrs (Cron Daemon)\n" in message.as_bytes()
    assert (message["Return-Path"], message["To"]) == ("<root@maison.mrs>", "root@maison.mrs")
    assert message["Subject"].endswith(f" cat {house.folder}/text")
    assert message.get_content() == TEXT


async def test_the_command_of_cron(house: House) -> None:
    command = (house.sendmail, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root")
    assert await house.run(*command, given=CRON_MESSAGE) == Finished(0, "", "")
    await house.relay.logged("status=sent")
    [message] = house.mailbox("chris")
    assert message["Return-Path"] == f"<{MY_ADDRESS}>"
    assert b"\nFrom: root@maison.mrs (Cron Daemon)\n" in message.as_bytes()
    assert message.get_content() == TEXT


@pytest.mark.needs_root
@pytest.mark.needs("bsd-mailx", "unshare")
async def test_the_name_of_the_account_is_in_from(house: House) -> None:
    (house.folder / "mailrc").write_text(f"set sendmail={house.sendmail}\n")
    accounts = Path("/etc/passwd").read_text()
    accounts, count = re.subn(r"(?m)^(root:x:0:0:)[^:]*:", r"\1Christian Caléca, écuyer,,,:", accounts)
    assert count == 1
    (house.folder / "passwd").write_text(accounts)
    script = 'mount --bind "$1" /etc/passwd; shift; exec "$@"'
    await house.run(
        *("unshare", "--mount", "sh", "-ec", script, "sh", house.folder / "passwd"),
        *("bsd-mailx", "-s", SUBJECT, *ADDRESSES),
        given=TEXT,
        MAILRC=house.folder / "mailrc",
    )
    await arrived(house, author=("Christian Caléca", "root@maison.mrs"))


# Users without rights


@pytest.fixture
async def open_folder() -> AsyncIterator[House]:
    """A house that everybody can pass through, as the folder of the relay's state should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)
        async with open_house(folder) as opened:
            yield opened


LETTER = f"""\
Received: by gw1.maison.mrs (relay, from userid 0)
\tid 0; Tue, 24 Nov 2026 13:47:40 +0000
To: root
Subject: hello
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

{TEXT}"""


@pytest.mark.needs_root
class TestWhoHasNoRights:
    async def test_may_send_and_is_named(self, open_folder: House) -> None:
        house = open_folder
        sent = await house.run_as_nobody(SEND, "-i", "-froot", "-FRoot", "root", given=LETTER)
        assert sent == Finished(0, "", "")
        await house.relay.logged(rf"client=nobody\[uid {NOBODY.pw_uid}\]")
        await house.relay.logged("status=sent")
        [message] = house.mailbox("chris")
        first, given = message.get_all("Received")
        assert first.startswith(f"by gw1.maison.mrs (relay, from userid {NOBODY.pw_uid})")
        assert "from userid 0)" in given
        assert message.get_content() == TEXT

    async def test_gets_a_sender_of_his_own(self, open_folder: House) -> None:
        assert (await open_folder.run_as_nobody(SEND, "root", given="\nhello\n")).status == 0
        await open_folder.relay.logged("status=sent")
        [message] = open_folder.mailbox("chris")
        assert message["Return-Path"] == "<nobody@maison.mrs>"
        assert message["From"].addresses[0].addr_spec == "nobody@maison.mrs"

    async def test_sees_no_mail_of_others(self, open_folder: House) -> None:
        house = open_folder
        await house.relay.stop()
        assert (await house.run(house.sendmail, "-i", "root", given=LETTER)).status == 0
        [drop] = [path for path in house.maildrop.iterdir() if not path.name.startswith(".")]
        tries = """
def attempt(what, *arguments):
    try:
        what(*arguments)
        print("done")
    except OSError as error:
        print(type(error).__name__)

folder, drop, queue = sys.argv[1:]
attempt(os.listdir, folder)
attempt(open, queue, "rb")
attempt(open, drop, "ab")
attempt(os.unlink, drop)
attempt(os.rename, drop, drop + "x")
attempt(os.rename, folder, folder + "x")
"""
        tried = await house.run_as_nobody(tries, *map(str, (house.maildrop, drop, house.relay.queue_path)))
        assert tried == Finished(0, "PermissionError\n" * 6, "")
        assert (await house.relay.queue()) == []
        await house.relay.start()
        await house.relay.logged("status=sent")

    async def test_is_told_whose_settings_he_may_not_read(self, open_folder: House) -> None:
        config = open_folder.relay.config
        config.chmod(0o600)
        sent = await open_folder.run_as_nobody(SEND, "root", given=LETTER)
        assert sent.status != 0
        assert f"{config} can't be read" in sent.err
