"""relay passwd: from a password to the line under [users], with and without a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tomllib

import pytest

from relay.mail.passwords import parse_hash
from tests.support.service import run_program

PASSWD = (sys.executable, "-m", "relay", "passwd")


async def test_the_line_for_a_user_is_printed() -> None:
    done = await run_program(*PASSWD, "scanner", given=b"secret word \r\nmore\n")
    assert (done.status, done.err) == (0, "")
    [(name, text)] = tomllib.loads(done.out).items()
    assert name == "scanner"
    assert parse_hash(text).is_of(b"secret word ")
    assert "secret" not in done.out


async def test_without_a_name_the_hash_alone_is_printed() -> None:
    done = await run_program(*PASSWD, given="été".encode())
    assert parse_hash(done.out.strip()).is_of("été".encode())


async def test_an_odd_name_is_quoted() -> None:
    done = await run_program(*PASSWD, 'Anna "A" B', given=b"x\n")
    assert [*tomllib.loads(done.out)] == ['Anna "A" B']


async def test_each_hash_has_its_own_salt() -> None:
    first, second = [await run_program(*PASSWD, given=b"x\n") for _ in range(2)]
    assert first.out != second.out


@pytest.mark.parametrize("given", [b"", b"\n", b"\r\n"])
async def test_no_password_is_an_error(given: bytes) -> None:
    done = await run_program(*PASSWD, "scanner", given=given)
    assert (done.status, done.out) == (1, "")
    assert done.err == "relay: no password was given, or not the same one twice\n"


async def test_a_password_is_not_taken_as_an_argument() -> None:
    done = await run_program(*PASSWD, "scanner", "secret")
    assert done.status == 2


def type_in(*answers: str) -> tuple[int, str]:
    """Run the command on a terminal; return its exit status and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PASSWD, "scanner"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    shown = ""
    waiting = list(answers)
    while True:
        try:
            piece = os.read(ours, 4096).decode()
        except OSError:  # the other end is closed
            break
        shown += piece
        if piece.endswith(": ") and waiting:
            os.write(ours, waiting.pop(0).encode() + b"\n")
    os.close(ours)
    return process.wait(), shown


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown() -> None:
    status, shown = type_in("s3cret", "s3cret")
    assert status == 0
    assert re.match(r"Password: \s+The same again: \s+scanner = ", shown)
    assert "s3cret" not in shown
    assert parse_hash(tomllib.loads(shown[shown.index("scanner") :].replace("\r", ""))["scanner"]).is_of(
        b"s3cret"
    )


@pytest.mark.parametrize("answers", [("one", "two"), ("", "")])
def test_two_different_passwords_are_none(answers: tuple[str, str]) -> None:
    status, shown = type_in(*answers)
    assert status == 1
    assert shown.endswith("relay: no password was given, or not the same one twice\r\n")
