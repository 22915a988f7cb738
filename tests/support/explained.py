"""``relay explain`` over the cases of tests/vectors: what it says of each message of their sessions."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w

from relay.config.loading import parse_config
from relay.config.places import Places
from relay.explain.passage import Passage
from relay.explain.run import explain
from relay.mail.address import quote_address
from relay.mail.attempt import Attempt
from relay.mail.commands import Mail, parse_bdat, parse_mail, parse_rcpt, split_command
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.reply import Reply
from relay.mail.route import NextHop
from relay.reception.content import ChunkReader, DotReader
from tests.support.dns_server import DnsServer, Failure, Records

sys.path.insert(0, str(Path(__file__).parents[1] / "vectors"))
import driver  # type: ignore[import-not-found] - scripts beside the cases, in no package
import oracle  # type: ignore[import-not-found]

Case = dict[str, Any]
CONVERTED = frozenset({"headers-050", "headers-051"})
"""Cases in which what leaves is converted, as the server has no 8BITMIME: nobody knows before it is asked."""
DENIED = frozenset({"dsn-069"})
"""Cases in which DNS denies sender and recipient: it is believed if relay.toml names it, else it is not."""
_NOT_JUDGED = frozenset({452, 500})
"""The codes for recipients that are too many, or no UTF-8: both are the session's business."""


@dataclass
class Given:
    """A message as a client gave it, with the codes that it was answered with."""

    client: Client
    mail: Mail
    recipients: list[tuple[Recipient, int | None]] = field(default_factory=list)
    content: bytes | None = None
    """None where it was not sent whole."""
    code: int | None = None
    """The reply to the whole."""


class _Session:
    """Reads what a client sent by the replies that it got."""

    def __init__(self, session: Case, steps: list[Case]) -> None:
        self.messages: list[Given] = []
        address = session.get("client_ip", "127.0.0.1")
        name = "localhost" if address == "127.0.0.1" else oracle.DNS_PTR.get(address, "unknown")
        self._client = Client(address, name)
        self._suffix = ""
        self._open: Given | None = None
        self._chunks, self._content = ChunkReader(), b""
        sent, replies = bytearray(), deque[int | None]()
        for step, known in zip(session["steps"], steps, strict=False):
            if known.get("starttls"):
                self._read(sent, replies)
                self._suffix = "S"
            if "replies" in known:
                sent += step.get("send", "").encode("latin-1") * step.get("times", 1)
                replies += [reply["code"] for reply in known["replies"]]
        self._read(sent, replies)

    def _read(self, sent: bytearray, replies: deque[int | None]) -> None:
        if replies and not self.messages and not self._open and not self._suffix:
            replies.popleft()  # the greeting
        while sent and replies:
            line, _, rest = bytes(sent).partition(b"\n")
            sent[:] = rest
            verb, argument = split_command(line)
            self._answer(verb, argument, replies.popleft(), sent, replies)

    def _answer(
        self, verb: str, argument: bytes, code: int | None, sent: bytearray, replies: deque[int | None]
    ) -> None:
        match verb, code:
            case "HELO" | "EHLO", 250:
                protocol = "SMTP" if verb == "HELO" else f"ESMTP{self._suffix}"
                self._client = replace(self._client, helo=argument.decode("latin-1"), protocol=protocol)
                self._open = None
            case "AUTH", _:
                while code == 334:
                    _, _, rest = bytes(sent).partition(b"\n")
                    sent[:] = rest
                    code = replies.popleft()
                if code == 235:
                    protocol = self._client.protocol + "A"
                    self._client = replace(self._client, user="somebody", protocol=protocol)
            case "MAIL", 250:
                mail = parse_mail(argument)
                assert isinstance(mail, Mail)
                client = replace(self._client, protocol="UTF8SMTP") if mail.is_smtputf8 else self._client
                self._open, self._chunks, self._content = Given(client, mail), ChunkReader(), b""
                self.messages.append(self._open)
            case "RCPT", _ if self._open and code not in _NOT_JUDGED:
                recipient = parse_rcpt(argument, is_smtputf8=self._open.mail.is_smtputf8)
                if isinstance(recipient, Recipient):
                    self._open.recipients.append((recipient, code))
            case "DATA", 354:
                assert self._open
                reader = DotReader()
                content = reader.feed(bytes(sent))
                sent[:] = reader.rest
                self._close(content if reader.is_complete else None, replies.popleft() if replies else None)
            case "BDAT", _:
                self._take_chunk(argument, code, sent)
            case "RSET", 250:
                self._open = None

    def _take_chunk(self, argument: bytes, code: int | None, sent: bytearray) -> None:
        chunk = parse_bdat(argument)
        if isinstance(chunk, Reply) or self._open is None:
            return
        self._content += self._chunks.feed(bytes(sent[: chunk.size]))
        del sent[: chunk.size]
        if chunk.is_last:
            self._close(self._content + self._chunks.finish(), code)

    def _close(self, content: bytes | None, code: int | None) -> None:
        assert self._open
        self._open.content, self._open.code = content, code
        self._open = None


class _Names(dict[str, Records | Failure]):
    """What the oracle's name server answers."""

    def __init__(self, more: Case) -> None:
        super().__init__()
        self._addresses = oracle.DNS_A | more.get("A", {})
        self._exchangers = oracle.DNS_MX | more.get("MX", {})
        self._missing = oracle.DNS_NX | set(more.get("NX", []))

    def get(self, name: str, default: Any = None) -> Any:
        address = self._addresses.get(name)
        records = {"A": [address]} if address else {}
        if name in self._missing or name.endswith(".arpa") or not (address or "." in name):
            return Failure.NXDOMAIN
        if name in self._exchangers:
            found = [f"{preference} {host}." for preference, host in self._exchangers[name]]
            return records | ({"MX": found} if found else {})
        return records if address else {"MX": ["10 default-mx.sink.test."]}


async def compare(case: Case, outcome: Case) -> int:
    """Assert that explain says what an outcome of a case tells; return how many copies were the same.

    Raises ConfigError and ValueError where the case has no configuration for the relay.
    """
    sessions = zip(case["input"]["sessions"], outcome["sessions"], strict=True)
    sent = (message for session, steps in sessions for message in _Session(session, steps).messages)
    messages = [message for message in sent if message.recipients]
    passages = await _explain(case, messages)
    is_scripted = bool(case.get("next_hops"))
    explained = set()
    for given, passage in zip(messages, passages, strict=True):
        codes = [reply.code if (reply := passage.refusals.get(r)) else 250 for r, _ in given.recipients]
        assert codes == [code for _, code in given.recipients]
        if given.content is not None:
            assert given.code in {passage.reply.code, None}
            explained |= set(_sent_copies(passage, to_any=is_scripted))
    relayed = set(_relayed_copies(outcome))
    assert relayed <= explained
    # A server that is told to refuse, or to be silent, gets less than was sent to it.
    assert is_scripted or explained == relayed
    return len(relayed)


async def _explain(case: Case, messages: list[Given]) -> list[Passage]:
    """Return what explain says becomes of messages."""
    document = driver.make_config(case)
    document["listen"] = [{"address": "127.0.0.1:25"}]  # a login or TLS is the session's business
    del document["queue"]
    document.pop("tls", None)
    document.pop("users", None)
    async with DnsServer({}) as dns:
        dns.names = _Names(case.get("dns") or {})
        document["dns"] = {"nameservers": ["{}:{}".format(*dns.address)]}
        text = tomli_w.dumps(document).encode("utf-8", "surrogateescape").decode()
        config, places = parse_config(text, machine_name=""), Places.of("relay.toml", text)
        passages = []
        for given in messages:
            recipients = tuple(recipient for recipient, _ in given.recipients)
            envelope = Envelope(given.mail.reverse_path, recipients, is_smtputf8=given.mail.is_smtputf8)
            content = b"\r\n" if given.content is None else given.content
            explanation = await explain(config, places, given.client, envelope, content)
            assert explanation.as_data()
            passages.append(explanation.passage)
        return passages


def _sent_copies(passage: Passage, *, to_any: bool) -> Iterator[tuple[str, str, str, str]]:
    """Yield sink, sender, recipient and headers of each copy that leaves, in the strict form of the oracle.

    ``to_any`` yields it once for each server that may get it, in place of the first alone.
    """
    sinks = {(ip, port): name for name, (ip, port, _) in oracle.SINKS.items()}
    for copy in () if passage.is_held else passage.copies:
        via = copy.route.via
        servers = passage.servers[via] if isinstance(via, NextHop) else ()
        if isinstance(servers, Attempt) or not isinstance(via, NextHop):
            continue
        found = [sinks.get((address, via.port)) for host in servers for address in host.addresses]
        headers = _normalise(oracle.split_message(copy.header + b"\r\n")[0])
        for sink in list(filter(None, found))[: None if to_any else 1]:
            yield sink, _on_the_wire(copy.reverse_path), _on_the_wire(copy.address), headers


def _relayed_copies(outcome: Case) -> Iterator[tuple[str, str, str, str]]:
    """Yield the same of what sinks were sent, our own reports left out."""
    for message in outcome["relayed"]:
        if "dsn" not in message:
            for recipient in message["rcpt"]:
                headers = _normalise(message["headers"])
                yield message["sink"], message["mail_from"], recipient["to"], headers


def _on_the_wire(address: str) -> str:
    return quote_address(address).encode("utf-8", "surrogateescape").decode("latin-1")


def _normalise(headers: list[list[str]]) -> str:
    named = [
        [name, re.sub(r"<\d{14}\.\w+@", "<GENERATED-MSGID@", oracle.norm(value))]
        for name, value in headers
        if name
    ]
    message = {"sink": "", "mail_from": "", "rcpt": [], "headers": named, "body_sha256": ""}
    return repr(oracle.strict_view({"sessions": [], "relayed": [message]})["relayed"][0]["headers"])
