"""Sessions: what is sent when, what a message becomes, and what errors, limits and vanished clients do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from relay.config.model import PRIVATE_NETWORKS, Limits
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.reply import Reply
from relay.reception import session as session_module
from relay.reception.access import Access
from relay.reception.connection import LONGEST_LINE
from relay.reception.reverse import ReverseNames
from relay.reception.session import Session
from relay.reception.shared import SessionSettings, Shared
from tests.support.reception import (
    LISTENER,
    SETTINGS,
    MemoryIntake,
    Wire,
    connected,
    make_names,
    make_shared,
    serving,
)

ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
BROKEN = Reply(451, "4.3.0", "")


@dataclass
class Desk:
    """Sessions over wires, and all that they share."""

    intake: MemoryIntake = field(default_factory=MemoryIntake)
    settings: SessionSettings = SETTINGS
    shared: Shared = field(default_factory=make_shared)
    lines: list[Line] = field(default_factory=list)

    async def line(self, peer: str | None = "127.0.0.1") -> Line:
        wire = Wire(peer)
        session = Session(self.intake, self.settings, LISTENER, self.shared)
        wire.connect(session)
        await wire.settle()
        line = Line(wire, session)
        self.lines.append(line)
        return line


@dataclass
class Line:
    """A client at the other end of a wire."""

    wire: Wire
    session: Session
    seen: int = 0

    async def send(self, data: bytes) -> list[str]:
        """Send bytes; return what is written in reply, write by write."""
        seen = len(self.wire.writes)
        if data:
            self.session.data_received(data)
        await self.wire.settle()
        return [write.decode() for write in self.wire.writes[seen:]]

    async def ask(self, *commands: str) -> str:
        """Send one command after the other; return the reply to the last."""
        reply = ""
        for command in commands:
            reply = "".join(await self.send(command.encode() + b"\r\n"))
        return reply

    async def vanish(self) -> None:
        self.wire.abort()
        await self.wire.settle()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    for line in desk.lines:
        await line.vanish()
    assert desk.shared.sessions == set()
    assert not desk.shared.limits._connections


@contextmanager
def log_of(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    lines: list[str] = []
    with caplog.at_level(logging.DEBUG, "relay"):
        yield lines
    lines += [record.getMessage() for record in caplog.records if record.name == "relay"]


async def test_aiosmtpd_collects_no_commands_for_a_client(desk: Desk) -> None:
    session = (await desk.line()).session
    assert session._smtp_methods == session._auth_methods == {}


# Replies


async def test_the_greeting_is_one_write(desk: Desk) -> None:
    line = await desk.line()
    assert line.wire.writes == [b"220 relay.test ESMTP relay\r\n"]


async def test_replies_to_a_group_leave_in_one_write(desk: Desk) -> None:
    line = await desk.line()
    writes = await line.send(b"RSET\r\n" + ENVELOPE + b"RCPT TO:<>\r\nDATA\r\n")
    assert [write.count("\r\n") for write in writes] == [5]
    assert [text[:3] for text in writes[0].splitlines()] == ["250", "250", "250", "501", "354"]


async def test_replies_to_a_thousand_recipients_leave_together(desk: Desk) -> None:
    line = await desk.line()
    writes = await line.send(b"MAIL FROM:<a@b.test>\r\n" + b"RCPT TO:<c@d.test>\r\n" * 1001)
    assert len(writes) == 1
    assert [text[:3] for text in writes[0].splitlines()] == ["250"] * 1001 + ["452"]
    assert "too many recipients" in writes[0]


async def test_replies_are_not_held_for_an_unfinished_command(desk: Desk) -> None:
    line = await desk.line()
    writes = await line.send(ENVELOPE + b"DAT")
    assert "".join(writes).count("250 ") == 2
    assert (await line.send(b"A\r\n"))[0].startswith("354 ")


@pytest.mark.parametrize("command", ["EHLO x", "NOOP", "VRFY a@b.test", "FOO", "QUIT"])
async def test_replies_that_must_not_wait_do_not(desk: Desk, command: str) -> None:
    line = await desk.line()
    writes = await line.send(f"RSET\r\n{command}\r\nRSET\r\n".encode())
    assert len(writes) == (1 if command == "QUIT" else 2)
    assert writes[0].startswith("250 2.0.0 Ok\r\n")
    assert writes[0].count("\r\n") > 1


async def test_chunks_of_a_group_are_answered_together(desk: Desk) -> None:
    line = await desk.line()
    writes = await line.send(ENVELOPE + b"BDAT 3\r\nab\nBDAT 0 LAST\r\n")
    assert len(writes) == 1
    assert writes[0].count("250 ") == 4


async def test_every_reply_has_an_enhanced_status_code_and_a_sentence(desk: Desk) -> None:
    desk.settings = replace(SETTINGS, recipients=1, message_size=1000)
    desk.intake.refusals["broken@b.test"] = RuntimeError("secret")
    line = await desk.line()
    commands = (
        "FOO|  |NOOP \xff|RCPT|DATA|BDAT 0|RSET|MAIL|MAIL FROM:<|MAIL FROM:<broken@b.test>|"
        "MAIL FROM:<a@b> X=1|MAIL FROM:<a@b> RET=1|MAIL FROM:<a@b> BODY=BINARYMIME|"
        "MAIL FROM:<a@b> SIZE=9999|MAIL FROM:<a@b> SIZE=x"
    )
    for command in commands.split("|"):
        [reply] = await line.send(command.encode("latin-1") + b"\r\n")
        code, enhanced, text = reply.split(" ", 2)
        assert enhanced.split(".")[0] == code[0]
        if code != "250":
            assert len(text.split()) > 5
        assert "secret" not in text


# Content


async def test_a_message_comes_with_client_and_envelope(desk: Desk) -> None:
    desk.shared.names = make_names(lambda _: ["nas.lan"], lambda _: ["127.0.0.1"])
    line = await desk.line()
    await line.ask(
        "EHLO nas;1",
        "MAIL FROM:<A@b.test> BODY=8BITMIME RET=HDRS ENVID=Id+2B1",
        "RCPT TO:<C@d.test> NOTIFY=NEVER ORCPT=rfc822;X@y",
        "DATA",
    )
    reply = await line.ask("x\r\n..\r\n.")
    assert reply == "250 2.0.0 Ok: queued as 1\r\n"
    [message] = desk.intake.messages
    assert message.content == b"x\r\n.\r\n"
    assert message.client == Client("127.0.0.1", "localhost", "nas?1", "ESMTP")
    assert message.envelope == Envelope(
        "A@b.test",
        (Recipient("C@d.test", orcpt="rfc822;X@y", notify="NEVER"),),
        given_reverse_path="A@b.test",
        ret="HDRS",
        envid="Id+2B1",
        is_8bitmime=True,
    )


async def test_the_name_is_waited_for_when_content_begins_and_not_before(desk: Desk) -> None:
    answer = asyncio.Event()

    async def ptr(address: str) -> list[str]:
        await answer.wait()
        return ["nas.lan"]

    async def addresses(name: str) -> list[str]:
        return ["10.0.0.7"]

    desk.shared.names = ReverseNames(ptr, addresses)
    desk.intake.access = Access(PRIVATE_NETWORKS)
    line = await desk.line("::ffff:10.0.0.7")
    assert len(await line.send(ENVELOPE + b"DATA\r\n")) == 0
    assert line.wire.writes[0].startswith(b"220 ")
    answer.set()
    assert "354 " in (await line.send(b""))[0]
    await line.ask(".")
    assert desk.intake.messages[0].client == Client("10.0.0.7", "nas.lan")


async def test_content_is_passed_on_as_it_comes(desk: Desk) -> None:
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\n")
    await line.send(b"first\r\n")
    assert desk.intake.begun[0].content == b"first"
    await line.send(b"x" * 1000)
    assert len(desk.intake.begun[0].content) == 1007
    await line.send(b"\r\n.\r\n")
    assert len(desk.intake.messages) == 1


async def test_big_content_arrives_whole() -> None:
    intake = MemoryIntake()
    body = (b"x" * 76 + b"\r\n") * 40_000
    async with serving(intake) as reception, connected(reception) as peer:
        await peer.ask("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "DATA")
        peer.send(body + b".\r\n")
        assert (await peer.reply()).startswith("250 ")
        peer.send(ENVELOPE + b"BDAT %d LAST\r\n%b" % (len(body), body))
        assert [(await peer.reply())[:3] for _ in range(3)] == ["250"] * 3
    assert [message.content for message in intake.messages] == [body, body]


async def test_content_over_the_limit_is_read_and_refused(desk: Desk) -> None:
    desk.settings = replace(SETTINGS, message_size=1000)
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\n")
    assert await line.send(b"x" * 2000) == []
    assert (desk.intake.aborted, desk.intake.begun[0].content) == (1, b"")
    [reply, other] = await line.send(b"x" * 2000 + b"\r\n.\r\nNOOP\r\n")
    assert reply.startswith("552 5.3.4 The message is too big: this server takes up to 1000 bytes")
    assert other.startswith("250 ")
    assert desk.intake.messages == []
    assert desk.intake.aborted == 1
    await line.send(ENVELOPE + b"DATA\r\n")
    assert (await line.ask("small\r\n."))[:3] == "250"


async def test_a_size_over_the_limit_is_refused_at_once(desk: Desk) -> None:
    line = await desk.line()
    reply = await line.ask("MAIL FROM:<a@b.test> SIZE=50000001")
    assert reply.startswith("552 5.3.4 The message is too big: this server takes up to 50 MB")
    assert (await line.ask("MAIL FROM:<a@b.test> SIZE=50000000"))[:3] == "250"


async def test_chunks_over_the_limit_are_read_and_refused(desk: Desk) -> None:
    desk.settings = replace(SETTINGS, message_size=1000)
    line = await desk.line()
    await line.send(ENVELOPE + b"BDAT 600\r\n" + b"x" * 600)
    replies = await line.send(b"BDAT 600\r\n" + b"x" * 600 + b"BDAT 5 LAST\r\nNOOP\n" + ENVELOPE)
    assert [text[:9] for text in "".join(replies).splitlines()] == [
        *("552 5.3.4", "551 5.0.0", "250 2.1.0", "250 2.1.5"),
    ]
    assert desk.intake.aborted == 1
    assert (await line.ask("BDAT 2000 LAST\r\n" + "x" * 1998))[:9] == "552 5.3.4"
    assert desk.intake.messages == []


async def test_a_chunk_that_grows_over_the_limit_is_refused(desk: Desk) -> None:
    desk.settings = replace(SETTINGS, message_size=10)
    line = await desk.line()
    replies = await line.send(ENVELOPE + b"BDAT 8\r\n" + b"\n" * 8 + b"BDAT 0 LAST\r\n")
    assert [text[:9] for text in "".join(replies).splitlines()][2:] == ["552 5.3.4", "551 5.0.0"]


# Failures


@pytest.mark.parametrize("place", ["a@b.test", "c@d.test", "begin", "write", "finish"])
@pytest.mark.parametrize("send", [b"DATA\r\n", b"BDAT 3 LAST\r\nx\r\n"])
async def test_a_failure_of_ours_is_temporary_and_only_logged(
    desk: Desk, place: str, send: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    desk.intake.refusals[place] = RuntimeError("disk on fire")
    line = await desk.line()
    with log_of(caplog) as log:
        writes = await line.send(ENVELOPE + send)
        if writes[-1].endswith("354 End data with <CR><LF>.<CR><LF>\r\n"):
            writes += await line.send(b"x\r\n.\r\n")
    replies = "".join(writes)
    assert "451 4.3.0 Something went wrong in this server" in replies
    assert "fire" not in replies
    assert any("disk on fire" in text for text in log)
    assert desk.intake.messages == []
    del desk.intake.refusals[place]
    await line.send(b"RSET\r\n" + ENVELOPE + b"DATA\r\n")
    assert (await line.ask("x\r\n."))[:3] == "250"


async def test_a_failing_abort_is_only_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.intake.refusals["abort"] = RuntimeError("disk on fire")
    line = await desk.line()
    with log_of(caplog) as log:
        assert (await line.send(ENVELOPE + b"BDAT 1\r\nxRSET\r\n"))[0].count("250 ") == 4
    assert any("disk on fire" in text for text in log)


async def test_a_refusal_at_the_end_is_passed_on_and_logged(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.intake.refusals["finish"] = Reply(550, "5.7.1", "no such header here")
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\n")
    with log_of(caplog) as log:
        assert await line.ask("x\r\n.") == "550 5.7.1 no such header here\r\n"
    [text] = log
    assert text.startswith("NOQUEUE: reject: END-OF-MESSAGE from localhost[127.0.0.1]: 550 5.7.1 no such")
    assert "from=<a@b.test>" in text


async def test_refused_addresses_are_logged_with_both_paths(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.intake.refusals |= {
        "e@f.test": Reply(550, "5.1.1", "Nobody"),
        "bad@b.test": Reply(550, "5.7.1", "No"),
    }
    line = await desk.line()
    with log_of(caplog) as log:
        await line.ask(
            "MAIL FROM:<bad@b.test>", "MAIL FROM:<a@b.test>", "RCPT TO:<e@f.test>", "AUTH PLAIN c2VjcmV0"
        )
    sender, recipient, login = log
    assert "reject: MAIL" in sender
    assert "from=<bad@b.test> to=<>" in sender
    assert "reject: RCPT" in recipient
    assert "from=<a@b.test> to=<e@f.test>" in recipient
    assert "c2VjcmV0" not in login


async def test_a_defect_of_the_session_ends_it_with_a_word(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await desk.line()
    monkeypatch.setattr(line.session, "_keep_account", None)
    writes = await line.send(b"NOOP\r\n")
    assert writes[-1].startswith("451 4.3.0 ")
    assert line.wire.is_closing()


async def test_a_line_of_a_megabyte_is_refused_without_being_kept(desk: Desk) -> None:
    line = await desk.line()
    for _ in range(16):
        assert await line.send(b"x" * 65536) == []
        assert len(line.session._input) <= LONGEST_LINE + 1 + 65536
    writes = await line.send(b"\r\nNOOP\r\n")
    assert writes[0].startswith("500 5.5.2 ")
    assert writes[1].startswith("250 ")


async def test_the_longest_line_passes_and_one_more_byte_does_not(desk: Desk) -> None:
    line = await desk.line()
    assert (await line.send(b"NOOP " + b"x" * (LONGEST_LINE - 6) + b"\r\n"))[0][:3] == "250"
    assert (await line.send(b"NOOP " + b"x" * (LONGEST_LINE - 5) + b"\r\n"))[0][:3] == "500"


# Limits


async def test_too_many_errors_end_the_session(desk: Desk) -> None:
    line = await desk.line()
    for _ in range(19):
        assert (await line.ask("FOO"))[:3] == "500"
    writes = await line.send(b"RCPT TO:<>\r\nNOOP\r\n")
    replies = "".join(writes).splitlines()
    assert [reply[:9] for reply in replies] == ["503 5.5.1", "421 4.7.0"]
    assert line.wire.is_closing()


async def test_too_many_commands_without_a_message_are_errors(desk: Desk) -> None:
    line = await desk.line()
    replies = "".join(await line.send(b"NOOP\r\nRSET\r\nVRFY a@b\r\nHELO x\r\n" * 40)).splitlines()
    assert len(replies) == 121
    assert replies[-1].startswith("421 4.7.0 ")


async def test_an_accepted_message_wipes_errors_out(desk: Desk) -> None:
    line = await desk.line()
    for _ in range(3):
        for _ in range(15):
            assert (await line.ask("FOO"))[:3] == "500"
        await line.send(ENVELOPE + b"DATA\r\n")
        assert (await line.ask("."))[:3] == "250"


async def test_too_many_recipients_are_refused_but_no_error(desk: Desk) -> None:
    desk.settings = replace(SETTINGS, recipients=2)
    line = await desk.line()
    await line.ask("MAIL FROM:<a@b.test>", "RCPT TO:<c@d.test>", "RCPT TO:<c@d.test>")
    for _ in range(30):
        assert (await line.ask("RCPT TO:<c@d.test>"))[:9] == "452 4.5.3"
    await line.ask("DATA")
    assert (await line.ask("."))[:3] == "250"
    assert len(desk.intake.messages[0].envelope.recipients) == 2


async def test_too_many_connections_are_turned_away(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.shared.limits.limits = Limits(connections_per_client=1)
    first = await desk.line()
    with log_of(caplog) as log:
        second = await desk.line()
    assert second.wire.writes[0].startswith(b"421 4.7.0 Your address 127.0.0.1 has 1 connections open")
    assert second.wire.is_closing()
    assert "reject: CONNECT" in log[0]
    await first.ask("QUIT")
    third = await desk.line()
    assert third.wire.writes[0].startswith(b"220 ")


async def test_messages_per_hour_are_limited(desk: Desk) -> None:
    desk.shared.limits.limits = Limits(messages_per_hour=1)
    line = await desk.line()
    await line.send(ENVELOPE + b"BDAT 0 LAST\r\n")
    assert (await line.ask("MAIL FROM:<a@b.test>"))[:9] == "450 4.7.1"


async def test_a_changed_configuration_counts_from_the_next_command(desk: Desk) -> None:
    line = await desk.line()
    other = MemoryIntake()
    line.session.configure(other, replace(SETTINGS, hostname="new.test", message_size=7))
    reply = await line.ask("EHLO x")
    assert reply.startswith("250-new.test\r\n")
    assert "250-SIZE 7\r\n" in reply
    await line.send(ENVELOPE + b"BDAT 0 LAST\r\n")
    assert len(other.messages) == 1


# Clients that vanish


@pytest.mark.parametrize(
    "dialogue",
    [
        b"EHLO x\r\n" + ENVELOPE + b"DATA\r\nSubject: x\r\n\r\n..\r\n.\r\nQUIT\r\n",
        b"EHLO x\r\n" + ENVELOPE + b"BDAT 3\r\nx\r\nBDAT 3 LAST\r\ny\r\nQUIT\r\n",
    ],
)
async def test_a_client_may_vanish_at_every_byte(desk: Desk, dialogue: bytes) -> None:
    end = dialogue.index(b"QUIT")
    for length in range(len(dialogue) + 1):
        desk.intake = MemoryIntake()
        line = await desk.line()
        await line.send(dialogue[:length])
        await line.vanish()
        assert len(desk.intake.messages) == (length >= end)
        assert desk.intake.aborted == len(desk.intake.begun) - len(desk.intake.messages)
        assert desk.shared.sessions == set()


async def test_a_client_that_vanishes_behind_the_final_dot_loses_nothing(desk: Desk) -> None:
    desk.intake.may_finish.clear()
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\nx\r\n.\r\n")
    assert desk.intake.is_finishing.is_set()
    await line.vanish()
    assert desk.shared.sessions == {line.session}
    desk.intake.may_finish.set()
    await line.session.wait_ended()
    assert desk.shared.sessions == set()
    assert [message.content for message in desk.intake.messages] == [b"x\r\n"]
    assert desk.intake.aborted == 0


async def test_dropping_a_message_is_not_cut_short_either(desk: Desk) -> None:
    desk.intake.may_abort.clear()
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\nx")
    line.session.eof_received()
    await line.wire.settle()
    assert desk.intake.was_aborted.is_set()
    await line.vanish()
    assert desk.shared.sessions == {line.session}
    desk.intake.may_abort.set()
    await line.session.wait_ended()
    assert desk.shared.sessions == set()


async def test_what_arrives_while_the_client_is_sent_away_does_not_count(desk: Desk) -> None:
    line = await desk.line()
    line.session.data_received(ENVELOPE + b"BDAT 1 LAST\r\nx")
    line.session.stop()
    await line.wire.settle()
    assert line.wire.writes[-1].startswith(b"421 ")
    assert desk.intake.begun == []


async def test_a_client_that_stops_sending_still_gets_its_replies() -> None:
    intake = MemoryIntake()
    async with serving(intake) as reception, connected(reception) as peer:
        peer.send(ENVELOPE + b"DATA\r\nx\r\n.\r\nNOOP\r\n")
        peer.writer.write_eof()
        assert [(await peer.reply())[:3] for _ in range(6)] == ["250", "250", "354", "250", "250", ""]
    assert len(intake.messages) == 1


async def test_a_reset_connection_drops_the_content() -> None:
    intake = MemoryIntake()
    async with serving(intake) as reception, connected(reception) as peer:
        peer.send(ENVELOPE + b"DATA\r\nx\r\nyyy")
        await asyncio.wait_for(intake.has_content.wait(), 10)
        peer.writer.transport.abort()
        await asyncio.wait_for(intake.was_aborted.wait(), 10)
    assert intake.messages == []


async def test_a_lost_client_is_logged_with_its_last_command(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with log_of(caplog) as log:
        line = await desk.line()
        await line.ask("MAIL FROM:<a@b.test>")
        await line.vanish()
        other = await desk.line()
        other.session.eof_received()
        await other.wire.settle()
        third = await desk.line()
        await third.ask("NOOP", "QUIT")
    assert log == [
        "connect from localhost[127.0.0.1]",
        "lost connection after MAIL from localhost[127.0.0.1]",
        "connect from localhost[127.0.0.1]",
        "lost connection after CONNECT from localhost[127.0.0.1]",
        "connect from localhost[127.0.0.1]",
        "disconnect from localhost[127.0.0.1] commands=2",
    ]


async def test_a_client_that_left_before_the_greeting_is_nobody(desk: Desk) -> None:
    line = await desk.line(peer=None)
    assert line.wire.is_closing()
    assert line.wire.writes == []


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError(), BrokenPipeError()])
async def test_a_broken_connection_is_no_defect(
    desk: Desk, error: OSError, caplog: pytest.LogCaptureFixture
) -> None:
    line = await desk.line()
    with log_of(caplog) as log:
        line.session._reader.set_exception(error)
        await line.wire.settle()
    assert log == ["lost connection after CONNECT from localhost[127.0.0.1]"]


# Clients that are silent or do not read


async def test_a_silent_client_is_told_and_left() -> None:
    settings = replace(SETTINGS, idle_seconds=0.05)
    async with serving(MemoryIntake(), settings) as reception, connected(reception) as peer:
        assert (await peer.reply()).startswith("421 4.4.2 ")
        assert await peer.reply() == ""


async def test_a_client_that_falls_silent_in_its_message_is_left_and_the_message_dropped() -> None:
    intake = MemoryIntake()
    settings = replace(SETTINGS, idle_seconds=0.05)
    async with serving(intake, settings) as reception, connected(reception) as peer:
        peer.send(ENVELOPE + b"DATA\r\nx\r\n")
        assert [(await peer.reply())[:3] for _ in range(5)] == ["250", "250", "354", "421", ""]
        await asyncio.wait_for(intake.was_aborted.wait(), 10)
    assert intake.messages == []


async def test_the_deadline_moves_while_bytes_flow(desk: Desk) -> None:
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\n")
    line.session._active_at -= 1000
    await line.send(b"x")
    line.session._timeout_cb()
    assert not line.wire.is_closing()
    line.session._active_at -= 1000
    line.session._timeout_cb()
    assert line.wire.writes[-1].startswith(b"421 4.4.2 ")
    assert line.wire.is_closing()


async def test_a_client_is_not_blamed_for_our_slowness(desk: Desk) -> None:
    desk.intake.may_finish.clear()
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\nx\r\n.\r\n")
    line.session._active_at -= 1000
    line.session._timeout_cb()
    assert not line.wire.is_closing()
    desk.intake.may_finish.set()
    assert (await line.send(b""))[0].startswith("250 ")
    line.session._timeout_cb()
    assert not line.wire.is_closing()


async def test_a_client_that_does_not_read_is_cut_off_in_the_end(desk: Desk) -> None:
    line = await desk.line()
    line.session.pause_writing()
    line.wire.waiting_bytes = 100_000
    assert len(await line.send(b"NOOP\r\nNOOP\r\n")) == 1
    line.session._active_at -= 1000
    line.session._timeout_cb()
    assert line.wire.writes[-1].startswith(b"421 4.4.2 ")
    await line.wire.settle()
    assert desk.shared.sessions
    line.session._timeout_cb()
    await line.wire.settle()
    assert not desk.shared.sessions


async def test_a_client_that_reads_again_is_served_on(desk: Desk) -> None:
    line = await desk.line()
    line.session.pause_writing()
    line.wire.waiting_bytes = 100_000
    assert len(await line.send(b"NOOP\r\nNOOP\r\n")) == 1
    line.wire.waiting_bytes = 0
    line.session.resume_writing()
    assert len(await line.send(b"")) == 1


async def test_a_client_that_breaks_while_it_does_not_read_is_lost(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    line = await desk.line()
    line.session.pause_writing()
    line.wire.waiting_bytes = 100_000
    await line.send(b"NOOP\r\n")
    with log_of(caplog) as log:
        line.wire.abort()
        await line.wire.settle()
    assert log == ["lost connection after NOOP from localhost[127.0.0.1]"]


async def test_a_connection_that_breaks_before_a_reply_is_lost(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    line = await desk.line()
    line.wire.waiting_bytes = 1
    with log_of(caplog) as log:
        line.session.data_received(b"NOOP\r\n")
        line.session._reader.set_exception(ConnectionResetError())
        await line.wire.settle()
    assert log == ["lost connection after NOOP from localhost[127.0.0.1]"]


# Shutting down


async def test_an_idle_client_is_sent_away_at_once(desk: Desk) -> None:
    line = await desk.line()
    await line.send(ENVELOPE)
    line.session.stop()
    assert line.wire.writes[-1].startswith(b"421 4.3.2 ")
    assert line.wire.is_closing()


async def test_a_client_may_finish_its_message_and_is_then_sent_away(desk: Desk) -> None:
    line = await desk.line()
    await line.send(ENVELOPE + b"DATA\r\nx")
    line.session.stop()
    writes = await line.send(b"\r\n.\r\n" + ENVELOPE)
    assert [text[:9] for text in "".join(writes).splitlines()] == ["250 2.0.0", "421 4.3.2"]
    assert line.wire.is_closing()
    assert len(desk.intake.messages) == 1


async def test_a_client_between_chunks_may_finish_too(desk: Desk) -> None:
    line = await desk.line()
    await line.send(ENVELOPE + b"BDAT 1\r\nx")
    line.session.stop()
    assert not line.wire.is_closing()
    writes = await line.send(b"BDAT 1\r\nyBDAT 0 LAST\r\n")
    assert [text[:9] for text in "".join(writes).splitlines()] == ["250 2.0.0", "250 2.0.0", "421 4.3.2"]
    assert desk.intake.messages[0].content == b"xy\r\n"


async def test_nobody_is_served_once_the_relay_closes(desk: Desk) -> None:
    desk.shared.is_closing = True
    line = await desk.line()
    assert line.wire.writes[0].startswith(b"421 4.3.2 ")
    assert line.wire.is_closing()


def test_the_limits_are_those_of_postfix() -> None:
    assert (session_module.MOST_ERRORS, session_module.MOST_IDLE_COMMANDS) == (20, 100)
