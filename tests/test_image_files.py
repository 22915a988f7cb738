"""The files about the container image: its lock files, its Dockerfile, and the examples of how to run it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from relay.config.loading import parse_config
from tests.support.service import run_program

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXAMPLES = ROOT / "examples"
COMPOSE_FILES = [*sorted(EXAMPLES.glob("compose-*.yaml")), ROOT / "docs" / "household" / "compose.yaml"]
RELAY_FOLDERS = {"/etc/relay", "/var/lib/relay"}


class TestTheLockFiles:
    @pytest.mark.parametrize(
        ("name", "wanted"),
        [("relay", PROJECT["project"]["dependencies"]), ("build", PROJECT["build-system"]["requires"])],
    )
    def test_fit_what_the_project_wants(self, name: str, wanted: list[str]) -> None:
        locked = read_lock(name)
        for requirement in map(Requirement, wanted):
            version = locked.get(canonicalize_name(requirement.name))
            assert version, f"{requirement.name} is not locked: make lock"
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: make lock"

    @pytest.mark.parametrize("name", ["relay", "build"])
    def test_have_hashes_for_all_and_addresses_of_none(self, name: str) -> None:
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert len(re.findall(r"==.*\\\n +--hash=sha256:[0-9a-f]{64}", text)) == len(read_lock(name))
        assert "://" not in text
        assert not re.search(r"(?m)^\s*-(?!-hash)", text)


def read_lock(name: str) -> dict[str, str]:
    """Return the versions in a lock file of requirements/."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return {
        canonicalize_name(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)
    }


class TestTheDockerfile:
    def test_has_nothing_that_hadolint_finds(self) -> None:
        hadolint = Path(sys.executable).with_name("hadolint")
        subprocess.run([hadolint, "--failure-threshold", "info", ROOT / "Dockerfile"], check=True)

    def test_names_no_address(self) -> None:
        assert "://" not in DOCKERFILE
        assert "index" not in DOCKERFILE.replace("--no-index", "")


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=lambda path: path.name)
class TestTheComposeFiles:
    def test_run_the_relay_as_the_image_wants_it(self, path: Path) -> None:
        relay = services(path)["relay"]
        assert (path.parent / relay["build"] / "Dockerfile").samefile(ROOT / "Dockerfile")
        assert relay["read_only"]
        assert relay["cap_drop"] == ["ALL"]
        assert relay["security_opt"] == ["no-new-privileges:true"]
        assert relay["mem_limit"] == "128m"
        assert {target(volume) for volume in relay["volumes"]} == RELAY_FOLDERS
        exposed = re.search(r"(?m)^EXPOSE (.*)", DOCKERFILE)
        assert exposed
        published = {port.rpartition(":")[2] for port in relay.get("ports", ())}
        if relay.get("network_mode") == "host":
            assert not published
        else:
            assert published == set(exposed[1].split())

    def test_mount_folders_that_are_there(self, path: Path) -> None:
        named = yaml.safe_load(path.read_text())["volumes"]
        assert named["queue"] == {"name": "relay-queue"}
        for service in services(path).values():
            for volume in service["volumes"]:
                source = volume.partition(":")[0]
                assert source in named or (path.parent / source).is_dir(), volume
                assert source in named or volume.endswith(":ro"), volume


def services(path: Path) -> dict[str, Any]:
    """Return the services of a compose file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())["services"]
    return found


def target(volume: str) -> str:
    """Return where a volume is mounted."""
    return volume.split(":")[1]


class TestTheirSettings:
    TEXT = (EXAMPLES / "relay" / "relay.toml").read_text()

    def test_are_a_configuration(self) -> None:
        assert [listen.port for listen in parse_config(self.TEXT, machine_name="x").listen] == [25]

    @pytest.mark.needs("openssl")
    def test_are_one_with_all_that_is_commented_out_too(self, tmp_path: Path) -> None:
        text = re.sub(r"(?m)^#(?=\S)", "", self.TEXT).replace("/etc/relay", str(tmp_path))
        command = re.search(r"(?m)^# +(openssl .*)", self.TEXT)
        assert command
        subprocess.run(command[1].split(), cwd=tmp_path, check=True, capture_output=True)
        for name in ("isp-password", "web-password"):
            (tmp_path / name).write_text("secret\n")
        config = parse_config(text, machine_name="x", folder=tmp_path)
        assert [(listen.port, listen.tls) for listen in config.listen] == [
            (25, "none"),
            (587, "starttls"),
            (465, "implicit"),
        ]
        assert config.relayhost
        assert config.relayhost.smarthost == "isp"
        assert (config.web.host, config.web.port) == ("0.0.0.0", 8025)


@pytest.mark.needs("systemd-analyze")
class TestTheUnit:
    async def test_is_one_that_systemd_understands(self, tmp_path: Path) -> None:
        text = (EXAMPLES / "relay.service").read_text()
        unit = tmp_path / "relay.service"
        unit.write_text(text.replace("/opt/relay/bin/relay", sys.executable))
        checked = await run_program("systemd-analyze", "verify", "--man=no", unit)
        assert (checked.status, checked.out + checked.err) == (0, "")

    async def test_leaves_little_open(self) -> None:
        """systemd's own measure of exposure, from 0 to 100."""
        options = ("--offline=true", "--threshold=20", "--no-pager")
        judged = await run_program("systemd-analyze", "security", *options, EXAMPLES / "relay.service")
        assert judged.status == 0, judged.out


async def test_the_hosts_sendmail_is_a_script_that_the_shell_understands() -> None:
    assert (await run_program("sh", "-n", EXAMPLES / "sendmail")).status == 0
    assert (EXAMPLES / "sendmail").stat().st_mode & 0o111
