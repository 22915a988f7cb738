"""What a client answers to AUTH becomes a user and a password, or the reply that says what is wrong."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.reply import Reply
from relay.reception import replies
from relay.reception.sasl import Credentials, read_credentials

WORDS = st.binary(max_size=30)
USER = Credentials("PLAIN", "anna", b"secret")


def talk(argument: bytes, *lines: bytes) -> tuple[Credentials | Reply, list[str]]:
    """Return what comes of an AUTH command and the lines behind it, and the challenges on the way."""
    waiting, challenges = list(lines), []

    async def ask(challenge: Reply) -> bytes:
        challenges.append(str(challenge))
        return waiting.pop(0)

    outcome = asyncio.run(read_credentials(argument, ask))
    assert waiting == []
    return outcome, challenges


def encode(*words: bytes) -> bytes:
    return b64encode(b"\0".join(words))


@pytest.mark.parametrize("mechanism", [b"PLAIN", b"plain", b"Plain", b" PLAIN "])
def test_plain_with_an_initial_response(mechanism: bytes) -> None:
    assert talk(mechanism + b" " + encode(b"", b"anna", b"secret")) == (USER, [])


def test_plain_behind_an_empty_challenge() -> None:
    assert talk(b"PLAIN", encode(b"", b"anna", b"secret") + b"\r") == (USER, ["334"])


def test_plain_may_name_whom_it_acts_for() -> None:
    assert talk(b"PLAIN " + encode(b"anna", b"anna", b"secret")) == (USER, [])


def test_login_asks_as_old_devices_expect() -> None:
    user, challenges = talk(b"LOGIN", b64encode(b"anna"), b64encode(b"secret"))
    assert user == Credentials("LOGIN", "anna", b"secret")
    assert challenges == ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"]


def test_login_with_an_initial_response() -> None:
    user, challenges = talk(b"login " + b64encode(b"anna"), b64encode(b"secret"))
    assert user == Credentials("LOGIN", "anna", b"secret")
    assert challenges == ["334 UGFzc3dvcmQ6"]


def test_an_equals_sign_is_an_empty_response() -> None:
    assert talk(b"LOGIN =", b"") == (Credentials("LOGIN", "", b""), ["334 UGFzc3dvcmQ6"])


def test_upper_and_lower_case_of_a_name_do_not_matter() -> None:
    user, _ = talk(b"PLAIN " + encode(b"", "ÉMILE".encode(), b"Secret"))
    assert user == Credentials("PLAIN", "émile", b"Secret")


def test_a_password_is_bytes_and_not_shown() -> None:
    user, _ = talk(b"PLAIN " + encode(b"", b"\xe9", b"\xff secret"))
    assert isinstance(user, Credentials)
    assert user.password == b"\xff secret"
    assert repr(user) == "Credentials(method='PLAIN', user='\N{REPLACEMENT CHARACTER}')"


@pytest.mark.parametrize(
    ("argument", "lines", "reply"),
    [
        (b"", [], replies.NO_MECHANISM),
        (b"PLAIN AAA= AAA=", [], replies.NO_MECHANISM),
        (b"CRAM-MD5", [], replies.UNKNOWN_MECHANISM),
        (b"\xe9", [], replies.UNKNOWN_MECHANISM),
        (b"PLAIN", [b"*"], replies.LOGIN_CANCELLED),
        (b"LOGIN", [b"*\r"], replies.LOGIN_CANCELLED),
        (b"LOGIN", [b64encode(b"anna"), b"*"], replies.LOGIN_CANCELLED),
        (b"PLAIN !!!", [], replies.NOT_BASE64),
        (b"PLAIN", [b"A"], replies.NOT_BASE64),
        (b"PLAIN", [b"AAA"], replies.NOT_BASE64),
        (b"PLAIN *", [], replies.NOT_BASE64),
        (b"LOGIN", [b"YQ==YQ=="], replies.NOT_BASE64),
        (b"LOGIN YQ==", [b"\xff\xff\xff\xff"], replies.NOT_BASE64),
        (b"PLAIN =", [], replies.NOT_PLAIN),
        (b"PLAIN " + encode(b"anna", b"secret"), [], replies.NOT_PLAIN),
        (b"PLAIN " + encode(b"", b"anna", b"secret", b""), [], replies.NOT_PLAIN),
    ],
)
def test_what_is_wrong_is_told(argument: bytes, lines: Sequence[bytes], reply: Reply) -> None:
    assert talk(argument, *lines)[0] is reply


@given(st.sampled_from([b"PLAIN", b"LOGIN", b"plain"]), st.tuples(WORDS, WORDS, WORDS), st.booleans())
def test_any_response_is_read_or_refused(
    mechanism: bytes, words: tuple[bytes, bytes, bytes], is_initial: bool
) -> None:
    lines = list(words)

    async def ask(_: Reply) -> bytes:
        return lines.pop()

    argument = mechanism + b" " + lines.pop() if is_initial else mechanism
    assert isinstance(asyncio.run(read_credentials(argument, ask)), Credentials | Reply)


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")), WORDS)
def test_any_name_and_password_come_through(name: str, password: bytes) -> None:
    by_login, _ = talk(b"LOGIN", b64encode(name.encode()), b64encode(password))
    assert by_login == Credentials("LOGIN", name.casefold(), password)
    if b"\0" not in password:
        by_plain, _ = talk(b"PLAIN", encode(b"", name.encode(), password))
        assert by_plain == Credentials("PLAIN", name.casefold(), password)
