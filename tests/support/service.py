"""The real program as a process of its own: started, stopped, killed and asked; its log is kept."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import tomllib
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from tests.support.dns_server import failing_nameserver
from tests.support.reception import Peer
from tests.support.smtp_server import ScriptedServer, Session

PATIENCE = 30.0
"""Seconds after which a test fails that waits for something."""
HOSTNAME = "gw1.maison.mrs"
_RELAY = (sys.executable, "-m", "relay")


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    status: int
    out: str
    err: str


async def run(*arguments: str | Path) -> Finished:
    """Run a ``relay`` command to its end."""
    return await run_program(*_RELAY, *arguments)


async def run_program(*arguments: str | Path, given: bytes = b"") -> Finished:
    """Run a program to its end, with ``given`` on its standard input; it must not show a traceback."""
    process = await asyncio.create_subprocess_exec(*arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    finished = Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
    assert not (flaw := find_flaw(finished.out + finished.err)), flaw
    return finished


def find_flaw(text: str) -> str:
    """Return what no user must ever see, with what surrounds it: a traceback, a warning of Python."""
    found = re.search("Traceback|Warning", text)
    return text[max(0, found.start() - 500) : found.end() + 5000] if found else ""


class Service:
    """A relay with its configuration and queue in a folder; use it as an async context manager.

    What ``toml`` leaves out is filled in: a free port of the loopback interface, the host name, the queue,
    and a name server that fails, so that no sender's domain is known not to exist.
    """

    def __init__(self, folder: Path, toml: str = "", *, under: Sequence[str | Path] = ()) -> None:
        """``under`` is a command that runs the relay, such as strace with its options."""
        self._folder = folder
        self.config = folder / "relay.toml"
        settings = self._complete(toml)
        self.config.write_text(tomli_w.dumps(settings))
        self.queue_path = Path(settings["queue"]["path"])
        self.log = ""
        """All that the relay wrote, of all its lives."""
        self.port = 0
        self._under = under
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._has_more = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            await self.stop()
        assert not (flaw := find_flaw(self.log)), flaw

    @property
    def pid(self) -> int:
        """The relay's process number, also where it runs under another command."""
        return int(self.queue_path.with_name(f"{self.queue_path.name}.lock").read_text())

    async def start(self) -> None:
        """Start the relay and wait until it answers."""
        past = len(self.log)
        self._process = await asyncio.create_subprocess_exec(
            *self._under, *_RELAY, "serve", "--config", self.config, stdout=PIPE, stderr=STDOUT
        )
        self._reader = asyncio.create_task(self._read_log(self._process))
        await self.logged(r" listening on \S+:\d+", past=past)
        ports = re.findall(r" listening on \S+:(\d+)", self.log[past:])
        self.port = int(ports[0])

    async def configure(self, toml: str) -> None:
        """Change the configuration, as an editor does that replaces the file, until it is applied."""
        past = len(self.log)
        draft = self.config.with_suffix(".new")
        draft.write_text(tomli_w.dumps(self._complete(toml)))
        draft.rename(self.config)
        os.kill(self.pid, signal.SIGHUP)
        await self.logged("relay.toml is applied", past=past)

    async def stop(self) -> int:
        """Send SIGTERM, and return the exit status once the relay is gone."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """Send SIGKILL, and wait until the relay is gone."""
        assert await self._end(signal.SIGKILL) == -signal.SIGKILL

    async def logged(self, pattern: str, count: int = 1, *, past: int = 0) -> list[str]:
        """Wait until the log, from ``past`` on, matches a pattern so often; return what it matched."""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(found := re.findall(pattern, self.log[past:])) < count:
                    assert self._reader is not None
                    assert not self._reader.done(), f"the relay ended without {pattern}:\n{self.log}"
                    await self._has_more.wait()
                    self._has_more.clear()
        except TimeoutError:
            raise AssertionError(f"not logged {count} times: {pattern}\n{self.log[-5000:]}") from None
        return found

    async def command(self, *arguments: str) -> Finished:
        """Run a ``relay`` command with the configuration of this relay."""
        return await run(*arguments, "--config", self.config)

    async def queue(self) -> list[dict[str, Any]]:
        """Return the queue as ``relay queue list --json`` prints it, with the relay up or down."""
        listed = await self.command("queue", "list", "--json")
        assert listed.status == 0, listed.err
        messages: list[dict[str, Any]] = json.loads(listed.out)
        return messages

    async def emptied(self, seconds: float = PATIENCE) -> None:
        """Wait until the queue is empty."""
        async with asyncio.timeout(seconds):
            while await self.queue():
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def client(self, *, greet: bool = True) -> AsyncIterator[Peer]:
        """Connect a client that sends and reads bytes, and read the greeting."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        peer = Peer(reader, writer)
        try:
            if greet:
                assert (await peer.reply()).startswith("220 ")
            yield peer
        finally:
            await peer.close()

    async def send(self, content: bytes, *recipients: str, sender: str = "chris@free.fr") -> str:
        """Send a message in a session of its own and return the last reply; dots must be stuffed already."""
        async with self.client() as peer:
            await peer.ask("EHLO chris", f"MAIL FROM:<{sender}>")
            for recipient in recipients:
                reply = await peer.ask(f"RCPT TO:<{recipient}>")
                if not reply.startswith("250 "):
                    return reply
            reply = await peer.ask("DATA")
            if reply.startswith("354 "):
                peer.send(content + b".\r\n")
                reply = await peer.reply()
            await peer.ask("QUIT")
            return reply

    def _complete(self, toml: str) -> dict[str, Any]:
        settings = tomllib.loads(toml)
        settings.setdefault("hostname", HOSTNAME)
        settings.setdefault("listen", [{"address": "127.0.0.1:0"}])
        settings.setdefault("web", {}).setdefault("address", "")
        settings.setdefault("dns", {}).setdefault("nameservers", [failing_nameserver()])
        settings.setdefault("queue", {}).setdefault("path", str(self._folder / "queue.db"))
        return settings

    async def _read_log(self, process: Process) -> None:
        assert process.stdout is not None
        rest = b""
        while more := await process.stdout.read(2**16):
            lines, end, rest = (rest + more).rpartition(b"\n")
            self.log += (lines + end).decode(errors="replace")
            self._has_more.set()
        self.log += rest.decode(errors="replace")
        self._has_more.set()

    async def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        assert self._reader is not None
        if self._process.returncode is None:
            if self._under:
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            else:
                self._process.send_signal(number)
        try:
            async with asyncio.timeout(PATIENCE):
                status = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            raise
        await self._reader
        self._process = None
        return status


@dataclass(frozen=True)
class Delivery:
    """A message as a next hop took it."""

    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def header(self) -> bytes:
        """The header block."""
        return self.content.partition(b"\r\n\r\n")[0] + b"\r\n"

    @property
    def without_trace(self) -> bytes:
        """The content without its first header, which must be the relay's own trace header."""
        trace = re.match(
            rb"Received: from [^\r]*\r\n\tby \S+ \(relay\) (?:[^\r]*\r\n[\t ])*[^\r]*\r\n", self.content
        )
        assert trace, self.content[:200]
        return self.content[trace.end() :]


def deliveries(server: ScriptedServer) -> list[Delivery]:
    """Return what a server took, session by session; it must have accepted all recipients."""
    return [delivery for session in server.sessions for delivery in _deliveries(session)]


def _deliveries(session: Session) -> Iterator[Delivery]:
    contents = iter(session.messages)
    reverse_path = ""
    recipients: list[str] = []
    for command in session.commands:
        path = re.match(rb"(MAIL FROM|RCPT TO):<([^>]*)>", command)
        if path and path[1] == b"MAIL FROM":
            reverse_path, recipients = path[2].decode(), []
        elif path:
            recipients.append(path[2].decode())
        elif command == b"DATA":
            content = next(contents, None)
            if content is not None:
                yield Delivery(reverse_path, tuple(recipients), content)
