"""A changed relay.toml is applied while the relay runs, and drops nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.support.service import Service, deliveries
from tests.support.smtp_server import DROP, Script, ScriptedServer, Wait

CONTENT = b"Subject: hello\r\nFrom: chris@free.fr\r\n\r\nworld\r\n"
CLOSED = Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP))


def via(server: ScriptedServer) -> str:
    return f'relayhost = "[127.0.0.1]:{server.port}"\n'


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def listen(*ports: int) -> str:
    return "".join(f'[[listen]]\naddress = "127.0.0.1:{port}"\n' for port in ports)


async def healthcheck(relay: Service) -> str:
    done = await relay.command("healthcheck")
    assert done.status == 0
    return done.out


async def test_an_open_session_follows_the_next_route(tmp_path: Path) -> None:
    async with ScriptedServer() as before, ScriptedServer() as after, Service(tmp_path, via(before)) as relay:
        async with relay.client() as peer:
            await peer.ask("EHLO pc", "MAIL FROM:<a@free.fr>")
            await relay.configure(via(after))
            assert (await peer.ask("RCPT TO:<b@machin.com>", "DATA")).startswith("354 ")
            peer.send(CONTENT + b".\r\n")
            assert (await peer.reply()).startswith("250 ")
        await relay.logged("status=sent")
        assert (deliveries(before), len(deliveries(after))) == ([], 1)
        assert "changed: relayhost" in relay.log


async def test_a_changed_file_is_noticed_without_being_told(tmp_path: Path) -> None:
    async with ScriptedServer() as server, Service(tmp_path, via(server)) as relay:
        text = relay.config.read_text()
        relay.config.write_text("")  # as an editor that writes in place
        relay.config.write_text(f'helo_name = "other.test"\n{text}')
        await relay.logged("relay.toml is applied; changed: helo_name")
        await relay.send(CONTENT, "b@machin.com")
        await relay.logged("status=sent")
        assert server.sessions[0].commands[0] == b"EHLO other.test"


async def test_a_file_with_errors_is_told_with_all_of_them_and_not_taken(tmp_path: Path) -> None:
    async with ScriptedServer() as server, Service(tmp_path, via(server)) as relay:
        good = relay.config.read_text()
        relay.config.write_text(f'{good}\n[limits]\nrecipients = "many"\nmesage_size = "1MB"\n')
        os.kill(relay.pid, signal.SIGHUP)
        [line] = await relay.logged("the changed relay.toml is not applied, the relay goes on as before: .*")
        assert "limits.recipients" in line
        assert "message_size" in line
        assert "limits.recipients" in await healthcheck(relay)
        assert (await relay.send(CONTENT, "b@machin.com")).startswith("250 ")
        relay.config.write_text(good)
        os.kill(relay.pid, signal.SIGHUP)
        await relay.logged("relay.toml is applied; changed: nothing")
        assert "limits.recipients" not in await healthcheck(relay)


async def test_a_file_that_vanishes_changes_nothing(tmp_path: Path) -> None:
    async with ScriptedServer() as server, Service(tmp_path, via(server)) as relay:
        relay.config.rename(tmp_path / "away")
        os.kill(relay.pid, signal.SIGHUP)
        await relay.logged("is not applied")
        await relay.send(CONTENT, "b@machin.com")
        await relay.logged("status=sent")


async def test_listeners_open_and_close_and_sessions_go_on(tmp_path: Path) -> None:
    first, second = free_port(), free_port()
    async with ScriptedServer() as server, Service(tmp_path, via(server) + listen(first)) as relay:
        async with relay.client() as peer:
            await relay.configure(via(server) + listen(second))
            assert (await peer.ask("EHLO pc", "NOOP")).startswith("250 ")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", first)
        relay.port = second
        assert (await relay.send(CONTENT, "b@machin.com")).startswith("250 ")


async def test_a_port_that_is_taken_is_told_and_the_old_ones_stay(tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with ScriptedServer() as server, Service(tmp_path, via(server) + listen(port)) as relay:
            text = relay.config.read_text()
            relay.config.write_text(text.replace(str(port), str(taken.getsockname()[1])))
            os.kill(relay.pid, signal.SIGHUP)
            await relay.logged("is not applied, .* another program uses this port already")
            assert (await relay.send(CONTENT, "b@machin.com")).startswith("250 ")


async def test_mending_the_route_lets_what_waits_go_at_once(tmp_path: Path) -> None:
    async with (
        ScriptedServer(CLOSED) as broken,
        ScriptedServer() as server,
        Service(tmp_path, via(broken)) as relay,
    ):
        await relay.send(CONTENT, "b@machin.com")
        await relay.logged("status=deferred")
        await relay.configure(via(server))
        await relay.logged("status=sent")
        await relay.emptied()


async def test_a_transfer_that_has_begun_is_finished_where_it_began(tmp_path: Path) -> None:
    release = asyncio.Event()
    slow = Script().but(DOT=[(Wait(release), b"250 taken\r\n")])
    async with ScriptedServer(slow) as before, ScriptedServer() as after:
        async with Service(tmp_path, via(before)) as relay:
            await relay.send(CONTENT, "b@machin.com")
            async with asyncio.timeout(20):
                while not (before.sessions and before.sessions[0].commands[-1:] == [b"DATA"]):
                    await asyncio.sleep(0.01)
            await relay.configure(via(after))
            release.set()
            await relay.logged("status=sent")
            await relay.emptied()
        assert (len(deliveries(before)), deliveries(after)) == (1, [])


async def test_what_waits_for_a_smarthost_that_is_another_one_now_goes_to_that(tmp_path: Path) -> None:
    def smarthost(server: ScriptedServer) -> str:
        own = f'host = "127.0.0.1"\nport = {server.port}\ntls = "none"'
        return f'relayhost = "isp"\n[queue]\nretry = ["1s"]\n[smarthost.isp]\n{own}\n'

    release = asyncio.Event()
    slow = Script(greeting=(Wait(release), b"220 mx.test\r\n"))
    async with ScriptedServer(slow) as before, ScriptedServer() as after:
        async with Service(tmp_path, smarthost(before)) as relay:
            for _ in range(2):  # before a server has answered, one connection is opened
                await relay.send(CONTENT, "b@machin.com")
            async with asyncio.timeout(20):
                while not before.sessions:
                    await asyncio.sleep(0.01)
            await relay.configure(smarthost(after))
            release.set()
            await relay.emptied()
        assert (len(deliveries(before)), len(deliveries(after))) == (1, 1)


async def test_kept_connections_are_renewed(tmp_path: Path) -> None:
    async with ScriptedServer() as server, Service(tmp_path, via(server)) as relay:
        await relay.send(CONTENT, "b@machin.com")
        await relay.logged("status=sent")
        await relay.configure(f'helo_name = "other.test"\n{via(server)}')
        await relay.send(CONTENT, "b@machin.com")
        await relay.logged("status=sent", 2)
        assert [session.commands[0] for session in server.sessions] == [
            b"EHLO gw1.maison.mrs",
            b"EHLO other.test",
        ]


async def test_rules_and_limits_act_on_the_next_message(tmp_path: Path) -> None:
    changed = """
        [limits]
        message_size = 40
        [[header_checks]]
        pattern = '^Subject: hello'
        action = "REJECT not today"
        [sender_canonical]
        "chris@free.fr" = "chris@real.test"
        [queue]
        retry = ["1s"]
        [log]
        format = "json"
    """
    async with ScriptedServer() as server, Service(tmp_path, via(server)) as relay:
        await relay.configure(via(server) + changed)
        assert "552 5.3.4" in await relay.send(CONTENT, "b@machin.com")
        await relay.configure(via(server) + changed.replace("message_size = 40", "message_size = 4000"))
        assert "not today" in await relay.send(CONTENT, "b@machin.com")
        await relay.send(CONTENT.replace(b"hello", b"bye"), "b@machin.com")
        await relay.logged('"status": "sent"')
        [delivery] = deliveries(server)
        assert delivery.reverse_path == "chris@real.test"


async def test_another_queue_needs_a_restart(tmp_path: Path) -> None:
    async with ScriptedServer() as server, Service(tmp_path, via(server)) as relay:
        await relay.configure(f'{via(server)}queue.path = "{tmp_path}/other.db"')
        assert "restart the relay to apply the changed queue.path" in relay.log
        assert not (tmp_path / "other.db").exists()
        assert (await relay.send(CONTENT, "b@machin.com")).startswith("250 ")
