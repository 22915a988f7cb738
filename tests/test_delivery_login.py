"""Logging in at a scripted server: the exact bytes, one try, and what is said where it fails."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from relay.config.secrets import SecretError
from relay.delivery.client import Connection, Timeouts
from relay.delivery.login import Account
from relay.mail.attempt import Attempt, Scope
from relay.mail.route import NextHop, Tls
from tests.support.authority import Authority
from tests.support.delivery import CONTENT, HOST, content, message, settings
from tests.support.smtp_server import DROP, HANG, TLS, Script, ScriptedServer, Step, offer

USER, PASSWORD = "chris@isp.test", "s3cret pässword"
ACCEPTED = b"235 2.7.0 Welcome\r\n"
REFUSED = b"535 5.7.8 Username and password not accepted\r\n"
ADVICE = "login refused: check username and password of [smarthost.isp]; host HOST said:"

Method = Literal["auto", "plain", "login", "cram-md5", "xoauth2"]


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


PLAIN_LINE = b"AUTH PLAIN " + b64(f"\0{USER}\0{PASSWORD}")


def account(method: Method = "auto", *, allows_clear: bool = True) -> Account:
    return Account(USER, lambda: PASSWORD, method, allows_clear)


@dataclass
class Tokens:
    """The tokens that an OAuth client gets: a new one each time that one was refused."""

    given: Sequence[str] = ("old-token", "new-token")
    asked: list[bool] = field(default_factory=list)

    async def __call__(self, is_refused: bool) -> str:
        self.asked.append(is_refused)
        return self.given[is_refused]

    @property
    def account(self) -> Account:
        return Account(USER, method="xoauth2", allows_clear=True, token=self)


def xoauth2(token: str) -> bytes:
    return b64(f"user={USER}\x01auth=Bearer {token}\x01\x01")


def offering(mechanisms: str) -> bytes:
    return offer("PIPELINING", f"AUTH {mechanisms}")


def script(**steps: Step) -> Script:
    """Return the script of a server that takes every login."""
    return Script().but(**{"EHLO": offering("PLAIN LOGIN CRAM-MD5 XOAUTH2"), "AUTH": ACCEPTED, **steps})


async def connect(
    server: ScriptedServer, account: Account, tls: Tls = "none", timeouts: Timeouts | None = None
) -> Connection | Attempt:
    next_hop = NextHop("mx.test", server.port, tls=tls, smarthost="isp")
    asked: list[NextHop] = []

    def account_of(hop: NextHop) -> Account:
        asked.append(hop)
        return account

    opened = await Connection.open(
        "mx.test", "127.0.0.1", next_hop, replace(settings(timeouts), account_of=account_of)
    )
    assert set(asked) <= {next_hop}
    return opened


async def log_in(
    script: Script, account: Account, tls: Tls = "none", server: ScriptedServer | None = None
) -> list[bytes]:
    """Log in, send a message, and return what the server read from the first AUTH to the last word of it."""
    async with server or ScriptedServer(script) as serving:
        serving.script = script
        connection = await connect(serving, account, tls)
        assert isinstance(connection, Connection), connection
        await connection.transfer(message(), content())
        await connection.quit()
        await serving.wait_ended()
    assert serving.sessions[0].messages == [CONTENT]
    commands = serving.sessions[0].commands
    first = [command[:4] for command in commands].index(b"AUTH")
    last = [command[:4] for command in commands].index(b"MAIL")
    return commands[first:last]


async def fail(
    script: Script, account: Account, tls: Tls = "none", timeouts: Timeouts | None = None
) -> tuple[str, list[bytes]]:
    """Fail to log in; return the words of the deferral and the lines after EHLO."""
    async with ScriptedServer(script) as server:
        attempt = await connect(server, account, tls, timeouts)
        assert isinstance(attempt, Attempt), attempt
        await server.wait_ended()
    assert (attempt.scope, attempt.command, attempt.is_remote) == (Scope.SITE, "AUTH", False)
    assert (attempt.host, attempt.next_hop) == (
        f"{HOST}:{server.port}",
        f"isp=[mx.test]:{server.port}",
    )
    assert 400 <= attempt.reply.code < 500
    assert attempt.reply.enhanced.startswith("4.")
    assert len(server.sessions) == 1
    words = f"{attempt.reply.enhanced} {attempt.reply.text.replace(HOST, 'HOST')}"
    assert PASSWORD not in repr(attempt)
    return words, server.sessions[0].commands[1:]


# Mechanisms


async def test_plain_sends_everything_with_the_command() -> None:
    assert await log_in(script(), account("plain")) == [PLAIN_LINE]


async def test_plain_waits_for_the_invitation_where_a_line_would_be_too_long() -> None:
    long = Account(USER, lambda: "x" * 400, "plain", allows_clear=True)
    response = b64(f"\0{USER}\0{'x' * 400}")
    steps: dict[str, Step] = {"AUTH": b"334 \r\n", response.decode().upper(): ACCEPTED}
    assert await log_in(script(**steps), long) == [b"AUTH PLAIN", response]


@pytest.mark.parametrize("prompts", [(b64("Username:"), b64("Password:")), (b"", b""), (b"what", b"\xff")])
async def test_login_answers_two_prompts_whatever_they_say(prompts: tuple[bytes, bytes]) -> None:
    user, password = b64(USER), b64(PASSWORD)
    steps: dict[str, Step] = {
        "AUTH": b"334 " + prompts[0] + b"\r\n",
        user.decode().upper(): b"334 " + prompts[1] + b"\r\n",
        password.decode().upper(): ACCEPTED,
    }
    assert await log_in(script(**steps), account("login")) == [b"AUTH LOGIN", user, password]


async def test_cram_md5_answers_the_challenge_without_the_password() -> None:
    challenge = b"<1896.697170952@postoffice.example.net>"
    digest = hmac.new(PASSWORD.encode(), challenge, "md5").hexdigest()
    answer = b64(f"{USER} {digest}")
    steps: dict[str, Step] = {
        "AUTH": b"334 " + base64.b64encode(challenge) + b"\r\n",
        answer.decode().upper(): ACCEPTED,
    }
    assert await log_in(script(**steps), account("cram-md5")) == [b"AUTH CRAM-MD5", answer]


async def test_cram_md5_gives_the_answer_of_the_rfc() -> None:
    """The example of RFC 2195 section 2."""
    tim = Account("tim", lambda: "tanstaaftanstaaf", "cram-md5", allows_clear=True)
    answer = b"dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw"
    steps: dict[str, Step] = {
        "AUTH": b"334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+\r\n",
        answer.decode().upper(): ACCEPTED,
    }
    assert await log_in(script(**steps), tim) == [b"AUTH CRAM-MD5", answer]


async def test_xoauth2_sends_the_token_with_the_command() -> None:
    tokens = Tokens()
    assert await log_in(script(), tokens.account) == [b"AUTH XOAUTH2 " + xoauth2("old-token")]
    assert tokens.asked == [False]


async def test_a_long_token_waits_for_the_invitation() -> None:
    tokens = Tokens(("t" * 2000, ""))
    response = xoauth2("t" * 2000)
    steps: dict[str, Step] = {"AUTH": b"334 \r\n", response.decode().upper(): ACCEPTED}
    assert await log_in(script(**steps), tokens.account) == [b"AUTH XOAUTH2", response]


JSON = b"334 " + base64.b64encode(b'{"status":"401","schemes":"Bearer"}') + b"\r\n"


async def test_a_refused_token_is_replaced_once() -> None:
    tokens = Tokens()
    assert await log_in(script(AUTH=[REFUSED, ACCEPTED]), tokens.account) == [
        b"AUTH XOAUTH2 " + xoauth2("old-token"),
        b"AUTH XOAUTH2 " + xoauth2("new-token"),
    ]
    assert tokens.asked == [False, True]


async def test_the_error_in_a_challenge_is_answered_with_an_empty_line() -> None:
    tokens = Tokens()
    steps: dict[str, Step] = {"AUTH": [JSON, ACCEPTED], "": REFUSED}
    assert await log_in(script(**steps), tokens.account) == [
        b"AUTH XOAUTH2 " + xoauth2("old-token"),
        b"",
        b"AUTH XOAUTH2 " + xoauth2("new-token"),
    ]
    assert tokens.asked == [False, True]


async def test_two_refused_tokens_are_enough() -> None:
    tokens = Tokens()
    words, lines = await fail(script(**{"AUTH": JSON, "": REFUSED}), tokens.account)
    assert words == (
        "4.7.8 login refused: check username and token of [smarthost.isp]; "
        "host HOST said: 535 5.7.8 Username and password not accepted"
    )
    assert len(lines) == 4
    assert tokens.asked == [False, True]


async def test_a_token_is_not_replaced_for_a_fault_of_the_server() -> None:
    tokens = Tokens()
    words, _ = await fail(script(AUTH=b"454 4.7.0 later\r\n"), tokens.account)
    assert words == "4.7.0 no login for now; host HOST said: 454 4.7.0 later"
    assert tokens.asked == [False]


# Which mechanism


@pytest.mark.parametrize(
    ("offered", "tls", "chosen"),
    [
        ("PLAIN LOGIN CRAM-MD5", "implicit", b"AUTH PLAIN"),
        ("CRAM-MD5 LOGIN", "implicit", b"AUTH LOGIN"),
        ("GSSAPI CRAM-MD5 XOAUTH2", "implicit", b"AUTH CRAM-MD5"),
        ("plain login", "starttls", b"AUTH PLAIN"),
        ("PLAIN LOGIN CRAM-MD5", "none", b"AUTH CRAM-MD5"),
        ("LOGIN PLAIN", "none", b"AUTH PLAIN"),
        ("LOGIN", "none", b"AUTH LOGIN"),
        ("PLAIN CRAM-MD5", "opportunistic", b"AUTH CRAM-MD5"),
    ],
)
async def test_auto_takes_the_best_that_is_offered_and_tries_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offered: str, tls: Tls, chosen: bytes
) -> None:
    context = Authority.trusted(tmp_path, monkeypatch).context("mx.test")
    steps: dict[str, Step] = {"EHLO": offer("STARTTLS", f"AUTH {offered}"), "AUTH": REFUSED}
    if tls == "implicit":
        steps["greeting"] = (TLS, b"220 mx.test\r\n")
    async with ScriptedServer(Script().but(**steps), tls=context) as server:
        attempt = await connect(server, account(allows_clear=tls in {"none", "opportunistic"}), tls)
        assert isinstance(attempt, Attempt)
        await server.wait_ended()
    tried = [c for session in server.sessions for c in session.commands if c.startswith(b"AUTH")]
    assert [line.partition(b" ")[2].split()[0] for line in tried] == [chosen.split()[1]]
    assert len(server.sessions) == 1


@pytest.mark.parametrize(
    "keywords", [("AUTH=LOGIN PLAIN",), ("AUTH LOGIN", "AUTH=PLAIN"), ("AUTH=LOGIN", "AUTH PLAIN LOGIN")]
)
async def test_the_old_form_of_the_offer_is_understood(keywords: tuple[str, ...]) -> None:
    assert await log_in(script(EHLO=offer(*keywords)), account()) == [PLAIN_LINE]


NOT_CLEAR = "not CRAM-MD5 or PLAIN or LOGIN; see auth of [smarthost.isp]"
NOTHING_USABLE: dict[str, tuple[Script, Account, Tls, str]] = {
    "no login": (
        script(EHLO=offer("PIPELINING")),
        account(),
        "none",
        f"4.7.0 no login at HOST: it offers no login, {NOT_CLEAR}",
    ),
    "no EHLO": (
        script(EHLO=b"502 what?\r\n"),
        account(),
        "none",
        f"4.7.0 no login at HOST: it offers no login, {NOT_CLEAR}",
    ),
    "none that the relay knows": (
        script(EHLO=offering("GSSAPI NTLM")),
        account(),
        "none",
        f"4.7.0 no login at HOST: it offers GSSAPI NTLM, {NOT_CLEAR}",
    ),
    "not the one that the owner wants": (
        script(EHLO=offering("PLAIN LOGIN")),
        account("xoauth2"),
        "none",
        "4.7.0 no login at HOST: it offers PLAIN LOGIN, not XOAUTH2; see auth of [smarthost.isp]",
    ),
    "clear": (
        script(),
        account("cram-md5", allows_clear=False),
        "none",
        '4.7.11 no login at HOST without verified TLS: set tls = "implicit" in [smarthost.isp]',
    ),
    "opportunistic": (
        script(),
        account(allows_clear=False),
        "opportunistic",
        '4.7.11 no login at HOST without verified TLS: set tls = "implicit" in [smarthost.isp]',
    ),
    "no password": (
        script(),
        Account(USER, allows_clear=True),
        "none",
        "4.7.0 no login at HOST: [smarthost.isp] has no password",
    ),
    "no token": (
        script(),
        Account(USER, method="xoauth2", allows_clear=True),
        "none",
        "4.7.0 no login at HOST: [smarthost.isp] has no token",
    ),
}


@pytest.mark.parametrize("name", NOTHING_USABLE)
async def test_without_a_usable_mechanism_nothing_is_tried(name: str) -> None:
    given, owner, tls, expected = NOTHING_USABLE[name]
    words, lines = await fail(given, owner, tls)
    assert words == expected
    assert not [line for line in lines if line.startswith(b"AUTH")]


async def test_a_password_that_cannot_be_read_defers_with_its_sentence() -> None:
    def read() -> str:
        raise SecretError("the secret file /run/secrets/isp cannot be read: no such file")

    words, _ = await fail(script(), Account(USER, read, allows_clear=True))
    assert words == "4.7.0 no login at HOST: the secret file /run/secrets/isp cannot be read: no such file"


async def test_a_token_that_is_not_to_be_had_defers_with_its_sentence() -> None:
    async def token(_: bool) -> str:
        raise SecretError("run `relay login isp` again: the consent has expired")

    words, lines = await fail(script(), Account(USER, method="xoauth2", allows_clear=True, token=token))
    assert words == "4.7.0 no login at HOST: run `relay login isp` again: the consent has expired"
    assert not lines


async def test_the_password_is_read_anew_for_each_login() -> None:
    passwords = iter(["wrong", PASSWORD])
    changing = Account(USER, lambda: next(passwords), allows_clear=True)
    given = script(EHLO=offering("PLAIN"), AUTH=[REFUSED, ACCEPTED])
    async with ScriptedServer(given) as server:
        assert isinstance(await connect(server, changing), Attempt)
        connection = await connect(server, changing)
        assert isinstance(connection, Connection)
        await connection.quit()
    assert server.sessions[1].commands[1] == PLAIN_LINE


# Failures


FAILURES: dict[str, tuple[Step, str]] = {
    "535": (REFUSED, f"4.7.8 {ADVICE} 535 5.7.8 Username and password not accepted"),
    "535 without enhanced code": (b"535 no\r\n", f"4.7.8 {ADVICE} 535 no"),
    "534 of several lines": (
        b"534-5.7.9 Application-specific password required. Go to\r\n534 5.7.9  https://isp.test/2fa\r\n",
        f"4.7.9 {ADVICE} 534 5.7.9 Application-specific password required. Go to https://isp.test/2fa",
    ),
    "503": (b"503 5.5.1 no\r\n", f"4.5.1 {ADVICE} 503 5.5.1 no"),
    "454": (b"454 4.7.0 Too many\r\n", "4.7.0 no login for now; host HOST said: 454 4.7.0 Too many"),
    "450 without enhanced code": (b"450 hm\r\n", "4.0.0 no login for now; host HOST said: 450 hm"),
    "421": ((b"421 4.7.0 bye\r\n", DROP), "4.7.0 host HOST refused to talk to me: 421 4.7.0 bye"),
    "334": (b"334 more\r\n", "4.5.0 host HOST gave no valid reply while logging in: 334 more"),
    "nonsense": (b"hello\r\n", "4.5.0 host HOST gave no valid reply while logging in: hello"),
    "drop": (DROP, "4.4.2 lost connection with HOST while logging in"),
    "hang": (HANG, "4.4.2 conversation with HOST timed out while logging in"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_login_that_fails_is_tried_once(name: str) -> None:
    step, expected = FAILURES[name]
    words, lines = await fail(script(AUTH=step), account("plain"), timeouts=Timeouts(auth=0.1))
    assert words == expected
    assert lines == [PLAIN_LINE]


@pytest.mark.parametrize("method", ["login", "cram-md5", "plain"])
async def test_a_mechanism_that_is_refused_at_once_is_given_no_password(method: Method) -> None:
    big = Account(USER, lambda: "x" * 400, method, allows_clear=True)
    words, lines = await fail(script(AUTH=b"504 5.5.4 not here\r\n"), big)
    assert words == f"4.5.4 {ADVICE} 504 5.5.4 not here"
    assert lines == [f"AUTH {method.upper()}".encode()]


async def test_a_user_that_is_refused_is_given_no_password() -> None:
    steps: dict[str, Step] = {"AUTH": b"334 VXNlcm5hbWU6\r\n", b64(USER).decode().upper(): REFUSED}
    _, lines = await fail(script(**steps), account("login"))
    assert lines == [b"AUTH LOGIN", b64(USER)]


async def test_a_third_prompt_is_no_login() -> None:
    steps: dict[str, Step] = {
        "AUTH": b"334 x\r\n",
        b64(USER).decode().upper(): b"334 x\r\n",
        b64(PASSWORD).decode().upper(): b"334 one-time code:\r\n",
    }
    words, lines = await fail(script(**steps), account("login"))
    assert words == "4.5.0 host HOST gave no valid reply while logging in: 334 one-time code:"
    assert len(lines) == 3


async def test_a_challenge_that_is_none_is_not_answered() -> None:
    words, lines = await fail(script(AUTH=b"334 abc\r\n"), account("cram-md5"))
    assert words == (
        "4.5.0 host HOST gave no valid reply while logging in: Invalid CRAM-MD5 challenge from server: 'abc'"
    )
    assert lines == [b"AUTH CRAM-MD5"]


def echo(code: bytes) -> Step:
    return lambda line: code + b"not understood: " + line + b" (" + PASSWORD.encode() + b")\r\n"


@pytest.mark.parametrize(
    ("code", "before"),
    [
        (b"500 5.5.2 ", f"4.5.2 {ADVICE} 500 5.5.2 "),
        (b"421 4.3.2 ", "4.3.2 host HOST refused to talk to me: 421 4.3.2 "),
        (b"", "4.5.0 host HOST gave no valid reply while logging in: "),
    ],
)
async def test_a_server_that_repeats_the_password_is_not_quoted(code: bytes, before: str) -> None:
    words, _ = await fail(script(AUTH=echo(code)), account("plain"))
    assert words == f"{before}not understood: AUTH PLAIN *** (***)"


async def test_an_empty_password_is_just_wrong() -> None:
    words, _ = await fail(script(AUTH=REFUSED), Account(USER, lambda: "", "plain", allows_clear=True))
    assert words == f"4.7.8 {ADVICE} 535 5.7.8 Username and password not accepted"


async def test_a_next_hop_without_an_account_is_not_logged_in_at() -> None:
    async with ScriptedServer(script()) as server:
        connection = await Connection.open(
            "mx.test", "127.0.0.1", NextHop("mx.test", server.port, tls="none"), settings()
        )
        assert isinstance(connection, Connection)
        await connection.quit()
    assert server.sessions[0].commands == [b"EHLO helo.test", b"QUIT"]


def test_an_account_does_not_show_its_password() -> None:
    assert PASSWORD not in repr(account())
