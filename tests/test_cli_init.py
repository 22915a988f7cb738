"""``relay init`` as its owner sees it: at a terminal and by flags, against servers on loopback."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import socket
import stat
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from relay.cli.main import main
from relay.config.loading import load_config
from relay.config.model import PRIVATE_NETWORKS, Config
from relay.config.providers import PROVIDERS, OAuth
from tests.support.authority import Authority
from tests.support.oauth_server import CLIENT_ID, OAuthServer, refusal
from tests.support.service import Finished, deliveries, run, run_program
from tests.support.site import unused_port
from tests.support.smtp_server import TLS, Script, ScriptedServer, Step, offer
from tests.support.terminal import END, INTERRUPT, Answers, Shown, converse

RELAY = (sys.executable, "-m", "relay")
PAGE = Path(__file__).parent.parent / "docs" / "init.md"
SECRET = "s3 cret=\"'é"
FREE = "smtp.free.fr[203.0.113.4]"
ADDRESS, PASSWORD, NETWORKS = "Address: ", "(not shown): ", "Networks [private]: "
PORT, YES = "]: ", "(y/n) [n]: "


def judge_login(line: bytes) -> bytes:
    name, password = base64.b64decode(line.split()[-1]).split(b"\0")[1:]
    is_right = (name, password) == (b"chris", SECRET.encode())
    return b"235 2.7.0 welcome\r\n" if is_right else b"535 5.7.8 Authentication failed\r\n"


@asynccontextmanager
async def provider(authority: Authority, **steps: Step) -> AsyncIterator[ScriptedServer]:
    """Run a server on localhost that lets chris in."""
    script = Script(greeting=(TLS, b"220 smtp.isp.test ESMTP\r\n")).but(
        **{"EHLO": offer("AUTH PLAIN", "SIZE 35000000"), "AUTH": judge_login, **steps}
    )
    async with ScriptedServer(script, tls=authority.context("localhost")) as server:
        yield server


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    (tmp_path / "ca").mkdir()
    return Authority.trusted(tmp_path / "ca", monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "house").mkdir()
    return tmp_path / "house" / "relay.toml"


async def at_terminal(file: Path, answers: Answers, *flags: str) -> Shown:
    return await converse(*RELAY, "init", "--output", file, *flags, answers=answers)


def files_in(folder: Path) -> dict[str, int]:
    """Return what a folder holds, with the modes."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def load(file: Path) -> Config:
    return load_config(file, {})


def flags_for(server: ScriptedServer | int, password_file: Path) -> list[str]:
    port = server if isinstance(server, int) else server.port
    return [
        *("--yes", "--address", "chris@free.fr", "--provider", "free"),
        *("--host", "localhost", "--port", str(port), "--tls", "implicit"),
        *("--password-file", str(password_file), "--listen", "2525"),
    ]


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(SECRET + "\n")
    return path


# At a terminal


async def test_a_whole_session(authority: Authority, file: Path) -> None:
    async with provider(authority) as server:
        shown = await at_terminal(
            file,
            [
                (ADDRESS, "chris@free.fr"),
                ("Way [free]: ", f"localhost:{server.port}"),
                ("Encryption [starttls]: ", "implicit"),
                ("[chris@free.fr]: ", "chris"),
                (PASSWORD, SECRET),
                (NETWORKS, "192.168.7.9/24 fd00::/64"),
                (PORT, "2525"),
                (YES, "y"),
            ],
        )
        await server.wait_ended()
        [message] = deliveries(server)
    assert shown.status == 0
    assert SECRET not in shown.text
    flat = " ".join(shown.text.split())
    assert (
        f"It works: localhost[127.0.0.1]:{server.port} would take mail from chris@free.fr for chris@free.fr"
        in flat
    )
    assert "Taken: host localhost[127.0.0.1] said: 250 2.0.0 Ok: queued as SINK" in flat
    assert f"relay serve --config {file}" in shown.text

    assert files_in(file.parent) == {"relay.toml": 0o644, "isp-password": 0o600}
    assert SECRET not in file.read_text()
    config = load(file)
    assert config.postmaster == "chris@free.fr"
    assert [str(network) for network in config.access.networks] == [
        *("127.0.0.0/8", "::1/128", "192.168.7.0/24", "fd00::/64")
    ]
    assert [(listen.host, listen.port) for listen in config.listen] == [("0.0.0.0", 2525)]
    assert config.relayhost
    assert (config.relayhost.smarthost, config.relayhost.port) == ("isp", server.port)
    isp = config.smarthost["isp"]
    assert (isp.host, isp.tls, isp.username) == ("localhost", "implicit", "chris")
    assert isp.password
    assert isp.password.read({}) == SECRET
    assert config.limits.message_size == 35_000_000
    assert {config.sender_canonical.entries[key] for key in ("root", f"@{config.hostname}")} == {
        ("chris@free.fr", "")
    }

    assert (message.reverse_path, message.recipients) == ("chris@free.fr", ("chris@free.fr",))
    assert b"\r\nFrom: chris@free.fr\r\nTo: chris@free.fr\r\nSubject: Test message of " in message.content
    checked = await run("check", "--config", file)
    assert (checked.status, checked.err) == (0, "")


async def test_a_wrong_password_can_be_mended(authority: Authority, file: Path) -> None:
    async with provider(authority) as server:
        shown = await at_terminal(
            file,
            [
                (PASSWORD, "n0t-it"),
                (NETWORKS, ""),
                ("Number [1]: ", ""),
                ("User name there [chris]: ", ""),
                (PASSWORD, SECRET),
                (YES, ""),
            ],
            *("--address", "chris@free.fr", "--provider", "free", "--host", "localhost"),
            *("--port", str(server.port), "--tls", "implicit", "--listen", "2525"),
        )
    assert shown.status == 0
    flat = " ".join(shown.text.split())
    assert "That does not work: the server lets nobody in with this user name and password." in flat
    assert "said: 535 5.7.8 Authentication failed" in flat
    assert "n0t-it" not in shown.text
    assert (file.parent / "free-password").read_text() == f"{SECRET}\n"
    smarthost = tomllib.loads(file.read_text())["smarthost"]["free"]
    assert smarthost == {
        "provider": "free",
        "host": "localhost",
        "port": server.port,
        "username": "chris",
        "password_file": "free-password",
    }


async def test_a_server_that_is_down_can_be_replaced(
    authority: Authority, file: Path, password_file: Path
) -> None:
    nobody = unused_port()
    async with provider(authority) as server:
        shown = await at_terminal(
            file,
            [
                ("Number [3]: ", ""),
                ("Way [free]: ", f"localhost:{server.port}"),
                ("Encryption [starttls]: ", "implicit"),
                ("[chris@free.fr]: ", "chris"),
                (PASSWORD, SECRET),
                (YES, "n"),
            ],
            *("--address", "chris@free.fr", "--host", "localhost", "--port", str(nobody)),
            *("--tls", "implicit", "--username", "chris", "--password-file", str(password_file)),
            *("--networks", "private", "--listen", "2525"),
        )
    assert shown.status == 0
    flat = " ".join(shown.text.split())
    assert "That does not work: nobody answers at that server and port." in flat
    assert load(file).smarthost["isp"].port == server.port


@pytest.mark.parametrize(
    ("steps", "default", "words"),
    [
        ({"MAIL": b"550 5.7.1 not yours\r\n"}, 2, "takes no mail from your address"),
        ({"RCPT": b"550 5.1.1 nobody\r\n"}, 2, "takes no mail for your address"),
        ({"EHLO": b"421 4.3.0 busy\r\n"}, 3, "it wants no mail from here"),
    ],
)
async def test_what_a_server_refuses_is_told_and_may_be_overruled(
    authority: Authority,
    file: Path,
    password_file: Path,
    steps: dict[str, bytes],
    default: int,
    words: str,
) -> None:
    async with provider(authority, **steps) as server:
        flags = [flag for flag in flags_for(server, password_file) if flag != "--yes"]
        shown = await at_terminal(
            file,
            [
                (f"Number [{default}]: ", "2"),
                ("Address [chris@free.fr]: ", "anna@free.fr"),
                (f"Number [{default}]: ", "4"),
                (f"Number [{default}]: ", "six"),
                (f"Number [{default}]: ", "5"),
                (YES, ""),
            ],
            *flags,
            *("--networks", "private"),
        )
    assert shown.status == 0
    assert words in " ".join(shown.text.split())
    assert "That won't do: a number from 1 to 5, please." in shown.text
    assert load(file).postmaster == "anna@free.fr"


async def test_a_server_that_cannot_prove_its_name_gets_no_password(
    authority: Authority, file: Path, password_file: Path
) -> None:
    async with provider(authority) as server:
        server.tls = authority.context("other.test")
        done = await run("init", "--output", file, *flags_for(server, password_file))
    assert done.status == 1
    assert "can't prove who it is" in " ".join(done.out.split())
    assert not any(b"AUTH" in command for session in server.sessions for command in session.commands)


async def test_bad_answers_are_asked_again_with_the_reason(authority: Authority, file: Path) -> None:
    shown = await at_terminal(
        file,
        [
            (ADDRESS, ""),
            (ADDRESS, "\x16\x1b[2Jchris@free.fr"),
            (ADDRESS, "chris"),
            (ADDRESS, "chris@localhost"),
            (ADDRESS, "chris@exämple.org"),
            (ADDRESS, "c" * 300 + "@free.fr"),
            (ADDRESS, "chris@gmail.com"),
            ("Way [gmail]: ", "fre"),
            ("Way [gmail]: ", "0"),
            ("Way [gmail]: ", "99"),
            ("Way [gmail]: ", "smtp.example.net:99999"),
            ("Way [gmail]: ", "smtp example.net"),
            ("Way [gmail]: ", "LIST"),
            ("Way [gmail]: ", "6"),
            (PASSWORD, ""),
            (PASSWORD, "\x16\x1bsecret"),
            (PASSWORD, "abcd efgh ijkl mnop"),
            (NETWORKS, "the kitchen"),
            (NETWORKS, ","),
            (NETWORKS, "0.0.0.0/0"),
            (NETWORKS, "private 2001:db8::/64"),
            (PORT, "0"),
            (PORT, "kitchen"),
            (PORT, "[::]:2525"),
            (YES, "perhaps"),
            (YES, "n"),
        ],
        "--no-trial",
    )
    assert shown.status == 0
    reasons = re.findall("That won't do: (.*)", shown.text)
    assert len(reasons) == 19
    assert all(reason.isprintable() for reason in reasons)
    assert "character in it that can't be seen" in reasons[1]
    assert reasons[6].strip().endswith('did you mean "free"?')
    assert "whole internet" in reasons[-4]
    assert "About gmail\n  turn on two-step verification" in shown.text
    config = load(file)
    assert config.smarthost["gmail"].host == "smtp.gmail.com"
    assert config.limits.message_size == 35_882_577
    assert {str(network) for network in config.access.networks} == {
        "2001:db8::/64",
        *map(str, PRIVATE_NETWORKS),
    }
    assert config.listen[0].host == "::"


async def test_bytes_that_are_no_text_are_asked_for_again(authority: Authority, file: Path) -> None:
    bad = b"chris\xff@free.fr"
    command = (*RELAY, "init", "--output", file, "--no-trial")
    for env in ({"PYTHONIOENCODING": "utf-8:strict"}, {"LC_ALL": "C"}):
        shown = await converse(
            *command,
            answers=[
                (ADDRESS, bad),
                (ADDRESS, "chris@free.fr"),
                ("Way [free]: ", ""),
                (PASSWORD, b"secret\xff"),
                (PASSWORD, END),
            ],
            env=env,
        )
        assert shown.status == 1
        assert shown.text.count("there is a character in it that can't be seen") == 2
    assert not file.exists()


@pytest.mark.parametrize("question", ["address", "password", "networks"])
@pytest.mark.parametrize(("key", "status"), [(INTERRUPT, 130), (END, 1)])
async def test_giving_up_leaves_nothing(
    authority: Authority, file: Path, question: str, key: str, status: int
) -> None:
    answers: Answers = [(ADDRESS, "chris@free.fr"), ("Way [free]: ", ""), (PASSWORD, SECRET), (NETWORKS, "")]
    place = ["address", "way", "password", "networks"].index(question)
    shown = await at_terminal(file, [*answers[:place], (answers[place][0], key)], "--no-trial")
    assert shown.status == status
    assert shown.text.endswith("nothing was written\n")
    assert files_in(file.parent) == {}


async def test_giving_up_at_the_test_message_keeps_the_file(authority: Authority, file: Path) -> None:
    flags = ("--no-trial", "--address", "chris@free.fr", "--direct", "--networks", "private")
    shown = await at_terminal(file, [(YES, INTERRUPT)], *flags, "--listen", "25")
    assert shown.status == 130
    assert shown.text.endswith(f"relay: {file} is written\n")
    assert load(file).relayhost is None


async def test_a_provider_with_oauth_is_left_to_relay_login(authority: Authority, file: Path) -> None:
    shown = await at_terminal(
        file,
        [
            (ADDRESS, "chris@hotmail.fr"),
            ("Way [outlook]: ", ""),
            ("Client id: ", ""),
            ("Client id: ", "1111-2222"),
            (NETWORKS, ""),
            (YES, "n"),
        ],
        *("--listen", "2525"),
    )
    assert shown.status == 0
    assert f"Before mail can leave, log in: relay login outlook --config {file}\n" in shown.text
    outlook = load(file).smarthost["outlook"]
    assert (outlook.auth, outlook.client_id, outlook.username) == ("xoauth2", "1111-2222", "chris@hotmail.fr")
    assert files_in(file.parent) == {"relay.toml": 0o644}


class Keyboard(io.StringIO):
    """A terminal at which answers are typed; after the last one, its end."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("verdict", "status"), [(b"235 2.7.0 welcome\r\n", 0), (b"535 5.7.8 no\r\n", 1)])
async def test_the_login_of_oauth_can_be_done_at_once(
    authority: Authority,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verdict: bytes,
    status: int,
) -> None:
    hello = offer("AUTH XOAUTH2")
    with OAuthServer() as oauth:
        endpoints = OAuth(oauth.url("authorize"), oauth.url("token"), "mail", oauth.url("device"))
        monkeypatch.setitem(PROVIDERS, "outlook", replace(PROVIDERS["outlook"], oauth=endpoints))
        monkeypatch.setattr(sys, "stdin", Keyboard("y\ny\n"))
        monkeypatch.chdir(file.parent)
        async with provider(authority, EHLO=hello, AUTH=verdict) as server:
            flags = "--address me@outlook.com --provider outlook --host localhost --tls implicit"
            devices = ("--networks", "private", "--listen", "2525", "--test-message")
            port, client = ("--port", str(server.port)), ("--client-id", CLIENT_ID)
            arguments = ["init", "--output", str(file), *flags.split(), *port, *client, *devices]
            # As root the token would go to the machine's own relay.
            monkeypatch.setattr("relay.cli.init.choose_queue", lambda _: "queue/queue.db")
            assert await asyncio.to_thread(main, arguments) == status
            await server.wait_ended()
            assert len(deliveries(server)) == (1 if status == 0 else 0)
    shown = " ".join(capsys.readouterr().out.split())
    assert "Logged in: smarthost outlook has its token" in shown
    assert ("It works: localhost" in shown) == (status == 0)
    assert "What comes next:" in shown
    assert (file.parent / "queue" / "tokens" / "outlook.json").exists()


async def test_a_login_of_oauth_that_fails_can_be_done_later(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with OAuthServer() as oauth:
        oauth.script.append(refusal("invalid_client"))
        endpoints = OAuth(oauth.url("authorize"), oauth.url("token"), "mail", oauth.url("device"))
        monkeypatch.setitem(PROVIDERS, "outlook", replace(PROVIDERS["outlook"], oauth=endpoints))
        monkeypatch.setattr(sys, "stdin", Keyboard("y\n"))
        flags = "--address me@outlook.com --provider outlook --client-id x --networks private --listen 2525"
        assert await asyncio.to_thread(main, ["init", "--output", str(file), *flags.split()]) == 1
    assert f"Try that again later: relay login outlook --config {file}" in capsys.readouterr().out
    assert file.exists()


async def test_a_server_without_a_login(authority: Authority, file: Path) -> None:
    script = Script().but(MAIL=[b"450 4.7.1 later\r\n", b"250 2.1.0 Ok\r\n"])
    async with ScriptedServer(script) as server:
        with socket.create_server(("127.0.0.1", 0)) as other:
            busy = other.getsockname()[1]
            shown = await at_terminal(
                file,
                [
                    ("Port [465]: ", str(server.port)),
                    ("Encryption [starttls]: ", "none"),
                    (PORT, f"127.0.0.1:{busy}"),
                    ("Number [1]: ", "3"),
                    (YES, ""),
                ],
                *("--address", "chris@free.fr", "--host", "127.0.0.1", "--networks", "private"),
            )
    assert shown.status == 0, shown.text
    assert "can't be opened here just now: another program has it already" in shown.text
    assert "1  another e-mail address" in shown.text
    isp = load(file).smarthost["isp"]
    assert (isp.host, isp.port, isp.tls, isp.username) == ("127.0.0.1", server.port, "none", "")


async def test_a_provider_with_a_server_for_each_account_and_names_of_its_own(
    authority: Authority, file: Path
) -> None:
    shown = await at_terminal(
        file,
        [
            ("Way: ", "ses"),
            ("such as eu-west-3): ", "email-smtp.eu-west-3.amazonaws.com"),
            ("User name there: ", ""),
            ("User name there: ", "AKIA"),
            (PASSWORD, "key"),
            (YES, ""),
        ],
        *("--no-trial", "--address", "chris@maison.example", "--networks", "private", "--listen", "2525"),
    )
    assert shown.status == 0
    assert load(file).smarthost["ses"].username == "AKIA"


# By flags


async def init(file: Path, *flags: str) -> Finished:
    return await run("init", "--output", file, *flags)


async def test_flags_answer_everything(authority: Authority, file: Path, password_file: Path) -> None:
    async with provider(authority) as server:
        done = await init(file, *flags_for(server, password_file), "--test-message")
        await server.wait_ended()
        assert len(deliveries(server)) == 1
    assert (done.status, done.err) == (0, "")
    assert "Taken: host localhost[127.0.0.1] said: 250 2.0.0 Ok" in " ".join(done.out.split())
    # A password file that is there already is named, and stays where it is.
    assert tomllib.loads(file.read_text())["smarthost"]["free"]["password_file"] == str(password_file)
    assert files_in(file.parent) == {"relay.toml": 0o644}


async def test_with_yes_alone_no_message_is_sent(
    authority: Authority, file: Path, password_file: Path
) -> None:
    async with provider(authority) as server:
        done = await init(file, *flags_for(server, password_file))
    assert done.status == 0
    assert not any(session.contents for session in server.sessions)


async def test_a_login_that_fails_writes_nothing(authority: Authority, file: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    async with provider(authority) as server:
        done = await init(file, *flags_for(server, tmp_path / "wrong"))
    assert done.status == 1
    assert done.err == "relay: nothing was written; --no-trial writes it untried\n"
    assert files_in(file.parent) == {}


async def test_without_a_trial_nobody_is_asked(authority: Authority, file: Path, password_file: Path) -> None:
    async with provider(authority) as server:
        done = await init(file, *flags_for(server, password_file), "--no-trial")
    assert done.status == 0
    assert server.sessions == []


async def test_a_test_message_that_is_refused(authority: Authority, file: Path, password_file: Path) -> None:
    async with provider(authority, DOT=b"554 5.7.1 spam\r\n") as server:
        done = await init(file, *flags_for(server, password_file), "--test-message")
    assert done.status == 1
    assert "It was not taken: host localhost[127.0.0.1] said: 554 5.7.1 spam" in " ".join(done.out.split())
    assert file.exists()


async def test_a_test_message_for_a_server_that_has_gone(
    authority: Authority, file: Path, password_file: Path
) -> None:
    done = await init(file, *flags_for(unused_port(), password_file), "--no-trial", "--test-message")
    assert done.status == 1
    assert "It was not taken: connect to localhost" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ("", "--address"),
        ("--address a@free.fr", "--provider, --host or --direct"),
        ("--address a@free.fr --host smtp.example.net", "--port"),
        ("--address a@free.fr --host smtp.example.net --port 2525", "--tls"),
        ("--address a@x.example --provider free", "--username"),
        ("--address a@free.fr --provider free", "--password-file"),
        ("--address a@hotmail.com --provider outlook", "--client-id"),
        ("--address a@x.example --provider ses", "--host"),
        ("--address a@free.fr --direct", "--networks"),
        ("--address a@free.fr --direct --networks private", "--listen"),
    ],
)
def test_without_a_terminal_a_missing_flag_is_named(
    file: Path, flags: str, missing: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["init", "--output", str(file), *flags.split()]) == 2
    assert capsys.readouterr() == (
        "",
        f"relay: {missing} is missing: without a terminal nothing is asked; --yes takes the defaults\n",
    )
    assert not file.exists()


@pytest.mark.parametrize("flags", ["", "--address a@x.example", "--address a@free.fr"])
async def test_with_yes_what_has_no_default_is_named(file: Path, flags: str) -> None:
    shown = await at_terminal(file, [], "--yes", *flags.split())
    assert shown.status == 2
    assert re.fullmatch(r"relay: --\S+.* is missing: with --yes nothing is asked\n", shown.text)


@pytest.mark.parametrize(
    "flags",
    [
        ["--address", "chris"],
        ["--address", "c\x1b[2J@free.fr"],
        ["--address", "\udcff@free.fr"],
        ["--address", "c" * 10_000 + "@free.fr"],
        ["--provider", "fre"],
        ["--provider", "x" * 10_000],
        ["--provider", "\u202efree"],
        ["--host", "smtp_example..net"],
        ["--host", "x" * 10_000],
        ["--port", "0"],
        ["--tls", "ssl"],
        ["--networks", "0.0.0.0/1,128.0.0.0/1"],
        ["--listen", "example.org:25"],
        ["--client-id", ""],
        ["--provider", "free", "--direct"],
    ],
)
def test_a_flag_that_will_not_do_is_told(
    file: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["init", "--output", str(file), "--yes", *flags])
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    last = err.splitlines()[-1]
    assert out == ""
    assert flags[0] in last
    assert last.isprintable()
    assert len(last) < 700
    assert not file.exists()


async def test_flags_that_do_not_go_together(file: Path, password_file: Path) -> None:
    for flag, value in (("--host", "smtp.example.net"), ("--client-id", "x")):
        done = await init(file, "--direct", flag, value)
        assert (done.status, done.err) == (2, "relay: --direct goes with no server and no login\n")
    flags = "--yes --no-trial --address a@free.fr --host smtp.example.net --port 25 --tls none --username a"
    done = await init(file, *flags.split(), "--password-file", str(password_file))
    assert done.status == 2
    assert done.err.startswith("relay: these answers don't go together:\n")
    assert "could show the password to others" in done.err
    assert not file.exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"", "is empty"), (b"\xff\n", "is not UTF-8")]
)
async def test_a_password_file_that_is_none(
    file: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "pw").write_bytes(content)
    done = await init(file, "--yes", "--password-file", str(tmp_path / "pw"))
    assert done.status == 2
    assert words in done.err
    assert "\ufffd" not in done.err


async def test_a_password_file_beside_relay_toml_is_named_from_there(file: Path) -> None:
    (file.parent / "pw").write_text("x\n")
    flags = "--yes --no-trial --address a@free.fr --provider free --password-file"
    assert (await init(file, *flags.split(), str(file.parent / "pw"))).status == 0
    assert tomllib.loads(file.read_text())["smarthost"]["free"]["password_file"] == "pw"


# The file


@pytest.mark.parametrize("is_link", [False, True])
async def test_a_file_that_is_there_stays(file: Path, is_link: bool) -> None:
    if is_link:
        file.symlink_to("nowhere")
    else:
        file.write_text("mine")
    shown = await at_terminal(file, [])
    assert shown.status == 1
    assert shown.text == (
        f"relay: {file} is there already and stays as it is; move it away, or choose another with --output\n"
    )
    assert is_link or file.read_text() == "mine"
    assert not (file.parent / "nowhere").exists()


async def test_a_folder_that_is_not_there(file: Path) -> None:
    done = await init(file.parent / "none" / "relay.toml")
    assert (done.status, done.err) == (1, f"relay: there is no folder {file.parent}/none\n")


@pytest.mark.needs_root
async def test_a_folder_that_may_not_be_written_to(file: Path) -> None:
    file.parent.chmod(0o555)
    weak = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    done = await run_program(*weak, *RELAY, "init", "--output", file)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"relay: this user may not write to the folder {file.parent}\n"


async def test_a_password_file_of_before_stays(authority: Authority, file: Path) -> None:
    (file.parent / "free-password").write_text("old")
    flags = ("--no-trial", "--address", "chris@free.fr", "--provider", "free", "--networks", "private")
    shown = await at_terminal(file, [(PASSWORD, SECRET), (YES, "")], *flags, "--listen", "2525")
    assert shown.status == 0
    assert (file.parent / "free-password").read_text() == "old"
    password = load(file).smarthost["free"].password
    assert password
    assert password.read({}) == SECRET
    assert password.file == file.parent / "free-password-2"


async def test_relay_toml_goes_where_commands_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RELAY_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    flags = ["--yes", "--no-trial", "--address", "a@free.fr", "--direct"]
    done = await run("init", *flags)
    assert done.status == 0
    assert "  relay serve\n" in done.out
    assert load(tmp_path / "relay.toml").relayhost is None
    monkeypatch.setenv("RELAY_CONFIG", str(tmp_path / "other.toml"))
    done = await run("init", *flags)
    assert "  relay serve\n" in done.out
    assert (tmp_path / "other.toml").exists()


async def test_a_file_that_comes_into_being_meanwhile_stays(authority: Authority, file: Path) -> None:
    def make_file(_: bytes) -> bytes:
        file.write_text("mine")
        return b"235 2.7.0 welcome\r\n"

    async with provider(authority, AUTH=make_file) as server:
        shown = await at_terminal(
            file,
            [(PASSWORD, SECRET)],
            *("--address", "chris@free.fr", "--provider", "free", "--host", "localhost", "--tls", "implicit"),
            *("--port", str(server.port), "--networks", "private", "--listen", "2525"),
        )
    assert shown.status == 1
    assert "File exists" in shown.text
    assert files_in(file.parent).keys() == {"relay.toml"}
    assert file.read_text() == "mine"


async def test_a_terminal_without_an_alphabet_for_it_is_no_trouble(
    authority: Authority, file: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    async with provider(authority, MAIL="550 5.7.1 réfusé \x1b[2J\r\n".encode()) as server:
        done = await init(file, *flags_for(server, password_file))
    assert "said: 550 5.7.1 r?fus? ?[2J" in " ".join(done.out.split())


# The page


AS_FREE = """
import sys
from dataclasses import replace
from relay.cli.main import main
from relay.config import providers
free = replace(providers.PROVIDERS["free"], host="localhost", port=int(sys.argv[1]))
for table, key in ((providers.PROVIDERS, "free"), (providers.NAMES, "free"), (providers.DOMAINS, "free.fr")):
    table[key] = free
sys.exit(main(["init"]))
"""


async def show_session(authority: Authority, file: Path) -> tuple[str, str]:
    """Return a session and what it wrote, as they would be at the provider's own server."""
    async with provider(authority) as server:
        shown = await converse(
            *(sys.executable, "-c", AS_FREE, str(server.port)),
            answers=[
                (ADDRESS, "chris"),
                (ADDRESS, "chris@free.fr"),
                ("Way [free]: ", ""),
                (PASSWORD, "wrong"),
                (NETWORKS, ""),
                (PORT, "2525"),
                ("Number [1]: ", ""),
                ("User name there [chris]: ", ""),
                (PASSWORD, SECRET),
                (YES, "y"),
            ],
            env={"COLUMNS": "100"},
        )
        port = server.port
    written = file.read_text()
    hostname = tomllib.loads(written)["hostname"]
    replacements = {
        r"localhost\[127\.0\.0\.1\]": "smtp.free.fr[203.0.113.4]",
        rf":{port}\b": ":465",
        "localhost": "smtp.free.fr",
        "This machine is in .*": "This machine is in 192.168.0.0/24.",
        "25 is what they expect.*": "25 is what they expect. Any other will do if you tell them.",
        r"Port \[\d+\]: ": "Port [25]: ",
        "  Note: .* can't be opened here just now.*\n": "",
        rf"(?<=[@ ]){re.escape(hostname)}\b": "gw1.maison.mrs",
    }
    text = shown.text
    for pattern, replacement in replacements.items():
        text = re.sub(pattern, replacement, text)
    written = written.partition("\n# The file that holds mail until")[0]  # where /var/lib is closed
    return text, re.sub(rf'(?<=["@]){re.escape(hostname)}(?=")', "gw1.maison.mrs", written)


async def test_the_example_of_the_page(
    authority: Authority, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    session, written = await show_session(authority, file)
    page = PAGE.read_text("utf-8")
    shown = page.partition("<!-- session -->\n```\n$ relay init\n")[2].partition("```\n<!-- end -->")[0]
    assert unwrap(session) == unwrap(shown)
    assert f"<!-- file -->\n```toml\n{written}```\n<!-- end -->" in page


def unwrap(text: str) -> str:
    """Return a text whose lines may end elsewhere: names of other lengths stand in it."""
    return " ".join(text.split())
