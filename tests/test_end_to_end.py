"""The real program between real clients and next hops: outages, restarts, and whatever bad input there is.

None of it may lead to a traceback; ``Service`` and ``run`` look for one in all that the program writes.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.dns_server import DnsServer, Failure, Records
from tests.support.service import PATIENCE, Service, deliveries, run
from tests.support.smtp_server import DROP, Script, ScriptedServer, Step, Wait

CONTENT = b"Subject: hello\r\n\r\nworld\r\n"
CLOSED = Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP))


def relayhost(server: ScriptedServer) -> str:
    return f'relayhost = "[127.0.0.1]:{server.port}"\n'


# Mail


async def test_mail_survives_an_outage_and_restarts(tmp_path: Path) -> None:
    async with ScriptedServer(CLOSED) as server:
        relay = Service(tmp_path, f'{relayhost(server)}queue = {{ retry = ["300ms"] }}')
        async with relay:
            for name in ("anne", "marc"):
                assert (await relay.send(CONTENT, f"{name}@machin.com")).startswith("250 ")
            await relay.logged("to=<marc@machin.com>, .*status=deferred")
        async with relay:
            await relay.logged("status=deferred .*closed for repairs", past=len(relay.log))
            server.script = Script()
            await relay.logged("status=sent", 2)
            await relay.emptied()
        assert Counter(d.recipients for d in deliveries(server)) == {
            ("anne@machin.com",): 1,
            ("marc@machin.com",): 1,
        }
        for delivery in deliveries(server):
            assert delivery.content.endswith(b"\r\n" + CONTENT.partition(b"\r\n\r\n")[2])


async def test_what_dns_says_decides_between_bounce_and_deferral(tmp_path: Path) -> None:
    names: dict[str, Records | Failure] = {
        "free.fr": {"MX": ["10 mx1.free.fr."]},
        "broken.test": Failure.SERVFAIL,
        "null.test": {"MX": ["0 ."]},
    }
    async with DnsServer(names) as dns, ScriptedServer() as inside:
        host, port = dns.address
        toml = (
            f'dns = {{ nameservers = ["{host}:{port}"] }}\n'
            f'transport = {{ "free.fr" = "[127.0.0.1]:{inside.port}" }}'
        )
        async with Service(tmp_path, toml) as relay:
            for domain in ("broken.test", "null.test", "nowhere.test"):
                await relay.send(CONTENT, f"user@{domain}")
            await relay.logged(r"to=<user@broken.test>, .*dsn=4\.4\.3, status=deferred")
            await relay.logged(r"to=<user@null.test>, .*dsn=5\.1\.10, status=bounced")
            await relay.logged(r"to=<user@nowhere.test>, .*dsn=5\.4\.4, status=bounced")
            await relay.logged("to=<chris@free.fr>, .*status=sent", 2)
        for report in deliveries(inside):
            assert (report.reverse_path, report.recipients) == ("", ("chris@free.fr",))


async def test_an_interrupt_from_the_keyboard_ends_it_in_order(tmp_path: Path) -> None:
    async with Service(tmp_path) as relay:
        os.kill(relay.pid, signal.SIGINT)
        await relay.logged(r" stopping: asked to\n.* stopped\n")
        assert relay._process is not None
        assert await relay._process.wait() == 0  # another signal now would meet an interpreter that ends


# Refusing to start


async def refusal(config: Path, status: int) -> str:
    """Return the one thing that a relay says which doesn't start."""
    refused = await run("serve", "--config", config)
    assert refused.status == status
    assert "listening" not in refused.out
    return refused.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('hostname = "gw1', "relay.toml:1: not valid TOML: "),
        ("\x00\xff", "relay.toml:1: is not UTF-8 text"),
        ('relayhots = "isp"', 'did you mean "relayhost"?'),
        ('relayhost = "ips"\n[smarthost.isp]\nhost = "a.fr"', 'did you mean "isp"?'),
    ],
)
async def test_a_broken_configuration_is_explained(tmp_path: Path, text: str, words: str) -> None:
    config = tmp_path / "relay.toml"
    config.write_text(text, encoding="latin-1")
    for command in ("serve", "check"):
        refused = await run(command, "--config", config)
        assert refused.status == 78
        assert refused.out == ""
        assert words in refused.err


async def test_a_configuration_that_does_not_exist_is_named(tmp_path: Path) -> None:
    config = tmp_path / "relay.toml"
    assert str(config) in await refusal(config, 78)


async def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        given = Service(tmp_path, f'listen = [{{ address = "127.0.0.1:{port}" }}]')
        words = await refusal(given.config, 1)
        assert words.startswith(f"relay: cannot listen on 127.0.0.1:{port}: another program uses this port")


async def test_a_queue_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    async with Service(tmp_path) as relay:
        words = await refusal(relay.config, 1)
        assert str(relay.pid) in words
        assert (await relay.command("healthcheck")).status == 0


async def test_a_queue_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    async with Service(tmp_path) as relay:
        pass
    db = sqlite3.connect(relay.queue_path)
    db.execute("PRAGMA user_version = 999")
    db.close()
    before = relay.queue_path.read_bytes()
    assert "was written by a newer relay" in await refusal(relay.config, 1)
    assert "was written by a newer relay" in (await relay.command("queue", "list")).err
    assert relay.queue_path.read_bytes() == before


async def test_a_file_that_is_no_queue_is_not_touched(tmp_path: Path) -> None:
    given = Service(tmp_path)
    given.queue_path.write_bytes(b"something else entirely " * 100)
    assert "is damaged" in await refusal(given.config, 1)
    assert given.queue_path.read_bytes() == b"something else entirely " * 100


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory on a folder."""
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"may not mount: {mount.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.needs_root
async def test_a_queue_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        given = Service(tmp_path, f'queue = {{ path = "{disk}/queue.db" }}')
        words = await refusal(given.config, 1)
        assert words == (
            f"relay: the queue {disk}/queue.db can't be opened (Read-only file system): "
            f"see that this user may write its folder (this user: {os.geteuid()})\n"
        )


# Bad disks


def fill(disk: Path) -> Path:
    """Write to a disk until it is full, and return the file that fills it."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(65536)):
            pass
    return filler


@pytest.mark.needs_root
async def test_a_full_disk_refuses_mail_lets_mail_go_and_recovers_by_itself(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=16m") as disk:
        async with ScriptedServer(CLOSED) as server:
            toml = f'{relayhost(server)}queue = {{ path = "{disk}/queue.db" }}'
            async with Service(tmp_path, toml) as relay:
                for number in range(20):
                    assert (await relay.send(CONTENT, f"u{number}@machin.com")).startswith("250 ")
                await relay.logged("status=deferred", 20)
                filler = fill(disk)
                await relay.kill()
                await relay.start()
                for content in (CONTENT, CONTENT + b"line\r\n" * 300_000):
                    assert (await relay.send(content, "late@machin.com")).startswith("452 4.3.1 ")
                async with relay.client() as peer:
                    assert (await peer.ask("EHLO x", "NOOP")).startswith("250 ")
                server.script = Script()
                assert (await relay.command("queue", "retry", "--all")).status == 0
                await relay.logged("removed", 20)
                assert await relay.queue() == []
                filler.unlink()
                assert (await relay.send(CONTENT, "late@machin.com")).startswith("250 ")
                await relay.logged("to=<late@machin.com>, .*status=sent")
            assert Counter(r for d in deliveries(server) for r in d.recipients) == {
                **{f"u{number}@machin.com": 1 for number in range(20)},
                "late@machin.com": 1,
            }


@asynccontextmanager
async def failing(relay: Service, error: str) -> AsyncIterator[None]:
    """Let all that the relay writes to its queue fail."""
    files = [f"{relay.queue_path}{suffix}" for suffix in ("", "-wal")]
    paths = [option for file in files for option in ("-P", file)]
    inject = f"inject=pwrite64,fdatasync:error={error}"
    strace = await asyncio.create_subprocess_exec(
        "strace", "-f", "-p", str(relay.pid), *paths, "-e", inject, stderr=asyncio.subprocess.PIPE
    )
    assert strace.stderr is not None
    async with asyncio.timeout(PATIENCE):
        first = await strace.stderr.readline()
    if b" attached" not in first:
        pytest.skip(f"may not trace: {first.decode()}")
    rest = asyncio.create_task(strace.stderr.read())
    try:
        yield
    finally:
        strace.terminate()
        await strace.wait()
        await rest


@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", ["EROFS", "EIO"])
async def test_a_disk_that_fails_for_a_while_delays_mail_and_loses_none(tmp_path: Path, error: str) -> None:
    async with ScriptedServer() as server, Service(tmp_path, relayhost(server)) as relay:
        assert (await relay.send(CONTENT, "first@machin.com")).startswith("250 ")
        await relay.logged("removed")
        async with failing(relay, error):
            for content in (CONTENT, CONTENT + b"line\r\n" * 300_000):
                assert re.match("45[12] 4.3.", await relay.send(content, "second@machin.com"))
            async with relay.client() as peer:
                assert (await peer.ask("EHLO x", "NOOP")).startswith("250 ")
        assert (await relay.send(CONTENT, "third@machin.com")).startswith("250 ")
        await relay.logged("removed", 2)
        assert [delivery.recipients[0] for delivery in deliveries(server)] == [
            "first@machin.com",
            "third@machin.com",
        ]


@pytest.mark.needs("strace")
async def test_a_transfer_that_could_not_be_recorded_is_recorded_later_and_not_repeated(
    tmp_path: Path,
) -> None:
    may_answer = asyncio.Event()
    script = Script().but(DOT=(Wait(may_answer), b"250 2.0.0 taken\r\n"))
    async with ScriptedServer(script) as server, Service(tmp_path, relayhost(server)) as relay:
        assert (await relay.send(CONTENT, "marc@machin.com")).startswith("250 ")
        await server.wait_for("DOT")
        async with failing(relay, "EIO"):
            may_answer.set()
            await relay.logged("warning: .* outcome not recorded yet: the disk of the queue .* failed")
        await relay.logged("removed")
        assert await relay.queue() == []
        assert len(deliveries(server)) == 1


async def test_mail_goes_on_where_the_log_cannot_be_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    async with ScriptedServer() as server:
        toml = f'{relayhost(server)}listen = [{{ address = "127.0.0.1:{port}" }}]'
        relay = Service(tmp_path, toml)
        relay.port = port
        serve = (sys.executable, "-m", "relay", "serve", "--config", relay.config)
        with Path("/dev/full").open("wb") as full:
            process = await asyncio.create_subprocess_exec(
                *serve, stdout=full, stderr=asyncio.subprocess.PIPE
            )
        try:
            async with asyncio.timeout(PATIENCE):
                while (await relay.command("healthcheck")).status:
                    await asyncio.sleep(0.05)
            assert (await relay.send(CONTENT, "marc@machin.com")).startswith("250 ")
            await relay.emptied()
        finally:
            process.terminate()
            _, complaint = await process.communicate()
        assert (complaint, process.returncode) == (b"", 0)
        assert len(deliveries(server)) == 1


# Bad clients

DIALOGUE = (
    b"EHLO chris\r\nMAIL FROM:<a@free.fr> SIZE=100\r\nRCPT TO:<one@machin.com>\r\nDATA\r\n"
    b"Subject: one\r\n\r\n..dot\r\n.\r\n"
    b"MAIL FROM:<b@free.fr>\r\nRCPT TO:<two@machin.com>\r\n"
    b"BDAT 16\r\nSubject: two\r\n\r\nBDAT 6 LAST\r\nhello\nQUIT\r\n"
)


async def test_a_client_may_vanish_at_any_byte(tmp_path: Path) -> None:
    async with ScriptedServer() as server, Service(tmp_path, relayhost(server)) as relay:
        for length in range(len(DIALOGUE)):
            for is_reset in (False, True):
                reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
                writer.write(DIALOGUE[:length])
                if is_reset:
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    writer.write_eof()
                    await reader.read()
                writer.close()
        assert (await relay.send(CONTENT, "last@machin.com")).startswith("250 ")
        await relay.logged("to=<last@machin.com>, .*status=sent")
        await relay.emptied()
        bodies = {(d.recipients, d.content.partition(b"\r\n\r\n")[2]) for d in deliveries(server)}
        assert bodies == {
            (("one@machin.com",), b".dot\r\n"),
            (("two@machin.com",), b"hello\r\n"),
            (("last@machin.com",), b"world\r\n"),
        }


@pytest.mark.parametrize(
    "noise",
    [
        bytes(range(256)) * 100,
        b"A" * 3_000_000 + b"\r\n",
        b"\0" * 100_000,
        b"\r" * 1000 + b"\n" * 1000,
        b"GET / HTTP/1.1\r\nHost: gw1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xa5" * 500,
        b"EHLO \xff\xfe\r\nMAIL FROM:<\xe9@free.fr>\r\nRCPT TO:<@@@>\r\nDATA\r\n.\r\n",
        b"EHLO x\r\nBDAT 99999999999999999999\r\nBDAT -1\r\nMAIL FROM:<> SIZE=-1\r\n",
        b"EHLO x\r\nMAIL FROM:<a@b.fr>\r\nRCPT TO:<c@machin.com>\r\nDATA\r\n"
        + b"\xff\0\r\n.\n.\r.\r\n" * 10_000,
    ],
)
async def test_noise_harms_nobody(tmp_path: Path, noise: bytes) -> None:
    async with ScriptedServer() as server, Service(tmp_path, relayhost(server)) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        with suppress(ConnectionError):
            writer.write(noise)
            writer.write_eof()
            async with asyncio.timeout(10):
                replies = await reader.read()
            assert all(
                re.match(rb"[2-5]\d\d[ -][ -~]*\r\n\Z", line) for line in replies.splitlines(keepends=True)
            )
        writer.close()
        assert (await relay.send(CONTENT, "last@machin.com")).startswith("250 ")
        await relay.logged("to=<last@machin.com>, .*status=sent")


# Bad next hops

NONSENSE: dict[str, Step] = {
    "web": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "tls": b"\x15\x03\x03\x00\x02\x02\x46",
    "bytes": bytes(range(256)) + b"\r\n",
    "empty": b"\r\n",
    "code": b"999 What?\r\n",
    "word": b"OK\r\n",
    "long": b"250 " + b"x" * 1_000_000 + b"\r\n",
    "endless": b"250-more\r\n" * 10_000 + b"250 end\r\n",
    "mixed": b"250-one\r\n550 two\r\n",
    "early": b"354 go ahead\r\n",
    "twice": b"250 one\r\n250 two\r\n250 three\r\n",
    "gone": DROP,
}
POINTS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "DOT", "QUIT")


@pytest.mark.parametrize("point", POINTS)
async def test_nonsense_from_a_next_hop_loses_nothing(tmp_path: Path, point: str) -> None:
    async with AsyncExitStack() as stack:
        servers = {}
        for name, nonsense in NONSENSE.items():
            step: Step = (nonsense, DROP)
            servers[name] = await stack.enter_async_context(ScriptedServer(Script().but(**{point: step})))
        routes = [f'"{name}.test" = "[127.0.0.1]:{server.port}"' for name, server in servers.items()]
        relay = await stack.enter_async_context(Service(tmp_path, "\n".join(["[transport]", *routes])))
        for name in servers:
            assert (await relay.send(CONTENT, f"user@{name}.test")).startswith("250 ")
        await relay.logged(r"to=<user@\w+\.test>, .*status=(deferred|sent)", len(servers))
        for server in servers.values():
            server.script = Script()
        await relay.command("queue", "retry", "--all")
        await relay.emptied()
        assert "status=bounced" not in relay.log
        for name, server in servers.items():
            assert {delivery.recipients for delivery in deliveries(server)} == {(f"user@{name}.test",)}
