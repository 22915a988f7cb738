"""The machine itself: its clock, and the disk that keeps the queue."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from relay.doctor.finding import Finding, Kind, Severity

TOLERANCE = 3600.0
"""Seconds by which a clock may be behind: daylight saving and the like."""
LEAST_INODES = 1000
SLOW_SYNC = 0.3
"""Seconds of one fsync that clients feel: each message waits for one."""
RESERVE = 16 * 2**20
"""Bytes that the queue keeps free so that it can drain (twice the margin of relay.queue.room)."""

CLOCK_FINE = Kind("clock.fine", Severity.OK, "the clock says {now}; nothing known here is later")
CLOCK_BEHIND = Kind(
    "clock.behind",
    Severity.PROBLEM,
    "the clock says {now}, but {event} on {then}",
    "Certificates seem not yet valid, messages carry a wrong date, and retries come at the wrong time.",
    "Set the clock: let the machine ask a time server (systemd-timesyncd, chrony). A Raspberry Pi has no"
    " clock of its own.",
)
ROOM = Kind("disk.room", Severity.OK, "the disk of the queue has {free} free")
TIGHT = Kind(
    "disk.tight",
    Severity.WARNING,
    "the disk of the queue ({folder}) has only {free} free",
    "Messages may be up to {largest} large; when the disk is full, none are taken until there is room again.",
    "Free some space, or put the queue on another disk: path under [queue] of relay.toml.",
)
FULL = Kind(
    "disk.full",
    Severity.PROBLEM,
    "the disk of the queue ({folder}) is full: {free} free",
    "The relay takes no messages (452) until there is room; nothing that it took is lost.",
    "Free some space, or put the queue on another disk: path under [queue] of relay.toml.",
)
FEW_INODES = Kind(
    "disk.inodes",
    Severity.WARNING,
    "the file system of the queue ({folder}) has only {count} inodes left",
    "Without inodes no file can be made, however much room there is.",
    "Delete small files there that nobody needs.",
)
UNWRITABLE = Kind(
    "disk.unwritable",
    Severity.PROBLEM,
    "the folder of the queue ({folder}) can't be written to: {reason}",
    "Without a queue the relay takes no messages.",
    "Give the folder to the relay's user (in the image: chown 10001:10001), and mount it for writing.",
)
UNMADE = Kind(
    "disk.unmade",
    Severity.INFO,
    "the folder of the queue ({folder}) does not exist yet; the relay makes it when it starts",
)
QUICK = Kind(
    "disk.quick", Severity.OK, "the disk of the queue keeps what is written within {milliseconds} ms"
)
SLOW = Kind(
    "disk.slow",
    Severity.WARNING,
    "the disk of the queue takes {milliseconds} ms to keep what is written",
    "Each message is on the disk before its sender gets an answer; clients feel that. An SD card that grows"
    " slow may be about to die.",
    "Try again while the machine is idle; if it stays, use another card, a USB disk or an SSD.",
)


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system under the queue; sizes in bytes."""

    folder: Path
    free: int
    inodes: int | None
    """Inodes left, None where the file system does not count them."""
    exists: bool = True
    """Whether the queue's folder is there; else the rest is about the nearest folder above it."""
    sync_seconds: float | None = None
    error: str = ""
    """Why nothing can be written."""


def check_clock(now: float, evidence: Mapping[str, float]) -> list[Finding]:
    """Judge the clock by what has happened for sure; ``evidence`` has epoch seconds by what they are of."""
    event, then = max(evidence.items(), key=lambda item: item[1], default=("", 0.0))
    if then > now + TOLERANCE:
        return [CLOCK_BEHIND.found(now=_moment(now), event=event, then=_moment(then))]
    return [CLOCK_FINE.found(now=_moment(now))]


def measure_disk(folder: Path) -> Disk:
    """Return how the disk of a folder is; writes one small file and removes it. Blocks."""
    present = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    statistics = os.statvfs(present)
    free = statistics.f_bavail * statistics.f_frsize
    inodes = statistics.f_favail if statistics.f_files else None
    if present != folder:
        error = "" if os.access(present, os.W_OK) else f"{present} is not for this user to write"
        return Disk(folder, free, inodes, exists=False, error=error)
    try:
        return Disk(folder, free, inodes, sync_seconds=_time_sync(folder))
    except OSError as error:
        return Disk(folder, free, inodes, error=error.strerror or str(error))


def judge_disk(disk: Disk, message_size: int) -> list[Finding]:
    """Judge a disk for messages of at most ``message_size`` bytes."""
    folder, free = disk.folder, _megabytes(disk.free)
    findings = [] if disk.exists else [UNMADE.found(folder=folder)]
    if disk.error and disk.free >= RESERVE:
        findings.append(UNWRITABLE.found(folder=folder, reason=disk.error))
    if disk.free < RESERVE:
        findings.append(FULL.found(folder=folder, free=free))
    elif disk.free < RESERVE + 2 * message_size:
        findings.append(TIGHT.found(folder=folder, free=free, largest=_megabytes(message_size)))
    else:
        findings.append(ROOM.found(free=free))
    if disk.inodes is not None and disk.inodes < LEAST_INODES:
        findings.append(FEW_INODES.found(folder=folder, count=disk.inodes))
    if disk.sync_seconds is not None:
        kind = SLOW if disk.sync_seconds > SLOW_SYNC else QUICK
        findings.append(kind.found(milliseconds=f"{disk.sync_seconds * 1000:.0f}"))
    return findings


def _time_sync(folder: Path) -> float:
    """Return how long one write takes to be on the disk, in seconds."""
    with tempfile.TemporaryFile(prefix=".doctor.", dir=folder) as file:
        file.write(b"\0" * 4096)
        file.flush()
        start = time.monotonic()
        os.fsync(file.fileno())
        return time.monotonic() - start


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
