"""What is in front of a server and behind it: Postfix's smtp-source and smtp-sink, and a plain client."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.isolation import RigError
from bench.servers import greets

SENDER, RECIPIENT = "a@example.com", "b@example.net"
LIMIT = 900.0
"""Seconds for one load to be taken, and again for it to be passed on."""


@dataclass(frozen=True, slots=True)
class Load:
    """Messages sent at once by smtp-source."""

    sessions: int
    size: int
    messages: int
    keeps: bool = True
    """Whether a session carries many messages; else each has a connection of its own."""
    recipient: str = RECIPIENT

    def send(self, port: int) -> float:
        """Send it; return the seconds until all of it was accepted. Raises RigError where some was not."""
        command = [
            "smtp-source",
            "-c",
            "-s",
            str(self.sessions),
            "-m",
            str(self.messages),
            "-l",
            str(self.size),
        ]
        command += ["-f", SENDER, "-t", self.recipient, *(["-d"] if self.keeps else []), f"127.0.0.1:{port}"]
        began = time.monotonic()
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
        except subprocess.CalledProcessError as error:
            raise RigError(f"smtp-source: {error.stderr.decode(errors='replace').strip()}") from error
        except subprocess.TimeoutExpired as error:
            raise RigError(f"smtp-source is not through after {LIMIT:.0f} s") from error
        return time.monotonic() - began


class Sink:
    """smtp-sink at a port; it counts what it takes. A context manager."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._path = Path("/dev/shm") / f"relay-bench-{os.getpid()}-{port}"

    def __enter__(self) -> Self:
        command = ["smtp-sink", "-u", "nobody", "-c", "-m", "1000", f"127.0.0.1:{self._port}", "1000"]
        with self._path.open("wb") as counter:
            self._process = subprocess.Popen(command, stdout=counter, stdin=subprocess.DEVNULL)
        for _ in range(500):
            if greets(self._port):
                return self
            time.sleep(0.01)
        raise RigError("smtp-sink does not answer")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._path.unlink()

    def count(self) -> int:
        """Return how many messages it has taken."""
        with self._path.open("rb") as counter:
            counter.seek(max(0, self._path.stat().st_size - 200))
            found = re.findall(rb"mesg=(\d+)\r", counter.read())
        return int(found[-1]) if found else 0

    def wait(self, count: int) -> None:
        """Return when it has taken so many. Raises RigError where that takes too long."""
        end = time.monotonic() + LIMIT
        while (taken := self.count()) < count:
            if time.monotonic() > end:
                raise RigError(f"only {taken} of {count} messages were passed on in {LIMIT:.0f} s")
            time.sleep(0.004)


class Client:
    """A connection over which single messages are sent. A context manager."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = self._socket.makefile("rb")
        self._read()
        self._ask("EHLO client.example.com")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._replies.close()
        self._socket.close()

    def send(self, size: int, recipient: str = RECIPIENT) -> tuple[float, float]:
        """Send a message; return the moments at which its final dot left and its reply came."""
        self._ask(f"MAIL FROM:<{SENDER}>")
        self._ask(f"RCPT TO:<{recipient}>")
        self._ask("DATA")
        head = f"From: <{SENDER}>\r\nTo: <{recipient}>\r\nSubject: one\r\n\r\n".encode()
        line = b"x" * 78 + b"\r\n"
        content = head + line * ((size - len(head)) // len(line)) + b".\r\n"
        left = time.monotonic()
        self._socket.sendall(content)
        self._read()
        return left, time.monotonic()

    def _ask(self, command: str) -> None:
        self._socket.sendall(command.encode() + b"\r\n")
        self._read()

    def _read(self) -> None:
        while (line := self._replies.readline())[3:4] == b"-":
            pass
        if line[:1] not in {b"2", b"3"}:
            raise RigError(f"the server says {line!r}")
