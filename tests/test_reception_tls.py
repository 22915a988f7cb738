"""Listeners with TLS, by STARTTLS and from the start, in both event loops."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from relay.config.model import Limits, Listen, ListenerTls
from relay.mail.passwords import make_hash
from relay.reception.server import ListenError, Reception
from tests.support.authority import Authority
from tests.support.reception import SETTINGS, MemoryIntake, Peer, connected, serving

STARTTLS = Listen("127.0.0.1", 0, tls="starttls")
IMPLICIT = Listen("127.0.0.2", 0, tls="implicit")
LISTENS = pytest.mark.parametrize("listen", [STARTTLS, IMPLICIT], ids=lambda listen: listen.tls)
MESSAGE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 3 LAST\r\nx\r\n"
OLD_VERSIONS = {"1.0": ssl.TLSVersion.TLSv1, "1.1": ssl.TLSVersion.TLSv1_1}


def in_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test that runs in asyncio's event loop, and in the one that the relay uses where it can."""

    @wraps(test)
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
            runner.run(test(**arguments))

    signature = inspect.signature(test)
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), new_loop])  # type: ignore[attr-defined]  # typeshed lacks it
    loops = [asyncio.new_event_loop, uvloop.new_event_loop]
    parametrized: Callable[..., None] = pytest.mark.parametrize("new_loop", loops, ids=["asyncio", "uvloop"])(
        run
    )
    return parametrized


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(trustme.CA(), tmp_path_factory.mktemp("authority"))


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> ListenerTls:
    return make_files(authority, tmp_path)


def make_files(authority: Authority, folder: Path) -> ListenerTls:
    """Write a new certificate and its key into a folder."""
    return ListenerTls(*Authority(authority.ca, folder).files("localhost"))


@pytest.fixture
def trust(authority: Authority) -> ssl.SSLContext:
    return trusting(authority)


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.ca.configure_trust(context)
    return context


def old_client(authority: Authority, version: str) -> ssl.SSLContext:
    """Return a client that speaks one old version and no other."""
    context = trusting(authority)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = OLD_VERSIONS[version]
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


@asynccontextmanager
async def encrypted(reception: Reception, listen: Listen, tls: ssl.SSLContext) -> AsyncIterator[Peer]:
    """Connect a client and encrypt the connection as the listener wants it."""
    at = [address.rpartition(":")[0] for address in reception.addresses].index(listen.host)
    if listen.tls == "implicit":
        async with connected(reception, at=at, tls=tls) as peer:
            yield peer
        return
    async with connected(reception, at=at) as peer:
        assert (await peer.ask("STARTTLS")).startswith("220 2.0.0 ")
        await peer.start_tls(tls)
        yield peer


@asynccontextmanager
async def served(
    listen: Listen,
    files: ListenerTls,
    tls: ssl.SSLContext,
    intake: MemoryIntake | None = None,
    **options: Any,
) -> AsyncIterator[Peer]:
    """Run a reception with one client, whose connection is encrypted."""
    async with (
        serving(intake or MemoryIntake(), listens=[listen], tls=files, **options) as reception,
        encrypted(reception, listen, tls) as peer,
    ):
        yield peer


@asynccontextmanager
async def raw(reception: Reception, listen: Listen) -> AsyncIterator[Peer]:
    """Connect a client that is about to send the first bytes of a handshake."""
    async with connected(reception, greet=False) as peer:
        if listen.tls == "starttls":
            await peer.reply()
            await peer.ask("STARTTLS")
        yield peer


@contextmanager
def log_of(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> Iterator[list[str]]:
    """Keep what is logged: by the relay from a level on, by others from warnings on."""
    lines: list[str] = []
    caplog.clear()
    with caplog.at_level(level, "relay"):
        yield lines
    lines += [
        record.getMessage()
        for record in caplog.records
        if record.name == "relay" or record.levelno >= logging.WARNING
    ]


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until the log holds a text."""
    async with asyncio.timeout(10):
        while text not in caplog.text:
            await asyncio.sleep(0.01)


# What works


@LISTENS
@in_both_loops
async def test_mail_comes_in_encrypted(
    files: ListenerTls, trust: ssl.SSLContext, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    intake = MemoryIntake()
    async with serving(intake, listens=[listen], tls=files) as reception:
        with log_of(caplog, logging.DEBUG) as log:
            async with encrypted(reception, listen, trust) as peer:
                assert "STARTTLS" not in await peer.ask("EHLO pc")
                peer.send(MESSAGE)
                assert [(await peer.reply())[:3] for _ in range(3)] == ["250"] * 3
                assert (await peer.ask("QUIT"))[:3] == "221"
                assert await peer.reply() == ""
    [message] = intake.messages
    assert (message.client.protocol, message.client.helo, message.content) == ("ESMTPS", "pc", b"x\r\n")
    assert "Anonymous TLS connection established from localhost[127.0.0.1]: TLSv1.3 with cipher" in log[1]


@LISTENS
@pytest.mark.parametrize(
    ("commands", "protocol"),
    [
        (["HELO pc", "MAIL FROM:<a@b.test>"], "SMTP"),
        (["EHLO pc", "MAIL FROM:<a@b.test> SMTPUTF8"], "UTF8SMTPS"),
        (["AUTH PLAIN AHUAcA==", "MAIL FROM:<a@b.test>"], "SMTP"),
        (["EHLO pc", "AUTH PLAIN AHUAcA==", "MAIL FROM:<a@b.test>"], "ESMTPSA"),
        (["EHLO pc", "AUTH PLAIN AHUAcA==", "MAIL FROM:<a@b.test> SMTPUTF8"], "UTF8SMTPSA"),
    ],
)
@in_both_loops
async def test_the_received_header_will_tell_how_mail_came(
    files: ListenerTls, trust: ssl.SSLContext, listen: Listen, commands: list[str], protocol: str
) -> None:
    intake = MemoryIntake()
    listen = replace(listen, auth="optional")
    users = {"u": str(make_hash(b"p", b"salt"))}
    async with served(listen, files, trust, intake, users=users) as peer:
        await peer.ask(*commands, "RCPT TO:<c@d.test>", "DATA", ".")
    assert intake.messages[0].client.protocol == protocol


@LISTENS
@in_both_loops
async def test_a_big_message_comes_through(files: ListenerTls, trust: ssl.SSLContext, listen: Listen) -> None:
    intake = MemoryIntake()
    content = b"Subject: big\r\n\r\n" + b"0123456789" * 7 + b"\r\n" * 50_000
    async with served(listen, files, trust, intake) as peer:
        await peer.ask("EHLO pc", "MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA")
        peer.send(content + b".\r\n")
        assert (await peer.reply())[:3] == "250"
    assert intake.messages[0].content == content


@LISTENS
@in_both_loops
async def test_a_client_may_end_without_waiting_for_replies(
    files: ListenerTls, trust: ssl.SSLContext, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        with log_of(caplog) as log:
            async with encrypted(reception, listen, trust) as peer:
                await peer.ask("EHLO pc")
                peer.send(MESSAGE + b"NOOP\r\n" * 20)
            async with asyncio.timeout(10):
                while reception._shared.sessions:
                    await asyncio.sleep(0.01)
    assert [line for line in log if "lost connection" not in line] == []


# STARTTLS


@in_both_loops
async def test_starttls_is_offered_where_it_is_to_be_had(files: ListenerTls) -> None:
    listens = [STARTTLS, Listen("127.0.0.3", 0)]
    async with serving(MemoryIntake(), listens=listens, tls=files) as reception:
        async with connected(reception) as peer:
            assert "\n250-STARTTLS\n" in await peer.ask("EHLO pc")
            assert (await peer.ask("STARTTLS now"))[:9] == "501 5.5.4"
        async with connected(reception, at=1) as peer:
            assert "STARTTLS" not in await peer.ask("EHLO pc")
            assert (await peer.ask("STARTTLS"))[:9] == "502 5.5.1"


@LISTENS
@in_both_loops
async def test_an_encrypted_connection_is_not_encrypted_again(
    files: ListenerTls, trust: ssl.SSLContext, listen: Listen
) -> None:
    async with served(listen, files, trust) as peer:
        assert (await peer.ask("STARTTLS"))[:9] == "554 5.5.1"
        assert (await peer.ask("NOOP"))[:3] == "250"


@pytest.mark.parametrize("is_at_once", [True, False])
@in_both_loops
async def test_what_was_injected_in_clear_is_never_answered_nor_obeyed(
    files: ListenerTls, trust: ssl.SSLContext, is_at_once: bool
) -> None:
    intake = MemoryIntake()
    async with serving(intake, listens=[STARTTLS], tls=files) as reception, connected(reception) as peer:
        await peer.ask("EHLO evil", "MAIL FROM:<evil@b.test>", "RCPT TO:<evil@d.test>")
        if is_at_once:
            peer.send(b"STARTTLS\r\nRSET\r\n" + MESSAGE + b"MAIL FROM:<evil@b.test>\r\nNOO")
        else:
            peer.send(b"RSET\r\nSTARTTLS\r\n" + MESSAGE)
            assert (await peer.reply())[:3] == "250"
        assert (await peer.reply())[:3] == "220"
        await peer.start_tls(trust)
        assert (await peer.ask("RCPT TO:<c@d.test>"))[:9] == "503 5.5.1"
        assert (await peer.ask("EHLO pc"))[:4] == "250-"
        peer.send(MESSAGE)
        assert [(await peer.reply())[:3] for _ in range(3)] == ["250"] * 3
    [message] = intake.messages
    assert message.envelope.reverse_path == "a@b.test"


@LISTENS
@in_both_loops
async def test_a_client_that_breaks_an_encrypted_connection_leaves_nothing_behind(
    files: ListenerTls, trust: ssl.SSLContext, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a word of TLS: then only the loss of the connection tells."""
    caplog.set_level(logging.INFO)
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        at_once = trust if listen.tls == "implicit" else None
        async with connected(reception, listen.host, tls=at_once) as peer:
            if not at_once:
                await peer.ask("STARTTLS")
                await peer.start_tls(trust)
            await peer.ask("NOOP")
            peer.writer.transport.abort()
        async with asyncio.timeout(20):
            while "lost connection" not in caplog.text:
                await asyncio.sleep(0.01)


@in_both_loops
async def test_starttls_forgets_who_the_client_was(files: ListenerTls, trust: ssl.SSLContext) -> None:
    intake = MemoryIntake()
    listen = replace(STARTTLS, auth="optional", clear_password=True)
    users = {"u": str(make_hash(b"p", b"salt"))}
    async with (
        serving(intake, listens=[listen], tls=files, users=users) as reception,
        connected(reception) as peer,
    ):
        assert (await peer.ask("EHLO liar", "AUTH PLAIN AHUAcA=="))[:3] == "235"
        await peer.ask("STARTTLS")
        await peer.start_tls(trust)
        await peer.ask("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA", ".")
        client = intake.messages[0].client
        assert (client.helo, client.user, client.sasl_method, client.protocol) == ("", "", "", "SMTP")
        assert (await peer.ask("AUTH PLAIN AHUAcA=="))[:3] == "235"


# Handshakes that fail


@LISTENS
@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"EHLO pc\r\nMAIL FROM:<a@b.test>\r\n", "what it sent is not TLS"),
        (b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n", "what it sent is not TLS"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "length mismatch|length too short|bad"),
    ],
)
@in_both_loops
async def test_what_is_no_handshake_is_told_in_one_line(
    files: ListenerTls, listen: Listen, sent: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        with log_of(caplog) as log:
            async with raw(reception, listen) as peer:
                peer.send(sent)
                await peer.reader.read()
            await logged(caplog, "failed: ")
    [line] = log
    assert "TLS handshake with " in line
    assert "[127.0.0.1] failed: " in line
    assert any(words in line for words in reason.split("|"))
    assert "Traceback" not in caplog.text


@LISTENS
@pytest.mark.parametrize("is_reset", [False, True])
@in_both_loops
async def test_a_client_may_vanish_in_the_handshake(
    files: ListenerTls,
    trust: ssl.SSLContext,
    listen: Listen,
    is_reset: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        with log_of(caplog) as log:
            async with raw(reception, listen) as peer:
                peer.send(b"\x16\x03\x01")
                if is_reset:
                    sock = peer.writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    peer.writer.transport.abort()
                else:
                    peer.writer.write_eof()
                    assert await peer.reader.read() == b""
            await logged(caplog, "[127.0.0.1] failed: the client closed the connection")
            async with encrypted(reception, listen, trust) as peer:
                assert (await peer.ask("QUIT"))[:3] == "221"
    assert len(log) == 1


@LISTENS
@in_both_loops
async def test_a_handshake_that_does_not_go_on_is_broken_off(
    files: ListenerTls, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(SETTINGS, idle_seconds=0.1)
    async with serving(MemoryIntake(), settings, listens=[listen], tls=files) as reception:
        with log_of(caplog) as log:
            async with raw(reception, listen) as peer:
                peer.send(b"\x16\x03\x01")
                assert await peer.reader.read() == b""
            await logged(caplog, "[127.0.0.1] failed: it did not finish in time")
    assert len(log) == 1


@LISTENS
@in_both_loops
async def test_closing_does_not_wait_for_handshakes(files: ListenerTls, listen: Listen) -> None:
    async with (
        serving(MemoryIntake(), listens=[listen], tls=files) as reception,
        raw(reception, listen) as peer,
    ):
        peer.send(b"\x16\x03\x01")
        shared = reception._shared
        while not (shared.handshakes or any(session._is_in_handshake for session in shared.sessions)):
            await asyncio.sleep(0.01)
        await asyncio.wait_for(reception.close(1000), 10)
        assert await peer.reply() == ""
    assert not reception._shared.handshakes
    assert not reception._shared.sessions


@LISTENS
@in_both_loops
async def test_closing_sends_encrypted_clients_away(
    files: ListenerTls, trust: ssl.SSLContext, listen: Listen
) -> None:
    async with (
        serving(MemoryIntake(), listens=[listen], tls=files) as reception,
        encrypted(reception, listen, trust) as peer,
    ):
        await peer.ask("NOOP")
        await asyncio.wait_for(reception.close(1000), 10)
        assert (await peer.reply())[:9] == "421 4.3.2"


@in_both_loops
async def test_handshakes_are_limited_like_sessions(
    files: ListenerTls, trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(connections_per_client=1)
    async with serving(MemoryIntake(), SETTINGS, limits, listens=[IMPLICIT], tls=files) as reception:
        async with raw(reception, IMPLICIT) as stalled:
            while not reception._shared.handshakes:
                await asyncio.sleep(0.01)
            with log_of(caplog) as log:
                async with connected(reception, greet=False) as second:
                    assert await second.reader.read() == b""
            assert "reject: CONNECT from unknown[127.0.0.1]: 421 4.7.0" in log[0]
            await stalled.close()
        while reception._shared.handshakes:
            await asyncio.sleep(0.01)
        async with encrypted(reception, IMPLICIT, trust) as peer:
            assert (await peer.ask("NOOP"))[:3] == "250"


@in_both_loops
async def test_a_system_that_accepts_nothing_for_a_while_is_no_end(
    files: ListenerTls,
    trust: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("relay.reception.tls_server.PAUSE_SECONDS", 0.01)
    loop = asyncio.get_running_loop()
    failures = [OSError(24, "Too many open files")]

    class Loop:
        """The event loop, which fails once."""

        async def sock_accept(self, sock: socket.socket) -> object:
            if failures:
                raise failures.pop()
            return await loop.sock_accept(sock)

        def __getattr__(self, name: str) -> object:
            return getattr(loop, name)

    with log_of(caplog) as log:
        async with serving(MemoryIntake(), listens=[IMPLICIT], tls=files) as reception:
            [server] = reception._servers.values()
            server._loop = Loop()  # type: ignore[union-attr]  # a TlsServer, whose loop this imitates
            for _ in range(2):
                async with encrypted(reception, IMPLICIT, trust) as peer:
                    assert (await peer.ask("QUIT"))[:3] == "221"
    assert log == ["no connection can be accepted: Too many open files"]


@LISTENS
@in_both_loops
async def test_a_client_that_does_not_trust_us_is_told_apart(
    files: ListenerTls, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        with log_of(caplog) as log:
            async with raw(reception, listen) as peer:
                await distrust(peer)
            await logged(caplog, "failed: ")
    assert log[0].endswith("[127.0.0.1] failed: it does not trust the certificate of this server")


async def distrust(peer: Peer) -> None:
    """Shake hands as OpenSSL's programs do, which send an alert before they leave."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            handshake.do_handshake()
        except ssl.SSLWantReadError:
            peer.send(outgoing.read())
            incoming.write(await peer.reader.read(65536))
        except ssl.SSLCertVerificationError:
            peer.send(outgoing.read())
            return


# Old versions


def version_of(peer: Peer) -> str:
    version: str = peer.writer.get_extra_info("ssl_object").version()
    return version


@LISTENS
@pytest.mark.parametrize("version", OLD_VERSIONS)
@in_both_loops
async def test_an_old_client_is_let_in_where_the_owner_says_so(
    authority: Authority, files: ListenerTls, listen: Listen, version: str
) -> None:
    listen = replace(listen, tls_minimum=version)  # type: ignore[arg-type]  # one of the Literal
    intake = MemoryIntake()
    async with serving(intake, listens=[listen], tls=files) as reception:
        async with encrypted(reception, listen, old_client(authority, version)) as peer:
            assert version_of(peer) == f"TLSv{version}".removesuffix(".0")
            peer.send(b"EHLO scanner\r\n" + MESSAGE)
            assert [(await peer.reply())[:3] for _ in range(4)] == ["250"] * 4
        async with encrypted(reception, listen, trusting(authority)) as peer:
            assert version_of(peer) == "TLSv1.3"
    assert intake.messages[0].client.protocol == "ESMTPS"


@LISTENS
@pytest.mark.parametrize("version", OLD_VERSIONS)
@in_both_loops
async def test_one_listener_for_old_clients_does_not_weaken_the_others(
    authority: Authority, files: ListenerTls, listen: Listen, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    old = Listen("127.0.0.4", 0, tls="implicit", tls_minimum="1.0")
    async with serving(MemoryIntake(), listens=[listen, old], tls=files) as reception:
        async with encrypted(reception, old, old_client(authority, version)) as peer:
            assert (await peer.ask("NOOP"))[:3] == "250"
        with log_of(caplog) as log:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with encrypted(reception, listen, old_client(authority, version)):
                    pass
            await logged(caplog, "failed: ")
    assert 'may need a [[listen]] of its own with tls_minimum = "1.0"' in log[0]


@in_both_loops
async def test_the_minimum_may_be_higher(
    files: ListenerTls, trust: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    listen = replace(IMPLICIT, tls_minimum="1.3")
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        async with encrypted(reception, listen, trust) as peer:
            assert version_of(peer) == "TLSv1.3"
        trust.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with encrypted(reception, listen, trust):
                pass


# The certificate


def certificate_of(peer: Peer) -> bytes:
    certificate: bytes = peer.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return certificate


@LISTENS
@in_both_loops
async def test_a_new_certificate_is_used_for_the_next_client(
    authority: Authority, files: ListenerTls, trust: ssl.SSLContext, listen: Listen, tmp_path: Path
) -> None:
    async with (
        serving(MemoryIntake(), listens=[listen], tls=files) as reception,
        encrypted(reception, listen, trust) as before,
    ):
        make_files(authority, tmp_path)
        async with encrypted(reception, listen, trust) as after:
            assert certificate_of(before) != certificate_of(after)
            assert (await before.ask("NOOP"))[:3] == (await after.ask("NOOP"))[:3] == "250"
        async with encrypted(reception, listen, trust) as again:
            assert certificate_of(after) == certificate_of(again)


@LISTENS
@in_both_loops
async def test_a_broken_new_certificate_is_warned_of_once_and_not_used(
    authority: Authority,
    files: ListenerTls,
    trust: ssl.SSLContext,
    listen: Listen,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert files.certificate
    async with serving(MemoryIntake(), listens=[listen], tls=files) as reception:
        async with encrypted(reception, listen, trust) as peer:
            first = certificate_of(peer)
        with log_of(caplog) as log:
            for spoil in (lambda path: path.write_text("nonsense"), Path.unlink):
                spoil(files.certificate)
                for _ in range(2):
                    async with encrypted(reception, listen, trust) as peer:
                        assert certificate_of(peer) == first
                        await peer.ask("QUIT")
            make_files(authority, tmp_path)
            async with encrypted(reception, listen, trust) as peer:
                assert certificate_of(peer) != first
                await peer.ask("QUIT")
    broken, missing = log
    assert "cannot be used: both must be in PEM form" in broken
    assert missing == (
        f"{files.certificate} of [tls] cannot be read: No such file or directory; "
        "the certificate that was there before stays in use"
    )


async def refuse_to_listen(tls: ListenerTls) -> str:
    with pytest.raises(ListenError) as caught:
        async with serving(MemoryIntake(), listens=[IMPLICIT], tls=tls):
            pass
    return str(caught.value)


@in_both_loops
async def test_a_certificate_that_cannot_be_used_is_explained(
    authority: Authority, files: ListenerTls, tmp_path: Path
) -> None:
    certificate, key = files.certificate, files.key
    assert certificate
    assert key
    assert await refuse_to_listen(ListenerTls()) == (
        "a listener with TLS needs certificate and key in [tls] of relay.toml"
    )
    missing = tmp_path / "missing"
    assert await refuse_to_listen(ListenerTls(missing, key)) == (
        f"{missing} of [tls] cannot be read: No such file or directory"
    )
    assert await refuse_to_listen(ListenerTls(certificate, tmp_path)) == (
        f"{tmp_path} of [tls] cannot be read: Is a directory"
    )
    (tmp_path / "other").mkdir()
    other = make_files(authority, tmp_path / "other")
    assert await refuse_to_listen(ListenerTls(certificate, other.key)) == (
        f"the key {other.key} does not belong to the certificate {certificate}"
    )
    key.write_text("nonsense")
    assert await refuse_to_listen(files) == (
        f"the certificate {certificate} or its key {key} cannot be used: both must be in PEM form, and "
        "the key without a passphrase"
    )


@in_both_loops
async def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(files: ListenerTls) -> None:
    from cryptography.hazmat.primitives import serialization as s

    assert files.key
    plain = s.load_pem_private_key(files.key.read_bytes(), None)
    pkcs8 = s.PrivateFormat.PKCS8
    files.key.write_bytes(plain.private_bytes(s.Encoding.PEM, pkcs8, s.BestAvailableEncryption(b"secret")))
    assert "the key without a passphrase" in await refuse_to_listen(files)


# Changes while clients are there


@in_both_loops
async def test_a_listener_may_change_its_ways_on_the_same_port(
    files: ListenerTls, trust: ssl.SSLContext
) -> None:
    async with serving(MemoryIntake(), listens=[Listen("127.0.0.1", 0)]) as reception:
        [address] = reception.addresses
        async with connected(reception) as first:
            for listen in (STARTTLS, replace(IMPLICIT, host="127.0.0.1"), replace(STARTTLS, auth="optional")):
                await reception.open([listen], files)
                assert reception.addresses == [address]
                async with encrypted(reception, listen, trust) as peer:
                    assert ("AUTH" in await peer.ask("EHLO pc")) == (listen.auth == "optional")
            with pytest.raises(ListenError):
                await reception.open([STARTTLS], ListenerTls())
            assert (await first.ask("STARTTLS"))[:3] == "502"
            async with encrypted(reception, STARTTLS, trust) as peer:
                assert (await peer.ask("NOOP"))[:3] == "250"
