"""``sendmail -bs``: SMTP on standard input and output, into the maildrop."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

from relay.cli.drop import Drop
from relay.config.loading import choose_hostname
from relay.config.model import Limits, Listen, ListenerTls
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.maildrop import write_envelope
from relay.mail.reply import Reply
from relay.reception.access import ClientLimits
from relay.reception.logins import Logins
from relay.reception.reverse import ReverseNames
from relay.reception.session import Session
from relay.reception.shared import Listener, SessionSettings, Shared
from relay.reception.tls import Certificate


def talk(folder: Path, limit: int) -> int:
    """Hold one SMTP session on standard input and output; return the exit status."""
    return asyncio.run(_talk(folder, limit))


async def _talk(folder: Path, limit: int) -> int:
    """Put a session of the relay's own server between standard input and output."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    settings = SessionSettings(choose_hostname(socket.gethostname()), limit)
    shared = Shared(ClientLimits(Limits()), ReverseNames(_none, _none), Logins({}))
    listener = Listener(Listen(), Certificate(ListenerTls(), ()))
    session = Session(_DropIntake(folder, limit), settings, listener, shared)
    await loop.connect_accepted_socket(lambda: session, _Loopback(fileno=far.detach()))
    Thread(target=_pass_on, args=(near,), daemon=True).start()
    with near, suppress(ConnectionError):
        while data := await asyncio.to_thread(near.recv, 65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    await session.wait_ended()
    return 0


class _Loopback(socket.socket):
    """An end of a pair of sockets, whose other end the session is to take for this machine."""

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 0)


def _pass_on(near: socket.socket) -> None:
    """Send standard input to the session, which may be over before its input is.

    A program that ends its first line in LF alone, as files do, ends them all so, the final dot's too.
    """
    ends_in_lf: bool | None = None
    with suppress(OSError):
        while sys.stdin is not None and (data := os.read(sys.stdin.fileno(), 65536)):
            if ends_in_lf is None and b"\n" in data:
                ends_in_lf = b"\r" not in data.partition(b"\n")[0]
            near.sendall(data.replace(b"\n", b"\r\n") if ends_in_lf else data)
    with suppress(OSError):
        near.shutdown(socket.SHUT_WR)


async def _none(_name: str) -> list[str]:
    return []


class _DropIntake:
    """Takes messages into the maildrop; recipients are judged by the relay."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    async def judge_sender(self, client: Client, reverse_path: str) -> Reply | None:  # noqa: ARG002 - see upload.Intake
        return None

    async def judge_recipient(self, client: Client, reverse_path: str, recipient: Recipient) -> Reply | None:  # noqa: ARG002 - as above
        return None

    def begin(self, client: Client, envelope: Envelope) -> _DropSink:  # noqa: ARG002 - as above
        return _DropSink(self._folder, self._limit, envelope)


class _DropSink:
    """One message, which is in the maildrop once it is finished."""

    def __init__(self, folder: Path, limit: int, envelope: Envelope) -> None:
        self._error = ""
        self._drop: Drop | None = None
        with self._noting():
            self._drop = Drop(folder, limit)
            self._drop.begin(write_envelope(envelope))

    async def write(self, chunk: bytes) -> None:
        if self._drop is not None and not self._error:
            with self._noting():
                self._drop.write(chunk)

    async def finish(self) -> Reply:
        if self._drop is not None and not self._error:
            with self._noting():
                self._drop.commit()
        if not self._error:
            return Reply(250, "2.0.0", "Ok: left for the relay")
        await self.abort()
        return Reply(451, "4.3.0", f"The message could not be left for the relay ({self._error}).")

    async def abort(self) -> None:
        if self._drop is not None:
            self._drop.discard()

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
