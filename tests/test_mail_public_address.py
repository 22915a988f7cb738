"""The public address: read from replies to EHLO, weighed, named, told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.public_address import (
    FALLBACK_HOSTNAME,
    Known,
    choose_name,
    is_fit,
    parse_echo,
    read_public,
    weigh,
    write_notice,
)

INSIDE = [ip_network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "192.168.0.0/16", "::1/128", "fd00::/8")]
OLD, NEW, LIE, V6 = "203.0.113.5", "203.0.113.77", "198.51.100.66", "2001:db8::5"
ME = "gw1.maison.mrs"


# What servers of large providers and usual programs say, with our address in the place of the client's.
REPLIES = {
    "Gmail": ("mx.google.com at your service, [203.0.113.5]\nSIZE 157286400\n8BITMIME", OLD),
    "Gmail over IPv6": ("mx.google.com at your service, [2001:db8::5]\nSIZE 157286400", V6),
    "Outlook": ("AMS0EPF0000019A.mail.protection.outlook.com Hello [203.0.113.5]\nSIZE 49283072", OLD),
    "Outlook, submission": ("AM0PR02CA0001.outlook.office365.com Hello [203.0.113.5]\nSIZE 157286400", OLD),
    "Yahoo": ("hermes--production-ir2-6fcf857f6f-vw7gs Hello gw1 [203.0.113.5])\nPIPELINING", OLD),
    "Comcast": ("resimta-a2p-650779.sys.comcast.net hello [203.0.113.5], pleased to meet you\nHELP", OLD),
    "GMX": ("gmx.net Hello gw1.maison.mrs [203.0.113.5]\n8BITMIME\nAUTH LOGIN PLAIN", OLD),
    "Zoho": ("mx.zohomail.com Hello gw1.maison.mrs (host-5.isp.example (203.0.113.5))\nSTARTTLS", OLD),
    "Proofpoint": (
        "mx0b-00262c01.pphosted.com Hello gw1 [203.0.113.5] (may be forged), pleased to meet you",
        OLD,
    ),
    "Alice": ("smtp106.alice.it\nDSN\n8BITMIME", ""),
    "Exim": ("mail.example.org Hello gw1.maison.mrs [203.0.113.5]\nSIZE 52428800\n8BITMIME", OLD),
    "Exim, ident": ("mail.example.org Hello chris at gw1.maison.mrs [203.0.113.5]\nSIZE 52428800", OLD),
    "Sendmail": ("mail.example.org Hello host-5.isp.example [203.0.113.5], pleased to meet you", OLD),
    "Sendmail, forged": (
        "mail.example.org Hello h.example [203.0.113.5] (may be forged), pleased to meet you",
        OLD,
    ),
    "Sendmail over IPv6": (
        "mx.example.org Hello h.example [IPv6:2001:db8:0:0:0:0:0:5], pleased to meet you",
        V6,
    ),
    "OpenSMTPD": ("mx.example.org Hello gw1.maison.mrs [203.0.113.5], pleased to meet you\n8BITMIME", OLD),
    "Postfix": ("mx.example.org\nPIPELINING\nSIZE 10240000", ""),
}


@pytest.mark.parametrize("name", REPLIES)
def test_real_servers_show_the_address_of_their_client(name: str) -> None:
    text, address = REPLIES[name]
    assert parse_echo(text, INSIDE) == address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mail.example Hello 203.0.113.5", OLD),
        ("mail.example Hello host (203.0.113.5), pleased to meet you", OLD),
        ("mail.example [198.51.100.1] Hello gw [203.0.113.5]", OLD),
        ("mail.example Hello [::ffff:203.0.113.5]", OLD),
        ("mail.example Hello [IPv6:2001:DB8::5]", V6),
        ("mail.example Hello gw [192.168.0.9]", ""),
        ("mail.example Hello [203.0.113.5] by way of [10.0.0.1]", OLD),
        ("mail.example Hello gw [::1]", ""),
        ("mail.example [999.1.1.1] [:::] [fe80::1%eth0]", ""),
        ("203.0.113.5", ""),
        ("", ""),
        ("mail.example\nHello [203.0.113.5]", ""),
    ],
)
def test_an_address_stands_behind_the_name_of_the_server(text: str, address: str) -> None:
    assert parse_echo(text, INSIDE) == address


@pytest.mark.parametrize("server", [OLD, f"::ffff:{OLD}"])
def test_a_server_that_shows_its_own_address_shows_none(server: str) -> None:
    assert parse_echo(f"mail.example [{OLD}] at your service", INSIDE, server) == ""
    assert parse_echo(f"mail.example [{OLD}] Hello [{NEW}]", INSIDE, server) == NEW


@given(st.text() | st.from_regex(r"\A[a-f0-9:. \[\](),\n]*\Z"))
def test_whatever_is_found_is_a_public_address(text: str) -> None:
    found = parse_echo(text, INSIDE)
    assert found == read_public(found, INSIDE)


@given(st.ip_addresses(), st.from_regex(r"\A[a-z][a-z.]{0,20}\Z"), st.text(alphabet="abc xyz.-"))
def test_an_address_in_brackets_is_found(address: object, server: str, words: str) -> None:
    wanted = read_public(str(address), INSIDE)
    assert parse_echo(f"{server} {words} [{address}]", INSIDE) == wanted
    prefix = "IPv6:" if ":" in str(address) else ""
    assert parse_echo(f"{server} hello [{prefix}{address}], {words.replace('.', '')}", INSIDE) == wanted


# The address


@pytest.mark.parametrize(
    ("known", "asked", "heard", "address"),
    [
        ("", "", [], ""),
        ("", OLD, [], OLD),
        ("", "", [OLD], OLD),
        ("", OLD, [LIE], OLD),
        ("", V6, [], V6),
        ("", V6, [OLD], OLD),
        # The line has a new address: name servers see it, or the next mail server, or both.
        (OLD, NEW, [], NEW),
        (OLD, NEW, [OLD, OLD], NEW),
        (OLD, NEW, [OLD, NEW], NEW),
        # Where name servers can't be asked, mail servers alone say so.
        ("mute " + OLD, "", [NEW], NEW),
        ("mute " + OLD, "", [OLD, NEW], OLD),
        ("mute " + OLD, "", [NEW, NEW], NEW),
        # One liar changes nothing.
        (OLD, OLD, [LIE], OLD),
        (OLD, OLD, [OLD, LIE], OLD),
        (OLD, "", [OLD, LIE], OLD),
        # Mail goes out by another address than DNS.
        ("dns " + OLD, LIE, [], OLD),
        ("dns " + OLD, LIE, [OLD, OLD], OLD),
        ("dns " + OLD, NEW, [OLD, OLD], OLD),
        (OLD, OLD, [NEW, NEW], NEW),
        # IPv6 is for where nothing else was ever seen.
        (OLD, V6, [V6, V6], OLD),
        (V6, OLD, [], OLD),
    ],
)
def test_the_address_is_what_most_say(known: str, asked: str, heard: list[str], address: str) -> None:
    kind, _, before = known.rpartition(" ")
    seen_before = {"mute": "", "dns": LIE}.get(kind, before)
    echoes = [(f"192.0.2.{number}", shown) for number, shown in enumerate(heard)]
    after = weigh(Known(before, seen_before, "h.isp.example"), [asked] if asked else [], echoes)
    assert after.address == address
    assert after.name == ("h.isp.example" if address == before else "")


def test_what_was_asked_is_no_address_by_itself() -> None:
    assert weigh(Known("", OLD), [OLD], []).address == OLD


def test_a_server_that_says_it_twice_is_one_server() -> None:
    assert weigh(Known(OLD, OLD), [OLD], [("192.0.2.1", NEW)] * 2).address == OLD


@given(
    st.lists(
        st.tuples(st.sampled_from(["s1", "s2", "s3"]), st.sampled_from([OLD, NEW, LIE, V6])), max_size=2
    ),
    st.sampled_from(["", OLD, NEW]),
    st.sampled_from(["", OLD, LIE]),
    st.lists(st.sampled_from([OLD, NEW, LIE]), max_size=1),
)
def test_a_second_look_at_the_same_changes_nothing_more(
    heard: list[tuple[str, str]], before: str, seen_before: str, asked: list[str]
) -> None:
    first = weigh(Known(before, seen_before), asked, heard)
    kept = [echo for echo in heard if echo[1] == first.address] if first.address != before else heard
    assert weigh(first, asked, kept) == first
    assert first.address in {before, *asked, *(shown for _, shown in heard)}


# The name


@pytest.mark.parametrize("name", ["host.isp.example", "A.b", "x-1.example.org", "0123456789ab.isp.example"])
def test_a_whole_name_is_fit(name: str) -> None:
    assert is_fit(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "localhost",
        "0123456789ab",
        "gw1",
        "localhost.localdomain",
        "relay.localdomain",
        "gw1.lan",
        "fritz.local",
        "5.113.0.203.in-addr.arpa",
        "203.0.113.5",
        "a..example",
        "a.example.",
        "-a.example",
        "under_score.example",
        "caf\u00e9.example",
        "a b.example",
        "a\r\nMAIL.example",
        f"{'a' * 64}.example",
        f"{'a.' * 130}example",
    ],
)
def test_a_bare_or_broken_name_or_one_of_the_house_is_not_fit(name: str) -> None:
    assert not is_fit(name)


@pytest.mark.parametrize(
    ("confirmed", "preferred", "chosen"),
    [
        ([], [ME], ""),
        (["localhost", "gw1"], [], ""),
        (["b.example", "a.example"], [], "a.example"),
        (["B.example", "a.example"], ["", "b.example"], "b.example"),
        (["b.example", "a.example"], ["gone.example", "b.example"], "b.example"),
        (["Host.ISP.example"], [], "host.isp.example"),
    ],
)
def test_of_many_names_the_same_is_chosen_each_time(
    confirmed: list[str], preferred: list[str], chosen: str
) -> None:
    assert choose_name(confirmed, *preferred) == chosen
    assert choose_name(confirmed[::-1], *preferred) == chosen


@pytest.mark.parametrize(
    ("known", "hostname", "name"),
    [
        (Known(OLD, name="h.isp.example"), ME, "h.isp.example"),
        (Known(OLD), ME, ME),
        (Known(), ME, ME),
        (Known(OLD), "localhost", f"[{OLD}]"),
        (Known(OLD), "0123456789ab", f"[{OLD}]"),
        (Known(V6), "gw1", f"[IPv6:{V6}]"),
        (Known(), "localhost", FALLBACK_HOSTNAME),
        (Known(), "0123456789ab", FALLBACK_HOSTNAME),
    ],
)
def test_without_a_name_the_relay_goes_by_its_own_or_its_address(
    known: Known, hostname: str, name: str
) -> None:
    assert known.helo_name(hostname) == name


@given(
    st.builds(Known, address=st.sampled_from(["", OLD, V6])),
    st.sampled_from(["localhost", "gw1", "f00dcafe0123"]),
)
def test_a_literal_is_one_of_rfc_5321(known: Known, hostname: str) -> None:
    name = known.helo_name(hostname)
    if known.address:
        assert str(ip_address(name.strip("[]").removeprefix("IPv6:"))) == known.address
    else:
        assert name == FALLBACK_HOSTNAME


# The words


def test_a_notice_tells_what_is_now_and_what_was_before() -> None:
    known = Known(NEW, NEW, "h77.isp.example")
    subject, text = write_notice(known, (OLD, "h5.isp.example"), ME)
    assert subject == f"{ME}: the public address is {NEW}"
    assert f"    address: {NEW} (before: {OLD})\r\n" in text
    assert "    name:    h77.isp.example (before: h5.isp.example)\r\n    EHLO:    h77.isp.example\r\n" in text
    assert "leads back" in text
    assert all(len(line) <= 76 for line in text.split("\r\n"))


def test_the_first_notice_has_nothing_before() -> None:
    _, text = write_notice(Known(NEW, NEW, "h77.isp.example"), None, ME)
    assert "before" not in text


def test_a_notice_says_what_to_do_without_a_name() -> None:
    _, text = write_notice(Known(NEW), (NEW, "h77.isp.example"), ME)
    assert (
        f"    address: {NEW}\r\n    name:    none (before: h77.isp.example)\r\n    EHLO:    {ME}\r\n" in text
    )
    assert "reverse name" in text
    _, text = write_notice(replace(Known(NEW), name="h.isp.example"), (NEW, ""), ME)
    assert "    name:    h.isp.example (before: none)\r\n" in text
