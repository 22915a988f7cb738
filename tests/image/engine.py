"""A container engine: docker where it answers; else podman, as root, with a store of its own in .image/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import leave_out

ROOT = Path(__file__).parents[2]
STORE = ROOT / ".image"
BASE = "docker.io/library/python:3.13-slim"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATIENCE = 60.0
"""Seconds after which a test fails that waits for something."""
PULL_SECONDS = 90.0
LIMITS = ("--ulimit", "nofile=16384:16384", "--ulimit", "nproc=4096:4096")
"""podman's own are higher, which not every root may set."""
# OCI's own format has no health check; and what would do it at intervals need not be here.
ENVIRONMENT = {**os.environ, "BUILDAH_FORMAT": "docker", "DISABLE_HC_SYSTEMD": "true"}


class EngineError(Exception):
    """A command of the engine failed."""

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"exit status {status}: {output}")
        self.status = status
        self.output = output


@dataclass(frozen=True)
class Engine:
    """The command line of an engine, and what it needs beside it to build."""

    command: tuple[str, ...]
    build_options: tuple[str, ...] = ()

    def run(self, *arguments: str | Path, given: str = "", timeout: float | None = None) -> str:
        """Run a command of the engine; return its output, errors included. Raises EngineError."""
        finished = subprocess.run(
            [*self.command, *map(str, arguments)],
            check=False,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=ENVIRONMENT,
        )
        if finished.returncode != 0:
            raise EngineError(finished.returncode, finished.stdout)
        return finished.stdout

    def inspect(self, name: str, what: str) -> str:
        """Return what an image or a container has under a name, as a template of Go shows it."""
        return self.run("inspect", "--format", f"{{{{{what}}}}}", name).strip()

    def build(self, tag: str, *options: str) -> None:
        """Build the image of this project."""
        print(self.run("build", *self.build_options, *options, "--tag", tag, ROOT))

    @contextmanager
    def container(self, name: str, *arguments: str | Path) -> Iterator[Container]:
        """Run a container in the background; at the end it is removed, with volumes that have no name."""
        self.run("run", "--detach", "--name", name, *LIMITS, *arguments)
        try:
            yield Container(self, name)
        finally:
            self.run("rm", "--force", "--volumes", name)


@dataclass(frozen=True)
class Container:
    """A container that runs, or did."""

    engine: Engine
    name: str

    @property
    def log(self) -> str:
        """All that it wrote."""
        return self.engine.run("logs", self.name)

    def execute(self, *command: str | Path, given: str = "", user: str = "") -> str:
        """Run a command inside."""
        options = ("--user", user) if user else ()
        return self.engine.run("exec", "--interactive", *options, self.name, *command, given=given)

    def logged(self, pattern: str, count: int = 1) -> list[str]:
        """Wait until the log matches a pattern so often; return what it matched."""
        end = time.monotonic() + PATIENCE
        while len(found := re.findall(pattern, self.log)) < count:
            assert time.monotonic() < end, f"not logged {count} times: {pattern}\n{self.log[-5000:]}"
            time.sleep(0.1)
        return found

    def stop(self) -> int:
        """Send the image's signal to stop; return the exit status. After nine seconds it is killed: 137."""
        self.engine.run("stop", "--time", "9", self.name)
        return int(self.engine.inspect(self.name, ".State.ExitCode"))


def find_engine() -> Engine:
    """Return the engine that this machine has, or end the test."""
    if shutil.which("docker") and _answers("docker"):
        return Engine(("docker",))
    if not shutil.which("podman") or os.geteuid() != 0:
        leave_out("needs docker, or podman as root (Debian's packages are named in .ci/run)")
    STORE.mkdir(exist_ok=True)
    command = ["podman", "--root", f"{STORE}/store", "--runroot", f"{STORE}/run", "--events-backend", "file"]
    command += ["--cgroup-manager", "cgroupfs"]
    if shutil.which("runc"):  # podman would take crun, which refuses hybrid cgroups
        command += ["--runtime", "runc"]
    engine = Engine(tuple(command), ("--isolation", "chroot", "--network", "host", *_mounts()))
    _see_to_the_base(engine)
    return engine


def _answers(*command: str) -> bool:
    return subprocess.run([*command, "info"], check=False, capture_output=True).returncode == 0


def _mounts() -> list[str]:
    """Return the options that show pip, while it builds, this machine's settings and authorities."""
    listed = subprocess.check_output([sys.executable, "-m", "pip", "config", "list"], text=True)
    found = re.findall(r"(?m)^.*\.((?:extra-)?index-url|trusted-host|proxy)='(.*)'$", listed)
    settings = STORE / "pip.conf"
    lines = [f"{key} = {' '.join(filter(_is_elsewhere, value.split()))}" for key, value in found]
    settings.write_text("\n".join(["[global]", *lines, ""]))
    mounts = [f"--volume={settings}:/etc/pip.conf:ro"]
    if CERTIFICATES.exists():
        mounts.append(f"--volume={CERTIFICATES}:{CERTIFICATES}:ro")
    return mounts


def _is_elsewhere(place: str) -> bool:
    """Whether a place to find packages is not on this machine's disk, out of a container's reach."""
    return not place.startswith(("file:", "/"))


def _see_to_the_base(engine: Engine) -> None:
    """Get the base image into podman's store; where no registry is reached, something in its place."""
    if BASE in engine.run("images", "--format", "{{.Repository}}:{{.Tag}}").split():
        return
    try:
        engine.run("pull", BASE, timeout=PULL_SECONDS)
    except (EngineError, subprocess.TimeoutExpired) as error:
        print(f"no registry is reached ({error}): python:3.13-slim is made of Debian's packages")
    else:
        return
    if not shutil.which("mmdebstrap"):
        leave_out("needs a registry or mmdebstrap (Debian's packages are named in .ci/run)")
    root = STORE / "base.tar"
    subprocess.run([Path(__file__).with_name("stand-in.sh"), root], check=True)
    engine.run("import", root, BASE)
    root.unlink()
