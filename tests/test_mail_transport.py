"""Routing decisions: the look-up order of transport(5), the relayhost, and the recipient's own domain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail import transport as module
from relay.mail.reply import Reply
from relay.mail.rewrite import Home
from relay.mail.route import ByMx, Discard, NextHop, Refuse, Route, TransportEntry, Via

A, B, C, HUB = (NextHop(f"{name}.test") for name in ("a", "b", "c", "hub"))
HOME = Home("gw.test", recipient_delimiter="+")
RELAYHOST = NextHop("smarthost.test", 587, is_relayhost=True)


def route(recipient: str, transport: dict[str, TransportEntry], relayhost: NextHop | None = None) -> Route:
    return module.route(recipient, transport, relayhost, HOME)


def entry_for(address: str, transport: dict[str, TransportEntry]) -> TransportEntry | None:
    return module.entry_for(address, transport, HOME)


def table(**entries: Via) -> dict[str, TransportEntry]:
    return {key: TransportEntry(via) for key, via in entries.items()}


LADDER = table(**{"u@example.test": A, "example.test": B, ".example.test": C, "*": HUB})


@pytest.mark.parametrize(
    ("recipient", "next_hop"),
    [
        ("u@example.test", A),
        ("U@EXAMPLE.Test", A),
        ("v@example.test", B),
        ("u@sub.example.test", C),
        ("u@a.b.example.test", C),
        ("u@notexample.test", HUB),
        ("u@test", HUB),
    ],
)
def test_full_address_then_domain_then_parent_domains_then_star(recipient: str, next_hop: NextHop) -> None:
    assert route(recipient, LADDER) == Route(next_hop)


@pytest.mark.parametrize(
    ("recipient", "next_hop"),
    [
        ("u@x.b.example.test", C),
        ("u@deep.y.b.example.test", B),
        ("u@b.example.test", A),
        ("u@example.test", HUB),
    ],
)
def test_the_most_specific_parent_domain_decides(recipient: str, next_hop: NextHop) -> None:
    entries = table(**{".test": HUB, ".example.test": A, ".b.example.test": B, "x.b.example.test": C})
    assert route(recipient, entries).via == next_hop


def test_a_domain_key_does_not_match_its_subdomains_nor_a_dot_key_its_domain() -> None:
    assert entry_for("u@mail.aol.test", table(**{"aol.test": A})) is None
    assert entry_for("u@aol.test", table(**{".aol.test": A})) is None


@pytest.mark.parametrize("key", ["u", "@example.test", "u@.example.test"])
def test_keys_of_other_tables_never_match(key: str) -> None:
    assert entry_for("u@example.test", {key: TransportEntry(A)}) is None


def test_an_extension_is_looked_up_with_and_then_without() -> None:
    entries = table(**{"joe@example.test": A, "ann+x@example.test": B, "+@example.test": C})
    assert route("joe+foo+bar@example.test", entries).via == A
    assert route("ann+x@example.test", entries).via == B
    assert route("ann+y@example.test", entries).via == NextHop("example.test", use_mx=True)
    assert route("+joe@example.test", entries).via == NextHop("example.test", use_mx=True)


def test_without_a_delimiter_there_are_no_extensions() -> None:
    assert module.entry_for("joe+foo@example.test", table(**{"joe@example.test": A}), Home("gw.test")) is None


def test_without_an_entry_mail_goes_to_the_relayhost_or_by_mx() -> None:
    assert route("u@Example.Test", {}, RELAYHOST) == Route(RELAYHOST)
    assert route("u@Example.Test", {}) == Route(NextHop("example.test", use_mx=True))


def test_an_mx_entry_overrides_the_relayhost() -> None:
    assert route("u@hub.test", table(**{"hub.test": ByMx()}), RELAYHOST).via == NextHop(
        "hub.test", use_mx=True
    )


def test_an_mx_entry_says_what_tls_the_mail_exchangers_must_have() -> None:
    entries = table(**{"hub.test": ByMx("starttls"), "[127.0.0.11]": ByMx("starttls")})
    assert route("u@Hub.test", entries).via == NextHop("hub.test", use_mx=True, tls="starttls")
    assert route("u@[127.0.0.11]", entries).via == NextHop("127.0.0.11", tls="starttls")


def test_an_entry_may_make_its_recipients_internal() -> None:
    entries = {"office.lan": TransportEntry(A, internal=True), "*": TransportEntry(ByMx(), internal=True)}
    assert route("u@office.lan", entries) == Route(A, internal=True)
    assert route("u@dest.test", entries) == Route(NextHop("dest.test", use_mx=True), internal=True)


@pytest.mark.parametrize("via", [Discard(), Refuse(Reply(550, "5.1.2", "gone"))])
def test_refusal_and_discard_are_passed_on(via: Via) -> None:
    assert route("u@example.test", table(**{"example.test": via}), RELAYHOST).via == via


def test_a_domain_literal_is_a_server_address_without_mx() -> None:
    assert route("u@[127.0.0.11]", {}).via == NextHop("127.0.0.11")
    assert route("u@[IPv6:FD00::1]", {}).via == NextHop("fd00::1")
    assert route("u@[127.0.0.11]", {}, RELAYHOST).via == RELAYHOST


def test_a_domain_literal_is_a_key_as_it_stands() -> None:
    entries = table(**{"u@[127.0.0.12]": A, "[127.0.0.12]": B})
    assert route("u@[127.0.0.12]", entries).via == A
    assert route("v@[127.0.0.12]", entries).via == B


@given(st.text(), st.sampled_from([LADDER, {}]))
def test_any_recipient_gets_a_route(recipient: str, entries: dict[str, TransportEntry]) -> None:
    assert route(recipient, entries).via
