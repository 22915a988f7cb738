"""STARTTLS with a scripted server: used where it works, never in the way of mail."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from relay.delivery.client import Connection, Timeouts
from relay.mail.attempt import Attempt
from relay.mail.route import NextHop
from tests.conftest import SEARCH_PATH
from tests.support.delivery import (
    CONTENT,
    HOST,
    SENT,
    at_port_25,
    connect,
    connected,
    content,
    message,
    nonsense,
    refused,
    settings,
)
from tests.support.smtp_server import (
    DROP,
    HANG,
    PLAIN_EHLO,
    RESET,
    TLS,
    Script,
    ScriptedServer,
    Step,
    offer,
)

TLS_VERSIONS = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="session")
def certificate_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where ``key`` and ``cert`` are, of a name that no test uses, signed by nobody."""
    folder: Path = tmp_path_factory.mktemp("tls")
    openssl = shutil.which("openssl", path=SEARCH_PATH)
    assert openssl is not None
    options = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=someone.else -keyout key -out cert"
    subprocess.run([openssl, *options.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def certificate(certificate_folder: Path) -> ssl.SSLContext:
    """Return the context of a server that has an untrusted certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_folder / "cert", certificate_folder / "key")
    return context


TLS_EHLO = offer("PIPELINING", "STARTTLS")


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version", TLS_VERSIONS)
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
async def test_starttls_is_used_where_offered_whatever_the_certificate(
    certificate: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    certificate.minimum_version = certificate.maximum_version = version
    certificate.set_ciphers("DEFAULT:@SECLEVEL=0")
    script = Script().but(EHLO=[TLS_EHLO, offer("PIPELINING", "SIZE")])
    async with ScriptedServer(script, tls=certificate) as server:
        async with connected(server, tls=True) as connection:
            assert connection.offers == {"PIPELINING": "", "SIZE": ""}
            attempts = await connection.transfer(message(), content())
            assert at_port_25(attempts, server.port) == [SENT, SENT]
            await connection.quit()
        await server.wait_ended()
    session = server.sessions[0]
    assert session.is_encrypted
    assert session.messages == [CONTENT]
    assert session.commands[:3] == [b"EHLO helo.test", b"STARTTLS", b"EHLO helo.test"]


@pytest.mark.needs("openssl")
async def test_large_content_goes_through_tls(certificate: ssl.SSLContext) -> None:
    chunk = (b"." + b"x" * 997 + b"\r\n") * 100
    script = Script().but(EHLO=TLS_EHLO)
    async with ScriptedServer(script, tls=certificate) as server, connected(server, tls=True) as connection:
        attempts = await connection.transfer(message(), content(*[chunk] * 30))
        assert all(a.reply.is_positive for a in attempts)
        assert server.sessions[0].messages == [chunk * 30]


async def test_starttls_is_left_alone_where_the_next_hop_says_none() -> None:
    async with ScriptedServer(Script().but(EHLO=TLS_EHLO)) as server, connected(server):
        assert server.sessions[0].commands == [b"EHLO helo.test"]


async def test_starttls_is_not_asked_for_where_it_is_not_offered() -> None:
    async with ScriptedServer() as server, connected(server, tls=True):
        assert server.sessions[0].commands == [b"EHLO helo.test"]


@pytest.mark.parametrize("reply", [b"454 4.7.0 not now\r\n", b"502 5.5.1 what?\r\n"])
async def test_a_refused_starttls_goes_on_in_plain_on_the_same_connection(reply: bytes) -> None:
    script = Script().but(EHLO=TLS_EHLO, STARTTLS=reply)
    async with ScriptedServer(script) as server, connected(server, tls=True) as connection:
        await connection.transfer(message(), content())
        assert len(server.sessions) == 1
        assert server.sessions[0].messages == [CONTENT]


READY = b"220 2.0.0 Ready\r\n"
BROKEN_TLS: dict[str, dict[str, Step]] = {
    "drop at the command": {"STARTTLS": DROP},
    "421": {"STARTTLS": (b"421 4.3.2 bye\r\n", DROP)},
    "250 instead of 220": {"STARTTLS": b"250 ok\r\n"},
    "garbage at the command": {"STARTTLS": b"what?\r\n"},
    "hang at the command": {"STARTTLS": HANG},
    "drop before the handshake": {"STARTTLS": (READY, DROP)},
    "reset before the handshake": {"STARTTLS": (READY, RESET)},
    "hang before the handshake": {"STARTTLS": (READY, HANG)},
    "drop after the handshake": {"STARTTLS": (READY, TLS, DROP)},
    "hang at EHLO after the handshake": {"EHLO": [TLS_EHLO, HANG, PLAIN_EHLO]},
    "drop at EHLO after the handshake": {"EHLO": [TLS_EHLO, DROP, PLAIN_EHLO]},
}


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("name", BROKEN_TLS)
async def test_where_tls_breaks_a_new_connection_goes_on_in_plain(
    name: str, certificate: ssl.SSLContext
) -> None:
    script = Script(steps={"EHLO": TLS_EHLO, **BROKEN_TLS[name]})
    timeouts = Timeouts(starttls=0.1, ehlo=0.1) if "hang" in name else None
    async with ScriptedServer(script, tls=certificate) as server:
        async with connected(server, timeouts, tls=True) as connection:
            attempts = await connection.transfer(message(), content())
            assert at_port_25(attempts, server.port) == [SENT, SENT]
        await server.wait_ended()
    assert len(server.sessions) == 2
    assert not server.sessions[1].is_encrypted
    assert b"STARTTLS" not in server.sessions[1].commands
    assert server.sessions[1].messages == [CONTENT]


async def test_a_server_that_speaks_no_tls_after_all_is_spoken_to_in_plain() -> None:
    async def answer_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.test\r\n")
        with contextlib.suppress(OSError):
            while line := await reader.readuntil(b"\n"):
                if line.startswith(b"EHLO"):
                    writer.write(TLS_EHLO)
                elif line.startswith(b"STARTTLS"):
                    writer.write(READY)
                    await reader.read(1)
                    writer.write(b"500 what is this?\r\n")
                    break
                else:
                    writer.write(b"221 bye\r\n")
                    break
        writer.close()

    server = await asyncio.start_server(answer_in_plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = await Connection.open("mx.test", "127.0.0.1", NextHop("mx.test", port), settings())
    assert isinstance(connection, Connection)
    assert "STARTTLS" in connection.offers
    await connection.quit()
    server.close()
    await server.wait_closed()


@pytest.mark.needs("openssl")
@pytest.mark.parametrize(
    "steps",
    [
        {"STARTTLS": (READY + b"250 injected\r\n", TLS)},
        {"STARTTLS": (READY + b"250-injected", DROP)},
    ],
)
async def test_words_behind_the_reply_to_starttls_end_the_session(
    steps: dict[str, Step], certificate: ssl.SSLContext
) -> None:
    async with ScriptedServer(Script(steps={"EHLO": TLS_EHLO, **steps}), tls=certificate) as server:
        attempt = await connect(server, tls=True)
        assert isinstance(attempt, Attempt)
        expected = nonsense("performing the TLS handshake", "it sent more than it was asked for")
        assert at_port_25([attempt], server.port) == [expected]
        assert len(server.sessions) == 1


@pytest.mark.needs("openssl")
async def test_a_refusal_under_tls_is_no_reason_to_go_on_in_plain(certificate: ssl.SSLContext) -> None:
    script = Script().but(EHLO=[TLS_EHLO, b"421 4.7.0 too busy\r\n"])
    async with ScriptedServer(script, tls=certificate) as server:
        attempt = await connect(server, tls=True)
        assert isinstance(attempt, Attempt)
        assert at_port_25([attempt], server.port) == [refused("421 4.7.0 too busy", "4.7.0")]
        assert len(server.sessions) == 1


async def test_a_server_that_is_gone_when_tls_broke_has_been_reached() -> None:
    async def vanish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.test\r\n")
        await reader.readuntil(b"\n")
        writer.write(TLS_EHLO)
        await reader.readuntil(b"\n")
        server.close()
        writer.close()

    server = await asyncio.start_server(vanish, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    attempt = await Connection.open("mx.test", "127.0.0.1", NextHop("mx.test", port), settings())
    assert isinstance(attempt, Attempt)
    assert attempt.reply.text == f"connect to {HOST}:{port}: Connection refused"
    assert not attempt.is_unreachable
    await server.wait_closed()
