"""Whatever is answered, the relay.toml that is made of it loads and means what was said."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.house import destinations_of
from relay.config.loading import parse_config
from relay.config.model import PRIVATE_NETWORKS, Config
from relay.config.providers import DOMAINS, NO_PROVIDER, PROVIDERS
from relay.config.secrets import Secret
from relay.init.answers import (
    Answers,
    Server,
    find_provider,
    parse_address,
    parse_client_id,
    parse_listen,
    parse_networks,
    parse_password,
    parse_provider,
    parse_tls,
    parse_username,
    parse_way,
    server_of,
    usual_username,
)
from relay.init.writing import Surroundings, write_toml
from relay.mail.address import fold
from relay.mail.rewrite import rewrite_address
from relay.mail.route import NextHop

MACHINE = "gw1.maison.test"
FOLDER = Path("/etc/relay")


def load(text: str) -> Config:
    return parse_config(text, machine_name="other", folder=FOLDER)


def accepts(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


# What people type, well or badly; "." and "@" often enough to get somewhere.
TYPED = st.text(st.one_of(st.characters(), st.sampled_from("a.@\"'\\#<>[]:=\n\x1b-_1")), max_size=40)
HOSTNAMES = st.sampled_from([MACHINE, "vm", "localhost", "maison.test", "relay.localdomain"])
ADDRESSES = st.one_of(
    st.sampled_from(
        ["chris@free.fr", "root@maison.test", "postmaster@maison.test", '"a \\"b\\\\"@x.test', "Été@x.test"]
    ),
    st.builds(lambda local, domain: f"{local}@{domain}", TYPED, st.sampled_from(["x.test", "maison.test"])),
    st.builds(lambda local: f'"{local}"@x.test', TYPED),
)
HOSTS = st.sampled_from(["smtp.example.net", "127.0.0.1", "::1", "localhost"])
PORTS = st.integers(1, 65535)
VERIFIED = st.sampled_from(["implicit", "starttls"])
SERVERS = st.one_of(
    st.none(),
    st.builds(
        Server, st.sampled_from([*PROVIDERS.values(), NO_PROVIDER]), host=HOSTS, port=PORTS, tls=VERIFIED
    ),
    st.sampled_from([server_of(row) for row in PROVIDERS.values() if row.host]),
)
USERNAMES = TYPED.filter(lambda text: bool(text) and text != "-" and accepts(parse_username, text))
NETWORKS = st.lists(
    st.one_of(
        st.just("private"), st.ip_addresses().map(str), st.sampled_from(["192.168.1.7/24", "fd00::/8"])
    ),
    min_size=1,
).map(",".join)
LISTEN = st.one_of(PORTS.map(str), PORTS.map(lambda port: f"[::1]:{port}"))


@given(
    hostname=HOSTNAMES,
    address=ADDRESSES,
    server=SERVERS,
    username=USERNAMES,
    networks=NETWORKS,
    listen=LISTEN,
    client_id=USERNAMES,
    password_file=st.sampled_from(["isp-password", "/run/secrets/isp", 'odd "name"\\']),
    size=st.sampled_from([None, 1, 35_882_577]),
    queue=st.sampled_from(["", "queue/queue.db"]),
)
def test_what_is_written_loads_and_means_what_was_said(
    hostname: str,
    address: str,
    server: Server | None,
    username: str,
    networks: str,
    listen: str,
    client_id: str,
    password_file: str,
    size: int | None,
    queue: str,
) -> None:
    if not accepts(lambda text: parse_address(text, hostname), address):
        return
    is_oauth = server is not None and server.provider.auth == "xoauth2"
    answers = Answers(
        parse_address(address, hostname),
        server,
        parse_networks(networks),
        parse_listen(listen),
        username=username if server else "",
        client_id=client_id if is_oauth else "",
    )
    around = Surroundings(hostname, "" if is_oauth else password_file, queue, size)
    config = load(write_toml(answers, around))
    assert config.hostname == hostname
    assert config.postmaster == answers.address
    assert config.listen[0].port == int(listen.rpartition(":")[2])
    allowed = {*answers.networks, "127.0.0.0/8", "::1/128"}
    assert {str(network) for network in config.access.networks} == allowed
    assert config.queue.path == (FOLDER / queue if queue else Path("/var/lib/relay/queue.db"))
    assert config.limits.message_size == (size or 50_000_000)
    _check_ways(config, answers, password_file)


def _check_ways(config: Config, answers: Answers, password_file: str) -> None:
    destinations = destinations_of(config)
    home = destinations.home
    assert rewrite_address(f"root@{config.hostname}", config.sender_canonical, home) == answers.address
    if not fold(answers.address).endswith(f"@{fold(config.hostname)}"):
        sent = rewrite_address(f"printer@{config.hostname}", config.sender_canonical, home)
        assert sent == answers.address
    assert rewrite_address(answers.address, config.sender_canonical, home) == answers.address
    way = destinations.route(answers.address, answers.address).via
    assert isinstance(way, NextHop)
    server = answers.server
    if server is None:
        assert way.use_mx
        assert not config.smarthost
        return
    smarthost = config.smarthost[way.smarthost]
    assert (way.host, way.port, way.tls) == (server.host, server.port, server.tls)
    assert smarthost.username == answers.username
    assert smarthost.client_id == answers.client_id
    assert smarthost.password == (None if answers.client_id else Secret(file=FOLDER / password_file))


@given(TYPED)
def test_anything_may_be_typed(text: str) -> None:
    parsers: list[Callable[[str], object]] = [
        *(parse_way, parse_provider, parse_username, parse_client_id, parse_networks, parse_listen),
        *(parse_tls, parse_password, lambda word: parse_address(word, MACHINE)),
    ]
    for parse in parsers:
        if accepts(parse, text):
            assert text.isprintable()


@given(TYPED)
def test_a_password_is_read_back_as_it_was_typed(text: str) -> None:
    if accepts(parse_password, text):
        content = f"{text}\n".encode()
        assert content.decode("utf-8-sig").rstrip("\r\n") == text


# Addresses


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("chris@free.fr", "free"),
        ("Chris@GMAIL.com", "gmail"),
        ("chris@wanadoo.fr", "orange"),
        ("chris@hotmail.co.uk", "outlook"),
        ("chris@maison.test", None),
    ],
)
def test_an_address_proposes_its_provider(address: str, name: str | None) -> None:
    provider = find_provider(parse_address(address, MACHINE))
    assert (provider.name if provider else None) == name


@pytest.mark.parametrize(
    "text", ["", "chris", '""@x.test', "chris@localhost", f"{'c' * 255}@x.test", "a\tb@x.test"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=" "):
        parse_address(text, MACHINE)


def test_domains_are_in_small_letters_and_each_is_of_one_provider() -> None:
    assert all(domain == domain.lower() and "." in domain for domain in DOMAINS)


def test_an_address_in_the_domain_that_the_machine_is_named_after() -> None:
    """Mail for it leaves all the same, and the other people there keep their names."""
    answers = Answers(
        parse_address("chris@maison.test", "maison.test"), None, parse_networks("private"), parse_listen("25")
    )
    config = load(write_toml(answers, Surroundings("maison.test")))
    assert config.local.domains == ("localhost",)
    home = destinations_of(config).home
    assert rewrite_address("anna@maison.test", config.sender_canonical, home) == "anna@maison.test"


@pytest.mark.parametrize(
    ("provider", "username"),
    [("orange", "chris@x.test"), ("free", "chris"), ("sendgrid", "apikey"), ("ses", "")],
)
def test_the_user_name_that_a_provider_wants(provider: str, username: str) -> None:
    assert usual_username(PROVIDERS[provider], "chris@x.test") == username


def test_the_user_name_at_an_unknown_server_is_the_address() -> None:
    assert usual_username(NO_PROVIDER, "chris@x.test") == "chris@x.test"


# Ways


@pytest.mark.parametrize("text", ["free", "FREE", "free.fr", "smtp.free.fr", "2"])
def test_a_provider_is_known_by_name_number_domain_and_server(text: str) -> None:
    assert parse_way(text) == server_of(PROVIDERS["free"])


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("smtp.example.net", Server(NO_PROVIDER, "smtp.example.net")),
        ("SMTP.example.net:587", Server(NO_PROVIDER, "smtp.example.net", 587, "starttls")),
        ("127.0.0.1:465", Server(NO_PROVIDER, "127.0.0.1", 465, "implicit")),
        ("fd00::1", Server(NO_PROVIDER, "fd00::1")),
        ("localhost", Server(NO_PROVIDER, "localhost")),
    ],
)
def test_another_server(text: str, server: Server) -> None:
    assert parse_way(text) == server


def test_directly() -> None:
    assert parse_way("Direct") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fre", 'did you mean "free"'),
        ("dirct", 'did you mean "direct"'),
        ("0", "from 1 to 33"),
        ("34", "from 1 to 33"),
        ("0000000001", "no provider that is known"),
        ("smtp.example.net:0", "is not a port"),
        ("a b.example", "is not a host"),
    ],
)
def test_what_is_no_way(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_way(text)


# Networks and ports


def test_private_stands_for_all_private_networks() -> None:
    assert [ip_network(text) for text in parse_networks("Private")] == list(PRIVATE_NETWORKS)


def test_a_port_alone_is_that_of_all_addresses() -> None:
    assert parse_listen("2525") == "0.0.0.0:2525"
    assert parse_listen("[::]:25") == "[::]:25"
