"""One SMTP session after another against a model: any command at any time, cut into packets anywhere."""

from __future__ import annotations

import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.support.service import PATIENCE, Delivery
from tests.torture.fuzz_house import MOST_BYTES, MOST_RECIPIENTS, PASSWORD, USER, House

HEADER = (
    b"From: a@b.test\r\nTo: b@sink.test\r\nDate: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-Id: <1@b>\r\n"
)
MOST_ERRORS = 20
MOST_IDLE = 100
MOST_CRS = 9
HUGE = b"x" * 70 + b"\r\n"

LINE_ENDS = (b"\r\n", b"\n", b"\r", b"\r" * 9, b"\r" * 11)
DOTS = (b".", b"..", b"\r\n.", b"\n.", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n")
WORDS = (b"a", b"QUIT\r\n", b"DATA\r\n", b"From x\r\n", b"X: y\r\n", b"\0", b"\xe9")
PIECES = st.sampled_from([*LINE_ENDS, *DOTS, *WORDS])
BODIES = st.lists(PIECES, max_size=15).map(b"".join)
CUTS = st.lists(st.integers(0, 400), max_size=5)


def decode_data(wire: bytes) -> bytes:
    """Return the content that stands before the final dot line: see reception/content.py, in slow motion."""
    lines = decode_lines(wire)
    return b"".join(line[1:] if line.startswith(b".") else line for line in lines)


def decode_chunks(data: bytes) -> bytes:
    """Return the content of chunks."""
    return b"".join(decode_lines(data if not data or data.endswith(b"\n") else data + b"\n"))


def decode_lines(data: bytes) -> list[bytes]:
    """Return lines that end in CRLF: up to nine CRs belong to an LF, any other is a space."""
    decoded = []
    for given in data.split(b"\n")[:-1]:
        line, crs = given, 0
        while line.endswith(b"\r") and crs < MOST_CRS:
            line, crs = line[:-1], crs + 1
        decoded.append(line.replace(b"\r", b" ") + b"\r\n")
    return decoded


@dataclass
class Letter:
    """A message that a client sends."""

    sender: str
    recipients: list[str] = field(default_factory=list)
    """As they were accepted; who comes twice gets one copy."""
    content: bytes = b""


@dataclass
class Ledger:
    """What all sessions were promised; a house outlives them."""

    numbers: count[int] = field(default_factory=count)
    promised: dict[str, Letter] = field(default_factory=dict)
    possible: dict[str, Letter] = field(default_factory=dict)
    """Messages of clients that vanished: stored once or not at all."""
    sessions: int = 0
    replies: int = 0
    messages: int = 0

    def check(self, delivered: Sequence[Delivery]) -> None:
        """Compare what arrived, with nothing in the queue, with what was promised."""
        for one in delivered:
            letter = self.promised.pop(one.reverse_path, None) or self.possible.pop(one.reverse_path, None)
            assert letter is not None, f"never promised, or twice: {one}"
            assert sorted(one.recipients) == sorted({*letter.recipients})
            assert one.without_trace == letter.content
            self.messages += 1
        assert not self.promised, f"promised and lost: {self.promised}"


class Closed(Exception):  # noqa: N818 - not an error
    """The server has closed the connection, as it should."""


@dataclass
class Model:
    """What a server knows of a session (RFC 5321, 3207, 4954, 3030), and the replies that follow from it."""

    is_encrypted: bool = False
    is_logged_in: bool = False
    letter: Letter | None = None
    chunks: bytes | None = None
    """The chunks of the message so far."""
    is_chunk_refused: bool = False
    errors: int = 0
    idle: int = 0
    is_over: bool = False

    def reset(self) -> None:
        self.letter, self.chunks, self.is_chunk_refused = None, None, False

    def answer(self, code: int, *, is_idle: bool = False) -> list[int]:
        """Return the codes of the reply to a command, and of a farewell."""
        self.idle += is_idle
        self.errors += is_idle and self.idle > MOST_IDLE
        self.errors += code >= 400 and code != 452
        if code in {221, 521}:
            self.is_over = True
        elif self.errors >= MOST_ERRORS:
            self.is_over = True
            return [code, 421]
        return [code]

    def mail(self, sender: str, code: int) -> list[int]:
        if self.letter or self.is_chunk_refused:
            return self.answer(503)
        if code == 250:
            self.letter = Letter(sender)
        return self.answer(code)

    def rcpt(self, address: str, code: int) -> list[int]:
        if self.letter is None or self.chunks is not None or self.is_chunk_refused:
            return self.answer(503)
        if code not in {501, 555} and len(self.letter.recipients) >= MOST_RECIPIENTS:
            return self.answer(452)
        if code == 250:
            self.letter.recipients.append(address)
        return self.answer(code)

    def finish(self, content: bytes, ledger: Ledger) -> list[int]:
        letter = self.letter
        assert letter is not None
        self.reset()
        if len(content) > MOST_BYTES:
            return self.answer(552)
        letter.content = content
        ledger.promised[letter.sender] = letter
        self.errors = self.idle = 0
        return self.answer(250)

    def judge_chunk(self, size: int, *, is_last: bool) -> int:
        """Return why a chunk is refused, 250 where it is not."""
        if self.is_chunk_refused or (not size and not is_last):
            return 551
        if self.letter is None:
            return 503
        if not self.letter.recipients:
            return 554
        return 552 if len(self.chunks or b"") + size > MOST_BYTES else 250

    def bdat(self, data: bytes, ledger: Ledger, *, is_last: bool) -> list[int]:
        code = self.judge_chunk(len(data), is_last=is_last)
        if code == 250:
            self.chunks = (self.chunks or b"") + data
            return self.finish(decode_chunks(self.chunks), ledger) if is_last else self.answer(250)
        if is_last:
            self.reset()
        else:
            self.chunks, self.is_chunk_refused = None, True
        return self.answer(code)


class Wire:
    """A client's connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        """Send data in packets; a server that has closed the connection takes what it wants."""
        places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        for start, end in pairwise(places):
            if start < end:
                self._socket.sendall(data[start:end])

    def code(self) -> int:
        """Return the code of the next reply, which must be one by RFC 5321; 0 where the connection ended."""
        lines: list[bytes] = []
        while not lines or lines[-1][3:4] == b"-":
            while (end := self._buffer.find(b"\r\n")) < 0:
                try:
                    data = self._socket.recv(65536)
                except (ConnectionError, ssl.SSLError):
                    data = b""
                if not data:
                    assert not self._buffer
                    return 0
                self._buffer += data
            lines.append(self._buffer[:end])
            self._buffer = self._buffer[end + 2 :]
        assert all(re.fullmatch(rb"[2-5][0-9]{2}[ -][ -~]*", line) for line in lines), lines
        assert len({line[:3] for line in lines}) == 1, lines
        return int(lines[0][:3])

    def start_tls(self) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)

    def close(self) -> None:
        self._socket.close()


class Sessions(RuleBasedStateMachine):
    """Commands gather in a batch, which leaves in packets cut anywhere; then all replies must be right."""

    house: House
    ledger: Ledger

    def __init__(self) -> None:
        super().__init__()
        self._begin()

    def _begin(self) -> None:
        self.wire = Wire(self.house.port)
        assert self.wire.code() == 220
        self.model = Model()
        self.settled = set(self.ledger.promised)
        self.batch: list[tuple[bytes, list[int]]] = []
        self.ledger.sessions += 1

    def _add(self, data: bytes, codes: list[int]) -> None:
        self.batch.append((data, codes))
        if self.model.is_over:
            self._flush([])
            assert self.wire.code() == 0
            self.wire.close()
            self._begin()

    def _flush(self, cuts: Sequence[int]) -> None:
        batch, self.batch = self.batch, []
        self.wire.send(b"".join(data for data, _ in batch), cuts)
        for data, codes in batch:
            for code in codes:
                assert self.wire.code() == code, (data, codes, batch)
                self.ledger.replies += 1
        self.settled = set(self.ledger.promised)

    @rule(
        verb=st.sampled_from([b"EHLO", b"HELO"]), name=st.sampled_from([b" me", b" [1.2.3.4] x", b"", b"  "])
    )
    def greet(self, verb: bytes, name: bytes) -> None:
        if name.strip():
            self.model.reset()
        self._add(verb + name + b"\r\n", self.model.answer(250 if name.strip() else 501, is_idle=True))

    @rule(
        end=st.sampled_from([b"\r\n", b"\n", b" \t\r\n", b"\0x\r\n"]),
        verb=st.sampled_from([b"NOOP", b" nOoP"]),
    )
    def noop(self, verb: bytes, end: bytes) -> None:
        self._add(verb + end, self.model.answer(250, is_idle=True))

    @rule(argument=st.sampled_from([b"", b"", b" now"]))
    def rset(self, argument: bytes) -> None:
        if not argument:
            self.model.reset()
        self._add(b"RSET" + argument + b"\r\n", self.model.answer(501 if argument else 250, is_idle=True))

    @rule(
        line=st.sampled_from(
            [
                (b"", 500),
                (b"XYZZY", 500),
                (b"HELP", 500),
                (b"NOOP \xff", 500),
                (b"N" * 13_000, 500),
                (b"QUIT\xc3", 500),
            ]
        )
    )
    def nonsense(self, line: tuple[bytes, int]) -> None:
        self._add(line[0] + b"\r\n", self.model.answer(line[1]))

    @rule(line=st.sampled_from([(b"VRFY b@sink.test", 252), (b"VRFY", 501), (b"ETRN sink.test", 459)]))
    def ask(self, line: tuple[bytes, int]) -> None:
        self._add(line[0] + b"\r\n", self.model.answer(line[1], is_idle=True))

    @rule(
        case=st.sampled_from(
            [
                (b"MAIL FROM:<%s>", 250),
                (b"mail from: <%s> BODY=8BITMIME", 250),
                (b"MAIL FROM:<%s> SIZE=10 RET=HDRS ENVID=q", 250),
                (b"MAIL FROM:<%s> SIZE=999999999", 552),
                (b"MAIL FROM:<%s> BODY=BINARYMIME", 501),
                (b"MAIL FROM:<%s> X=Y", 555),
                (b"MAIL <%s>", 501),
            ]
        )
    )
    def mail(self, case: tuple[bytes, int]) -> None:
        sender = f"s{next(self.ledger.numbers)}@fuzz.test"
        self._add(case[0] % sender.encode() + b"\r\n", self.model.mail(sender, case[1]))

    @rule(
        case=st.sampled_from(
            [
                (b"RCPT TO:<%s>", 250),
                (b"rcpt to: <%s> NOTIFY=FAILURE ORCPT=rfc822;b", 250),
                (b"RCPT TO:<x@gone.test>%.0s", 550),
                (b"RCPT TO:<>%.0s", 501),
                (b"RCPT TO:<%s> X", 555),
            ]
        ),
        who=st.integers(0, 5),
    )
    def rcpt(self, case: tuple[bytes, int], who: int) -> None:
        address = f"r{who}@sink.test"
        self._add(case[0] % address.encode() + b"\r\n", self.model.rcpt(address, case[1]))

    @rule(who=st.lists(st.integers(0, 5), min_size=1, max_size=3), body=BODIES, chunks=st.integers(0, 3))
    def send(self, who: list[int], body: bytes, chunks: int) -> None:
        """Do what a client does that is not out to try everything."""
        self.mail((b"MAIL FROM:<%s>", 250))
        for number in who:
            self.rcpt((b"RCPT TO:<%s>", 250), number)
        if not chunks:
            self.data(body, 0, b"")
        for number in range(chunks):
            self.bdat(body, 0, is_last=number == chunks - 1)

    @rule(
        body=BODIES, repeat=st.sampled_from([0, 0, 0, 1000]), argument=st.sampled_from([b"", b"", b"", b" x"])
    )
    def data(self, body: bytes, repeat: int, argument: bytes) -> None:
        if self.model.chunks is not None or self.model.is_chunk_refused or self.model.letter is None:
            codes = self.model.answer(503)
        elif not self.model.letter.recipients:
            codes = self.model.answer(554)
        elif argument:
            codes = self.model.answer(501)
        else:
            wire = (HEADER + b"\r\n" + HUGE * repeat + body).replace(b"\r\n.\r\n", b"\r\n..\r\n") + b"\r\n"
            if wire.find(b"\r\n.\r\n") >= 0:  # the replacement made, or the last line is, a lone dot
                return
            self._add(
                b"DATA\r\n" + wire + b".\r\n", [354, *self.model.finish(decode_data(wire), self.ledger)]
            )
            return
        self._add(b"DATA" + argument + b"\r\n", codes)

    @rule(body=BODIES, repeat=st.sampled_from([0, 0, 0, 1000]), is_last=st.booleans())
    def bdat(self, body: bytes, repeat: int, is_last: bool) -> None:
        is_first = self.model.chunks is None
        data = (HEADER + b"\r\n" if is_first else b"") + HUGE * repeat + body
        end = b" LAST\r\n" if is_last else b"\r\n"
        self._add(b"BDAT %d" % len(data) + end + data, self.model.bdat(data, self.ledger, is_last=is_last))

    @rule(
        case=st.sampled_from(
            [
                ([b"PLAIN " + b64encode(f"\0{USER}\0{PASSWORD}".encode())], [235]),
                ([b"LOGIN", b64encode(USER.encode()), b64encode(PASSWORD.encode())], [334, 334, 235]),
                ([b"PLAIN", b"*"], [334, 501]),
                ([b"LOGIN", b"?"], [334, 535]),
                ([b"PLAIN =", b""], [535]),
                ([b"CRAM-MD5"], [535]),
                ([b""], [501]),
            ]
        )
    )
    def auth(self, case: tuple[list[bytes], list[int]]) -> None:
        lines, codes = case
        if not self.model.is_encrypted or self.model.letter or self.model.is_logged_in:
            self._add(b"AUTH " + lines[0] + b"\r\n", self.model.answer(503))
            return
        self.model.is_logged_in = codes[-1] == 235
        data = b"AUTH " + b"".join(line + b"\r\n" for line in lines[: len(codes)])
        self._add(data, codes[:-1] + self.model.answer(codes[-1]))

    @rule(
        injected=st.sampled_from(
            [b"", b"", b"NOOP\r\n", b"MAIL FROM:<evil@fuzz.test>\r\nRCPT TO:<r@sink.test>\r\n"]
        )
    )
    def starttls(self, injected: bytes) -> None:
        if self.model.is_encrypted:
            self._add(b"STARTTLS\r\n", self.model.answer(554))
            return
        self._flush([])
        self._add(b"STARTTLS\r\n" + injected, self.model.answer(220))
        self._flush([])
        self.wire.start_tls()
        self.model.reset()
        self.model.is_encrypted, self.model.is_logged_in = True, False

    @precondition(lambda self: not self.model.is_encrypted)
    @rule(noise=st.binary(min_size=1, max_size=60))
    def noise_in_place_of_a_handshake(self, noise: bytes) -> None:
        self._flush([])
        self._add(b"STARTTLS\r\n", self.model.answer(220))
        self._flush([])
        self.wire.send(noise)
        self.wire.close()
        self._begin()

    @rule(
        line=st.sampled_from(
            [
                (b"QUIT", 221),
                (b"QUIT x", 221),
                (b"GET / HTTP/1.1", 221),
                (b"Subject: x", 221),
                (b"\x16\x03\x01", 221),
                (b"BDAT", 521),
                (b"BDAT -1", 521),
                (b"BDAT 5 LST", 521),
            ]
        )
    )
    def end(self, line: tuple[bytes, int]) -> None:
        """Say what ends the session: also what does not tell where the next command starts."""
        self._add(line[0] + b"\r\n", self.model.answer(line[1]))

    @rule(cuts=CUTS)
    def flush(self, cuts: list[int]) -> None:
        self._flush(cuts)

    @precondition(lambda self: self.batch)
    @rule(share=st.floats(0, 1))
    def vanish(self, share: float) -> None:
        """Leave without reading the replies; what had begun to be promised may be kept or not."""
        wire = b"".join(data for data, _ in self.batch)
        self.wire.send(wire[: round(share * len(wire))])
        self.wire.close()
        for sender in self.ledger.promised.keys() - self.settled:
            self.ledger.possible[sender] = self.ledger.promised.pop(sender)
        self._begin()

    def teardown(self) -> None:
        self._flush([])
        self.wire.close()
        self.ledger.check(self.house.take_delivered())
