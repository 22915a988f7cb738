from __future__ import annotations

import pytest

from relay.web.guard import (
    MEMORY_SECONDS,
    MOST_FAILURES,
    MOST_FAILURES_OF_PEER,
    MOST_GUESSERS,
    MOST_SESSIONS,
    SESSION_SECONDS,
    Guesses,
    Sessions,
    find_client,
    is_equal,
    is_known_host,
    is_loopback,
    is_own_form,
)

NAMES = frozenset({"gw1.maison.mrs", "gw1"})


@pytest.mark.parametrize(
    "header",
    [
        "localhost",
        "LOCALHOST:8025",
        "127.0.0.1:8025",
        "192.168.0.1",
        "[::1]:8025",
        "[fd00::1]",
        "gw1",
        "GW1.maison.mrs:80",
        "gw1.maison.mrs.:80",
    ],
)
def test_addresses_and_own_names_are_known(header: str) -> None:
    assert is_known_host(header, NAMES)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ":",
        ":8025",
        "evil.example",
        "evil.example:8025",
        "gw1.evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "evil.example@127.0.0.1",
        "evil.example#@localhost",
        "localhost/evil.example",
        "localhost\\evil.example",
        "[::1",
        "[::1].evil.example",
        "[::1]evil.example:8025",
        "127.0.0.1:evil.example",
        "localhost:80.evil.example",
        "0x7f000001",
        "2130706433",
        "gw1 ",
        "..",
    ],
)
def test_other_names_are_not(header: str) -> None:
    assert not is_known_host(header, NAMES)


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({}, True),  # a program
        ({"Origin": "http://gw1:8025"}, True),
        ({"Origin": "https://GW1:8025", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://gw1:8026"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://gw1:8025", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "http://["}, False),
    ],
)
def test_forms_of_others_are_told_by_what_browsers_say(headers: dict[str, str], is_own: bool) -> None:
    assert is_own_form({"Host": "gw1:8025", **headers}) is is_own


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.5.5.5", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("192.168.0.1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_programs_of_this_machine_are_told_by_their_address(address: str, is_own: bool) -> None:
    assert is_loopback(address) is is_own


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_lasts_while_it_is_used() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    assert not sessions.has("", "pass")
    secret = sessions.open("pass")
    for _ in range(3):
        clock.now += SESSION_SECONDS - 1
        assert sessions.has(secret, "pass")
    clock.now += SESSION_SECONDS + 1
    assert not sessions.has(secret, "pass")
    assert not sessions.has(secret, "pass")


def test_a_session_ends_with_its_password_and_on_request() -> None:
    sessions = Sessions(Clock())
    one, other = sessions.open("old"), sessions.open("old")
    assert sessions.has(one, "old")
    sessions.close(one)
    sessions.close("unknown")
    assert not sessions.has(one, "old")
    assert sessions.has(other, "old")
    assert not sessions.has(other, "new")
    assert not sessions.has(other, "old")


def test_the_oldest_session_makes_room() -> None:
    sessions = Sessions(Clock())
    secrets = [sessions.open("pass") for _ in range(MOST_SESSIONS + 1)]
    assert not sessions.has(secrets[0], "pass")
    assert sessions.has(secrets[1], "pass")
    assert sessions.has(secrets[-1], "pass")


def test_a_token_belongs_to_its_session() -> None:
    sessions = Sessions(Clock())
    assert sessions.is_token(sessions.token("a"), "a")
    assert not sessions.is_token(sessions.token("a"), "b")
    assert not sessions.is_token("", "a")
    assert not sessions.is_token("\udcff", "a")
    assert not Sessions(Clock()).is_token(sessions.token("a"), "a")


def test_who_guesses_too_often_is_barred_for_a_while() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(MOST_FAILURES):
        assert not guesses.is_barred("192.168.0.66", "192.168.0.66")
        guesses.note("192.168.0.66", "192.168.0.66")
    assert guesses.is_barred("192.168.0.66", "192.168.0.66")
    assert not guesses.is_barred("192.168.0.67", "192.168.0.67")
    clock.now += MEMORY_SECONDS + 1
    assert not guesses.is_barred("192.168.0.66", "192.168.0.66")


def test_a_stranger_behind_a_proxy_bars_nobody_else() -> None:
    guesses = Guesses(Clock())
    for _ in range(MOST_FAILURES):
        guesses.note("127.0.0.1", "198.51.100.7")
    assert guesses.is_barred("127.0.0.1", "198.51.100.7")
    assert not guesses.is_barred("127.0.0.1", "192.0.2.1")
    assert not guesses.is_barred("198.51.100.7", "198.51.100.7")


def test_who_names_another_client_with_each_guess_is_barred_all_the_same() -> None:
    guesses = Guesses(Clock())
    for number in range(MOST_FAILURES_OF_PEER):
        guesses.note("192.168.0.66", f"192.0.2.{number}")
        guesses.forget("192.168.0.66", f"192.0.2.{number}")
    assert guesses.is_barred("192.168.0.66", "203.0.113.9")
    assert not guesses.is_barred("192.168.0.67", "192.0.2.1")


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "127.0.0.1"),
        (["198.51.100.7"], "198.51.100.7"),
        (["192.0.2.1, 198.51.100.7"], "198.51.100.7"),
        (["192.0.2.1", "10.0.0.1,2001:db8::7"], "2001:db8::7"),
        (["[2001:db8::7]"], "2001:db8::7"),
        (["fe80::7%eth0"], "fe80::7"),
        (["198.51.100.7, "], "127.0.0.1"),
        (["unknown"], "127.0.0.1"),
        ([""], "127.0.0.1"),
    ],
)
def test_a_client_is_whom_the_last_proxy_saw(forwarded: list[str], client: str) -> None:
    assert find_client("127.0.0.1", forwarded) == client


def test_all_addresses_of_an_ipv6_network_count_as_one() -> None:
    guesses = Guesses(Clock())
    for number in range(MOST_FAILURES):
        guesses.note("::1", f"2001:db8:0:1::{number}")
    assert guesses.is_barred("::1", "2001:db8:0:1:ffff::1")
    assert not guesses.is_barred("::1", "2001:db8:0:2::1")


def test_addresses_of_ipv4_count_one_by_one_however_a_proxy_writes_them() -> None:
    guesses = Guesses(Clock())
    for _ in range(MOST_FAILURES):
        guesses.note("::1", "::ffff:198.51.100.7")
    assert guesses.is_barred("::1", "198.51.100.7")
    assert not guesses.is_barred("::1", "::ffff:192.0.2.1")


def test_the_right_password_is_a_new_start() -> None:
    guesses = Guesses(Clock())
    for _ in range(MOST_FAILURES):
        guesses.note("pc", "pc")
    guesses.forget("pc", "pc")
    guesses.forget("pc", "pc")
    assert not guesses.is_barred("pc", "pc")


def test_guessers_don_t_fill_the_memory() -> None:
    guesses = Guesses(Clock())
    for number in range(MOST_GUESSERS + 5):
        guesses.note(str(number), str(number))
    assert len(guesses._failures) == MOST_GUESSERS


def test_secrets_are_compared_whatever_they_are_made_of() -> None:
    assert is_equal("été", "été")
    assert not is_equal("\udcff", "?x")
