"""The running relay and its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config.model import PRIVATE_NETWORKS, Network
from relay.doctor.service import Waiting, ask_service, judge_clients
from relay.queue.control import ControlServer
from tests.support.doctor import kinds
from tests.support.queue import accept, opened

GATEWAY = "172.17.0.1"


async def test_a_relay_that_does_not_run_is_no_problem(tmp_path: Path) -> None:
    findings, waiting = ask_service(tmp_path / "queue.db")
    assert (kinds(findings), waiting) == (["service.down info"], Waiting())


async def test_a_running_relay_tells_its_troubles_and_its_clients(tmp_path: Path) -> None:
    path, now = tmp_path / "queue.db", time.time()
    async with opened(path) as store:
        await accept(store, now=now - 9, client="pc[192.168.0.2]")
        await accept(store, now=now - 5, client="unknown[2001:db8::7]")
        await accept(store, now=now - 7, client="")
        server = ControlServer(store, lambda: None, lambda: ["the token is \x1b[31mgone"])
        await server.start()
        findings, waiting = await asyncio.to_thread(ask_service, path)
        await server.close()
    assert kinds(findings) == ["service.up ok", "service.degraded warning"]
    assert findings[1].what == "the running relay reports: the token is ?[31mgone"
    assert waiting.clients == ("192.168.0.2", "2001:db8::7")
    assert waiting.newest == pytest.approx(now - 5)


async def test_a_relay_that_may_not_be_asked(tmp_path: Path) -> None:
    (tmp_path / "queue.db.sock").mkdir()
    findings, _ = ask_service(tmp_path / "queue.db")
    assert kinds(findings) == ["service.down info"]  # a folder refuses connections

    (tmp_path / "file").write_text("")
    findings, _ = ask_service(tmp_path / "file" / "queue.db")
    assert kinds(findings) == ["service.hidden info"]


OWN = [ip_network("192.168.0.0/24")]
WITH_GATEWAY = [*OWN, ip_network("172.16.0.0/12")]


@pytest.mark.parametrize(
    ("gateway", "networks", "clients", "found"),
    [
        ("", PRIVATE_NETWORKS, [], "clients.real ok"),
        (GATEWAY, PRIVATE_NETWORKS, [], "clients.bridge info"),
        (GATEWAY, PRIVATE_NETWORKS, ["127.0.0.1"], "clients.bridge info"),
        (GATEWAY, PRIVATE_NETWORKS, [GATEWAY, GATEWAY, "::1"], "clients.gateway problem"),
        (GATEWAY, WITH_GATEWAY, [GATEWAY], "clients.gateway problem"),
        (GATEWAY, PRIVATE_NETWORKS, [GATEWAY, "192.168.0.2"], "clients.real ok"),
        (GATEWAY, WITH_GATEWAY, ["192.168.0.2"], "clients.allowed warning"),
        (GATEWAY, OWN, ["192.168.0.2"], "clients.real ok"),
        (GATEWAY, OWN, [], "clients.bridge info"),
    ],
)
def test_clients_behind_a_gateway(
    gateway: str, networks: Sequence[Network], clients: Sequence[str], found: str
) -> None:
    assert kinds(judge_clients(gateway, networks, clients)) == [found]
