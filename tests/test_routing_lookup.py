"""Questions to DNS and their answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.routing.lookup import Answer, Lookup, RecordType, State, reverse_name
from tests.support.dns_server import Failure
from tests.support.doctor import dns

NAMES = {
    "a.test": {"A": ["192.0.2.1", "192.0.2.2"], "MX": ["20 Second.test.", "10 first.test."]},
    "null.test": {"MX": ["0 ."]},
    "text.test": {"TXT": ['"v=spf1 " "-all"']},
    "1.2.0.192.in-addr.arpa": {"PTR": ["Host.test."]},
    "alias.test": {"CNAME": ["text.test."]},
    "broken.test": Failure.SERVFAIL,
}


@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("a.test", "MX", ("first.test", "second.test")),
        ("null.test", "MX", (".",)),
        ("text.test", "TXT", ("v=spf1 -all",)),
        ("alias.test", "TXT", ("v=spf1 -all",)),
        ("1.2.0.192.in-addr.arpa", "PTR", ("Host.test",)),
    ],
)
async def test_records_come_as_text(name: str, kind: RecordType, records: tuple[str, ...]) -> None:
    async with dns(NAMES) as ask:
        assert await ask(name, kind) == Answer(State.FOUND, records)


async def test_addresses_come_in_any_order() -> None:
    async with dns(NAMES) as ask:
        assert set((await ask("a.test", "A")).records) == {"192.0.2.1", "192.0.2.2"}


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("a.test", Answer(State.NO_DATA)),
        ("nowhere.test", Answer(State.NO_NAME)),
        ("a..test", Answer(State.NO_NAME)),
        (f"{'a' * 64}.test", Answer(State.NO_NAME)),
        ("broken.test", Answer(State.FAILED, reason="the name server answers with an error")),
    ],
)
async def test_what_is_not_found_tells_why(name: str, answer: Answer) -> None:
    async with dns(NAMES) as ask:
        assert await ask(name, "AAAA") == answer


async def test_silence_is_told_in_time() -> None:
    async with dns({"silent.test": Failure.SILENCE}, timeout=0.1) as ask:
        assert await ask("silent.test", "A") == Answer(
            State.FAILED, reason="the name server does not answer in time"
        )


async def test_no_name_server_is_told(tmp_path: Path) -> None:
    lookup = Lookup(resolv_conf=tmp_path / "missing")
    assert await lookup.ask("a.test", "A") == Answer(State.FAILED, reason="no name server is known")


async def test_the_systems_name_server_is_used_where_none_is_given(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search test\nnameserver 127.0.0.1\n")
    # Nothing answers at port 53 here, or somebody who does not know the name; no search path is tried.
    answer = await Lookup(timeout=0.1, resolv_conf=tmp_path / "resolv.conf").ask("a", "A")
    assert answer.state in {State.FAILED, State.NO_NAME}


def test_addresses_are_turned_round() -> None:
    assert reverse_name("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert reverse_name("192.0.2.1", "list.test") == "1.2.0.192.list.test"
    assert reverse_name("2001:db8::1").endswith(".8.b.d.0.1.0.0.2.ip6.arpa")
    assert reverse_name("2001:db8::1", "list.test").endswith(".8.b.d.0.1.0.0.2.list.test")
