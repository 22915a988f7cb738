"""Mail for the house, as docs/household.md tells it: Dovecot, fetchmail, and the files of the docs."""

from __future__ import annotations

import asyncio
import imaplib
import os
import re
import shutil
import smtplib
import subprocess
from email.message import EmailMessage
from pathlib import Path

import pytest

from relay.config.loading import load_config, parse_config
from relay.config.model import Config
from tests.conftest import SEARCH_PATH
from tests.support import dovecot
from tests.support.dovecot import LOGINS, PASSWORD, Dovecot
from tests.support.service import Service, deliveries
from tests.support.smtp_server import Script, ScriptedServer

DOCS = Path(__file__).parents[1] / "docs"
FILES = DOCS / "household"
NAMES = """
hostname = "gw1.maison.mrs"
domain = "maison.mrs"
"""
PEOPLE = """
[local]
domains = ["gw1.maison.mrs", "maison.mrs", "localhost"]
users = ["chris", "marc"]
"""
ALIASES = """
[aliases]
root = "chris"
family = ["chris", "marc", "aunt@example.org"]
grandma = "error:5.1.6 has moved to grandma@example.org"
"""
REAL_SENDERS = """
[sender_canonical]
"chris@maison.mrs" = "Christian Caleca <christian.caleca@free.fr>"
"""
DOVECOT_TEST = """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
listen = 127.0.0.1
first_valid_uid = 1
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
"""
"""What a Dovecot of an ordinary user needs beside the file of the docs."""

needs_dovecot = pytest.mark.needs("dovecot")


def letter(sender: str, *recipients: str, subject: str = "hello") -> EmailMessage:
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject
    message.set_content("Bonjour à tous\n")
    return message


async def send(relay: Service, message: EmailMessage) -> None:
    """Send a message as a mail program does, to the addresses in its To header."""

    def talk() -> None:
        with smtplib.SMTP("127.0.0.1", relay.port) as client:
            assert client.send_message(message) == {}

    await asyncio.to_thread(talk)


def header(message: str, name: str) -> str:
    """Return a header of a message; there must be one of that name."""
    found = re.findall(rf"(?mi)^{name}: *(.*)", message.partition("\n\n")[0])
    assert len(found) == 1, message
    return str(found[0])


def relayhost(server: ScriptedServer) -> str:
    return f'relayhost = "[127.0.0.1]:{server.port}"\n'


@needs_dovecot
async def test_messages_between_people_at_home_go_through_lmtp_and_are_read_with_pop3(tmp_path: Path) -> None:
    with dovecot.running() as box:
        settings = f'{NAMES}{PEOPLE}lmtp = "{box.socket}"\n{ALIASES}{REAL_SENDERS}'
        async with Service(tmp_path, settings) as relay:
            await send(relay, letter("chris@maison.mrs", "Marc@gw1.maison.mrs"))
            await send(relay, letter("marc@maison.mrs", "root@gw1.maison.mrs", subject="for root"))
            await relay.logged("status=sent", 2)
        (to_marc,) = await asyncio.to_thread(box.fetch, "marc")
        assert header(to_marc, "From") == "chris@maison.mrs"
        assert header(to_marc, "Return-Path") == "<chris@maison.mrs>"
        (to_chris,) = await asyncio.to_thread(box.fetch, "chris")
        assert header(to_chris, "To") == "root@gw1.maison.mrs"


@needs_dovecot
async def test_one_message_goes_inside_as_it_is_and_outside_rewritten(tmp_path: Path) -> None:
    with dovecot.running() as box:
        async with ScriptedServer() as outside:
            settings = (
                f"{NAMES}{relayhost(outside)}{PEOPLE}lmtp = '127.0.0.1:{box.lmtp}'\n{ALIASES}{REAL_SENDERS}"
            )
            async with Service(tmp_path, settings) as relay:
                await send(relay, letter("chris@maison.mrs", "family@maison.mrs", "friend@example.org"))
                await relay.logged("status=sent", 4)
                inside = [(await asyncio.to_thread(box.fetch, user))[0] for user in ("chris", "marc")]
                # The answers: inside to the address of the house, outside to the real one.
                await send(relay, letter("marc@maison.mrs", header(inside[1], "From"), subject="Re: hello"))
                await relay.logged("to=<chris@maison.mrs>, .*status=sent", 2)
        for message in inside:
            assert header(message, "From") == "chris@maison.mrs"
            assert header(message, "Return-Path") == "<chris@maison.mrs>"
        (delivery,) = deliveries(outside)
        assert delivery.reverse_path == "christian.caleca@free.fr"
        assert sorted(delivery.recipients) == ["aunt@example.org", "friend@example.org"]
        assert b"From: Christian Caleca <christian.caleca@free.fr>\r\n" in delivery.header
        answers = await asyncio.to_thread(box.fetch, "chris")
        assert [header(message, "Subject") for message in answers] == ["hello", "Re: hello"]


@needs_dovecot
async def test_the_mailbox_server_is_asked_whom_it_knows(tmp_path: Path) -> None:
    with dovecot.running() as box:
        settings = (
            f'{NAMES}postmaster = "chris@maison.mrs"\n[local]\ndomains = ["maison.mrs"]\naccept = "anyone"\n'
            f'lmtp = "{box.socket}"\n[access]\nnetworks = ["192.0.2.0/24"]\n'
        )
        async with Service(tmp_path, settings) as relay, relay.client() as peer:
            await peer.ask("EHLO stranger", "MAIL FROM:<somebody@example.org>")
            assert (await peer.ask("RCPT TO:<chris@maison.mrs>")).startswith("250 ")
            assert (await peer.ask("RCPT TO:<chris+list@maison.mrs>")).startswith("250 ")
            assert (await peer.ask("RCPT TO:<postmaster@maison.mrs>")).startswith("250 ")
            assert (await peer.ask("RCPT TO:<who@maison.mrs>")).startswith("550 5.1.1 <who@maison.mrs>: ")
            assert (await peer.ask("RCPT TO:<friend@example.org>")).startswith("554 5.7.1 ")


async def test_a_mailbox_server_that_hangs_is_not_asked_for_each_recipient(tmp_path: Path) -> None:
    async with ScriptedServer(Script(greeting=None), path=tmp_path / "lmtp") as server:
        settings = f'{NAMES}[local]\ndomains = ["maison.mrs"]\nlmtp = "{tmp_path}/lmtp"\n'
        async with Service(tmp_path, settings) as relay, relay.client() as peer:
            await peer.ask("EHLO house", "MAIL FROM:<chris@maison.mrs>")
            for name in ("chris", "marc", "ann", "bob"):
                assert (await peer.ask(f"RCPT TO:<{name}@maison.mrs>")).startswith("250 ")
        assert len(server.sessions) == 1


async def test_a_mailbox_server_that_is_down_costs_the_house_no_mail(tmp_path: Path) -> None:
    settings = f'{NAMES}[local]\ndomains = ["maison.mrs"]\naccept = "anyone"\nlmtp = "{tmp_path}/none"\n'
    async with Service(tmp_path, settings) as relay:
        assert (await relay.send(b"Subject: x\r\n\r\n", "chris@maison.mrs")).startswith("250 ")
        await relay.logged("status=deferred .*connect to gw1.maison.mrs")
    (tmp_path / "strict").mkdir()
    strict = f'{settings}[access]\nnetworks = ["192.0.2.0/24"]\n'
    async with Service(tmp_path / "strict", strict) as relay:
        reply = await relay.send(b"Subject: x\r\n\r\n", "chris@maison.mrs")
        assert reply.startswith("451 4.3.0 <chris@maison.mrs>: the mailbox server cannot say now")


async def test_unknown_users_and_those_who_moved_are_refused_at_once(tmp_path: Path) -> None:
    async with Service(tmp_path, f'{NAMES}{PEOPLE}maildir = "mail/{{user}}"\n{ALIASES}') as relay:
        assert (await relay.send(b"", "who@maison.mrs")).startswith(
            "550 5.1.1 <who@maison.mrs>: there is no "
        )
        moved = await relay.send(b"", "grandma@maison.mrs")
        assert moved == "550 5.1.6 <grandma@maison.mrs>: has moved to grandma@example.org"


@needs_dovecot
async def test_maildirs_of_the_relay_are_read_with_pop3_and_imap(tmp_path: Path) -> None:
    with dovecot.running() as box:
        settings = f'{NAMES}{PEOPLE}maildir = "{box.folder}/mail/{{user}}"\n{ALIASES}'
        async with Service(tmp_path, settings) as relay:
            await send(relay, letter("chris@maison.mrs", "marc@maison.mrs", "root@gw1.maison.mrs"))
            await relay.logged("status=sent", 2)
        box.adopt()
        (to_chris,) = await asyncio.to_thread(box.fetch, "chris")
        assert to_chris.startswith("Return-Path: <chris@maison.mrs>\nX-Original-To: root@gw1.maison.mrs\n")
        assert header(to_chris, "Delivered-To") == "chris@maison.mrs"
        assert to_chris.endswith("\nBonjour à tous\n") or "Bonjour" in to_chris

        def read_imap() -> str:
            client = imaplib.IMAP4("127.0.0.1", box.imap)
            client.login("marc", PASSWORD)
            client.select()
            _, found = client.search(None, "SUBJECT", "hello")
            _, data = client.fetch(found[0].split()[0].decode(), "(FLAGS)")
            client.logout()
            return repr(data)

        assert "FLAGS" in await asyncio.to_thread(read_imap)


@pytest.mark.needs("dovecot", "fetchmail")
async def test_fetched_mail_lands_in_the_right_mailbox_as_it_was(tmp_path: Path) -> None:
    spam = b"From: made.up@nowhere.example\nTo: undisclosed recipients:;\nSubject: spam\n\nbuy\n"
    mail = b"Return-Path: <friend@example.org>\nFrom: friend\nTo: christian.caleca@free.fr\n\nhello\n"
    with dovecot.running() as provider, dovecot.running() as house:
        for name, content in (("1.a.b", spam), ("2.a.b", mail)):
            for folder in ("new", "cur", "tmp"):
                (provider.maildir("chris") / folder).mkdir(parents=True, exist_ok=True)
            (provider.maildir("chris") / "new" / name).write_bytes(content)
        provider.adopt()
        settings = f'{NAMES}{PEOPLE}lmtp = "{house.socket}"\n{ALIASES}{REAL_SENDERS}'
        async with Service(tmp_path, settings) as relay:
            finished = await run_fetchmail(tmp_path, provider, relay, user="chris")
            assert finished.returncode == 0, finished.stderr + finished.stdout
            await relay.logged("status=sent", 2)
            # A mailbox that is not there: no report goes to the senders.
            restore(provider, {"3.a.b": spam})
            await run_fetchmail(tmp_path, provider, relay, user="who")
            assert "from=<made.up@nowhere.example> to=<who@maison.mrs>" in relay.log
            await relay.emptied()
        fetched = await asyncio.to_thread(house.fetch, "chris")
        by_subject = {re.search(r"(?m)^Subject: (.*)", m)[1] if "Subject" in m else "": m for m in fetched}  # type: ignore[index]
        assert header(by_subject[""], "Return-Path") == "<friend@example.org>"
        assert header(by_subject[""], "To") == "christian.caleca@free.fr"
        assert "made.up@nowhere.example" in by_subject["spam"]
        assert "to=<made.up@nowhere.example>" not in relay.log


def restore(provider: Dovecot, messages: dict[str, bytes]) -> None:
    for name, content in messages.items():
        (provider.maildir("chris") / "new" / name).write_bytes(content)
    provider.adopt()


async def run_fetchmail(
    folder: Path, provider: Dovecot, relay: Service, *, user: str
) -> subprocess.CompletedProcess[str]:
    """Run fetchmail once, by the file of the docs but for ports, names and passwords."""
    text = (FILES / "fetchmail" / "fetchmailrc").read_text()
    text = re.sub(r"(?m)^set daemon.*\n", "", text)
    text = text.partition('\npoll "pop.example.org"')[0]
    text = text.replace('"127.0.0.1/25"', f'"127.0.0.1/{relay.port}"')
    text = text.replace('poll "pop.free.fr"', f'poll "127.0.0.1" service {provider.pop3} auth password')
    text = text.replace(
        'user "christian.caleca" password "change-me" is "chris" here ssl',
        f'user "chris" password "{PASSWORD}" is "{user}" here sslproto ""',
    )
    settings = folder / "fetchmailrc"
    settings.write_text(text)
    settings.chmod(0o600)
    program = shutil.which("fetchmail", path=SEARCH_PATH)
    assert program
    command = [program, "-f", settings, "--nosyslog", "--pidfile", folder / "pid", "-i", folder / "ids"]
    return await asyncio.to_thread(
        subprocess.run,
        command,
        env={**os.environ, "FETCHMAILHOME": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


class TestTheFilesOfTheDocs:
    def test_are_a_configuration_of_the_relay(self) -> None:
        config = load_config(FILES / "relay" / "relay.toml", {})
        assert config.local.users == ("chris", "marc")
        assert config.postmaster == "chris@maison.mrs"
        assert config.local.lmtp is not None
        assert (config.local.lmtp.host, config.local.lmtp.port) == ("127.0.0.1", 24)

    @needs_dovecot
    async def test_are_a_configuration_of_dovecot_that_takes_the_relays_mail(self, tmp_path: Path) -> None:
        text = (FILES / "dovecot" / "dovecot.conf").read_text()
        text = text.replace("{", "{{").replace("}", "}}").replace("port = 24", "port = {lmtp}")
        text = text.replace("/etc/dovecot/users", "{folder}/users").replace("/srv/mail", "{folder}/mail")
        text = text.replace("uid=1000 gid=1000", "uid={uid} gid={gid}").replace(
            "first_valid_uid = 1000", "first_valid_uid = 1"
        )
        with dovecot.running(text + DOVECOT_TEST + LOGINS) as box:
            users = (
                (FILES / "dovecot" / "users")
                .read_text()
                .replace("{PLAIN}change-me:", f"{{PLAIN}}{PASSWORD}:")
            )
            (box.folder / "users").write_text(users)
            box.adopt()
            settings = f'{NAMES}{PEOPLE}lmtp = "127.0.0.1:{box.lmtp}"\n'
            async with Service(tmp_path, settings) as relay:
                await send(relay, letter("marc@maison.mrs", "chris@maison.mrs"))
                await relay.logged("status=sent")
            (message,) = await asyncio.to_thread(box.fetch, "chris")
            assert header(message, "From") == "marc@maison.mrs"

    def test_of_the_text_are_configurations_too(self) -> None:
        text = (DOCS / "household.md").read_text()
        local, aliases = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        config: Config = parse_config(f"{local}\n{aliases}", machine_name="gw1")
        assert config.local.maildir == "/var/mail/{user}"
        assert set(config.aliases.entries) >= {"root", "family", "*", "@old.example"}
