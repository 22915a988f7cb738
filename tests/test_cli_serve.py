from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay.cli.main import main
from tests.support.service import Service


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_stopped(tmp_path: Path, stop: signal.Signals) -> None:
    config = tmp_path / "relay.toml"
    config.write_text(
        f'[[listen]]\naddress = "127.0.0.1:0"\n[queue]\npath = "{tmp_path}/queue.db"\n[web]\naddress = ""\n'
    )
    command = [sys.executable, "-m", "relay", "serve", "--config", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "listening on 127.0.0.1:" in process.stdout.readline()
        assert main(["healthcheck", "--config", str(config)]) == 0
        process.send_signal(stop)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")


async def test_the_relay_may_open_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    async with Service(tmp_path, "", under=("prlimit", "--nofile=256:")) as relay:
        limits = Path(f"/proc/{relay.pid}/limits").read_text()
    soft, hard = re.findall(r"(?m)^Max open files +(\d+) +(\d+)", limits)[0]
    assert soft == hard != "256"
