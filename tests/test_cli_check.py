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


def test_where_a_provider_would_object_there_are_warnings_beside_the_configuration(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(
        """
        limits = { message_size = "10MB" }
        [smarthost.gmail]
        provider = "gmail"
        username = "chris"
        password_env = "GMAIL"
        """
    )
    monkeypatch.setenv("GMAIL", "hunter2")
    assert main(["check", "--config", str(config)]) == 0
    output = capsys.readouterr()
    assert parse_config(output.out, machine_name="") == load_config(config, {})
    first, second = output.err.splitlines()
    assert first == "warning: smarthost.gmail.username: gmail wants the full mail address"
    assert second.startswith("warning: smarthost.gmail.password: does not look like an app password")


def test_a_secret_that_is_not_to_be_had_is_warned_of(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(
        f"""
        limits = {{ message_size = "10MB" }}
        [smarthost.isp]
        host = "smtp.example.com"
        username = "chris"
        password_file = "{config.parent}/isp"
        [smarthost.gmail]
        provider = "gmail"
        username = "chris@gmail.com"
        auth = "xoauth2"
        client_id = "mine"
        client_secret_env = "RELAY_TEST_UNSET"
        """
    )
    assert main(["check", "--config", str(config)]) == 0
    missing = f"the secret file {config.parent}/isp cannot be read: No such file or directory"
    assert capsys.readouterr().err.splitlines() == [
        f"warning: smarthost.isp: {missing}",
        "warning: smarthost.gmail: the environment variable RELAY_TEST_UNSET is not set",
    ]


HASH = "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$ca+UNSvPUNsDvh2I8ijnHGGJJAVw6AORKGaw/11W0N0"


@pytest.mark.parametrize("option", [[], ["--json"]])
@pytest.mark.parametrize("tls", ["implicit", "none", "hunter"])
def test_no_secret_is_printed_whether_the_configuration_is_right_or_wrong(
    config: Path, capsys: pytest.CaptureFixture[str], option: list[str], tls: str
) -> None:
    (config.parent / "file").write_text("hunter3\n")
    config.write_text(
        f"""
        [users]
        scanner = "{HASH}"
        [smarthost.isp]
        host = "smtp.example.com"
        tls = "{tls}"
        username = "chris"
        password = "hunter2"
        [smarthost.gmail]
        provider = "gmail"
        username = "chris@gmail.com"
        password_file = "{config.parent}/file"
        [smarthost.outlook]
        provider = "outlook"
        username = "chris@outlook.com"
        client_id = "mine"
        client_secret = "hunter4"
        """
    )
    assert main(["check", *option, "--config", str(config)]) == (0 if tls == "implicit" else 78)
    output = "".join(capsys.readouterr())
    assert not any(secret in output for secret in ("hunter2", "hunter3", "hunter4", "AAECAwQF"))
    assert ("(hidden)" in output) is (tls == "implicit")


def test_alerts_that_would_not_arrive_are_warned_of(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text('[alerts]\ncommand = ["/nowhere/notify"]\nwebhook_env = "HOOK"\n')
    monkeypatch.delenv("HOOK", raising=False)
    assert main(["check", "--config", str(config)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "warning: alerts.command: there is no program /nowhere/notify that may be run",
        "warning: alerts.webhook: the environment variable HOOK is not set",
    ]
    config.write_text('[alerts]\ncommand = ["sh"]\nwebhook_env = "HOOK"\n')
    monkeypatch.setenv("HOOK", "S3CR3T")
    assert main(["check", "--config", str(config)]) == 0
    output = capsys.readouterr()
    assert output.err == "warning: alerts.webhook: is not an address such as https://ntfy.sh/topic\n"
    assert "S3CR3T" not in output.out
