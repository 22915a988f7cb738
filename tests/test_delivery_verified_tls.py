"""TLS that a server must have: nothing goes on without it, and the reason is told in words."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
from pathlib import Path

import pytest
import uvloop

from relay.delivery import tls
from relay.delivery.client import Connection, Timeouts
from relay.delivery.protocol import ReplyProtocol
from relay.mail.attempt import Attempt, Scope
from relay.mail.route import NextHop, Tls
from tests.support.authority import Authority
from tests.support.delivery import CONTENT, HOST, content, message, settings
from tests.support.rig import until
from tests.support.smtp_server import (
    DROP,
    HANG,
    RESET,
    TLS,
    Script,
    ScriptedServer,
    offer,
)

TLS_EHLO = offer("PIPELINING", "STARTTLS")
READY = b"220 2.0.0 Ready\r\n"
MODES: tuple[Tls, ...] = ("implicit", "starttls")
SCRIPTS: dict[Tls, Script] = {
    "implicit": Script(greeting=(TLS, b"220 mx.test\r\n")),
    "starttls": Script().but(EHLO=[TLS_EHLO, offer("PIPELINING")]),
}
SHORT = Timeouts(greeting=0.1, ehlo=0.1, starttls=0.1)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    return Authority.trusted(tmp_path, monkeypatch)


def date(year: int) -> dt.datetime:
    return dt.datetime(year, 2, 28, tzinfo=dt.UTC)


async def connect(
    server: ScriptedServer, mode: Tls, name: str = "mx.test", timeouts: Timeouts | None = None
) -> Connection | Attempt:
    return await Connection.open(name, "127.0.0.1", NextHop(name, server.port, tls=mode), settings(timeouts))


async def fail(server: ScriptedServer, mode: Tls, timeouts: Timeouts | None = None) -> str:
    """Return why there is no session: always a deferral of the site, and never for another try in plain."""
    attempt = await connect(server, mode, timeouts=timeouts)
    assert isinstance(attempt, Attempt), attempt
    assert attempt.scope is Scope.SITE
    assert attempt.reply.code == 451
    assert attempt.reply.enhanced.startswith("4.")
    assert attempt.next_hop == f"[mx.test]:{server.port}"
    await server.wait_ended()
    assert len(server.sessions) == 1
    return f"{attempt.reply.enhanced} {attempt.reply.text.replace(HOST, 'HOST')}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["mx.test", "127.0.0.1"])
async def test_a_server_that_proves_its_name_gets_mail(authority: Authority, mode: Tls, name: str) -> None:
    asked_for: list[str | None] = []
    context = authority.context("mx.test", "127.0.0.1")
    context.sni_callback = lambda _object, server_name, _context: asked_for.append(server_name)
    async with ScriptedServer(SCRIPTS[mode], tls=context) as server:
        connection = await connect(server, mode, name)
        assert isinstance(connection, Connection)
        attempts = await connection.transfer(message(), content())
        assert [attempt.reply.code for attempt in attempts] == [250, 250]
        await connection.quit()
        await server.wait_ended()
    assert server.sessions[0].is_encrypted
    assert server.sessions[0].messages == [CONTENT]
    assert asked_for == ["mx.test" if name == "mx.test" else None]


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_same_in_the_other_event_loop(authority: Authority, mode: Tls) -> None:
    async def ask() -> tuple[Connection | Attempt, str]:
        async with ScriptedServer(SCRIPTS[mode], tls=authority.context("mx.test")) as server:
            connection = await connect(server, mode)
            assert isinstance(connection, Connection)
            await connection.quit()
        async with ScriptedServer(SCRIPTS[mode], tls=authority.context("other.test")) as server:
            return connection, await fail(server, mode)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        _, words = runner.run(ask())
    assert words == "4.7.5 TLS with HOST failed: its certificate is for another name: other.test"


@pytest.mark.parametrize("mode", MODES)
async def test_an_expired_certificate_defers(authority: Authority, mode: Tls) -> None:
    context = authority.context("mx.test", not_before=date(2020), not_after=date(2021))
    async with ScriptedServer(SCRIPTS[mode], tls=context) as server:
        assert (
            await fail(server, mode)
            == "4.7.5 TLS with HOST failed: its certificate has expired on 2021-02-28"
        )


@pytest.mark.parametrize("mode", MODES)
async def test_a_certificate_of_the_future_defers(authority: Authority, mode: Tls) -> None:
    context = authority.context("mx.test", not_before=date(2090), not_after=date(2091))
    async with ScriptedServer(SCRIPTS[mode], tls=context) as server:
        assert await fail(server, mode) == (
            "4.7.5 TLS with HOST failed: its certificate is not valid before 2090-02-28; "
            "is the clock right here?"
        )


@pytest.mark.parametrize("mode", MODES)
async def test_a_self_signed_certificate_defers(authority: Authority, mode: Tls) -> None:
    async with ScriptedServer(SCRIPTS[mode], tls=authority.self_signed()) as server:
        assert await fail(server, mode) == (
            "4.7.5 TLS with HOST failed: its certificate is self-signed, so that nobody vouches for it"
        )


@pytest.mark.parametrize("mode", MODES)
async def test_a_certificate_of_an_unknown_authority_defers(
    authority: Authority, mode: Tls, tmp_path: Path
) -> None:
    stranger = Authority(type(authority.ca)(), tmp_path)
    async with ScriptedServer(SCRIPTS[mode], tls=stranger.context("mx.test")) as server:
        assert await fail(server, mode) == (
            "4.7.5 TLS with HOST failed: its certificate is not trusted here "
            "(unable to get local issuer certificate)"
        )


@pytest.mark.parametrize("mode", MODES)
async def test_a_certificate_for_other_names_defers(authority: Authority, mode: Tls) -> None:
    async with ScriptedServer(SCRIPTS[mode], tls=authority.context("other.test", "*.mx.test")) as server:
        assert await fail(server, mode) == (
            "4.7.5 TLS with HOST failed: its certificate is for another name: other.test, *.mx.test"
        )


def serve_with_alert(listener: socket.socket, context: ssl.SSLContext, mode: Tls) -> None:
    """Say in TLS why there is no handshake, as servers do; asyncio's just hang up."""
    connection, _ = listener.accept()
    with connection:
        if mode == "starttls":
            connection.sendall(b"220 mx.test\r\n")
            connection.recv(1000)
            connection.sendall(TLS_EHLO)
            connection.recv(1000)
            connection.sendall(READY)
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)


async def fail_with_alert(context: ssl.SSLContext, mode: Tls) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve_with_alert, listener, context, mode))
        next_hop = NextHop("mx.test", listener.getsockname()[1], tls=mode)
        attempt = await Connection.open("mx.test", "127.0.0.1", next_hop, settings())
        await serving
    assert isinstance(attempt, Attempt)
    assert attempt.scope is Scope.SITE
    return attempt.reply.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
async def test_a_server_of_old_tls_only_defers(authority: Authority, mode: Tls) -> None:
    context = authority.context("mx.test")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    assert await fail_with_alert(context, mode) == f"TLS with {HOST} failed: it speaks no TLS 1.2 or newer"


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_without_a_common_cipher_defers(authority: Authority, mode: Tls) -> None:
    context = authority.context("mx.test")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES128-SHA:@SECLEVEL=0")
    words = f"TLS with {HOST} failed: the handshake failed (sslv3 alert handshake failure)"
    assert await fail_with_alert(context, mode) == words


UNASKED = "it sent more than it was asked for"
NO_TLS: dict[str, tuple[Tls, Script, str]] = {
    "not offered": (
        "starttls",
        Script(),
        "4.7.4 TLS is required, but was not offered by host HOST; was STARTTLS stripped on the way?",
    ),
    "put off": (
        "starttls",
        Script().but(EHLO=b"451 4.3.2 busy\r\n"),
        "4.3.2 host HOST refused to talk to me: 451 4.3.2 busy",
    ),
    "refused": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=b"454 4.7.0 not now\r\n"),
        "4.7.4 TLS is required, but host HOST refused to start TLS: 454 4.7.0 not now",
    ),
    "refused for good": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=b"502 5.5.1 what?\r\n"),
        "4.7.4 TLS is required, but host HOST refused to start TLS: 502 5.5.1 what?",
    ),
    "refused and gone": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=(b"421 4.3.2 bye\r\n", DROP)),
        "4.3.2 host HOST refused to talk to me: 421 4.3.2 bye",
    ),
    "another reply": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=b"250 ok\r\n"),
        "4.5.0 host HOST gave no valid reply while performing the TLS handshake: 250 ok",
    ),
    "gone": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=DROP),
        "4.4.2 lost connection with HOST while performing the TLS handshake",
    ),
    "silent": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=HANG),
        "4.4.2 conversation with HOST timed out while performing the TLS handshake",
    ),
    "injected words": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=(READY + b"250-AUTH PLAIN\r\n250 x\r\n", TLS)),
        f"4.5.0 host HOST gave no valid reply while performing the TLS handshake: {UNASKED}",
    ),
    "gone in the handshake": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=(READY, DROP)),
        "4.7.5 TLS with HOST failed: the connection was lost during the handshake",
    ),
    "reset in the handshake": (
        "implicit",
        Script(greeting=RESET),
        "4.7.5 TLS with HOST failed: the connection was lost during the handshake",
    ),
    "silent in the handshake": (
        "implicit",
        Script(greeting=HANG),
        "4.7.5 TLS with HOST failed: it did not finish the handshake in time",
    ),
    "a plain greeting": (
        "implicit",
        Script(greeting=(b"220 mx.test\r\n", HANG)),
        "4.7.5 TLS with HOST failed: what it sends is not TLS; check port and tls in relay.toml",
    ),
    "gone after the handshake": (
        "implicit",
        Script(greeting=(TLS, DROP)),
        "4.4.2 lost connection with HOST while receiving the initial server greeting",
    ),
    "gone after STARTTLS": (
        "starttls",
        Script().but(EHLO=TLS_EHLO, STARTTLS=(READY, TLS, DROP)),
        "4.4.2 lost connection with HOST while performing the EHLO handshake",
    ),
    "silent after STARTTLS": (
        "starttls",
        Script().but(EHLO=[TLS_EHLO, HANG]),
        "4.4.2 conversation with HOST timed out while performing the EHLO handshake",
    ),
}


@pytest.mark.parametrize("name", NO_TLS)
async def test_where_tls_is_not_to_be_had_nothing_goes_on(authority: Authority, name: str) -> None:
    mode, script, expected = NO_TLS[name]
    async with ScriptedServer(script, tls=authority.context("mx.test")) as server:
        assert await fail(server, mode, SHORT if "silent" in name else None) == expected
    assert not any(command.startswith((b"MAIL", b"AUTH")) for command in server.sessions[0].commands)


async def test_a_name_that_nobody_can_have_defers(authority: Authority) -> None:
    async with ScriptedServer(SCRIPTS["starttls"], tls=authority.context("mx.test")) as server:
        attempt = await connect(server, "starttls", ".mx.test")
        assert isinstance(attempt, Attempt)
        assert "TLS with .mx.test[127.0.0.1] failed: its name cannot be asked for" in attempt.reply.text


async def test_a_handshake_that_hangs_holds_up_nobody(authority: Authority) -> None:
    context = authority.context("mx.test")
    async with (
        ScriptedServer(Script(greeting=HANG)) as silent,
        ScriptedServer(SCRIPTS["implicit"], tls=context) as server,
    ):
        waiting = asyncio.create_task(connect(silent, "implicit"))
        await silent.wait_for("greeting")
        connection = await connect(server, "implicit")
        assert isinstance(connection, Connection)
        await connection.quit()
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await silent.wait_ended()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (10, "its certificate has expired"),
        (9, "its certificate is not valid yet; is the clock right here?"),
        (62, "its certificate is for another name: none at all"),
    ],
)
def test_what_is_wrong_is_told_where_the_certificate_is_not_known(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_code = code
    assert tls._describe(error, {}) == words


def test_an_error_without_a_reason_is_told_in_its_own_words() -> None:
    error = ssl.SSLError(1, "No Idea")
    error.reason = None  # type: ignore[assignment]  # as OpenSSL's unknown codes have it
    assert tls.explain(error) == "the handshake failed (no idea)"


def test_an_end_within_the_handshake_is_a_loss_whatever_it_is_called() -> None:
    assert tls.explain(ssl.SSLEOFError(8, "EOF occurred")) == tls.explain(ConnectionResetError())


async def test_a_greeting_that_comes_before_the_handshake_is_seen_for_what_it_is() -> None:
    async with ScriptedServer(Script(greeting=(b"220 mx.test\r\n", HANG))) as server:
        connection = Connection("mx.test", "127.0.0.1", NextHop("mx.test", server.port), settings())
        assert await connection.connect() is None
        await until(lambda: connection._protocol.has_unread)
        with pytest.raises(tls.TlsError, match="what it sends is not TLS"):
            await connection._secure(tls.verified())
        connection.abort()


async def test_a_connection_that_is_gone_cannot_be_secured() -> None:
    with pytest.raises(ConnectionResetError):
        await ReplyProtocol().secure(tls.verified(), "mx.test", 1.0)


def test_without_a_certificate_nothing_is_known_of_it() -> None:
    bio = ssl.MemoryBIO
    handshake = tls.verified().wrap_bio(bio(), bio(), server_hostname="mx.test")
    assert isinstance(handshake, tls._Handshake)
    assert handshake._refused_certificate() == {}
