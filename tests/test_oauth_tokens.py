"""Access tokens that stay valid, against a provider on the loopback interface."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from threading import Event

import pytest

from relay.config.secrets import Secret, SecretError
from relay.oauth.account import OAuthAccount
from relay.oauth.client import TIMEOUT_SECONDS
from relay.oauth.token_file import Token, read_token, write_token
from relay.oauth.tokens import (
    FIRST_PAUSE_SECONDS,
    IDLE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MARGIN_SECONDS,
    RECENT_SECONDS,
    REFUSAL_PAUSE_SECONDS,
    Tokens,
)
from tests.support.oauth_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    LIFETIME,
    SECRET_MARK,
    Answer,
    OAuthServer,
    refusal,
    success,
)

START = 1_800_000_000.0
WITHDRAWN = (
    "smarthost isp: the provider has withdrawn the login "
    "(invalid_grant: Token has been expired or revoked.); log in again: relay login isp"
)


class House:
    """One account, its token file and its clock."""

    def __init__(self, folder: Path, provider: OAuthServer) -> None:
        self.provider = provider
        self.path = folder / "tokens" / "isp.json"
        self.now = START
        self.secret_file = folder / "client_secret"
        folder.mkdir(exist_ok=True)
        self.secret_file.write_text(CLIENT_SECRET)
        provider.client_secret = CLIENT_SECRET
        self.tokens = self.start()

    def start(self) -> Tokens:
        """Start the service again."""
        account = OAuthAccount(
            "isp",
            CLIENT_ID,
            Secret(file=self.secret_file),
            token_endpoint=self.provider.url("token"),
            device_endpoint="",
            authorize_endpoint="",
            scope="mail",
            token_file=self.path,
        )
        self.tokens = Tokens({"isp": account}, lambda: self.now)
        return self.tokens

    def log_in(self) -> None:
        """What ``relay login`` leaves behind, with an access token that has expired already."""
        write_token(self.path, Token("expired", self.provider.issue_refresh_token(), self.now, self.now))

    async def token(self, *, is_refused: bool = False) -> str:
        return await self.tokens.access_token("isp", is_refused=is_refused)

    async def failure(self, *, is_refused: bool = False) -> str:
        with pytest.raises(SecretError) as caught:
            await self.token(is_refused=is_refused)
        return str(caught.value)

    @property
    def refreshes(self) -> int:
        return len(self.provider.requests)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with OAuthServer() as provider:
        house = House(tmp_path, provider)
        house.log_in()
        yield house


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "relay"]


# Renewal


async def test_an_access_token_is_kept_until_shortly_before_it_expires(house: House) -> None:
    first = await house.token()
    assert house.provider.accepts(first)
    house.now += LIFETIME - MARGIN_SECONDS - 1
    assert await house.token() == first
    assert house.refreshes == 1
    house.now += 1
    assert await house.token() != first
    assert house.refreshes == 2


async def test_a_short_life_is_used_up_to_its_half(house: House) -> None:
    house.provider.lifetime = 100
    first = await house.token()
    house.now += 49
    assert await house.token() == first
    house.now += 1
    assert await house.token() != first


async def test_a_token_outlives_a_restart(house: House) -> None:
    first = await house.token()
    house.start()
    assert await house.token() == first
    assert house.refreshes == 1


async def test_a_token_that_is_refused_is_renewed(house: House) -> None:
    first = await house.token()
    house.provider.expire_access_tokens()
    house.now += RECENT_SECONDS
    second = await house.token(is_refused=True)
    assert second != first
    assert house.provider.accepts(second)


async def test_a_token_that_was_renewed_just_now_is_not_renewed_again(house: House) -> None:
    first = await house.token()
    house.now += RECENT_SECONDS - 1
    assert await house.token(is_refused=True) == first
    assert house.refreshes == 1


async def test_those_who_ask_at_once_share_one_request(house: House) -> None:
    tokens = await asyncio.gather(*(house.token() for _ in range(10)))
    assert len(set(tokens)) == 1
    assert house.refreshes == 1


async def test_a_renewal_ends_though_nobody_waits_for_it(house: House) -> None:
    has_begun, may_go_on = Event(), Event()

    def answer(_: dict[str, str]) -> Answer:
        has_begun.set()
        assert may_go_on.wait(30)
        return success(access_token="a", refresh_token="b", expires_in=LIFETIME)

    house.provider.script.append(answer)
    impatient = asyncio.create_task(house.token())
    await asyncio.to_thread(has_begun.wait, 30)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    other = asyncio.create_task(house.token())
    await asyncio.sleep(0)
    may_go_on.set()
    assert await other == "a"
    assert read_token(house.path).refresh_token == "b"
    assert house.refreshes == 1


async def test_a_new_refresh_token_is_on_disk_before_it_is_needed(house: House) -> None:
    house.provider.rotates = True
    for _ in range(3):
        assert house.provider.accepts(await house.token())
        house.now += LIFETIME
        house.start()
    assert house.refreshes == 3


async def test_a_clock_that_was_set_back_is_no_trouble(house: House) -> None:
    first = await house.token()
    house.now -= 10 * LIFETIME
    second = await house.token()
    assert second != first
    assert await house.token() == second


async def test_a_client_secret_is_read_anew(house: House) -> None:
    house.secret_file.write_text("mistyped")
    assert "refuses to renew the token (invalid_client: unknown client or wrong secret)" in (
        await house.failure()
    )
    house.secret_file.write_text(CLIENT_SECRET)
    assert house.provider.accepts(await house.token())


# Idle


async def test_an_idle_token_is_renewed_weekly(house: House) -> None:
    await house.token()
    house.now += IDLE_SECONDS - 1
    await house.tokens.renew_idle()
    assert house.refreshes == 1
    house.now += 1
    await house.tokens.renew_idle()
    await house.tokens.renew_idle()
    assert house.refreshes == 2


async def test_idle_tokens_are_looked_after_from_the_start(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.provider.revoke()
    house.now += IDLE_SECONDS
    keeping = asyncio.create_task(house.tokens.keep_alive())
    async with asyncio.timeout(30):
        while not warned(caplog):
            await asyncio.sleep(0.001)
    assert not keeping.done()
    keeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await keeping


async def test_a_withdrawn_login_is_warned_of_though_no_mail_is_sent(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.provider.revoke()
    house.now += IDLE_SECONDS
    await house.tokens.renew_idle()
    await house.tokens.renew_idle()
    assert warned(caplog) == [WITHDRAWN]


# Failures


async def test_a_withdrawn_login_is_told_at_once_and_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.provider.revoke()
    assert await house.failure() == WITHDRAWN
    assert await house.failure() == WITHDRAWN
    assert house.tokens.problems == {"isp": WITHDRAWN}
    assert warned(caplog) == [WITHDRAWN]
    assert house.refreshes == 1


async def test_a_provider_that_refuses_is_asked_again_after_an_hour(house: House) -> None:
    house.provider.script.append(refusal("unauthorized_client"))
    assert await house.failure() == (
        "smarthost isp: the provider refuses to renew the token (unauthorized_client); "
        "check client_id and client_secret, and log in again: relay login isp"
    )
    house.now += REFUSAL_PAUSE_SECONDS - 1
    await house.failure()
    house.now += 1
    assert house.provider.accepts(await house.token())
    assert house.tokens.problems == {}


async def test_a_new_login_mends_it_while_the_relay_runs(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.provider.revoke()
    await house.failure()
    house.now += 1
    house.log_in()
    assert house.tokens.problems == {}
    assert house.provider.accepts(await house.token())
    house.provider.revoke()
    house.now += LIFETIME
    await house.failure()
    assert warned(caplog) == [WITHDRAWN, WITHDRAWN]


async def test_a_login_while_a_token_is_renewed_wins(house: House) -> None:
    def answer(_: dict[str, str]) -> Answer:
        house.now += 1
        write_token(house.path, Token("new login", "b", house.now, house.now + LIFETIME))
        return success(access_token="old login", expires_in=LIFETIME)

    house.provider.script.append(answer)
    assert await house.token() == "new login"
    assert read_token(house.path).access_token == "new login"


async def test_a_provider_that_is_down_is_left_alone_for_longer_and_longer(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    sentence = (
        "smarthost isp: its token cannot be renewed: 127.0.0.1 answers with HTTP status 503; "
        "it is tried again by itself"
    )
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, 7):
        house.provider.script.append(Answer(503, b""))
        assert await house.failure() == sentence
        house.now += pause - 1
        assert await house.failure(is_refused=True) == sentence
        assert house.refreshes == attempt
        house.now += 1
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    assert house.tokens.problems == {"isp": sentence}
    assert house.provider.accepts(await house.token())
    assert house.tokens.problems == {}
    assert warned(caplog) == [sentence]


async def test_a_token_is_used_to_its_end_where_it_cannot_be_renewed(house: House) -> None:
    first = await house.token()
    house.now += LIFETIME - MARGIN_SECONDS
    house.provider.script.append(Answer(503, b""))
    assert await house.token() == first
    assert "503" in await house.failure(is_refused=True)
    house.now += MARGIN_SECONDS
    assert house.provider.accepts(await house.token())


async def test_a_pause_does_not_outlast_a_clock_that_is_set_back(house: House) -> None:
    house.provider.script.append(Answer(503, b""))
    await house.failure()
    house.now -= 10 * LONGEST_PAUSE_SECONDS
    assert house.provider.accepts(await house.token())


async def test_without_a_login_the_owner_is_told_how(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.path.unlink()
    sentence = "smarthost isp has no token yet; log in: relay login isp"
    await house.tokens.renew_idle()
    assert await house.failure() == sentence
    assert house.tokens.problems == {"isp": sentence}
    assert warned(caplog) == [sentence]


async def test_a_damaged_file_is_told(house: House) -> None:
    house.path.write_text("{")
    assert await house.failure() == f"the token file {house.path} is damaged; log in again: relay login isp"


async def test_a_file_that_cannot_be_read_is_told(house: House) -> None:
    house.path.unlink()
    house.path.mkdir()
    assert await house.failure() == (
        f"the token file {house.path} cannot be read (Is a directory); "
        "log in again as the relay's user: relay login isp"
    )


async def test_a_client_secret_that_cannot_be_read_is_told(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.secret_file.unlink()
    sentence = await house.failure()
    assert str(house.secret_file) in sentence
    assert house.tokens.problems == {"isp": sentence}
    assert warned(caplog) == [sentence]


@pytest.fixture
def sealed_house(tmp_path: Path) -> Iterator[House]:
    """A house whose token file can be read but not replaced, even by root, until ``unseal``."""
    with OAuthServer() as provider:
        house = House(tmp_path, provider)
        house.log_in()
        descriptor = os.open(house.path, os.O_RDONLY)
        house.path = tmp_path / "sealed" / str(descriptor)
        house.path.parent.symlink_to("/proc/self/fd")
        house.start()
        yield house
        os.close(descriptor)


def unseal(house: House) -> None:
    stored = read_token(house.path)
    house.path.parent.unlink()
    write_token(house.path, stored)


async def test_a_token_that_cannot_be_written_is_used_and_told(
    sealed_house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house = sealed_house
    house.provider.rotates = True
    house.now += 1
    first = await house.token()
    assert house.provider.accepts(first)
    assert await house.token() == first
    sentence = (
        f"smarthost isp: the new token cannot be written to {house.path} (No such file or directory) "
        "and is lost when the relay stops; see that its user may write there"
    )
    assert house.tokens.problems == {"isp": sentence}
    house.now += LIFETIME
    assert house.provider.accepts(await house.token())
    assert warned(caplog) == [sentence]


async def test_a_token_is_written_as_soon_as_that_can_be_done(sealed_house: House) -> None:
    house = sealed_house
    house.provider.rotates = True
    house.now += 1
    await house.token()
    unseal(house)
    house.now += LIFETIME
    token = await house.token()
    assert read_token(house.path).access_token == token
    assert house.tokens.problems == {}


async def test_each_smarthost_has_a_token_of_its_own(tmp_path: Path) -> None:
    with OAuthServer() as provider:
        houses = [House(tmp_path / name, provider) for name in ("a", "b")]
        houses[0].log_in()
        houses[1].log_in()
        assert await houses[0].token() != await houses[1].token()


LEAVES_AT_ONCE = """
import asyncio, sys
from pathlib import Path
from relay.oauth.account import OAuthAccount
from relay.oauth.token_file import Token, write_token
from relay.oauth.tokens import Tokens

endpoint, path = sys.argv[1], Path(sys.argv[2])
write_token(path, Token("expired", "refresh", 0, 0))
account = OAuthAccount("isp", "id", None, endpoint, "", "", "mail", path)

async def leave():
    asyncio.create_task(Tokens({"isp": account}).access_token("isp"))
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(leave())
"""


def test_a_provider_that_says_nothing_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/token"
        command = [sys.executable, "-c", LEAVES_AT_ONCE, endpoint, tmp_path / "isp.json"]
        with subprocess.Popen(command, stdin=PIPE, stderr=PIPE) as process:
            asked, _ = silent.accept()
            with asked:
                assert asked.recv(1)
                _, err = process.communicate(b"leave\n", timeout=0.75 * TIMEOUT_SECONDS)
    assert (process.returncode, err) == (0, b"")


# Secrets


async def test_no_token_is_in_a_log_a_sentence_or_a_repr(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    house.provider.script.append(
        lambda form: refusal("invalid_grant", f"{form['refresh_token']} {form['client_secret']}")
    )
    sentences = [await house.failure()]
    house.now += REFUSAL_PAUSE_SECONDS
    assert house.provider.accepts(await house.token())
    house.provider.revoke()
    house.now += LIFETIME
    sentences.append(await house.failure())
    with pytest.raises(SecretError) as caught:
        await house.token()
    shown = [*sentences, *house.tokens.problems.values(), repr(house.tokens), caplog.text]
    shown.extend(traceback.format_exception(caught.value))
    assert SECRET_MARK not in "\n".join(shown)
