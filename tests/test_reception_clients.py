"""Clients that others wrote, through each kind of listener, with and without a password."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
import tomli_w
import trustme

from relay.config.model import Listen, ListenerTls
from relay.mail.passwords import make_hash
from relay.reception.access import Access
from tests.conftest import SEARCH_PATH
from tests.support.authority import Authority
from tests.support.reception import MemoryIntake, Message, serving
from tests.support.service import Finished, Service, deliveries, run_program
from tests.support.smtp_server import ScriptedServer

STRANGERS = Access((ip_network("10.0.0.0/8"),))
USERS = {"scanner": str(make_hash(b"pass word", b"salt"))}
CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
TLS = ("none", "starttls", "implicit")
AUTH = ("", "PLAIN", "LOGIN")
KINDS = [pytest.param(tls, auth, id=f"{tls}-{auth or 'none'}") for tls in TLS for auth in AUTH]
EACH_KIND = pytest.mark.parametrize(("tls", "auth"), KINDS)
ENCRYPTED = pytest.mark.parametrize("tls", TLS[1:])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(trustme.CA(), tmp_path_factory.mktemp("authority"))
    made.ca.cert_pem.write_to_path(str(made.folder / "authority.pem"))
    made.files("127.0.0.1", "localhost")
    (made.folder / "password").write_text("pass word\n")
    return made


def files_of(authority: Authority) -> ListenerTls:
    return ListenerTls(authority.folder / "server-chain.pem", authority.folder / "server-key.pem")


class Desk:
    """A listener of one kind, and what came through it."""

    def __init__(self, port: int, intake: MemoryIntake) -> None:
        self.port = port
        self._intake = intake

    @property
    def message(self) -> Message:
        """The one message that came."""
        [message] = self._intake.messages
        return message

    def check(self, tls: str, auth: str) -> None:
        """Check that the one message came as it should have."""
        client = self.message.client
        assert client.protocol == "ESMTP" + "S" * (tls != "none") + "A" * bool(auth)
        assert (client.user, client.sasl_method) == (("scanner", auth) if auth else ("", ""))


@asynccontextmanager
async def listening(
    authority: Authority, listen: Listen, access: Access | None = None
) -> AsyncIterator[Desk]:
    intake = MemoryIntake(access) if access else MemoryIntake()
    async with serving(intake, listens=[listen], tls=files_of(authority), users=USERS) as reception:
        yield Desk(int(reception.addresses[0].rpartition(":")[2]), intake)


@asynccontextmanager
async def kind(authority: Authority, tls: str, auth: str) -> AsyncIterator[Desk]:
    """Listen for clients that need a password or, with no ``auth``, for the house."""
    listen = Listen("127.0.0.1", 0, tls=tls, auth="required" if auth else "none", clear_password=True)  # type: ignore[arg-type]  # one of the Literal
    async with listening(authority, listen, STRANGERS if auth else None) as desk:
        yield desk


async def call(name: str, *options: str | Path, given: bytes = b"") -> Finished:
    return await run_program("env", f"PATH={SEARCH_PATH}", name, *options, given=given)


@pytest.mark.needs("swaks")
@EACH_KIND
async def test_swaks(authority: Authority, tls: str, auth: str) -> None:
    async with kind(authority, tls, auth) as desk:
        options = ["--server", "127.0.0.1", "--port", str(desk.port), "--helo", "pc", "--body", "world"]
        options += ["--from", "a@b.test", "--to", "c@d.test"]
        options += {"none": [], "starttls": ["--tls"], "implicit": ["--tlsc"]}[tls]
        if auth:
            options += ["--auth", auth, "--auth-user", "scanner", "--auth-password", "pass word"]
        sent = await call("swaks", *options)
        assert sent.status == 0, sent.out
        desk.check(tls, auth)


@pytest.mark.needs("curl")
@EACH_KIND
async def test_curl(authority: Authority, tmp_path: Path, tls: str, auth: str) -> None:
    (tmp_path / "message").write_bytes(CONTENT)
    async with kind(authority, tls, auth) as desk:
        scheme = "smtps" if tls == "implicit" else "smtp"
        options = [f"{scheme}://127.0.0.1:{desk.port}/pc", "--silent", "--show-error"]
        options += ["--mail-from", "a@b.test", "--mail-rcpt", "c@d.test"]
        options += ["--upload-file", str(tmp_path / "message")]
        options += (
            [] if tls == "none" else ["--ssl-reqd", "--cacert", str(authority.folder / "authority.pem")]
        )
        if auth:
            options += ["--user", "scanner:pass word", "--login-options", f"AUTH={auth}"]
        sent = await call("curl", *options)
        assert (sent.status, sent.err) == (0, "")
        desk.check(tls, auth)
        assert desk.message.content == CONTENT


@pytest.mark.needs("msmtp")
@EACH_KIND
async def test_msmtp(authority: Authority, tls: str, auth: str) -> None:
    async with kind(authority, tls, auth) as desk:
        options = ["--host=127.0.0.1", f"--port={desk.port}", "--from=a@b.test", "--file=/dev/null"]
        if tls != "none":
            options += ["--tls=on", f"--tls-starttls={'on' if tls == 'starttls' else 'off'}"]
            options += [f"--tls-trust-file={authority.folder / 'authority.pem'}"]
        if auth:
            password = f"--passwordeval=cat {authority.folder / 'password'}"
            options += [f"--auth={auth.lower()}", "--user=scanner", password]
        sent = await call("msmtp", *options, "c@d.test", given=CONTENT)
        assert (sent.status, sent.err) == (0, "")
        desk.check(tls, auth)
        assert desk.message.content.endswith(CONTENT)


def send_by_smtplib(port: int, tls: str, auth: str, trust: ssl.SSLContext) -> None:
    implicit = smtplib.SMTP_SSL("127.0.0.1", port, context=trust) if tls == "implicit" else None
    with implicit or smtplib.SMTP("127.0.0.1", port) as client:
        if tls == "starttls":
            client.starttls(context=trust)
        if auth:
            client.user, client.password = "scanner", "pass word"
            client.ehlo()
            client.auth(auth, getattr(client, f"auth_{auth.lower()}"))
        client.sendmail("a@b.test", ["c@d.test"], CONTENT)


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    return context


@EACH_KIND
async def test_smtplib(authority: Authority, tls: str, auth: str) -> None:
    async with kind(authority, tls, auth) as desk:
        await asyncio.to_thread(send_by_smtplib, desk.port, tls, auth, trusting(authority))
        desk.check(tls, auth)
        assert desk.message.content == CONTENT


@pytest.mark.needs("openssl")
@ENCRYPTED
@pytest.mark.parametrize(("version", "is_let_in"), [("1.0", True), ("1.2", False)])
async def test_an_old_scanner(authority: Authority, tls: str, version: str, is_let_in: bool) -> None:
    listen = Listen("127.0.0.1", 0, tls=tls, tls_minimum=version)  # type: ignore[arg-type]  # one of the Literal
    async with listening(authority, listen) as desk:
        options = ["-connect", f"127.0.0.1:{desk.port}", "-tls1", "-cipher", "DEFAULT:@SECLEVEL=0", "-quiet"]
        options += ["-starttls", "smtp"] if tls == "starttls" else []
        commands = b"EHLO scanner\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT %d LAST\r\n"
        done = await call(
            "openssl", "s_client", *options, given=commands % len(CONTENT) + CONTENT + b"QUIT\r\n"
        )
        assert ("250 2.0.0 Ok: queued" in done.out) == is_let_in, done
        if is_let_in:
            desk.check(tls, "")
            assert desk.message.content == CONTENT


async def test_a_device_that_insists_on_any_password(authority: Authority) -> None:
    listen = Listen("127.0.0.1", 0, auth="any", clear_password=True)
    async with listening(authority, listen) as desk:
        await asyncio.to_thread(send_by_smtplib, desk.port, "none", "PLAIN", trusting(authority))
        assert desk.message.client.user == ""


@ENCRYPTED
async def test_the_real_program(authority: Authority, tmp_path: Path, tls: str) -> None:
    files = files_of(authority)
    async with ScriptedServer() as server:
        settings = {
            "relayhost": f"[127.0.0.1]:{server.port}",
            "listen": [{"address": "127.0.0.1:0", "tls": tls, "auth": "required"}],
            "access": {"networks": ["10.0.0.0/8"]},
            "tls": {"certificate": str(files.certificate), "key": str(files.key)},
            "users": USERS,
            "log": {"level": "debug"},
        }
        async with Service(tmp_path, tomli_w.dumps(settings)) as relay:
            await asyncio.to_thread(send_by_smtplib, relay.port, tls, "PLAIN", trusting(authority))
            await relay.logged("sasl_method=PLAIN, sasl_username=scanner, .*from=<a@b.test>")
            await relay.logged("status=sent")
        [delivery] = deliveries(server)
        assert b" with ESMTPSA id " in delivery.header
        assert "pass word" not in relay.log
