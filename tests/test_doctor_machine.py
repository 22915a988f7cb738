"""The clock and the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from relay.doctor.machine import Disk, check_clock, judge_disk, measure_disk
from tests.support.doctor import kinds

NOW = 1_800_000_000.0
DISK = Disk(Path("/queue"), free=10**9, inodes=10**6, sync_seconds=0.004)


@pytest.mark.parametrize(
    ("evidence", "found"),
    [
        ({}, "clock.fine ok"),
        ({"a message was received": NOW - 5, "the queue was written": NOW + 3000}, "clock.fine ok"),
        ({"a message was received": NOW - 5, "the queue was written": NOW + 4000}, "clock.behind problem"),
    ],
)
def test_the_clock_is_judged_by_what_has_happened(evidence: dict[str, float], found: str) -> None:
    assert kinds(check_clock(NOW, evidence)) == [found]


def test_a_clock_that_is_behind_is_told_with_its_proof() -> None:
    (finding,) = check_clock(0.0, {"the queue was written": NOW})
    assert finding.what == (
        "the clock says 1970-01-01 00:00 UTC, but the queue was written on 2027-01-15 08:00 UTC"
    )


@pytest.mark.parametrize(
    ("disk", "found"),
    [
        (DISK, ["disk.room ok", "disk.quick ok"]),
        (replace(DISK, free=100_000_000), ["disk.tight warning", "disk.quick ok"]),
        (replace(DISK, free=5_000_000), ["disk.full problem", "disk.quick ok"]),
        (replace(DISK, free=0, sync_seconds=None, error="No space left on device"), ["disk.full problem"]),
        (replace(DISK, inodes=7), ["disk.room ok", "disk.inodes warning", "disk.quick ok"]),
        (replace(DISK, inodes=None), ["disk.room ok", "disk.quick ok"]),
        (replace(DISK, sync_seconds=0.9), ["disk.room ok", "disk.slow warning"]),
        (
            replace(DISK, sync_seconds=None, error="Read-only file system"),
            ["disk.unwritable problem", "disk.room ok"],
        ),
        (replace(DISK, exists=False, sync_seconds=None), ["disk.unmade info", "disk.room ok"]),
    ],
)
def test_a_disk_is_judged(disk: Disk, found: list[str]) -> None:
    assert kinds(judge_disk(disk, 50_000_000)) == found


def test_a_folder_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    disk = measure_disk(tmp_path)
    assert (disk.exists, disk.error, list(tmp_path.iterdir())) == (True, "", [])
    assert disk.free > 0
    assert disk.sync_seconds is not None


def test_a_folder_that_is_not_there_yet_is_measured_where_it_will_be(tmp_path: Path) -> None:
    disk = measure_disk(tmp_path / "a" / "b")
    assert (disk.exists, disk.error, disk.sync_seconds) == (False, "", None)


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    # /proc is a file system in which nobody, root neither, makes files.
    assert measure_disk(Path("/proc/self/fdinfo")).error
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert measure_disk(tmp_path / "a").error == f"{tmp_path} is not for this user to write"
