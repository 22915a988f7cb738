"""A place of our own: network, mounts and processes that end with the run, a folder and a control group."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = "RELAY_BENCH_FOLDER"
"""The environment variable that names the folder of the run, inside."""
_GROUP_ROOTS = (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup"))
"""Control groups of version 1, else of version 2."""
_NAMESPACES = (
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)


class RigError(Exception):
    """The measurement can't be made here; the text says why."""


def run_again(arguments: list[str], parent: Path) -> int:
    """Run ``python -m bench`` with these arguments in a place of its own, and leave nothing of it behind.

    Its folder is made in ``parent``, which decides the disk that is measured. Raises RigError.
    """
    if os.geteuid() != 0:
        raise RigError("needs root: Postfix starts as root, and the network of the run is one of its own")
    missing = [
        name for name in ("unshare", "ip", "postfix", "smtp-source", "smtp-sink") if not shutil.which(name)
    ]
    if missing:
        raise RigError(f"needs {', '.join(missing)}: install Debian's packages iproute2, postfix, util-linux")
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run.", dir=parent))
    folder.chmod(0o755)  # Postfix's processes are other users
    group = _make_group()
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-m", "bench", *arguments]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    process = subprocess.Popen(
        ["unshare", *_NAMESPACES, *inside],
        env={**os.environ, FOLDER: str(folder), "RELAY_BENCH_GROUP": str(group)},
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
        _remove_group(group)
        shutil.rmtree(folder, ignore_errors=True)


def settle_in() -> tuple[Path, Path]:
    """Join the control group of the run and allow many sockets; return the folder and the group."""
    folder, group = Path(os.environ[FOLDER]), Path(os.environ["RELAY_BENCH_GROUP"])
    (group / "cgroup.procs").write_text(str(os.getpid()))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return folder, group


def mount_disk(folder: Path, size: int) -> str:
    """Make a file system of ``size`` bytes that nobody else writes to, mount it, and return its device.

    What is written to it can be counted to the byte. It goes with the run. Raises RigError.
    """
    image = folder.with_suffix(".img")
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    # Lazy initialisation would go on writing while we count.
    options = ["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
    try:
        subprocess.run(["mkfs.ext4", *options, image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RigError(f"no file system of our own to count what is written: {error}") from error
    os.sync()
    device = folder.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def show_inside(root: Path, folder: Path) -> None:
    """Let what runs in the file system ``root`` see the folder of the run, and what is mounted in it later.

    It is gone with the run. Raises RigError.
    """
    inside = root / folder.relative_to("/")
    inside.mkdir(parents=True, exist_ok=True)
    for arguments in (
        ("--bind", folder, folder),
        ("--make-shared", folder),
        ("--bind", folder, inside),
        ("--rbind", "/proc", root / "proc"),
        ("--rbind", "/dev", root / "dev"),
    ):
        try:
            subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            raise RigError(f"can't mount into {root}: {error.stderr.strip()}") from error


def _remove_group(group: Path) -> None:
    """Remove the control groups of the run, once the last of its processes is gone."""
    for path in (*group.glob("*/"), group):
        for _ in range(100):
            try:
                path.rmdir()
            except OSError:
                time.sleep(0.05)
            else:
                break


def _make_group() -> Path:
    for root in _GROUP_ROOTS:
        group = root / f"relay-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        return group
    raise RigError("needs a control group to count CPU in, and /sys/fs/cgroup can't be written")
