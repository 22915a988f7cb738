"""Programs that submit mail to the relay themselves: as it comes, and with STARTTLS and a password."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.clients.house import ADDRESS, NAME, PASSWORD, SUBJECT, TEXT, USER, House, open_house
from tests.conftest import SEARCH_PATH
from tests.support.service import Finished, deliveries, run_program

pytestmark = pytest.mark.asyncio(loop_scope="module")

COMPOSED = f"""\
From: =?utf-8?q?Christian_Cal=C3=A9ca?= <{ADDRESS}>
Subject: =?utf-8?q?Un_=C3=A9t=C3=A9_=C3=A0_Marseille?=
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

{TEXT}"""
"""The message, for programs that don't write it themselves."""
NODEMAILER = Path(__file__).parent / "clients" / "nodemailer.js"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with open_house(tmp_path_factory.mktemp("house")) as opened:
        yield opened


async def run(house: House, *command: str | Path, given: str = "", **environ: str) -> Finished:
    """Run a program in a home without settings but those of the test."""
    settings = {"HOME": house.folder, "LC_ALL": "C.UTF-8", "PATH": SEARCH_PATH, **environ}
    words = (f"{name}={value}" for name, value in settings.items())
    return await run_program("env", "--ignore-environment", *words, *command, given=given.encode())


@dataclass(frozen=True)
class Letter:
    """Whom to send the message to, and how."""

    to: str = "ami@machin.com"
    bcc: str = "anne@machin.com"
    password: str = ""
    """With one, the program sends to the listener that wants STARTTLS and a login."""


Send = Callable[[House, Letter], Awaitable[Finished]]


async def send_by_msmtp(house: House, letter: Letter) -> Finished:
    options = ["--host=localhost", f"--from={ADDRESS}", "--file=/dev/null", "--read-recipients"]
    if letter.password:
        (house.folder / "password").write_text(letter.password)
        options += [f"--port={house.submission}", "--tls=on", f"--tls-trust-file={house.authority}"]
        options += ["--auth=on", f"--user={USER}", f"--passwordeval=cat {house.folder}/password"]
    else:
        options += [f"--port={house.plain}"]
    addresses = f"To: {letter.to}\nBcc: {letter.bcc}\n"
    return await run(house, "msmtp", *options, given=addresses + COMPOSED)


async def send_by_mutt(house: House, letter: Letter) -> Finished:
    lines = [f'set realname="{NAME}" from="{ADDRESS}" use_envelope_from copy=no']
    if letter.password:
        login = f"{USER}:{quote(letter.password, safe='')}"
        lines.append(f'set smtp_url="smtp://{login}@localhost:{house.submission}/"')
        lines.append(f'set ssl_ca_certificates_file="{house.authority}"')
    else:
        # By itself it sends nothing where it is not offered TLS.
        lines.append(f'set smtp_url="smtp://localhost:{house.plain}/" ssl_force_tls=no')
    (house.folder / "muttrc").write_text("\n".join(lines) + "\n")
    options = ("-n", "-F", house.folder / "muttrc", "-s", SUBJECT, "-b", letter.bcc)
    return await run(house, "mutt", *options, letter.to, given=TEXT)


async def send_by_s_nail(house: House, letter: Letter) -> Finished:
    options = ["-:/", "-Sv15-compat=yes", "-Snosave", "-r", f"{NAME} <{ADDRESS}>"]
    if letter.password:
        login = f"{USER}:{quote(letter.password, safe='')}"
        options += [f"-Smta=smtp://{login}@localhost:{house.submission}", "-Ssmtp-use-starttls"]
        options += [f"-Stls-ca-file={house.authority}", "-Stls-ca-no-defaults", "-Stls-verify=strict"]
    else:
        options += [f"-Smta=smtp://localhost:{house.plain}", "-Ssmtp-auth=none"]
    return await run(house, "s-nail", *options, "-s", SUBJECT, "-b", letter.bcc, letter.to, given=TEXT)


async def send_by_git(house: House, letter: Letter) -> Finished:
    patch = house.folder / "0001-song.patch"
    patch.write_text(COMPOSED)
    options = [f"--from={NAME} <{ADDRESS}>", f"--to={letter.to}", f"--bcc={letter.bcc}"]
    options += ["--confirm=never", "--suppress-cc=all", "--smtp-server=localhost", "--smtp-domain=pc"]
    if letter.password:
        options += [f"--smtp-server-port={house.submission}", "--smtp-encryption=tls"]
        options += [f"--smtp-ssl-cert-path={house.authority}"]
        options += [f"--smtp-user={USER}", f"--smtp-pass={letter.password}"]
    else:
        options += [f"--smtp-server-port={house.plain}"]
    (house.folder / ".gitconfig").write_text(f"[user]\nname = {NAME}\nemail = {ADDRESS}\n")
    return await run(house, "git", "send-email", *options, patch, GIT_CONFIG_NOSYSTEM="1")


async def send_by_nodemailer(house: House, letter: Letter) -> Finished:
    transport: dict[str, object] = {"host": "localhost", "port": house.plain}
    if letter.password:
        transport = {"host": "localhost", "port": house.submission, "requireTLS": True}
        transport["auth"] = {"user": USER, "pass": letter.password}
        transport["tls"] = {"ca": str(house.authority)}
    message = {"from": f"{NAME} <{ADDRESS}>", "to": letter.to, "bcc": letter.bcc}
    message |= {"subject": SUBJECT, "text": TEXT}
    given = json.dumps({"transport": transport, "message": message})
    return await run(house, "node", NODEMAILER, given=given, NODE_PATH="/usr/share/nodejs")


EACH_PROGRAM = pytest.mark.parametrize(
    "send",
    [
        pytest.param(send_by_msmtp, id="msmtp", marks=pytest.mark.needs("msmtp")),
        pytest.param(send_by_mutt, id="mutt", marks=pytest.mark.needs("mutt")),
        pytest.param(send_by_s_nail, id="s-nail", marks=pytest.mark.needs("s-nail")),
        pytest.param(send_by_git, id="git", marks=pytest.mark.needs("/usr/lib/git-core/git-send-email")),
        pytest.param(send_by_nodemailer, id="nodemailer", marks=pytest.mark.needs("node")),
    ],
)


@EACH_PROGRAM
@pytest.mark.parametrize("password", ["", PASSWORD], ids=["plain", "login"])
async def test_what_a_program_sends_arrives_as_it_was(house: House, send: Send, password: str) -> None:
    before = len(deliveries(house.outside))
    sent = await send(house, Letter(password=password))
    assert sent.status == 0, sent
    recipients = ("ami@machin.com", "anne@machin.com")
    plain = "SMTP" if send is send_by_s_nail else "ESMTP"
    protocol = "ESMTPSA" if password else plain
    message = await house.arrived(*recipients, count=before + 1, protocol=protocol)
    assert "anne" not in str(message)
    assert message.get_content() == TEXT


@EACH_PROGRAM
async def test_a_program_shows_why_a_recipient_is_refused(house: House, send: Send) -> None:
    sent = await send(house, Letter("mrac@maison.mrs", "mrac@maison.mrs"))
    assert sent.status != 0
    shown = " ".join((sent.out + sent.err).split())
    assert "there is no such user at maison.mrs, whose mail stays on this server. Check the address." in shown
