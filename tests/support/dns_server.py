"""A small DNS server on loopback, over UDP and TCP, that answers from a table."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import cache
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

HOST = "127.0.0.1"


class Failure(Enum):
    """How a name fails, or one type of its records."""

    NXDOMAIN = "nxdomain"
    SERVFAIL = "servfail"
    SILENCE = "silence"


Records = Mapping[str, Sequence[str] | Failure]
"""Record type to records as in a zone file (``{"MX": ["10 mx.example.test."]}``)."""


class DnsServer:
    """Answers from ``names``: absolute lower-case names without final dot, to records or a failure.

    A name that is not listed is an NXDOMAIN, a type that is not listed for a name is no data. CNAMEs are
    followed, as a recursive server does. ``negative_ttl`` None leaves the SOA out of negative answers.
    Use as ``async with DnsServer({...}) as server``; then ``server.address`` is where it listens.
    """

    def __init__(
        self,
        names: Mapping[str, Records | Failure],
        *,
        ttl: int = 60,
        negative_ttl: int | None = 60,
        at: tuple[str, int] = (HOST, 0),
    ) -> None:
        self.names = dict(names)
        self._at = at
        self.ttls: dict[str, int] = defaultdict(lambda: ttl)
        """TTL by name, where it differs."""
        self.truncated: set[str] = set()
        """Names whose answers do not fit into UDP."""
        self.queries: Counter[tuple[str, str]] = Counter()
        """How often each name and type was asked for, over UDP or TCP."""
        self.tcp_queries = 0
        self._negative_ttl = negative_ttl
        self._held: dict[tuple[str, str], asyncio.Event] = {}
        self._asked: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._tasks: set[asyncio.Task[None]] = set()

    def hold(self, name: str, kind: str = "") -> asyncio.Event:
        """Keep back all answers about a name, or those of one type, until the returned event is set."""
        return self._held.setdefault((name, kind), asyncio.Event())

    async def asked(self, name: str) -> None:
        """Wait until a name has been asked for, with whatever type."""
        await self._asked[name].wait()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        while True:
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), local_addr=self._at)
            self.address: tuple[str, int] = self._udp.get_extra_info("sockname")
            try:
                self._tcp = await asyncio.start_server(self._serve, *self.address)
            except OSError:  # somebody else has this port for TCP
                self._udp.close()
            else:
                return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._udp.close()
        self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def receive(self, wire: bytes, sender: tuple[str, int]) -> None:
        """Answer one datagram, when it is time."""
        task = asyncio.create_task(self._reply(wire, sender))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, wire: bytes, sender: tuple[str, int]) -> None:
        response = await self._answer(wire)
        if response is None:
            return
        if str(response.question[0].name).rstrip(".") in self.truncated:
            response.answer.clear()
            response.flags |= dns.flags.TC
        self._udp.sendto(response.to_wire(), sender)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                size = int.from_bytes(await reader.readexactly(2))
                self.tcp_queries += 1
                response = await self._answer(await reader.readexactly(size))
                if response is not None:
                    writer.write(response.to_wire(prepend_length=True))
        writer.close()
        self._tasks.discard(task)

    async def _answer(self, wire: bytes) -> dns.message.Message | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = str(question.name).rstrip(".").lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.queries[name, kind] += 1
        self._asked[name].set()
        for held in ((name, ""), (name, kind)):
            if held in self._held:
                await self._held[held].wait()
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        return response if self._fill(response, name, kind) else None

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> bool:
        """Put records or the failure into a response; return whether there is one at all."""
        found = self._find(name, kind)
        while found == [] and (alias := self._find(name, "CNAME")):
            assert not isinstance(alias, Failure)
            self._add(response, name, "CNAME", alias)
            name = alias[0].rstrip(".")
            found = self._find(name, kind)
        match found:
            case Failure.SILENCE:
                return False
            case Failure.SERVFAIL:
                response.set_rcode(dns.rcode.SERVFAIL)
            case Failure.NXDOMAIN:
                response.set_rcode(dns.rcode.NXDOMAIN)
            case [_, *_]:
                self._add(response, name, kind, found)
                return True
        if self._negative_ttl is not None:
            soa = f"ns.test. hostmaster.test. 1 3600 600 86400 {self._negative_ttl}"
            response.authority.append(dns.rrset.from_text(".", self._negative_ttl, "IN", "SOA", soa))
        return True

    def _find(self, name: str, kind: str) -> Sequence[str] | Failure:
        records = self.names.get(name, Failure.NXDOMAIN)
        return records if isinstance(records, Failure) else records.get(kind, [])

    def _add(self, response: dns.message.Message, name: str, kind: str, records: Sequence[str]) -> None:
        response.answer.append(dns.rrset.from_text(f"{name}.", self.ttls[name], "IN", kind, *records))


@cache
def failing_nameserver() -> str:
    """Return where a name server listens, for as long as the test run lasts, that fails with every question.

    What a relay knows then is what it knows without DNS, at once, wherever the tests run.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((HOST, 0))
    threading.Thread(target=_fail, args=(listener,), daemon=True).start()
    return "{}:{}".format(*listener.getsockname())


def _fail(listener: socket.socket) -> None:
    while True:
        wire, sender = listener.recvfrom(4096)
        response = dns.message.make_response(dns.message.from_wire(wire))
        response.set_rcode(dns.rcode.SERVFAIL)
        listener.sendto(response.to_wire(), sender)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.receive(data, addr)
