"""What `make release` builds: complete, without anything else, and enough to run the relay."""

from __future__ import annotations

import asyncio
import re
import shutil
import smtplib
import subprocess
import sys
import tarfile
import venv
import zipfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import relay
from tests.support.dns_server import failing_nameserver
from tests.support.service import PATIENCE, deliveries, find_flaw, run_program
from tests.support.smtp_server import ScriptedServer

ROOT = Path(__file__).parents[1]
NAME = f"relay-{relay.__version__}"
SETTINGS = """
relayhost = "[127.0.0.1]:{port}"
[[listen]]
address = "127.0.0.1:0"
[web]
address = ""
[dns]
nameservers = ["{nameserver}"]
[queue]
path = "queue.db"
"""
CONTENT = (
    b"From: chris@free.fr\r\nTo: marc@machin.com\r\nSubject: hello\r\n"
    b"Date: Mon, 22 May 2000 20:27:59 +0200\r\nMessage-ID: <1@free.fr>\r\n\r\nworld\r\n"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel that was made of it."""
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: nothing is downloaded.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.needs("git")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the list of files is git's")
def test_the_sdist_has_all_files_and_the_wheel_those_of_the_program(built: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    files = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    with tarfile.open(built / f"{NAME}.tar.gz") as sdist:
        packed = {member.name.removeprefix(f"{NAME}/") for member in sdist if not member.isdir()}
    assert packed - {"PKG-INFO"} == files
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as wheel:
        installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert installed == {name for name in files if name.startswith("relay/")}


def find_needed(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Return what is installed here of what is asked for, and of what that asks for, by name."""
    found: dict[str, metadata.Distribution] = {}
    waiting = [*requirements]
    while waiting:
        requirement = Requirement(waiting.pop())
        is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if is_wanted and requirement.name not in found:
            found[requirement.name] = metadata.distribution(requirement.name)
            waiting += found[requirement.name].requires or ()
    return found


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into an empty virtual environment, and return the program."""
    venv.create(folder, symlinks=True)
    target = next(folder.glob("lib/python*/site-packages"))
    described = metadata.PathDistribution(zipfile.Path(wheel, f"{NAME}.dist-info/"))
    for distribution in find_needed(described.requires or ()).values():
        for file in distribution.files or ():
            if ".." not in file.parts:
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), target / file)
    # pip finds out whether all that is asked for is there.
    pip = [sys.executable, "-m", "pip", "--python", folder, "install", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin" / "relay"


async def read_until(process: Process, pattern: str) -> re.Match[str]:
    """Return what a pattern matches in the next line of the log that has it."""
    assert process.stdout is not None
    log = ""
    async with asyncio.timeout(PATIENCE):
        while line := (await process.stdout.readline()).decode():
            log += line
            if found := re.search(pattern, line):
                assert not (flaw := find_flaw(log)), flaw
                return found
    raise AssertionError(f"the relay ended:\n{log}")


async def test_the_wheel_alone_is_a_relay(built: Path, tmp_path: Path) -> None:
    program = install(built / f"{NAME}-py3-none-any.whl", tmp_path / "venv")
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = ("env", "--ignore-environment", f"--chdir={empty}", "PATH=/usr/bin:/bin")
    told = await run_program(*nothing, program, "--version")
    assert (told.status, told.out) == (0, f"relay {relay.__version__}\n")
    async with ScriptedServer() as server:
        (empty / "relay.toml").write_text(SETTINGS.format(port=server.port, nameserver=failing_nameserver()))
        process = await asyncio.create_subprocess_exec(*nothing, program, "serve", stdout=PIPE, stderr=STDOUT)
        try:
            port = int((await read_until(process, r" listening on 127\.0\.0\.1:(\d+)"))[1])
            await asyncio.to_thread(send, port)
            await read_until(process, "status=sent")
            process.terminate()
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        [delivery] = deliveries(server)
        assert delivery.without_trace == CONTENT


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, local_hostname="chris") as client:
        assert client.sendmail("chris@free.fr", ["marc@machin.com"], CONTENT) == {}


def test_the_changelog_tells_of_this_version() -> None:
    headings = re.findall(r"^## (?:\[)?([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in {"Unreleased", relay.__version__}
