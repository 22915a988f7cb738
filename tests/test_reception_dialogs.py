"""Every dialogue in tests/dialogs, over a socket and byte by byte.

Lines of a dialogue: ``C:`` is sent with CRLF, ``c:`` without, neighbours in one write; ``S:`` is the start of
the next line from the server, ``<closed>`` the end of the connection; ``M:`` is a message that was accepted:
protocol, reverse-path, recipients and content. Backslash escapes are bytes.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from relay.reception.session import Session
from tests.support.reception import (
    LISTENER,
    SETTINGS,
    MemoryIntake,
    Message,
    Wire,
    connected,
    make_shared,
    serving,
)

DIALOGS = sorted((Path(__file__).parent / "dialogs").glob("*.txt"))
LINE = re.compile(r"([CcSM]): ?(.*)")


def read_dialog(path: Path) -> list[tuple[str, str]]:
    lines = path.read_text().splitlines()
    return [match.groups() for line in lines if (match := LINE.fullmatch(line))]  # type: ignore[misc]  # groups() is Any


def to_bytes(text: str) -> bytes:
    escaped = re.sub(r"[^\x00-\x7f]", lambda match: match[0].encode().decode("latin-1"), text)
    return escaped.encode("latin-1").decode("unicode_escape").encode("latin-1")


def describe(message: Message) -> bytes:
    envelope = message.envelope
    paths = " ".join(
        f"<{path}>" for path in (envelope.reverse_path, *(r.address for r in envelope.recipients))
    )
    return f"{message.client.protocol} {paths} ".encode() + message.content


def check_messages(dialog: list[tuple[str, str]], intake: MemoryIntake) -> None:
    expected = [to_bytes(text).strip(b" ") for kind, text in dialog if kind == "M" and text != "none"]
    assert [describe(message).strip(b" ") for message in intake.messages] == expected


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_dialogue_over_a_socket(path: Path) -> None:
    dialog = read_dialog(path)
    intake = MemoryIntake()
    async with serving(intake) as reception, connected(reception, greet=False) as peer:
        group = b""
        for kind, text in dialog:
            if kind in "Cc":
                group += to_bytes(text) + b"\r\n" * (kind == "C")
                continue
            peer.send(group)
            group = b""
            if kind == "S":
                line = await asyncio.wait_for(peer.reader.readline(), 10)
                expected = "" if text == "<closed>" else text
                assert line.decode().startswith(expected)
                assert bool(line) == bool(expected)
    check_messages(dialog, intake)


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_dialogue_byte_by_byte(path: Path) -> None:
    dialog = read_dialog(path)
    intake = MemoryIntake()
    wire = Wire()
    session = Session(intake, SETTINGS, LISTENER, make_shared())
    wire.connect(session)
    await wire.settle()
    for kind, text in dialog:
        if kind in "Cc":
            for byte in to_bytes(text) + b"\r\n" * (kind == "C"):
                if not wire.is_closing():
                    session.data_received(bytes([byte]))
                    await asyncio.sleep(0)
            await wire.settle()
    lines = b"".join(wire.writes).decode().splitlines()
    expected = [text for kind, text in dialog if kind == "S"]
    assert len(lines) == len(expected) - ("<closed>" in expected)
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=False))
    assert wire.is_closing() == ("<closed>" in expected or "221" in [line[:3] for line in lines])
    check_messages(dialog, intake)
    wire.close()
    await wire.settle()


async def test_no_dialogue_is_overlooked() -> None:
    assert len(DIALOGS) > 20
    for path in DIALOGS:
        comment = re.compile(r"#.*|")
        assert all(LINE.fullmatch(line) or comment.fullmatch(line) for line in path.read_text().splitlines())
