"""The world of the pages: a gateway with its house in one network, and the Internet around it in another.

Both are namespaces of Linux, so that all names, addresses, ports and paths are those that the pages show. The
PC of the house and the sites of the Internet share the outer one, where the replay itself runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

import trustme

from tests.conftest import SEARCH_PATH
from tests.support.dns_server import DnsServer
from tests.tutorial.internet import (
    GATEWAY_ADDRESS,
    HOUSE_ZONE,
    NAME_SERVER,
    NEXT_PUBLIC,
    NOBODY,
    PC_ADDRESS,
    PUBLIC,
    ROUTER,
    STRANGER,
    ZONE,
    hello_of_monaco,
    make_sites,
)

PATIENCE = 30.0
"""Seconds after which a replay fails that waits for something."""
GATEWAY = "gw1"
PEOPLE = {"root": 0, "chris": 1000, "marc": 1001}
HOSTS = f"""\
127.0.0.1 localhost
{GATEWAY_ADDRESS} gw1.maison.mrs gw1
{PC_ADDRESS} pchris.maison.mrs pchris
"""
RIGHTS = ("--clear-groups", "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""Of people: as the program may lie where only root can read, they can read all."""
UNTOLD = "lost connection after NOOP"
"""What the replay itself makes the relay log, to know that it has read all that came before."""


class World:
    """All machines; use it as an async context manager, in namespaces of its own (see ``replay``)."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is for what the gateway's disk has more than this machine's."""
        self._folder = folder
        self._ca = trustme.CA()
        self.sites = {site.name: site for site in make_sites(self._ca)}
        self.log = ""
        """All that the relay has said."""
        self._relay: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._has_more = asyncio.Event()
        self._expected: list[tuple[str, int]] = []
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._make_disk()
        self._gateway = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-ec", f"hostname {GATEWAY}.maison.mrs; echo; exec cat"],
            stdin=PIPE,
            stdout=PIPE,
        )
        self._stack.callback(self._gateway.communicate)
        assert self._gateway.stdout is not None
        self._gateway.stdout.readline()
        self._make_network()
        self._dns = DnsServer({**ZONE, **HOUSE_ZONE}, ttl=0, negative_ttl=0, at=(NAME_SERVER, 53))
        await self._stack.enter_async_context(self._dns)
        for site in self.sites.values():
            await self._stack.enter_async_context(site)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_relay()
        await self._stack.aclose()

    def _make_disk(self) -> None:
        """Lay this gateway's own files over those of the machine."""
        run("mount", "-t", "tmpfs", "none", self._folder)
        for place in ("etc", "var"):
            upper, work = self._folder / f"{place}-upper", self._folder / f"{place}-work"
            upper.mkdir()
            work.mkdir()
            options = f"lowerdir=/{place},upperdir={upper},workdir={work}"
            run("mount", "-t", "overlay", "-o", options, "none", f"/{place}")
        run("mount", "-t", "tmpfs", "none", "/run")
        run("mount", "--bind", Path(sys.executable).with_name("relay"), Path("/usr/sbin/sendmail").resolve())
        _write("/etc/hosts", HOSTS)
        _write("/etc/resolv.conf", f"nameserver {NAME_SERVER}\n")
        _write("/etc/passwd", _accounts())
        _write("/etc/authority.pem", self._ca.cert_pem.bytes().decode())
        for path, mode in {"/etc/relay": "755", "/var/lib/relay": "711", "/var/mail": "2775"}.items():
            Path(path).mkdir(exist_ok=True)
            run("mount", "-t", "tmpfs", "-o", f"mode={mode}", "none", path)
        run("ln", "-sf", "/usr/bin/bsd-mailx", "/etc/alternatives/mailx")

    def _make_network(self) -> None:
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "house", "type", "veth", "peer", "eth0", "netns", str(self._gateway.pid))
        run("ip", "link", "set", "house", "up")
        run("ip", "address", "add", f"{PC_ADDRESS}/24", "dev", "house")
        known = {records["A"][0] for records in ZONE.values() if "A" in records} - {PUBLIC, NEXT_PUBLIC}
        for address in {ROUTER, STRANGER, NAME_SERVER, *known}:
            run("ip", "address", "add", f"{address}/32", "dev", "house")
        for command in ("link set lo up", "link set eth0 up", f"address add {GATEWAY_ADDRESS}/24 dev eth0"):
            run(*self._enter(GATEWAY), "ip", *command.split())
        self._connect(PUBLIC)

    def _connect(self, address: str) -> None:
        """Give the gateway its address on the Internet."""
        for command in (
            f"address add {address}/24 dev eth0",
            f"route add default via {ROUTER} src {address}",
            f"route replace unreachable {NOBODY}",
        ):
            run(*self._enter(GATEWAY), "ip", *command.split())
        run("ip", "route", "add", address, "dev", "house", "src", STRANGER)

    def _enter(self, machine: str) -> list[str]:
        return ["nsenter", f"--target={self._gateway.pid}", "--net", "--uts"] if machine == GATEWAY else []

    async def start(
        self, user: str, machine: str, *command: str, stdin: int | None = DEVNULL, stdout: int = PIPE
    ) -> Process:
        """Start a program as one of the people, at one of the machines; errors go where output goes."""
        uid = PEOPLE[user]
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", *RIGHTS] if uid else []
        environ = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{SEARCH_PATH}",
            "HOME": "/",
            "USER": user,
            "LOGNAME": user,
            "LC_ALL": "C.UTF-8",
            "TZ": "CET-1CEST,M3.5.0,M10.5.0/3",
            "COLUMNS": "100",
            "SSL_CERT_FILE": "/etc/authority.pem",
        }
        words = [f"{name}={value}" for name, value in environ.items()]
        # What measures the coverage of tests writes where only root may.
        env = ["env", "--ignore-environment"] if uid else ["env"]
        line = [*self._enter(machine), *become, *env, *words, *command]
        return await asyncio.create_subprocess_exec(*line, stdin=stdin, stdout=stdout, stderr=STDOUT, cwd="/")

    async def run(self, user: str, machine: str, command: str) -> str:
        """Run a command line to its end; return what it prints."""
        with tempfile.TemporaryFile() as out:  # what goes on in the background may keep it open
            process = await self.start(user, machine, "sh", "-c", command, stdout=out.fileno())
            async with asyncio.timeout(PATIENCE):
                await process.wait()
            out.seek(0)
            return out.read().decode(errors="replace")

    # The relay

    async def start_relay(self, user: str, machine: str, command: str) -> None:
        """Start the relay and wait until it answers."""
        self._relay = await self.start(user, machine, *command.split())
        self._reader = asyncio.create_task(self._read_log(self._relay))
        await self.logged("listening on .*\n.*the status page is at")

    async def reload(self) -> None:
        """Let the relay look at its file now; it would within seconds."""
        if self._relay is not None:
            past = len(self.log)
            self._relay.send_signal(signal.SIGHUP)
            await self.logged(r"relay\.toml is (not )?applied", past)
            if "helo_name" in self.log[past:]:
                self.expect("notice to the postmaster")

    async def stop_relay(self) -> None:
        if self._relay is None:
            return
        self._relay.terminate()
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE):
            await self._reader
            assert await self._relay.wait() == 0, self.log[-5000:]
        self._relay = None

    async def logged(self, pattern: str, past: int = 0) -> None:
        """Wait until the log, from ``past`` on, matches a pattern."""
        async with asyncio.timeout(PATIENCE):
            while not re.search(pattern, self.log[past:]):
                assert self._reader is not None
                assert not self._reader.done(), self.log[-5000:]
                await self._has_more.wait()
                self._has_more.clear()

    async def happen(self, event: str) -> None:
        """Let something happen that is not in the reader's hands."""
        match event:
            case "Dovecot has started":
                async with asyncio.timeout(PATIENCE):
                    while await asyncio.to_thread(self._is_dovecot_silent):
                        await asyncio.sleep(0.02)
            case "the house's own name server is gone":
                for name in HOUSE_ZONE:
                    del self._dns.names[name]
            case "the provider gives the gateway another address":
                for site in self.sites.values():
                    await site.hang_up()
                run(*self._enter(GATEWAY), "ip", "address", "delete", f"{PUBLIC}/24", "dev", "eth0")
                self._connect(NEXT_PUBLIC)
                self._dns.names["myip.opendns.com"] = {"A": [NEXT_PUBLIC]}
                monaco = self.sites["mail.monaco.example"]
                monaco.script = monaco.script.but(EHLO=hello_of_monaco(NEXT_PUBLIC))
                self.expect(f"notice to the postmaster.*{NEXT_PUBLIC}")
            case _:
                raise ValueError(event)

    def _is_dovecot_silent(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((GATEWAY_ADDRESS, 110), PATIENCE):
            return not Path("/run/dovecot/lmtp").is_socket()
        return True

    def expect(self, pattern: str) -> None:
        """Wait for a line in the log before anything is shown."""
        self._expected.append((pattern, len(self.log)))

    async def settle(self, *, is_to_show: bool) -> None:
        """Wait until the relay has nothing left to do but to wait for a retry.

        With changed settings it tries all mail again. Where something is to be shown, what is expected is
        waited for too.
        """
        while is_to_show and self._expected:
            await self.logged(*self._expected.pop())
        async with asyncio.timeout(PATIENCE):
            while self._relay is not None:
                await self._catch_up()
                begun = re.findall(r"(\w+): (?:client=|notice to)|notification: (\w+)", self.log)
                ended = re.findall(r"(\w+): removed", self.log)
                since_change = self.log[max(0, self.log.rfind("is applied; changed")) :]
                waiting = re.findall(r"(\w+): to=.* status=deferred", since_change)
                if {max(pair) for pair in begun} <= {*ended, *waiting}:
                    return
                await asyncio.sleep(0.02)

    async def _catch_up(self) -> None:
        """Wait until all messages in the maildrop are taken in, and all that the relay has said is read."""
        while [*Path("/var/lib/relay/maildrop").glob("[!.]*")]:
            await asyncio.sleep(0.02)
        past = len(self.log)
        reader, writer = await asyncio.open_connection(GATEWAY_ADDRESS, 25, local_addr=(PC_ADDRESS, 0))
        await reader.readline()
        writer.write(b"NOOP\r\n")
        await reader.readline()
        writer.close()
        await self.logged(UNTOLD, past)

    async def _read_log(self, relay: Process) -> None:
        assert relay.stdout is not None
        while line := await relay.stdout.readline():
            self.log += line.decode(errors="replace")
            self._has_more.set()
        self._has_more.set()


def run(*command: str | Path) -> None:
    """Run a command of the machinery."""
    subprocess.run(command, check=True, capture_output=True)


def _write(path: str, text: str) -> None:
    Path(path).unlink(missing_ok=True)  # it may be a link to somewhere else
    Path(path).write_text(text)


def _accounts() -> str:
    """Return the accounts of this machine, with those of the house in the place of others."""
    house = [f"{name}:x:{uid}:{uid}:{name.capitalize()}:/:/bin/sh" for name, uid in PEOPLE.items() if uid]
    others = [
        one for one in pwd.getpwall() if one.pw_name not in PEOPLE and one.pw_uid not in PEOPLE.values()
    ]
    lines = ["root:x:0:0:root:/root:/bin/sh", *house, *(":".join(map(str, one)) for one in others)]
    return "\n".join([*lines, ""])
