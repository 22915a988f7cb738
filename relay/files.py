"""What several rooms ask of the file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """See to it that the names in a folder are on disk; raises OSError where it may not be read."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, text: str, mode: int) -> None:
    """Put a text into a file that must not be there yet. Raises OSError, FileExistsError among them.

    What goes wrong leaves no file, nor does Ctrl-C; a kill, or the end of power, may leave a part of it.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink()
        raise


def hand_over(path: Path, folder: Path) -> None:
    """Give what root made to the owner of a folder, so that the service can read it. Raises OSError."""
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """Yield a name of the path that fits into a socket address (108 bytes), wherever its folder is.

    The right to enter the folder is enough.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
