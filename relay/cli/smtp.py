"""``sendmail -bs``: SMTP on standard input and output, into the maildrop."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from socket import gethostname
from threading import Thread

from relay.cli.drop import Drop
from relay.config.loading import choose_hostname
from relay.config.model import Limits, Listen, ListenerTls
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.maildrop import write_envelope
from relay.mail.reply import Reply
from relay.reception.logins import Logins
from relay.reception.reverse import ReverseNames
from relay.reception.server import Reception
from relay.reception.shared import SessionSettings


def talk(folder: Path, limit: int) -> int:
    """Hold one SMTP session on standard input and output; return the exit status."""
    return asyncio.run(_talk(folder, limit))


async def _talk(folder: Path, limit: int) -> int:
    """Put the session of the relay's own server between standard input and output.

    For that it listens on loopback; whoever else connects there gets what any user of this machine may do.
    """
    settings = SessionSettings(choose_hostname(gethostname()), limit)
    intake, names = _DropIntake(folder, limit), ReverseNames(_none, _none)
    reception = Reception(intake, settings, Limits(), names, Logins({}))
    await reception.open([Listen("127.0.0.1", 0)], ListenerTls())
    host, _, port = reception.addresses[0].rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    if sys.stdin is None:
        writer.write_eof()
    else:
        Thread(target=_pass_on, args=(asyncio.get_running_loop(), writer), daemon=True).start()
    while data := await reader.read(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    writer.close()
    await reception.close(0)
    return 0


def _pass_on(loop: asyncio.AbstractEventLoop, writer: asyncio.StreamWriter) -> None:
    while data := os.read(sys.stdin.fileno(), 65536):
        asyncio.run_coroutine_threadsafe(_write(writer, data), loop).result()
    loop.call_soon_threadsafe(writer.write_eof)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


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
        self._drop = Drop(folder, limit)
        self._drop.begin(write_envelope(envelope))

    async def write(self, chunk: bytes) -> None:
        self._drop.write(chunk)

    async def finish(self) -> Reply:
        self._drop.commit()
        return Reply(250, "2.0.0", "Ok: left for the relay")

    async def abort(self) -> None:
        self._drop.discard()
