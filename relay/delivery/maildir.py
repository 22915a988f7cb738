"""Delivery to the mailboxes of the house: one file for each message, in a Maildir.

The format is that of https://cr.yp.to/proto/maildir.html. A message is written to ``tmp/NAME``, synced and
renamed to ``new/NAME``; then ``new`` is synced, and only then the delivery counts. NAME is the same for all
attempts at a recipient. What a kill leaves:

- while folders are made: some of them; the next attempt makes the others. As root, one that has not got its
  owner yet has no rights (mode 0), by which the next attempt knows it.
- before the rename: ``tmp/NAME``, whole or not; the next attempt writes it anew. Where there is none, the
  programs that read the mailbox delete it after 36 hours.
- after the rename: the message in ``new`` or, once a mail program has seen it, in ``cur``. The next attempt
  finds it, syncs that folder and writes nothing. Where the message was moved to another folder or deleted
  meanwhile, its owner gets it again.

Whoever owns a Maildir must not make the relay write elsewhere: no link is followed, but on the way to the
Maildir one that only root or the relay's own user can have made.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
import stat
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from relay.delivery.agent import ContentError, Report, Transfer, explain_error
from relay.mail.attempt import Attempt, Claim, Scope
from relay.mail.envelope import Message, Recipient
from relay.mail.headers import split_content
from relay.mail.lines import end_lines_in_lf
from relay.mail.reply import Reply
from relay.mail.route import Mailbox
from relay.mail.trace import delivery_headers, was_delivered_to
from relay.threads import in_thread

MAILDIR = "maildir"
"""What stands in the log and in the queue in the place of a server and of a next hop."""
WRITERS = 4
"""Copies that are written at once."""
BACKLOG = 100
"""Copies that may wait in memory."""
LONGEST_HOST = 128
"""Characters of the host name in a file name: with the flags that mail programs add, 255 are the limit."""

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_RIGHTS = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO
"""Without the bit for the group that a new folder inherits, as in Debian's /var/mail."""
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_ALLOWED = "let the relay write there; it runs as the user with the number {uid}"
_ADVICE = {
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: "mount its file system for writing",
    errno.ENOTDIR: "it is no folder, or a link that a user may have made: write the real path in relay.toml",
}

Owner = tuple[int, int] | None
"""User and group of what is made; None: those of the relay."""


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One copy of a message."""

    claim: Claim
    recipient: Recipient
    mailbox: Mailbox
    report: Report


class Maildirs:
    """Writes messages to mailboxes, a few at a time, in threads: a slow disk stops nothing else."""

    def __init__(
        self, hostname: str, read: Callable[[int], AsyncIterator[bytes]], changed: Callable[[], None]
    ) -> None:
        """``read`` yields the content of a queued message, and raises where it cannot.

        ``changed`` is called when there was no room and may be some again.
        """
        self._hostname = hostname
        self._read = read
        self._changed = changed
        self._waiting: deque[_Delivery] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._has_turned_away = False
        self._is_closing = False
        self._is_cut_short = False

    def room(self) -> int:
        """Return how many more messages are taken: none, or at least half of the backlog, as in a lane."""
        if len(self._waiting) >= BACKLOG // 2:
            self._has_turned_away = True
            return 0
        return BACKLOG - len(self._waiting)

    def submit(self, mailbox: Mailbox, transfer: Transfer) -> bool:
        """Take a message for a mailbox; return False where far too many wait already, as a lane does."""
        if self._is_closing:
            transfer.fail(None)
        elif len(self._waiting) >= 2 * BACKLOG:
            self._has_turned_away = True
            return False
        else:
            for recipient in transfer.recipients:
                self._waiting.append(_Delivery(transfer.claim, recipient, mailbox, transfer.report))
            self._employ()
        return True

    async def close(self, grace_seconds: float) -> None:
        """Give up what waits, and let what has begun finish within the grace.

        What has not finished then is an attempt that failed, though it may get through yet.
        """
        self._is_closing = True
        while self._waiting:
            delivery = self._waiting.popleft()
            delivery.report({delivery.recipient: None})
        if self._writing:
            _, late = await asyncio.wait(self._writing, timeout=grace_seconds)
            self._is_cut_short = True
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _employ(self) -> None:
        while self._waiting and len(self._writing) < WRITERS:
            delivery = self._waiting.popleft()
            self._writing.add(asyncio.get_running_loop().create_task(self._carry(delivery)))
        if self._has_turned_away and len(self._waiting) < BACKLOG // 2:
            self._has_turned_away = False
            self._changed()

    async def _carry(self, delivery: _Delivery) -> None:
        loop = asyncio.get_running_loop()
        attempt = _fail(Reply(451, "4.3.2", "the relay was stopped while it wrote the message"))
        try:
            attempt = await in_thread(partial(self._deliver, delivery, loop))
        except Exception as error:
            reply = explain_error(f"delivery of {delivery.claim.message.queue_id}", error)
            attempt = _fail(reply, Scope.MESSAGE)
        finally:
            self._writing.discard(asyncio.current_task())
            delivery.report({delivery.recipient: attempt})
            self._employ()

    # In a thread

    def _deliver(self, delivery: _Delivery, loop: asyncio.AbstractEventLoop) -> Attempt:
        """Return what became of one copy. Raises ContentError."""
        claim, recipient, mailbox = delivery.claim, delivery.recipient, delivery.mailbox
        message = claim.message
        chunks = self._pull(message.number, loop) if claim.content is None else iter([claim.content])
        start = bytearray()
        for chunk in chunks:
            start += chunk
            if len(start) >= message.header_size:
                break
        headers, _ = split_content(bytes(start[: message.header_size]))
        if was_delivered_to(recipient.address, headers):
            return _fail(Reply(554, "5.4.6", f"mail forwarding loop for {recipient.address}"))
        trace = delivery_headers(message.envelope.reverse_path, recipient)
        lines = end_lines_in_lf(chain([trace, bytes(start)], chunks))
        name = make_name(message, recipient, self._hostname)
        try:
            write_message(mailbox, name, lines, is_first=claim.attempt_number == 1)
        except OSError as error:
            return _fail(_explain(mailbox, error))
        return Attempt(Reply(250, "2.0.0", "delivered to mailbox"), host=MAILDIR, next_hop=MAILDIR)

    def _pull(self, number: int, loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
        """Yield the content of a message, as the event loop reads it. Raises ContentError."""
        chunks = self._read(number)

        async def read() -> bytes | None:
            return await anext(chunks, None)

        while not self._is_cut_short:
            try:
                chunk = asyncio.run_coroutine_threadsafe(read(), loop).result()
            except Exception as error:
                raise ContentError(str(error)) from error
            if chunk is None:
                return
            yield chunk
        raise ContentError("the relay was stopped")


def make_name(message: Message, recipient: Recipient, hostname: str) -> str:
    """Return the name of the file for one recipient of a message."""
    host = hostname.replace("/", r"\057").replace(":", r"\072")[:LONGEST_HOST]
    return f"{int(message.received_at)}.{message.queue_id}_{recipient.index}.{host}"


def write_message(mailbox: Mailbox, name: str, chunks: Iterable[bytes], *, is_first: bool) -> None:
    """Put a message into a Maildir, which is made where it is missing; it is on disk when this returns.

    Where this is not the first attempt, an earlier one may have got through: that is looked for, and enough.
    Raises OSError, and whatever ``chunks`` raises.
    """
    with ExitStack() as opened:
        folder, tmp, new, cur = _open_maildir(mailbox, opened)
        if not is_first:
            # In this order: a message may move from "new" to "cur" meanwhile.
            for place in (new, cur):
                if any(found.startswith(name) for found in _list(place)):
                    _sync(place)
                    return
        try:
            _write_file(tmp, name, _choose_owner(mailbox.user, folder), chunks)
            os.rename(name, name, src_dir_fd=tmp, dst_dir_fd=new)
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=tmp)
            raise
        _sync(new)


def _fail(reply: Reply, scope: Scope = Scope.RECIPIENT) -> Attempt:
    return Attempt(reply, scope, host=MAILDIR, next_hop=MAILDIR)


def _explain(mailbox: Mailbox, error: OSError) -> Reply:
    """Return why a mailbox could not be written, and what to do about it."""
    if error.errno == errno.EDQUOT:
        return Reply(452, "4.2.2", f"the mailbox of {mailbox.user} is full: its quota is used up")
    if error.errno == errno.ENOSPC:
        where = f"no room on the disk of the mailbox {mailbox.folder}"
        return Reply(452, "4.3.1", f"{where}: free some space there")
    place = error.filename if Path(str(error.filename)).is_absolute() else mailbox.folder
    words = f"the mailbox of {mailbox.user} cannot be written: {place}: {error.strerror}"
    advice = _ADVICE.get(error.errno or 0, "").format(uid=os.geteuid())
    return Reply(451, "4.3.0", f"{words}; {advice}" if advice else words)


# Files and folders, by their names in an open folder: nothing can be put in the place of one meanwhile


def _open_maildir(mailbox: Mailbox, opened: ExitStack) -> tuple[int, int, int, int]:
    """Open a Maildir by way of each folder above it, and its parts; make what is missing."""
    path = mailbox.folder.absolute()
    folder = _keep(os.open(path.anchor, _FOLDER), opened)
    for step in (*reversed(path.parents[:-1]), path):
        with _naming(step):
            folder = _keep(_enter_or_follow(folder, step.name, mailbox.user), opened)
    parts = []
    for name in ("tmp", "new", "cur"):
        with _naming(path / name):
            parts.append(_keep(_enter(folder, name, mailbox.user), opened))
    tmp, new, cur = parts
    return folder, tmp, new, cur


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors name a whole path."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _enter_or_follow(here: int, name: str, user: str) -> int:
    """Open a folder, or what a link leads to that only root or the relay's user can have made."""
    try:
        return _enter(here, name, user)
    except NotADirectoryError:
        link = os.stat(name, dir_fd=here, follow_symlinks=False)
        is_trusted = {link.st_uid, os.fstat(here).st_uid} <= {0, os.geteuid()}
        if not (stat.S_ISLNK(link.st_mode) and is_trusted):
            raise
        return os.open(name, _FOLDER, dir_fd=here)


def _enter(here: int, name: str, user: str) -> int:
    """Open a folder that is no link; make it where it is missing."""
    with suppress(FileNotFoundError):
        folder = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=here)
        if os.geteuid() != 0 or os.fstat(folder).st_mode & _RIGHTS:
            return folder
        os.close(folder)
    _make(here, name, _choose_owner(user, here))
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=here)


def _make(here: int, name: str, owner: Owner) -> None:
    """Make a folder, or finish one that a killed attempt had begun to make; then it is on disk."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700 if owner is None else 0, dir_fd=here)
    if owner is not None:
        with ExitStack() as opened:
            folder = _keep(os.open(name, os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here), opened)
            found = os.fstat(folder)
            if found.st_uid in {0, owner[0]} and not found.st_mode & _RIGHTS and not _list(folder):
                os.fchown(folder, *owner)
                os.fchmod(folder, 0o700)
            elif found.st_uid != owner[0]:
                # Whoever owns the folder above has put another one in its place: it is not ours to give away.
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), name)
    _sync(here)


def _choose_owner(user: str, folder: int) -> Owner:
    """Return who gets what is made in a folder: its owner or, where that is root, the account of the user."""
    if os.geteuid() != 0:
        return None
    owner = os.fstat(folder)
    if owner.st_uid == 0:
        with suppress(KeyError):
            account = pwd.getpwnam(user)
            return account.pw_uid, account.pw_gid
    return owner.st_uid, owner.st_gid


def _write_file(folder: int, name: str, owner: Owner, chunks: Iterable[bytes]) -> None:
    """Write a file anew; its content is on disk when this returns."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    with os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=folder), "wb") as file:
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())


def _keep(descriptor: int, opened: ExitStack) -> int:
    opened.callback(os.close, descriptor)
    return descriptor


def _list(folder: int) -> list[str]:
    with ExitStack() as opened:
        return os.listdir(_open_again(folder, opened))


def _sync(folder: int) -> None:
    """See to it that the names in a folder are on disk."""
    with ExitStack() as opened:
        try:
            os.fsync(_open_again(folder, opened))
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that does it by itself or cannot do it
                raise


def _open_again(folder: int, opened: ExitStack) -> int:
    """Open a folder to be read: until here its path was enough, for which the right to enter it is."""
    return _keep(os.open(".", os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder), opened)
