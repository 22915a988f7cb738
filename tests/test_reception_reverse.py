"""Names of clients: found, confirmed, remembered, and never waited for long."""

from __future__ import annotations

import asyncio

import pytest

from relay.reception import reverse
from relay.reception.reverse import ReverseNames

PTR = {
    "10.0.0.1": ["nas.lan."],
    "10.0.0.2": ["liar.example"],
    "10.0.0.3": ["old.lan", "new.lan"],
    "fd00::1": ["v6.lan"],
}
ADDRESSES = {
    "nas.lan.": ["10.0.0.9", "10.0.0.1"],
    "liar.example": ["1.2.3.4"],
    "new.lan": ["10.0.0.3"],
    "v6.lan": ["fd00:0::1"],
}


class Directory:
    """Answers from tables, and counts the questions."""

    def __init__(self) -> None:
        self.questions: list[str] = []

    async def ptr(self, address: str) -> list[str]:
        self.questions.append(address)
        if address == "10.0.0.66":
            await asyncio.Event().wait()
        if address == "10.0.0.67":
            raise OSError("no name server")
        return PTR.get(address, [])

    async def addresses(self, name: str) -> list[str]:
        return ADDRESSES.get(name, [])


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
def names(directory: Directory) -> ReverseNames:
    return ReverseNames(directory.ptr, directory.addresses)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.1", "nas.lan"),
        ("10.0.0.2", "unknown"),
        ("10.0.0.3", "new.lan"),
        ("10.0.0.4", "unknown"),
        ("fd00::1", "v6.lan"),
        ("10.0.0.67", "unknown"),
    ],
)
async def test_a_name_counts_if_it_has_the_address(names: ReverseNames, address: str, name: str) -> None:
    assert await names.begin(address) == name


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_loopback_needs_no_look_up(names: ReverseNames, directory: Directory, address: str) -> None:
    name = names.begin(address)
    assert name.done()
    assert await name == "localhost"
    assert directory.questions == []


async def test_a_slow_look_up_is_given_up(names: ReverseNames, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reverse.DEADLINE_SECONDS == 1.0
    monkeypatch.setattr(reverse, "DEADLINE_SECONDS", 0.01)
    assert await names.begin("10.0.0.66") == "unknown"


async def test_names_are_remembered_for_a_while(
    names: ReverseNames, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = names.begin("10.0.0.1")
    assert names.begin("10.0.0.1") is first
    await first
    assert names.begin("10.0.0.1") is first
    assert directory.questions == ["10.0.0.1"]
    monkeypatch.setattr(reverse, "MEMORY_SECONDS", -1.0)
    await names.begin("10.0.0.2")
    await names.begin("10.0.0.2")
    assert directory.questions == ["10.0.0.1", "10.0.0.2", "10.0.0.2"]


async def test_the_memory_for_names_is_bounded(
    names: ReverseNames, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reverse, "MOST_NAMES", 2)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"):
        await names.begin(address)
    assert directory.questions == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]
