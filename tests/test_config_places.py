"""Where rules stand in relay.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.loading import load_with_places
from relay.config.places import Places
from relay.config.problems import ConfigError, KeyPath

TEXT = """\
relayhost = "isp"
transport = { "Aol.com" = "mx" }

[smarthost.isp]
host = "smtp.isp.test"

[aliases]
'"A b"@x.test' = "chris"
Family = [
  "chris",
  "marc",
]

[[header_checks]]
pattern = '^X-A:'
action = "IGNORE"
[[header_checks]]
pattern = '^X-B:'
action = "IGNORE"

[sender_canonical]
'"root"@x.test' = "a@x.test"
'"a b"@y.test' = "b@x.test"
'"A b"@y.test' = "c@x.test"
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("relayhost",), 1),
        (("transport", "aol.com"), 2),
        (("smarthost", "isp"), 4),
        (("smarthost", "isp", "host"), 5),
        (("smarthost", "isp", "tls"), None),
        (("aliases", "a b@x.test"), 8),
        (("aliases", "family"), 9),
        (("header_checks", 0), 14),
        (("header_checks", 1), 17),
        (("header_checks", 2), None),
        (("sender_canonical", "root@x.test"), 22),
        (("sender_canonical", '"A b"@y.test'), 24),
        (("sender_canonical", "a b@y.test"), None),  # it might be either
        (("local", "users"), None),
    ],
)
def test_a_rule_is_found_however_its_key_is_written(path: KeyPath, line: int | None) -> None:
    assert Places.of("relay.toml", TEXT).find(path) == line


def test_without_a_file_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, places = load_with_places(None, {"RELAY_CONFIG": ""})
    if not places.file:  # no /etc/relay/relay.toml here
        assert (config.relayhost, places) == (None, Places())


def test_a_wrong_file_is_refused_like_any(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("relayhost = isp\n")
    with pytest.raises(ConfigError):
        load_with_places(path, {})
    path.write_text('[access]\nnetworks = ["10.0.0.0/8"]\n')
    _, places = load_with_places(path, {})
    assert (places.file, places.find(("access", "networks"))) == (str(path), 2)
