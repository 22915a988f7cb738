"""The servers that are compared: how each is configured, started, told to deliver now, and stopped."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, TextIO

from bench.isolation import RigError
from bench.machine import Group

NEXT_HOP = 2600
"""The port where mail for everybody goes: smtp-sink listens there."""
LATER_HOP = 2601
"""The port where mail for LATER goes: nobody listens, until a backlog is to drain."""
LATER = "b@later.example"
PATIENCE = 60.0
"""Seconds after which a server counts as dead that does not answer."""
RETRY = "2h"
"""So that the figures at a full queue have no retries among them."""


class Server(ABC):
    """One server, from an empty queue. ``spool`` is the folder of its queue, ``folder`` has all else.

    ``root`` is the file system that the relay is taken from, None where it is the tree's.
    """

    name: ClassVar[str]
    port: ClassVar[int]
    extra: ClassVar[str] = ""
    """What is added to its configuration."""

    def __init__(self, folder: Path, spool: Path, groups: Path, root: Path | None = None) -> None:
        self.folder = folder / self.name
        self.spool = spool / f"{self.name}-queue"
        self._groups = groups
        self._root = root
        self._group: Group | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: TextIO | None = None

    @property
    def group(self) -> Group:
        """Its processes, while it runs."""
        assert self._group is not None
        return self._group

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    def set_up(self) -> None:
        """Write the configuration and make an empty queue."""
        for folder in (self.folder, self.spool):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.configure()

    def start(self, *under: str) -> float:
        """Start it, if need be under another command; return the seconds until it said 220."""
        self._group = Group(self._groups / self.name)
        self._log = (self.folder / "output").open("a")
        began = time.monotonic()
        self._process = subprocess.Popen(
            self.group.wrap([*under, *self.start_command()]),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self._wait_ready()
        except RigError:
            self.stop()
            raise
        return time.monotonic() - began

    def stop(self) -> None:
        """Stop it; its queue stays."""
        assert self._process is not None
        assert self._log is not None
        self.ask_to_stop()
        try:
            self._process.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.group.close()
        self._process.wait()
        self._log.close()
        self._group = None

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration."""

    @abstractmethod
    def start_command(self) -> list[str]:
        """Return what starts it."""

    @abstractmethod
    def ask_to_stop(self) -> None:
        """Begin to stop it."""

    @abstractmethod
    def flush_command(self) -> list[str]:
        """Return what has it try all that waits, now."""

    @abstractmethod
    def list_command(self) -> list[str]:
        """Return what lists its queue."""

    @abstractmethod
    def health_command(self) -> list[str]:
        """Return what asks it whether it is well, where there is such a thing."""

    def _wait_ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if greets(self.port):
                return
            if self._process is not None and self._process.poll():
                break
            time.sleep(0.003)
        output = " ".join((self.folder / "output").read_text().split())[-300:]
        raise RigError(f"{self.name} does not answer at port {self.port}: {output}")


class Relay(Server):
    """The relay of this tree, or that of an image, its durability as it is by default."""

    name = "relay"
    port = 2525

    def configure(self) -> None:
        (self.folder / "relay.toml").write_text(f"""\
hostname = "relay.example.com"
relayhost = "[127.0.0.1]:{NEXT_HOP}"

[[listen]]
address = "127.0.0.1:{self.port}"

[web]
address = ""

[access]
networks = ["127.0.0.0/8"]

[transport]
"later.example" = "[127.0.0.1]:{LATER_HOP}"

[queue]
path = {json.dumps(str(self.spool / "queue.db"))}
retry = ["{RETRY}"]

[limits]
message_size = "100MB"
connections = 5000
connections_per_client = 5000
{self.extra}
""")

    def start_command(self) -> list[str]:
        return self._command("serve")

    def ask_to_stop(self) -> None:
        assert self._process is not None
        self._process.terminate()

    def flush_command(self) -> list[str]:
        return self._command("queue", "retry", "--all")

    def list_command(self) -> list[str]:
        return self._command("queue", "list")

    def health_command(self) -> list[str]:
        return self._command("healthcheck")

    def _command(self, *words: str) -> list[str]:
        return [
            *python_command(self._root),
            "-m",
            "relay",
            *words,
            "--config",
            str(self.folder / "relay.toml"),
        ]


class Postfix(Server):
    """Debian's package as it comes, but that it refuses nothing and that its folders are the run's own."""

    name = "postfix"
    port = 2526

    def configure(self) -> None:
        etc, data = self.folder / "etc", self.folder / "data"
        for folder in (etc, etc / "dynamicmaps.cf.d", etc / "postfix-files.d", data):
            folder.mkdir()
        shutil.chown(data, "postfix")
        for name in ("dynamicmaps.cf", "postfix-files"):
            if (source := Path("/etc/postfix") / name).exists():
                shutil.copy(source, etc)
        (etc / "main.cf").write_text(f"""\
compatibility_level = 3.6
queue_directory = {self.spool}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
maillog_file_prefixes = {self.folder}
maillog_file = {self.folder}/mail.log
myhostname = relay.example.com
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtp_host_lookup = native
relayhost = [127.0.0.1]:{NEXT_HOP}
transport_maps = inline:{{later.example=smtp:[127.0.0.1]:{LATER_HOP}}}
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_connection_count_limit = 0
message_size_limit = 100000000
mailbox_size_limit = 0
minimal_backoff_time = {RETRY}
maximal_backoff_time = {RETRY}
{self.extra}
""")
        (etc / "master.cf").write_text("\n".join(self._services()) + "\n")
        # It makes the folders of the queue, which is no part of a start.
        subprocess.run(["postfix", "-c", etc, "check"], check=True, capture_output=True)

    def start_command(self) -> list[str]:
        return self._command("postfix", "start")

    def ask_to_stop(self) -> None:
        subprocess.run(self._command("postfix", "stop"), stdout=self._log, stderr=self._log, check=False)

    def flush_command(self) -> list[str]:
        return self._command("postqueue", "-f")

    def list_command(self) -> list[str]:
        return self._command("postqueue", "-p")

    def health_command(self) -> list[str]:
        return []

    def _command(self, program: str, *words: str) -> list[str]:
        return [program, "-c", str(self.folder / "etc"), *words]

    def _services(self) -> Sequence[str]:
        """Return the package's master.cf at our port, without chroot, which needs files copied into it."""
        services: list[str] = []
        is_left_out = False
        for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
            if not line or line.startswith("#"):
                continue
            if line[0].isspace():
                if not is_left_out:
                    services.append(line)
                continue
            words = line.split()
            is_left_out = words[7] == "pipe"
            if is_left_out:
                continue
            words[4] = "n"
            if words[:2] == ["smtp", "inet"]:
                words[0] = f"127.0.0.1:{self.port}"
            services.append(" ".join(words))
        return services


class TunedPostfix(Postfix):
    """The same with as many connections to a next hop as the load has sessions at most."""

    name = "postfix-tuned"
    port = 2527
    extra = "default_destination_concurrency_limit = 50"


def python_command(root: Path | None) -> list[str]:
    """Return what starts the relay's Python: an image's, in its file system, or the rig's own."""
    return [sys.executable] if root is None else ["chroot", str(root), "/opt/relay/bin/python"]


SERVERS: dict[str, type[Server]] = {server.name: server for server in (Relay, Postfix, TunedPostfix)}


def greets(port: int) -> bool:
    """Whether a server says 220 at a port of the loopback interface."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5.0) as connection:
            greeting = connection.makefile("rb").readline()
            if not greeting.startswith(b"220"):
                return False
            connection.sendall(b"QUIT\r\n")
            connection.recv(512)
            return True
    except OSError:
        return False
