"""Putting a message into the relay's maildrop, as any user of the machine may."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path

from relay.files import short_name, sync_folder
from relay.mail.maildrop import WAKE


class TooLargeError(Exception):
    """The message is larger than the relay takes."""


class Drop:
    """A message on its way into the maildrop; it is there whole once ``commit`` has returned.

    A kill before leaves a hidden file at most, which the relay deletes after a day. Methods raise OSError.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """``limit`` is the size of the largest content."""
        self._folder = folder
        self._name = secrets.token_hex(16)  # nobody can list the folder, nor guess what is in it
        self._hidden = folder / f".{self._name}"
        self._room = limit
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._hidden, flags, 0o600), "wb")
        os.fchmod(self._file.fileno(), 0o644)  # the relay may run as another user
        fcntl.flock(self._file, fcntl.LOCK_EX)  # says that it is being written, for days if need be

    def begin(self, envelope: bytes) -> None:
        """Write the lines in front of the content."""
        self._file.write(envelope)

    def write(self, content: bytes) -> None:
        """Write some content. Raises TooLargeError."""
        self._room -= len(content)
        if self._room < 0:
            raise TooLargeError
        self._file.write(content)

    def commit(self) -> None:
        """Put the message into its place, on disk, and tell the relay, which may not be running."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._hidden.rename(self._folder / self._name)
        self._sync()
        self._file.close()
        self._knock()

    def discard(self) -> None:
        """Forget the message, unless it is in its place."""
        with suppress(OSError):
            self._file.close()
        self._hidden.unlink(missing_ok=True)

    def _sync(self) -> None:
        """See to it that the new name is on disk.

        Only its owner may open the folder; for others, syncing the file again does it on ext4, XFS and Btrfs.
        """
        try:
            sync_folder(self._folder)
        except PermissionError:
            os.fsync(self._file.fileno())

    def _knock(self) -> None:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knocker:
            knocker.setblocking(False)
            with short_name(self._folder / WAKE) as name:
                knocker.sendto(b"\n", name)
