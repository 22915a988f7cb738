from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from relay.cli.main import main
from relay.config.loading import load_config, parse_config


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text('relayhost = "[192.168.0.9]"\n[sender_canonical]\nroot = "Jörg <joerg@example.org>"\n')
    return path


def test_the_configuration_is_printed_as_a_file_that_means_the_same(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--config", str(config)]) == 0
    assert parse_config(capsys.readouterr().out, machine_name="") == load_config(config, {})


def test_json_says_the_same_as_toml(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", "--config", str(config)])
    toml = tomllib.loads(capsys.readouterr().out)
    assert main(["check", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out) == toml
