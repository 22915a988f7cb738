"""Thunderbird sends through a relay: .venv/bin/python -m tests.clients.thunderbird [--pictures docs/pictures]

Run by hand, for it needs much: ``apt-get install --no-install-recommends thunderbird xvfb``. It takes 20
seconds. With ``--pictures`` (needs ``imagemagick``, root, and ports 25 and 587 free) it keeps what is seen.

A person with a new Thunderbird, at a screen that nobody else sees (Xvfb):

1. fills in the relay as outgoing server, port 25, and sends;
2. changes that to port 587 with STARTTLS and a password, and sends: the certificate is made at home, so that
   an exception must be confirmed, and the password is wrong at first;
3. writes to somebody in the house who does not exist, and reads why that can't be.

Windows are read and buttons pressed through Marionette, with which Mozilla tests its own programs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from tests.clients.house import ADDRESS, NAME, PASSWORD, SUBJECT, TEXT, USER, House, open_house
from tests.support.service import HOSTNAME, PATIENCE, run_program

PREFERENCES = {
    "mail.accountmanager.accounts": "account1,account2",
    "mail.accountmanager.defaultaccount": "account1",
    "mail.accountmanager.localfoldersserver": "server2",
    "mail.account.account1.server": "server1",
    "mail.account.account1.identities": "id1",
    "mail.account.account2.server": "server2",
    "mail.server.server1.type": "pop3",
    "mail.server.server1.hostname": HOSTNAME,
    "mail.server.server1.userName": USER,
    "mail.server.server1.name": ADDRESS,
    "mail.server.server1.login_at_startup": False,
    "mail.server.server1.check_new_mail": False,
    "mail.server.server2.type": "none",
    "mail.server.server2.name": "Local Folders",
    "mail.server.server2.hostname": "Local Folders",
    "mail.server.server2.userName": "nobody",
    "mail.identity.id1.fullName": NAME,
    "mail.identity.id1.useremail": ADDRESS,
    "mail.identity.id1.valid": True,
    "mail.identity.id1.smtpServer": "smtp1",
    "mail.smtpservers": "smtp1",
    "mail.smtp.defaultserver": "smtp1",
    "mail.smtpserver.smtp1.hostname": HOSTNAME,
    "mail.smtpserver.smtp1.port": 25,
    "mail.smtpserver.smtp1.authMethod": 1,  # none
    "mail.smtpserver.smtp1.try_ssl": 0,
    "mail.rights.version": 1,
    "datareporting.policy.dataSubmissionEnabled": False,
    "network.dns.localDomains": HOSTNAME,
    "network.proxy.type": 0,
}
"""An account whose outgoing server is still to be filled in; and no word from Mozilla at the start."""


class Marionette:
    """A connection to a Mozilla program: lengths and JSON, numbered commands and their replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._number = 0

    @classmethod
    async def connect(cls, port: int) -> Marionette:
        """Connect, with the rights of the program itself."""
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        await made._read()
        await made.ask("WebDriver:NewSession", unhandledPromptBehavior="ignore")
        await made.ask("Marionette:SetContext", value="chrome")
        return made

    async def ask(self, command: str, **parameters: object) -> Any:
        """Return the reply to a command."""
        self._number += 1
        request = json.dumps([0, self._number, command, parameters]).encode()
        self._writer.write(b"%d:%s" % (len(request), request))
        _, _, error, result = await self._read()
        assert error is None, error
        return result

    async def _read(self) -> Any:
        length = await self._reader.readuntil(b":")
        return json.loads(await self._reader.readexactly(int(length[:-1])))


FIND = """
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const find = page => [...Services.wm.getEnumerator(null)].find(w => w.document.documentURI.endsWith(page));
const main = find("/messenger.xhtml");
const writing = find("/messengercompose.xhtml");
const dialog = find("/commonDialog.xhtml");
const exception = find("/exceptionDialog.xhtml");
const button = (window, name) =>
    window?.document.readyState == "complete" && window.document.querySelector("dialog")?.getButton(name);
const settings = main.document.getElementById("tabmail").currentTabInfo.browser?.contentDocument;
const pane = settings?.getElementById("contentFrame")?.contentDocument;
const server = settings?.querySelector(".dialogFrame")?.contentDocument;
"""
"""The windows that there may be, and the page and the dialog of the settings."""
FILL = """
for (const [id, value] of Object.entries(arguments[0])) {
    const field = server.getElementById(id);
    field.value = value;
    field.dispatchEvent(new Event(field.localName == "menulist" ? "command" : "input", { bubbles: true }));
}
"""
WRITE = """
MailServices.compose.OpenComposeWindowWithURI(null, Services.io.newURI(arguments[0]));
"""


@dataclass(frozen=True)
class Thunderbird:
    """The program, and the person in front of it."""

    marionette: Marionette
    display: str
    pictures: Path | None

    async def do(self, script: str, *arguments: object) -> Any:
        """Run JavaScript that knows the windows, and return what it returns."""
        parameters = {"script": FIND + script, "args": arguments, "sandbox": "system"}
        return (await self.marionette.ask("WebDriver:ExecuteScript", **parameters))["value"]

    async def see(self, expression: str) -> Any:
        """Wait until an expression is true, and return it."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (seen := await self.do(f"return {expression}")):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not seen: {expression}") from None
        return seen

    async def choose_server(self, picture: str, fields: Mapping[str, str]) -> None:
        """Fill in the outgoing server in Account Settings."""
        await self.do("main.MsgAccountManager()")
        await self.see("pane?.getElementById('server.prettyName')")
        await self.do("settings.getElementById('smtp').click()")
        await self.see("pane?.querySelector('richlistitem[id^=smtpServer]')")
        await self.do("pane.getElementById('editButton').click()")
        await self.see("server?.querySelector('dialog')?.getButton('accept')")
        await self.do(FILL, fields)
        await self.photograph("main", picture)
        await self.do("server.querySelector('dialog').getButton('accept').click()")
        await self.see("!server || server.documentURI == 'about:blank'")
        await self.do("main.document.getElementById('tabmail').closeTab()")
        # Else the next message would go out in the session of the one before.
        await self.do("MailServices.outgoingServer.defaultServer.closeCachedConnections()")

    async def write(self, recipient: str) -> None:
        """Write a message, as after a click on an address, and send it."""
        await self.see("!writing")
        await self.do(WRITE, f"mailto:{recipient}?subject={quote(SUBJECT)}&body={quote(TEXT)}")
        await self.see("writing?.document.title.includes('Marseille')")
        await self.do("writing.moveTo(0, 0); writing.resizeTo(760, 480)")
        await self.send()

    async def send(self) -> None:
        """Press the button that sends."""
        await self.see("!writing.document.getElementById('button-send').disabled")
        await self.do("writing.document.getElementById('button-send').click()")

    async def read_dialog(self, words: str, picture: str = "") -> None:
        """Wait for a dialog that says these words."""
        text = "dialog?.document.getElementById('infoBody')?.textContent"
        await self.see(f"{text}?.includes({json.dumps(words)})")
        print("Thunderbird says:", await self.do(f"return {text}"))
        if picture:
            await self.photograph("writing", picture)

    async def type_password(self, password: str) -> None:
        """Answer a dialog with a password."""
        await self.do("dialog.document.getElementById('password1Textbox').value = arguments[0]", password)
        await self.press("dialog", "accept")

    async def press(self, window: str, button: str, picture: str = "") -> None:
        """Press a button of a dialog, as soon as it can be pressed."""
        await self.see(f"button({window}, '{button}')?.disabled === false")
        if picture:
            await self.photograph("writing", picture)
        await self.do(f"button({window}, '{button}').click()")

    async def photograph(self, window: str, name: str) -> None:
        """Keep what a window shows, with the dialog before it."""
        if not self.pictures:
            return
        await asyncio.sleep(1)  # for what fades in
        size = await self.do(f"return `${{{window}.outerWidth}}x${{{window}.outerHeight}}`")
        cut = ("-crop", f"{size}+0+0", "+repage", "+dither", "-colors", "64")
        shot = ("import", "-display", self.display, "-window", "root", *cut)
        taken = await run_program(*shot, f"png8:{self.pictures}/thunderbird-{name}.png")
        assert taken.status == 0, taken.err


@asynccontextmanager
async def screen() -> AsyncIterator[str]:
    """Start Xvfb, and yield the name of the display."""
    ours, theirs = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *("Xvfb", "-displayfd", str(theirs), "-screen", "0", "1200x900x24", "-nolisten", "tcp"),
        pass_fds=[theirs],
        stderr=DEVNULL,
    )
    os.close(theirs)
    try:
        with os.fdopen(ours) as file:
            yield f":{(await asyncio.to_thread(file.readline)).strip()}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def thunderbird(folder: Path, display: str, pictures: Path | None) -> AsyncIterator[Thunderbird]:
    """Start Thunderbird with a new profile."""
    profile = folder / "profile"
    profile.mkdir()
    values = {**PREFERENCES, "marionette.port": 0}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in values.items()]
    (profile / "user.js").write_text("\n".join(lines))
    process = await asyncio.create_subprocess_exec(
        *("thunderbird", "--marionette", "--remote-allow-system-access", "--profile", profile),
        env={**os.environ, "DISPLAY": display, "HOME": str(folder), "LC_ALL": "C.UTF-8"},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        port = profile / "MarionetteActivePort"
        async with asyncio.timeout(PATIENCE):
            while not (port.exists() and port.read_text()):
                await asyncio.sleep(0.1)
        person = Thunderbird(await Marionette.connect(int(port.read_text())), display, pictures)
        await person.see("main?.document.readyState == 'complete' && !!main.MsgAccountManager")
        yield person
    finally:
        process.terminate()
        await process.wait()


async def main(pictures: Path | None) -> None:
    """Do all that stands at the top of this file."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            open_house(folder, (25, 587) if pictures else None) as house,
            screen() as display,
            thunderbird(folder, display, pictures) as person,
        ):
            await use(person, house)


async def use(person: Thunderbird, house: House) -> None:
    """Be the person."""
    await person.choose_server("server", {"smtp.port": str(house.plain)})
    await person.write("ami@machin.com")
    await arrived(house, 1, "ESMTP")

    encrypted = {
        "smtp.port": str(house.submission),
        "smtp.socketType": "2",  # STARTTLS
        "smtp.authMethod": "3",  # a normal password
        "smtpUsername": USER,
    }
    await person.choose_server("login", encrypted)
    await person.write("ami@machin.com")
    await person.read_dialog("Certificate issuer is not recognized", "certificate")
    await person.press("dialog", "accept")
    await person.press("exception", "extra1", "exception")
    await person.send()
    await person.read_dialog(f"Enter your password for {USER}")
    await person.type_password("du mimosa")
    await person.read_dialog(f"Login to server {HOSTNAME} with username {USER} failed", "password")
    await person.press("dialog", "extra1")
    await person.read_dialog(f"Enter your password for {USER}")
    await person.type_password(PASSWORD)
    await arrived(house, 2, "ESMTPSA")

    await person.write("mrac@maison.mrs")
    await person.read_dialog("<mrac@maison.mrs>: there is no such user", "refused")


async def arrived(house: House, count: int, protocol: str) -> None:
    """Check the newest message that arrived outside."""
    message = await house.arrived("ami@machin.com", count=count, protocol=protocol)
    assert message["User-Agent"] == "Mozilla Thunderbird"
    assert message.get_content_type() == "text/plain"
    lines = [line.strip() for line in message.get_content().rstrip().split("\n")]  # flowed (RFC 3676)
    assert lines == [line.strip() for line in TEXT.rstrip().split("\n")]
    print(f"sent with {protocol}: {message['Message-ID']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep pictures there")
    asyncio.run(main(parser.parse_args().pictures))
