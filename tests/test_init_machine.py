"""What ``relay init`` sees of the machine."""

from __future__ import annotations

import socket
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.init.machine import LOCAL_QUEUE, choose_name, choose_queue, find_networks, is_private, why_closed

# As a Raspberry Pi behind a Freebox shows them, with Docker and a tunnel.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
eth0\t0000FEA9\t00000000\t0001\t0\t0\t100\t0000FFFF\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
tun0\t0002000A\t0101A8C0\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ADDRESSES = """\
00000000000000000000000000000001 01 80 10 80       lo
2a010e0a012345670000000000000007 02 40 00 00     eth0
fe80000000000000dea632fffe000001 02 40 20 80     eth0
"""


def test_the_networks_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(ROUTES)
    (tmp_path / "proc/net/if_inet6").write_text(ADDRESSES)
    assert find_networks(tmp_path) == ["192.168.1.0/24", "172.17.0.0/16", "2a01:e0a:123:4567::/64"]


def test_a_machine_that_shows_none(tmp_path: Path) -> None:
    assert find_networks(tmp_path) == []


def test_this_machine_is_read_without_trouble() -> None:
    assert all(map(ip_network, find_networks()))


@pytest.mark.parametrize(
    ("network", "verdict"),
    [("192.168.1.0/24", True), ("fd12::/64", True), ("192.0.2.0/24", False), ("2001:db8::/64", False)],
)
def test_what_is_private(network: str, verdict: bool) -> None:
    assert is_private(network) is verdict


def test_a_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert why_closed("127.0.0.1", port) == "another program has it already; another mail server?"
    assert why_closed("127.0.0.1", port) == ""


def test_an_address_of_another_machine() -> None:
    assert why_closed("192.0.2.77", 25) == "this machine has no such address"


def test_the_queue_goes_where_this_user_may_write(tmp_path: Path) -> None:
    assert choose_queue(tmp_path / "var/lib/relay/queue.db") == ""
    assert choose_queue(Path("/proc/self/mem/relay/queue.db")) == LOCAL_QUEUE


def test_a_name_that_no_file_has(tmp_path: Path) -> None:
    assert choose_name(tmp_path, "isp-password") == "isp-password"
    (tmp_path / "isp-password").write_text("")
    (tmp_path / "isp-password-2").symlink_to("nowhere")
    assert choose_name(tmp_path, "isp-password") == "isp-password-3"
