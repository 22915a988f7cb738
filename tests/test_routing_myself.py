"""How the relay knows itself among the servers that mail could go to, and the hosts file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relay.config.model import Listen
from relay.routing.hosts_file import HostsFile
from relay.routing.myself import Myself, is_local


@pytest.mark.parametrize(
    ("name", "addresses", "port", "expected"),
    [
        ("mx.test", ["192.0.2.1"], 25, False),
        ("GW.home.test", [], 25, True),
        ("gw.home.test", [], 2525, True),
        ("gw.home.test", ["127.0.0.1"], 10025, False),
        ("mx.test", ["192.0.2.1", "127.0.0.1"], 2525, True),
        ("mx.test", ["127.0.0.2"], 2525, False),
    ],
)
def test_the_name_counts_on_port_25_and_an_address_where_it_listens(
    name: str, addresses: list[str], port: int, expected: bool
) -> None:
    myself = Myself("gw.home.test", (Listen("127.0.0.1", 2525),))
    assert myself.is_at(name, addresses, port) is expected


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_who_listens_everywhere_is_at_every_address_of_the_machine(host: str) -> None:
    myself = Myself("gw.home.test", (Listen(host, 2525), Listen("localhost", 2526)))
    assert myself.is_at("other.test", ["127.0.0.3"], 2525)
    assert not myself.is_at("other.test", ["192.0.2.1"], 2525)
    assert not myself.is_at("other.test", ["127.0.0.3"], 2526)


def test_local_addresses() -> None:
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1")
    assert not is_local("2001:db8::1")


def test_a_hosts_file_is_read_with_its_comments_and_aliases(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# comment\n\n127.0.0.1\tlocalhost\n::1 localhost ip6-localhost # loopback\n10.0.0.1\n")
    hosts = HostsFile(path)
    assert hosts.addresses("LOCALHOST") == ["127.0.0.1", "::1"]
    assert hosts.addresses("nas") == []
    assert hosts.names("::1") == ["localhost", "ip6-localhost"]
    assert hosts.names("10.0.0.1") == []


def test_a_hosts_file_that_changes_is_read_again_and_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(path)
    assert hosts.addresses("nas") == []
    path.write_text("10.0.0.1 nas\n")
    assert hosts.addresses("nas") == ["10.0.0.1"]
    path.write_text("10.0.0.2 nas\n")
    os.utime(path, (1, 1))
    assert hosts.addresses("nas") == ["10.0.0.2"]
    path.unlink()
    assert hosts.addresses("nas") == []
