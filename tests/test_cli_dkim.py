"""relay dkim: a key is made once; what DNS and relay.toml must say of it can be copied from the screen."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import pytest
from dns.rdtypes.ANY.TXT import TXT

from relay.config.dkim import load_key
from relay.config.loading import load_config
from tests.support.dkim import DOMAIN, key_of, write_key
from tests.support.service import run

NAME = f"home._domainkey.{DOMAIN}"


@dataclass(frozen=True)
class House:
    """A household's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "relay.toml"

    @property
    def keys(self) -> Path:
        return self.folder / "queue" / "dkim"

    async def dkim(self, *arguments: str, fails: int = 0) -> str:
        """Run the command; return what it prints, or what it complains of where it fails."""
        done = await run("dkim", *arguments, "--config", self.config)
        assert done.status == fails, done.err
        assert (done.out if fails else done.err) == ""
        return done.err if fails else done.out


@pytest.fixture
def house(tmp_path: Path) -> House:
    (tmp_path / "queue").mkdir()
    (tmp_path / "relay.toml").write_text('[queue]\npath = "queue/queue.db"\n')
    return House(tmp_path)


def copied(out: str) -> list[str]:
    """Return the lines that are to be copied: those that stand alone at the margin."""
    return re.findall(r"(?<=\n\n)(?! |\d\. |\[)([^\n]+)(?=\n\n)", out)


async def test_a_key_is_made_and_all_is_told_that_is_to_be_done(house: House) -> None:
    out = await house.dkim(DOMAIN.upper())
    path = house.keys / f"{DOMAIN}.home.pem"
    assert out.startswith(f"This key is new: {path}\n\n1. Add a TXT record to the DNS of {DOMAIN}")
    assert out.endswith("see whether all is well: relay doctor\n")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    key = load_key(path)
    assert key.kind == "rsa"
    name, record, zone_line = copied(out)
    assert (name, record) == (NAME, key.record)
    owner, ttl, record_class, record_type, data = zone_line.split(maxsplit=4)
    assert (owner, ttl, record_class, record_type) == (f"{NAME}.", "3600", "IN", "TXT")
    parsed = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.TXT, data)
    assert isinstance(parsed, TXT)
    assert b"".join(parsed.strings).decode() == record
    house.config.write_text(house.config.read_text() + out[out.index("[dkim") : out.index("3. ")])
    assert load_config(house.config, {}).dkim[DOMAIN].key == key


async def test_a_key_that_is_there_is_shown_again_and_never_replaced(house: House) -> None:
    first = await house.dkim(DOMAIN, "--type", "ed25519")
    assert "k=ed25519; p=" in first
    again = await house.dkim(DOMAIN)
    assert again.startswith("The key is there already: ")
    assert copied(again) == copied(first)
    assert await house.dkim(DOMAIN, "--type", "rsa", fails=1) == (
        f"relay: {house.keys}/{DOMAIN}.home.pem holds a key of the type ed25519 already;"
        " a new --selector makes another one beside it\n"
    )
    other = await house.dkim(DOMAIN, "--selector", "Next")
    assert copied(other)[0] == f"next._domainkey.{DOMAIN}"
    assert sorted(path.name for path in house.keys.iterdir()) == [f"{DOMAIN}.home.pem", f"{DOMAIN}.next.pem"]


async def test_what_relay_toml_names_is_made_there(house: House) -> None:
    house.config.write_text(
        f'hostname = 1 # wrong\n[dkim."{DOMAIN}"]\nselector = "garden"\nkey_file = "keys/dkim.pem"\n'
    )
    out = await house.dkim(DOMAIN)
    assert out.startswith(f"This key is new: {house.folder}/keys/dkim.pem\n")
    assert copied(out)[0] == f"garden._domainkey.{DOMAIN}"
    assert "2. relay.toml names this key" in out
    assert "[dkim" not in out
    assert copied(await house.dkim(DOMAIN, "--selector", "garden")) == copied(out)


async def test_a_key_of_ones_own_is_taken(house: House) -> None:
    write_key(house.folder / "mine.pem", "rsa")
    house.config.write_text(f'[dkim."{DOMAIN}"]\nselector = "home"\nkey_file = "mine.pem"\n')
    assert copied(await house.dkim(DOMAIN))[1] == key_of("rsa").record


async def test_what_is_in_the_way_is_told(house: House) -> None:
    house.config.write_text(f'[dkim."{DOMAIN}"]\nselector = "home"\nkey_file = "relay.toml"\n')
    assert await house.dkim(DOMAIN, fails=1) == (
        f"relay: {house.config} can't be used: it holds no private key in PEM form\n"
    )
    house.config.write_text(f'[dkim."{DOMAIN}"]\nselector = "home"\nkey_file = "relay.toml/dkim.pem"\n')
    assert await house.dkim(DOMAIN, fails=1) == (
        f"relay: {house.config}/dkim.pem: Not a directory; run this as the relay's user, or as root\n"
    )
    house.config.write_text("[dkim]\nselector = 1\n")
    assert "dkim.selector: belongs into a table for a domain" in await house.dkim(DOMAIN, fails=78)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chris@maison.example"], '"chris@maison.example" is not a host or domain name'),
        ([DOMAIN, "--selector", "a b"], '"a b" is not a selector: letters, digits and hyphens'),
        ([DOMAIN, "--type", "dsa"], "invalid choice: 'dsa'"),
        ([], "the following arguments are required: DOMAIN"),
    ],
)
async def test_bad_arguments_are_explained(house: House, arguments: list[str], words: str) -> None:
    assert words in await house.dkim(*arguments, fails=2)
    assert not house.keys.exists()


@pytest.mark.needs_root
async def test_what_root_makes_is_the_relays(house: House) -> None:
    os.chown(house.folder / "queue", 10001, 10001)
    house.config.write_text(
        f'{house.config.read_text()}[dkim."{DOMAIN}"]\nselector = "a"\nkey_file = "a.pem"\n'
    )
    await house.dkim(DOMAIN)
    await house.dkim(DOMAIN, "--selector", "b")
    made = (house.folder / "a.pem", house.keys, house.keys / f"{DOMAIN}.b.pem")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(10001, 10001)}
    assert house.config.stat().st_uid == 0
    shutil.rmtree(house.folder / "queue")
    await house.dkim(DOMAIN, "--selector", "b")
    assert house.keys.stat().st_uid == 0
