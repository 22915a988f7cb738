"""What the machine tells: CPU and memory of a server, what reaches the disk, what others do, what it is."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.isolation import RigError

_TICK = os.sysconf("SC_CLK_TCK")
_SECTOR = 512
SETTLED_SHARE = 0.03
"""Of one core: a server that uses less has nothing to do."""


class Group:
    """The processes of one server, in a control group of their own; it counts the CPU of ended ones too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def wrap(self, command: list[str]) -> list[str]:
        """Return the command that runs ``command`` in the group."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh", *command]

    def pids(self) -> list[int]:
        """Return the processes that are there now."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def cpu_seconds(self) -> float:
        """Return the CPU time that the group has used so far."""
        return _group_cpu(self.path)

    def memory(self) -> int:
        """Return the bytes of memory in use, as PSS: what its processes share is counted once.

        Of a single process it is RSS: its PSS would leave out what it happens to share with the rig, Python.
        """
        pids = self.pids()
        field = "Rss" if len(pids) == 1 else "Pss"
        return sum(_number(_read(f"/proc/{pid}/smaps_rollup"), rf"^{field}:\s+(\d+)") for pid in pids) * 1024

    def wakeups(self) -> int:
        """Return how often the threads that are there now have gone to sleep so far."""
        return sum(
            _number(_read(status), r"^voluntary_ctxt_switches:\s+(\d+)")
            for pid in self.pids()
            for status in Path(f"/proc/{pid}/task").glob("*/status")
        )

    def settle(self, limit: float = 600.0) -> None:
        """Wait until the processes have had nothing to do for a second."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(1.0)
            if self.cpu_seconds() - before < SETTLED_SHARE:
                return

    def close(self) -> None:
        """End what is left and remove the group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for _ in range(30):
                pids = self.pids()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                if not pids:
                    break
                time.sleep(0.1)
        self.path.rmdir()


class PeakMemory(threading.Thread):
    """Samples the memory of a group, as often as costs little; a context manager."""

    def __init__(self, group: Group) -> None:
        super().__init__(daemon=True)
        self.most = 0
        """Bytes."""
        self._group = group
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.is_set():
            began = time.monotonic()
            self.most = max(self.most, self._group.memory())
            self._end.wait(max(0.1, 30 * (time.monotonic() - began)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


@dataclass(frozen=True, slots=True)
class Others:
    """How much of the machine everything but the run has used since a moment; the kernel's threads count."""

    group: Path
    at: float
    busy: float
    ours: float

    @classmethod
    def now(cls, group: Path) -> Others:
        """Begin to look; ``group`` is that of the run."""
        return cls(group, time.monotonic(), _busy_seconds(), _group_cpu(group))

    def share(self) -> float:
        """Return the share of all cores since then."""
        now = Others.now(self.group)
        used = (now.busy - self.busy) - (now.ours - self.ours)
        return max(0.0, used / (os.cpu_count() or 1) / max(0.001, now.at - self.at))


def wait_quiet(group: Path, limit: float, share: float = 0.1) -> None:
    """Wait until others leave the machine alone, but no longer than ``limit`` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        others = Others.now(group)
        time.sleep(min(2.0, limit))
        if others.share() < share:
            return


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What a block device has done so far."""

    written: int
    """Bytes."""
    flushes: int

    @classmethod
    def now(cls, device: str) -> DiskUse:
        """Read it for a device, given as ``major:minor``; zeros where it has no figures."""
        for line in _read("/proc/diskstats").splitlines():
            words = line.split()
            if f"{words[0]}:{words[1]}" == device:
                return cls(int(words[9]) * _SECTOR, int(words[18]) if len(words) > 18 else 0)
        return cls(0, 0)


def device_of(folder: Path) -> str:
    """Return the block device of a folder as ``major:minor``."""
    device = folder.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def syncs_per_second(folder: Path, seconds: float = 0.25) -> int:
    """Return how often a second 1 KB can be appended and fsynced just now."""
    path = folder / "probe"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        os.write(file, bytes(1000))
        os.fsync(file)
        count += 1
    elapsed = time.monotonic() - began
    os.close(file)
    path.unlink()
    return round(count / elapsed)


def describe(folder: Path, python: Sequence[str]) -> dict[str, object]:
    """Return what someone needs to know to judge or repeat the figures; ``python`` starts the relay's.

    Raises RigError where it does not start.
    """
    memory = _number(_read("/proc/meminfo"), r"^MemTotal:\s+(\d+)") * 1024
    processor = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    postfix = _output("postconf", "-d", "-h", "mail_version")
    versions = "import platform, sqlite3; print(platform.python_version(), sqlite3.sqlite_version)"
    found = _output(*python, "-c", versions)
    if not found:
        raise RigError(f"no Python to run the relay with: {' '.join(python)} fails")
    python_version, sqlite_version = found.split()
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "processor": processor[1] if processor else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "kernel": platform.release(),
        "python": python_version,
        "sqlite": sqlite_version,
        "postfix": postfix,
        "commit": _output("git", "describe", "--always", "--dirty"),
        "syncs_per_s": syncs_per_second(folder),
    }


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _group_cpu(path: Path) -> float:
    if (path / "cpuacct.usage").exists():
        return int((path / "cpuacct.usage").read_text()) / 1e9
    return _number((path / "cpu.stat").read_text(), r"^usage_usec (\d+)") / 1e6


def _busy_seconds() -> float:
    """Return the CPU time that everybody has used so far."""
    user, nice, system, _, _, interrupts, soft, *_ = map(
        int, _read("/proc/stat").split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + interrupts + soft) / _TICK


def _read(path: str | Path) -> str:
    """Return a file of /proc, "" where the process is gone."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _number(text: str, pattern: str) -> int:
    found = re.search(pattern, text, re.MULTILINE)
    return int(found[1]) if found else 0
