"""Mail through a real smarthost: a Postfix that wants a login over TLS."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from relay.delivery.client import Connection
from relay.delivery.login import Account
from relay.mail.attempt import Attempt, Scope
from relay.mail.route import NextHop
from tests.support import postfix as real
from tests.support.authority import Authority
from tests.support.delivery import CONTENT, content, message, settings
from tests.support.postfix import PASSWORD, USER, Postfix
from tests.support.rig import ServerAt, messages_at, until

pytestmark = [pytest.mark.needs("postfix", "saslpasswd2"), pytest.mark.needs_root]

Mode = Literal["implicit", "starttls"]
Method = Literal["auto", "plain", "login", "cram-md5"]
MODES: tuple[Mode, ...] = ("implicit", "starttls")


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="relay-postfix-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postfix's programs have a user of their own
        with real.running(folder, Authority.trusted(folder, patch)) as running:
            yield running


async def connect(
    postfix: Postfix, mode: Mode, account: Account | None, host: str = real.NAME
) -> Connection | Attempt:
    port = postfix.implicit if mode == "implicit" else postfix.starttls
    next_hop = NextHop(host, port, tls=mode, smarthost="isp")
    return await Connection.open(
        host, "127.0.0.1", next_hop, replace(settings(), account_of=lambda _: account)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["auto", "plain", "login", "cram-md5"])
async def test_mail_gets_through(postfix: Postfix, mode: Mode, method: Method) -> None:
    async with ServerAt("127.0.0.1", postfix.sink) as sink:
        connection = await connect(postfix, mode, Account(USER, lambda: PASSWORD, method))
        assert isinstance(connection, Connection), connection
        for _ in range(2):
            attempts = await connection.transfer(message(), content())
            assert [attempt.reply.code for attempt in attempts] == [250, 250]
        await connection.quit()
        await until(lambda: len(messages_at(sink)) == 2)
    for taken in messages_at(sink):
        assert b"(Authenticated sender: chris@mx.test)" in taken
        assert taken.endswith(CONTENT.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_password_defers_with_the_words_of_postfix(postfix: Postfix, mode: Mode) -> None:
    attempt = await connect(postfix, mode, Account(USER, lambda: "wrong"))
    assert isinstance(attempt, Attempt)
    assert attempt.scope is Scope.SITE
    assert attempt.reply.enhanced == "4.7.8"
    assert attempt.reply.text == (
        "login refused: check username and password of [smarthost.isp]; host mx.test[127.0.0.1] said: "
        "535 5.7.8 Error: authentication failed: authentication failure"
    )


@pytest.mark.parametrize("mode", MODES)
async def test_without_a_login_postfix_takes_no_mail(postfix: Postfix, mode: Mode) -> None:
    connection = await connect(postfix, mode, None)
    assert isinstance(connection, Connection)
    attempts = await connection.transfer(message(), content())
    assert [attempt.reply.code for attempt in attempts] == [554, 554]
    await connection.quit()


@pytest.mark.parametrize("mode", MODES)
async def test_no_password_goes_to_a_server_of_another_name(postfix: Postfix, mode: Mode) -> None:
    attempt = await connect(postfix, mode, Account(USER, lambda: PASSWORD), "smtp.isp.test")
    assert isinstance(attempt, Attempt)
    assert attempt.reply.text.endswith("its certificate is for another name: mx.test")
