"""Who may relay, and the limits of what one client may do."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config.model import PRIVATE_NETWORKS, Limits
from relay.mail.envelope import Client, Recipient
from relay.mail.reply import Reply
from relay.reception import access
from relay.reception.access import Access, ClientLimits, default_gateway, plain_address

ROUTES = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
)
DEFAULT_ROUTE = "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"


def judge(who: Access, address: str) -> Reply | None:
    return who.judge(Client(address), Recipient("anna@example.com"))


@pytest.mark.parametrize("peer", ["192.168.0.7", "::ffff:192.168.0.7"])
def test_an_address_is_shown_as_ipv4_where_it_is_one(peer: str) -> None:
    assert plain_address(peer) == "192.168.0.7"


def test_an_address_is_shown_without_zone() -> None:
    assert plain_address("fe80::1%eth0") == "fe80::1"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.0.7", "169.254.1.1", "::1", "fd00::1", "fe80::1%2"]
)
def test_a_house_may_relay_by_default(address: str) -> None:
    assert judge(Access(PRIVATE_NETWORKS), address) is None


@pytest.mark.parametrize("address", ["1.2.3.4", "172.32.0.1", "2001:db8::1", "::ffff:1.2.3.4"])
def test_the_world_may_not_relay(address: str) -> None:
    reply = judge(Access(PRIVATE_NETWORKS), address)
    assert reply
    assert (reply.code, reply.enhanced) == (554, "5.7.1")


def test_who_has_logged_in_may_relay_from_anywhere() -> None:
    client = Client("1.2.3.4", user="anna")
    assert Access(PRIVATE_NETWORKS).judge(client, Recipient("anna@example.com")) is None


def test_anyone_may_write_to_open_domains_and_their_postmaster() -> None:
    who = Access(PRIVATE_NETWORKS, open_domains=frozenset({"home.test"}))
    stranger = Client("1.2.3.4")
    for address in ("anna@home.test", "Anna@HOME.test", "postmaster", "PostMaster"):
        assert who.judge(stranger, Recipient(address)) is None
    others = (
        "anna@example.com",
        "anna@pc.home.test",
        "anna",
        "postmaster@example.com",
        "a%example.com@home.test",
    )
    for address in others:
        assert who.judge(stranger, Recipient(address))
    assert Access(PRIVATE_NETWORKS).judge(stranger, Recipient("postmaster"))
    assert not who.is_ours(stranger)


def test_the_refusal_names_the_recipient_the_address_and_the_remedy() -> None:
    reply = judge(Access((ip_network("10.0.0.0/8"),)), "1.2.3.4")
    assert reply
    assert reply.text.startswith("<anna@example.com>: relay access denied; your address is 1.2.3.4, ")
    assert reply.text.endswith('add "1.2.3.4" to networks in [access] of relay.toml.')
    assert len(reply.encode()) <= 512


def test_a_containers_gateway_is_kept_out_and_told_why() -> None:
    who = Access(PRIVATE_NETWORKS, gateway="172.17.0.1")
    assert judge(who, "172.17.0.2") is None
    reply = judge(who, "172.17.0.1")
    assert reply
    assert (reply.code, reply.enhanced) == (554, "5.7.1")
    assert "the gateway of the relay's container" in reply.text
    assert 'add "172.17.0.1" to networks' in reply.text
    assert len(reply.encode()) <= 512


@pytest.mark.parametrize(
    ("mark", "environ"),
    [(".dockerenv", {}), ("run/.containerenv", {}), ("etc/hostname", {"container": "podman"})],
)
def test_the_default_gateway_of_a_container_is_found(
    tmp_path: Path, mark: str, environ: dict[str, str]
) -> None:
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(ROUTES + DEFAULT_ROUTE)
    assert default_gateway(tmp_path, environ) == "172.17.0.1"


def test_without_container_gateway_or_routes_there_is_nothing_to_keep_out(tmp_path: Path) -> None:
    assert default_gateway(tmp_path, {}) == ""
    (tmp_path / ".dockerenv").touch()
    assert default_gateway(tmp_path, {}) == ""
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/route").write_text(ROUTES)
    assert default_gateway(tmp_path, {}) == ""


def test_connections_are_limited_in_total() -> None:
    limits = ClientLimits(Limits(connections=2))
    assert limits.admit("10.0.0.1") is None
    assert limits.admit("10.0.0.2") is None
    reply = limits.admit("10.0.0.3")
    assert reply
    assert (reply.code, reply.enhanced) == (421, "4.3.2")
    limits.leave("10.0.0.1")
    assert limits.admit("10.0.0.3") is None


def test_connections_are_limited_for_each_client() -> None:
    limits = ClientLimits(Limits(connections_per_client=2))
    assert limits.admit("10.0.0.1") is None
    assert limits.admit("10.0.0.1") is None
    assert limits.admit("10.0.0.2") is None
    reply = limits.admit("10.0.0.1")
    assert reply
    assert (reply.code, reply.enhanced) == (421, "4.7.0")
    assert "10.0.0.1 has 2 connections" in reply.text
    limits.leave("10.0.0.1")
    assert limits.admit("10.0.0.1") is None


def test_messages_are_limited_within_any_hour() -> None:
    limits = ClientLimits(Limits(messages_per_hour=2))
    limits.count_message("10.0.0.1", 0)
    limits.count_message("10.0.0.1", 1000)
    reply = limits.refuse_message("10.0.0.1", 3599)
    assert reply
    assert (reply.code, reply.enhanced) == (450, "4.7.1")
    assert limits.refuse_message("10.0.0.2", 3599) is None
    assert limits.refuse_message("10.0.0.1", 3600) is None
    limits.count_message("10.0.0.1", 3600)
    assert limits.refuse_message("10.0.0.1", 4599)
    assert limits.refuse_message("10.0.0.1", 4600) is None


def test_without_limit_messages_are_not_counted() -> None:
    limits = ClientLimits(Limits())
    limits.count_message("10.0.0.1", 0)
    assert limits.refuse_message("10.0.0.1", 0) is None
    limits.limits = Limits(messages_per_hour=1)
    assert limits.refuse_message("10.0.0.1", 0) is None


def test_silent_clients_are_forgotten() -> None:
    limits = ClientLimits(Limits(messages_per_hour=2))
    for number in range(100):
        limits.count_message(f"10.0.0.{number}", number)
    for number in range(100):
        limits.count_message("10.0.1.1", 7200 + number)
    assert list(limits._sent) == ["10.0.1.1"]


def test_the_memory_for_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "MOST_CLIENTS", 3)
    limits = ClientLimits(Limits(messages_per_hour=2))
    for number in range(10):
        limits.count_message(f"10.0.0.{number}", number)
    assert list(limits._sent) == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]
