"""What tests of reception share: an intake that keeps messages in memory, and a client with raw bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network

from relay.config.model import Limits, Listen, ListenerTls
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.reply import Reply
from relay.reception.access import Access, ClientLimits
from relay.reception.logins import Logins
from relay.reception.reverse import ReverseNames
from relay.reception.server import Reception
from relay.reception.shared import Listener, SessionSettings, Shared
from relay.reception.tls import Certificate
from relay.reception.upload import Intake

LOOPBACK = Access((ip_network("127.0.0.1/32"), ip_network("::1/128")))
SETTINGS = SessionSettings("relay.test", idle_seconds=60)
LIMITS = Limits()
PLAIN = Listen("127.0.0.1", 0)
NO_FILES = ListenerTls()
LISTENER = Listener(PLAIN, Certificate(NO_FILES, ()))


@dataclass
class Message:
    """What a session handed over."""

    client: Client
    envelope: Envelope
    content: bytes = b""


@dataclass
class MemoryIntake:
    """Keeps accepted messages, and can be told to go wrong."""

    access: Access = LOOPBACK
    messages: list[Message] = field(default_factory=list)
    begun: list[Message] = field(default_factory=list)
    aborted: int = 0
    refusals: dict[str, Reply | Exception] = field(default_factory=dict)
    """What becomes of an address, of ``begin``, ``write``, ``finish`` or ``abort``, if not success."""
    may_finish: asyncio.Event = field(default_factory=asyncio.Event)
    may_abort: asyncio.Event = field(default_factory=asyncio.Event)
    is_finishing: asyncio.Event = field(default_factory=asyncio.Event)
    was_aborted: asyncio.Event = field(default_factory=asyncio.Event)
    has_content: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_finish.set()
        self.may_abort.set()

    def look_up(self, what: str) -> Reply | None:
        refusal = self.refusals.get(what)
        if isinstance(refusal, Exception):
            raise refusal
        return refusal

    async def judge_sender(self, client: Client, reverse_path: str) -> Reply | None:
        return self.look_up(reverse_path)

    async def judge_recipient(self, client: Client, reverse_path: str, recipient: Recipient) -> Reply | None:
        return self.look_up(recipient.address) or self.access.judge(client, recipient)

    def begin(self, client: Client, envelope: Envelope) -> MemorySink:
        self.look_up("begin")
        message = Message(client, envelope)
        self.begun.append(message)
        return MemorySink(self, message)


@dataclass
class MemorySink:
    """Takes one message."""

    intake: MemoryIntake
    message: Message

    async def write(self, chunk: bytes) -> None:
        self.intake.look_up("write")
        self.message.content += chunk
        self.intake.has_content.set()

    async def finish(self) -> Reply:
        self.intake.is_finishing.set()
        await self.intake.may_finish.wait()
        refusal = self.intake.look_up("finish")
        if refusal:
            return refusal
        self.intake.messages.append(self.message)
        return Reply(250, "2.0.0", f"Ok: queued as {len(self.intake.messages)}")

    async def abort(self) -> None:
        self.intake.aborted += 1
        self.intake.was_aborted.set()
        await self.intake.may_abort.wait()
        self.intake.look_up("abort")


class Peer:
    """An SMTP client that sends and reads bytes, as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def reply(self) -> str:
        """Return the next reply, its lines joined by a line feed; "" where the connection is closed."""
        lines = []
        while True:
            try:
                line = await self.reader.readline()
            except ConnectionError:
                line = b""
            lines.append(line.decode().removesuffix("\r\n"))
            if line[3:4] != b"-":
                return "\n".join(lines)

    async def ask(self, *commands: str) -> str:
        """Send commands one by one, and return the reply to the last."""
        reply = ""
        for command in commands:
            self.send(command.encode() + b"\r\n")
            reply = await self.reply()
        return reply

    async def start_tls(self, tls: ssl.SSLContext) -> None:
        """Begin TLS behind the reply to STARTTLS."""
        await self.writer.start_tls(tls, server_hostname="localhost")

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def make_names(
    ptr: Callable[[str], list[str]] = lambda _: [], addresses: Callable[[str], list[str]] = lambda _: []
) -> ReverseNames:
    async def look_up_ptr(address: str) -> list[str]:
        return ptr(address)

    async def look_up_addresses(name: str) -> list[str]:
        return addresses(name)

    return ReverseNames(look_up_ptr, look_up_addresses)


def make_shared(users: Mapping[str, str] | None = None) -> Shared:
    return Shared(ClientLimits(Limits()), make_names(), Logins(users or {}, delay_seconds=0))


@asynccontextmanager
async def serving(
    intake: Intake,
    settings: SessionSettings = SETTINGS,
    limits: Limits = LIMITS,
    *,
    listens: Sequence[Listen] = (PLAIN,),
    tls: ListenerTls = NO_FILES,
    users: Mapping[str, str] | None = None,
) -> AsyncIterator[Reception]:
    """Run a reception on a free port of the loopback interface."""
    logins = Logins(users or {}, delay_seconds=0)
    reception = Reception(intake, settings, limits, make_names(), logins)
    await reception.open(listens, tls)
    try:
        yield reception
    finally:
        await reception.close(0)
        logins.close()


@asynccontextmanager
async def connected(
    reception: Reception,
    source: str = "127.0.0.1",
    *,
    at: int = 0,
    tls: ssl.SSLContext | None = None,
    greet: bool = True,
) -> AsyncIterator[Peer]:
    """Connect a client to one of a reception's addresses, with TLS at once or not, and read the greeting."""
    host, _, port = reception.addresses[at].rpartition(":")
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection(
        host, int(port), local_addr=(source, 0), ssl=tls, server_hostname=name
    )
    peer = Peer(reader, writer)
    try:
        if greet:
            assert (await peer.reply()).startswith("220 ")
        yield peer
    finally:
        await peer.close()


class Wire(asyncio.Transport):
    """A connection without a network: what a session writes is kept write by write."""

    def __init__(self, peer: str | None = "127.0.0.1") -> None:
        super().__init__({"peername": peer and (peer, 1)})
        self.writes: list[bytes] = []
        self.waiting_bytes = 0
        self.protocol: asyncio.Protocol | None = None
        self._is_closing = False

    def connect(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    async def settle(self) -> None:
        """Return when the session has nothing left to do but wait."""
        for _ in range(30):
            await asyncio.sleep(0)

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        if not self._is_closing:
            self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        self._is_closing = True
        if not self.waiting_bytes:
            self.abort()

    def abort(self) -> None:
        self._is_closing = True
        if self.protocol:
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)
            self.protocol = None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...
