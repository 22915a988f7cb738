from __future__ import annotations

import contextlib
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import values
from relay.mail.route import Rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1ms", 0.001), ("0s", 0), ("30s", 30), ("5m", 300), ("4h", 14400), ("5d", 432000)],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "1 h", "-1s", "1.5h", "1h30m", "5D", "٥m", "5m\n", "5w"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        values.parse_duration(text)


@given(st.integers(0, 10**9))
def test_a_duration_survives_the_way_to_text_and_back(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert values.parse_duration(values.format_duration(seconds)) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.5, "500ms"), (90, "90s"), (3600, "1h"), (86400, "1d"), (1.001, "1001ms")],
)
def test_a_duration_is_written_as_short_as_can_be(seconds: float, text: str) -> None:
    assert values.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("25MB", 25_000_000),
        ("25 MB", 25_000_000),
        ("25 MiB", 25 * 2**20),
        ("25mib", 25 * 2**20),
        ("1KB", 1000),
        ("1 KiB", 1024),
        ("2GB", 2 * 10**9),
        ("2GiB", 2 * 2**30),
        ("7B", 7),
        (1024, 1024),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert values.parse_size(value) == size


@pytest.mark.parametrize("value", ["", "25", "MB", "25  MB", "25M", "-1MB", "1.5MB", "25MB "])
def test_other_sizes_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        values.parse_size(value)


@pytest.mark.parametrize("value", [True, 1.5, None, []])
def test_a_size_is_text_or_a_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="must be a size in quotes"):
        values.parse_size(value)


@given(st.integers(1, 10**12 - 1))
def test_a_size_survives_the_way_to_text_and_back(size: int) -> None:
    assert values.parse_size(values.format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1/s", Rate(1, 1)),
        ("30/min", Rate(30, 60)),
        ("100/hour", Rate(100, 3600)),
        ("500/day", Rate(500, 86400)),
    ],
)
def test_a_rate_survives_the_way_from_text_and_back(text: str, rate: Rate) -> None:
    assert values.parse_rate(text) == rate
    assert values.format_rate(rate) == text


@pytest.mark.parametrize("text", ["", "30", "30/m", "30 /min", "0/min", "-1/s", "1.5/s", "٣/s", "1/s\n"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        values.parse_rate(text)


@given(st.text())
def test_whatever_a_parser_does_not_take_is_a_value_error(text: str) -> None:
    for parse in (
        values.parse_duration,
        values.parse_size,
        values.parse_rate,
        values.parse_domain,
        values.parse_host,
        values.parse_listen_address,
        values.parse_nameserver,
        values.parse_network,
        values.parse_mail_address,
    ):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    "name", ["gw1", "gw1.maison.mrs", "a-b.example", "my_host.lan", "xn--mller-kva.example"]
)
def test_domain_names(name: str) -> None:
    assert values.parse_domain(name.upper()) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "-a.example", "a-.example", "a b", "example.", "1.2.3.4", "a" * 64, "a." * 127 + "a"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a host or domain name"):
        values.parse_domain(name)


@pytest.mark.parametrize(
    ("text", "host"),
    [("SMTP.example.com", "smtp.example.com"), ("10.0.0.9", "10.0.0.9"), ("FD00::0:1", "fd00::1")],
)
def test_hosts(text: str, host: str) -> None:
    assert values.parse_host(text) == host


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:25", ("0.0.0.0", 25)),
        ("[::]:2525", ("::", 2525)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[fe80::1%eth0]:25", ("fe80::1%eth0", 25)),
    ],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert values.parse_listen_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "25", ":25", "[127.0.0.1]:25", "::25", "*:25", "0.0.0.0:65536", "0.0.0.0:00"]
)
def test_other_listen_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        values.parse_listen_address(text)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.168.0.1", ("192.168.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("fd00::1", ("fd00::1", 53)),
        ("[fd00::1]", ("fd00::1", 53)),
        ("[fd00::1]:5353", ("fd00::1", 5353)),
    ],
)
def test_nameservers(text: str, server: tuple[str, int]) -> None:
    assert values.parse_nameserver(text) == server


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.168.0.0/24", "192.168.0.0/24"),
        ("192.168.0.7/24", "192.168.0.0/24"),
        ("192.168.0.7", "192.168.0.7/32"),
        ("fd00::1/8", "fd00::/8"),
    ],
)
def test_networks(text: str, network: str) -> None:
    assert values.parse_network(text) == ip_network(network)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("chris@Example.org", "chris@Example.org"),
        ('"chris home"@example.org', "chris home@example.org"),
        (r'"a\"b@c"@example.org', 'a"b@c@example.org'),
        ("chris@[192.168.0.9]", "chris@[192.168.0.9]"),
        ("jörg@example.org", "jörg@example.org"),
    ],
)
def test_mail_addresses_are_kept_in_their_internal_form(text: str, address: str) -> None:
    assert values.parse_mail_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "chris", "chris@", "@example.org", "a b@c.example", "<a@c.example>", '"a@c.example', "a@b c"]
)
def test_other_mail_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|name"):
        values.parse_mail_address(text)
