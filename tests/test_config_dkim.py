"""[dkim]: what is read and shown again, and where a key is while it is not there yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from relay.config.loading import ConfigError, load_config, load_dkim_places, parse_config
from relay.config.model import Config, Dkim
from relay.config.rendering import render
from tests.support.dkim import DOMAIN, key_of, toml_of, write_key


def parse(text: str, folder: Path = Path()) -> Config:
    return parse_config(text, machine_name="gw1", folder=folder)


def test_without_keys_nothing_is_signed() -> None:
    assert parse("").dkim == {}
    assert parse("[dkim]").dkim == {}


def test_keys_are_read_by_domain(tmp_path: Path) -> None:
    write_key(tmp_path / "a.pem", "rsa")
    write_key(tmp_path / "b.pem")
    config = parse(
        '[dkim."Maison.example"]\nselector = "Home-1.B"\nkey_file = "a.pem"\n'
        f'[dkim.lan]\nselector = "x"\nkey_file = "{tmp_path}/b.pem"\n',
        tmp_path,
    )
    assert config.dkim == {
        "maison.example": Dkim("home-1.b", tmp_path / "a.pem", key_of("rsa")),
        "lan": Dkim("x", tmp_path / "b.pem", key_of()),
    }


def test_what_is_shown_means_the_same_as_what_was_read(tmp_path: Path) -> None:
    config = parse(toml_of(tmp_path))
    assert config.dkim
    shown = tomli_w.dumps(render(config))
    assert parse(shown) == config
    assert "PRIVATE" not in shown


def test_another_key_in_the_same_file_is_a_change(tmp_path: Path) -> None:
    text = toml_of(tmp_path)
    before = parse(text)
    write_key(tmp_path / f"{DOMAIN}.pem", "rsa")
    after = parse(text)
    assert after != before
    assert replace(after, dkim=before.dkim) == before


def test_where_a_key_is_to_be_is_known_before_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(f'hostname = 1\n[dkim."{DOMAIN}"]\nselector = "home"\nkey_file = "keys/dkim.pem"\n')
    assert load_dkim_places(file, {}) == {DOMAIN: ("home", tmp_path / "keys" / "dkim.pem")}
    with pytest.raises(ConfigError) as caught:
        load_config(file, {})
    assert len(caught.value.errors) == 2


def test_without_a_file_no_key_is_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("relay.config.loading.USUAL_PATHS", (Path("relay.toml"),))
    assert load_dkim_places(None, {}) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[dkim", "relay.toml:1: not valid TOML"),
        ('[dkim."a.example"]\nselector = "x"\n', 'relay.toml:1: dkim."a.example": needs the key "key_file"'),
        ("dkim = 1", "relay.toml:1: dkim: must be a table, not a number"),
    ],
)
def test_what_is_wrong_with_a_place_is_told(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_dkim_places(file, {})
    [error] = caught.value.errors
    assert words in error
