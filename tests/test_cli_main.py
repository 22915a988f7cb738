"""The command as a program: what it prints, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import relay
from relay.cli.main import COMMANDS, EX_CONFIG, INTERRUPTED, main

RELAY = (sys.executable, "-m", "relay")
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
"""An environment in which output is written late, when the command is over."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text('hostname = "gw1.example.net"\n')
    return path


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"relay {relay.__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("argv", [[], ["serv"], ["check", "--nonsense"], ["check", "--config"]])
def test_wrong_usage_has_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: relay" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "check", "healthcheck"])
def test_all_configuration_errors_are_told(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "relay.toml"
    path.write_text('relayhots = "isp"\n[log]\nlevel = "loud"\n')
    assert main([command, "--config", str(path)]) == EX_CONFIG
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f'{path}:1: relayhots: unknown key; did you mean "relayhost"?',
        f'{path}:3: log.level: must be "debug", "info", "warning" or "error", not "loud"',
    ]


def test_arguments_come_from_the_command_line(config: Path) -> None:
    done = subprocess.run([*RELAY, "check", "--config", config], capture_output=True, text=True, check=True)
    assert 'hostname = "gw1.example.net"' in done.stdout
    assert done.stderr == ""


def test_a_reader_that_goes_away_is_no_trouble(config: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = subprocess.run(
            [*RELAY, "check", "--config", config],
            env=BUFFERED,
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_output_that_finds_no_room_is_told_in_a_sentence(config: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*RELAY, "check", "--config", config],
            env=BUFFERED,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "relay: [Errno 28] No space left on device\n")


def test_an_interrupted_command_ends_quietly(tmp_path: Path) -> None:
    fifo = tmp_path / "relay.toml"
    os.mkfifo(fifo)
    with subprocess.Popen([*RELAY, "check", "--config", fifo], stderr=subprocess.PIPE) as process:
        with fifo.open("wb"):  # opens when the command has begun to read
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (INTERRUPTED, b"")


def test_a_command_loads_no_other_commands_modules() -> None:
    code = "import sys; from relay.cli.main import main; main(['check']); print(*sys.modules, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RELAY_CONFIG": os.devnull},
        capture_output=True,
        text=True,
        check=True,
    )
    modules = done.stdout.splitlines()
    assert "relay.cli.check" in modules
    assert not {"relay.app", "relay.cli.serve", "relay.cli.queue", "relay.queue", "asyncio"} & set(modules)
