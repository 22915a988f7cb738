"""The maildrop: messages of programs on this machine, taken from a folder that anybody may write to.

Nobody but the relay can list it. Who submits is the owner of the file, whatever it says. docs/queue.md tells
what a crash leaves at each step.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import pwd
import re
import secrets
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from relay import events
from relay.files import short_name, sync_folder
from relay.mail.envelope import Client, Envelope, Message, parse_queue_id
from relay.mail.headers import split_content
from relay.mail.maildrop import DATA, LONGEST_ENVELOPE, WAKE, read_envelope
from relay.mail.reply import Reply
from relay.reception.content import ChunkReader
from relay.reception.intake import Arrival, Intake
from relay.reception.upload import Upload

FOLDER_MODE = 0o1733
"""Anybody may put files in, nobody else may list them or take away those of others."""
LOOK_SECONDS = 60.0
"""How often the maildrop is looked at without being told: for senders that could not reach the socket."""
MOST_FILES = 1000
"""Files that one look takes in."""
STALE_SECONDS = 86400.0
"""After which a file that nobody finished is deleted."""

_LONGEST_LINE = 12288
_READ_SIZE = 65536
_RETURNED = 50_000
"""Bytes of a refused message that its report may show."""
_TAKEN = re.compile(r"(.+)\.([0-9A-F]{1,15})", re.DOTALL)
"""The name of a file that is being taken in: its own, which nobody can guess, and the queue id."""
_LONGEST_NAME = 50
"""Characters of its own name that it keeps then, whatever bytes they take."""
_REFUSED = ".refused-"
_UNFIT = frozenset({errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO})
"""Errors that a symbolic link, a file that only its owner may read, or a socket brings about."""


class Maildrop:
    """Takes in what lies in the maildrop, at once where its senders can say so."""

    def __init__(
        self,
        folder: Path,
        intake: Intake,
        *,
        limit: int,
        is_known: Callable[[int], Awaitable[bool]],
        report: Callable[[Message, bytes, Reply], Awaitable[None]],
    ) -> None:
        """``limit`` is the size of the largest message; ``is_known`` tells whether the queue had a message.

        ``report`` tells the sender why a message was refused: of its beginning, and of the refusal.
        """
        self._folder = folder
        self._intake = intake
        self._limit = limit
        self._is_known = is_known
        self._report = report
        self._knocked = asyncio.Event()
        self._socket: socket.socket | None = None

    async def open(self) -> None:
        """Make the maildrop, and listen for senders; where that fails, mail from elsewhere goes on.

        What got into the queue before a kill is deleted here: the queue may forget soon that it knew it.
        """
        try:
            self._make()
            for name in await asyncio.to_thread(os.listdir, self._folder):
                if await self._was_taken_in(name):
                    _remove(self._folder / name)
            self._listen()
        except OSError as error:
            events.warned(f"sendmail does not work: {self._folder}: {error.strerror}")

    def configure(self, intake: Intake, limit: int) -> None:
        """Follow a changed configuration from the next message on."""
        self._intake = intake
        self._limit = limit

    def close(self) -> None:
        """Listen no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            (self._folder / WAKE).unlink(missing_ok=True)

    async def run(self) -> None:
        """Take messages in until cancelled."""
        while True:
            self._knocked.clear()
            await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._knocked.wait()

    def _make(self) -> None:
        with suppress(FileExistsError):
            self._folder.mkdir()
            self._folder.chmod(FOLDER_MODE)

    def _listen(self) -> None:
        wake = self._folder / WAKE
        if wake.is_dir() and not wake.is_symlink():  # anybody may have made it
            self._set_aside(wake, "it is in the way")
        wake.unlink(missing_ok=True)
        knocker = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            with short_name(wake) as name:
                knocker.bind(name)
            wake.chmod(0o622)
        except OSError:
            knocker.close()
            raise
        self._socket = knocker
        asyncio.get_running_loop().add_reader(knocker, self._hear)

    def _hear(self) -> None:
        assert self._socket is not None
        with suppress(BlockingIOError):
            self._socket.recv(1)
        self._knocked.set()

    async def _look(self) -> None:
        """Take in what is there, one file after the other; none that fails keeps the others waiting."""
        try:
            names = await asyncio.to_thread(_list, self._folder)
        except OSError as error:
            events.warned(f"the maildrop {self._folder} can't be looked at now: {error.strerror}")
            return
        is_shorter = False
        for name in names:
            try:
                is_shorter = await self._take(name) or is_shorter
            except OSError as error:
                events.warned(f"maildrop: {name} waits there: {error.strerror}")
            except Exception as error:
                events.failed(f"maildrop: {name}", error)
        if is_shorter and len(names) == MOST_FILES:
            self._knocked.set()

    async def _was_taken_in(self, name: str) -> bool:
        taken = _TAKEN.fullmatch(name)
        number = parse_queue_id(taken[2]) if taken else None
        return number is not None and await self._is_known(number)

    async def _take(self, name: str) -> bool:
        """Take in one file; return whether it is gone. Raises OSError where it may be better later."""
        path = self._folder / name
        if await self._was_taken_in(name):
            _remove(path)
            return True
        try:
            file = _open_regular(path)
        except FileNotFoundError:
            return True
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _UNFIT:
                raise
            self._set_aside(path, str(error))
            return True
        with file:
            uid = os.fstat(file.fileno()).st_uid
            user = _name_of(uid)
            try:
                envelope = await asyncio.to_thread(lambda: read_envelope([*_envelope_lines(file)]))
            except ValueError as error:
                self._set_aside(path, f"{error} (of the user {user})")
                return True
            client = Client(f"uid {uid}", user, user=user, uid=uid)
            return await self._take_in(path, file, client, envelope)

    def _set_aside(self, path: Path, reason: str) -> None:
        """Hide what is no message, whatever it is and whoever it belongs to: it may be wanted."""
        hidden = path.with_name(_REFUSED + secrets.token_hex(8))
        path.rename(hidden)
        events.warned(f"maildrop: {path.name} is set aside as {hidden}: {reason}")

    async def _take_in(self, path: Path, file: BinaryIO, client: Client, envelope: Envelope) -> bool:
        arrival = self._intake.begin(client, envelope)
        # From here on a crash finds the number that the message has, if it got into the queue. Its own
        # name stays part of the new one: by the number alone, which can be guessed, others could read it.
        before = _TAKEN.fullmatch(path.name)
        own = before[1] if before else path.name
        taken = path.with_name(f"{own[:_LONGEST_NAME]}.{arrival.queue_id}")
        await asyncio.to_thread(_rename, path, taken)
        upload = Upload(arrival, client, self._limit)
        if refusal := await self._intake.judge_envelope(client, envelope):
            await upload.drop(refusal)
        reader, start = ChunkReader(), bytearray()
        while chunk := await asyncio.to_thread(file.read, _READ_SIZE):
            content = reader.feed(chunk)
            start += content[: _RETURNED - len(start)]
            await upload.write(content)
            if upload.refusal:
                break
        await upload.write(reader.finish())
        reply = await upload.finish()
        if reply.is_permanent:
            events.refused(client, "sendmail", reply, envelope.reverse_path)
            message = _describe(arrival, bytes(start), max(upload.size, len(start)))
            await self._report(message, bytes(start), reply)
        if not (reply.is_positive or reply.is_permanent):
            events.warned(f"maildrop: a message of {client} waits there: {reply}")
            return False
        await asyncio.to_thread(taken.unlink)
        return True


def _describe(arrival: Arrival, start: bytes, size: int) -> Message:
    """Return what a report says of a message that was refused."""
    headers, _ = split_content(start)
    return arrival.describe(size=size, header_size=sum(map(len, headers)))


def _list(folder: Path) -> list[str]:
    """Return the files to look at, and delete what somebody began long ago and never finished."""
    names: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(names) == MOST_FILES:
                break
            if not entry.name.startswith("."):
                names.append(entry.name)
            elif entry.name != WAKE and not entry.name.startswith(_REFUSED) and _is_stale(entry):
                _remove(folder / entry.name)
    return sorted(names)


def _is_stale(entry: os.DirEntry[str]) -> bool:
    """Whether a hidden file was left long ago, and no ``relay send`` still waits for more of it."""
    try:
        if entry.stat(follow_symlinks=False).st_mtime > time.time() - STALE_SECONDS:
            return False
        with _open_regular(Path(entry.path)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False
    except (OSError, ValueError):
        pass  # no message in the making
    return True


def _open_regular(path: Path) -> BinaryIO:
    """Open a file that is what it seems; raises ValueError where it is not, and OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise ValueError("it is no file of its own")
    return os.fdopen(descriptor, "rb")


def _envelope_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines in front of the content. Raises ValueError where they don't end."""
    size = 0
    while (line := file.readline(_LONGEST_LINE)) != DATA:
        size += len(line)
        if not line.endswith(b"\n") or size > LONGEST_ENVELOPE:
            raise ValueError("its envelope has no end")
        yield line


def _rename(path: Path, taken: Path) -> None:
    """Rename a file, and see to it that its new name is on disk."""
    path.rename(taken)
    sync_folder(taken.parent)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
