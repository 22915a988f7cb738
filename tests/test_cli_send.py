"""``relay send``: sendmail's options, and what lies in the maildrop afterwards."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from relay.cli.send import Request, UsageError, parse_options

RELAY = (sys.executable, "-m", "relay")
ME = pwd.getpwuid(os.getuid())
MESSAGE = b"From: a@b.test\nSubject: hello\n\nbody\n"


class House:
    """A folder with relay.toml and a maildrop, and no relay."""

    def __init__(self, folder: Path, settings: str = "") -> None:
        self.config = folder / "relay.toml"
        self.config.write_text(f'{settings}[queue]\npath = "state/queue.db"\n')
        self.maildrop = folder / "state" / "maildrop"
        self.maildrop.mkdir(parents=True)

    def send(
        self, *options: str, content: bytes = MESSAGE, command: Sequence[str | Path] = (*RELAY, "send")
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*command, *options],
            input=content,
            env={**os.environ, "RELAY_CONFIG": str(self.config)},
            capture_output=True,
            check=False,
        )

    def drops(self) -> list[bytes]:
        return [path.read_bytes() for path in self.maildrop.iterdir() if not path.is_socket()]

    def drop(self) -> tuple[list[str], bytes]:
        """Return the envelope lines and the content of the only message, which any relay can read."""
        (path,) = (path for path in self.maildrop.iterdir() if not path.is_socket())
        assert not path.name.startswith(".")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        envelope, _, content = path.read_bytes().partition(b"DATA\r\n")
        return envelope.decode().splitlines(), content


@pytest.fixture
def house() -> Iterator[House]:
    """A house that everybody can enter, with a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield House(Path(folder))


@pytest.mark.parametrize(
    ("options", "request_"),
    [
        ("root", Request(recipients=("root",))),
        ("-t -i", Request(takes_from_header=True, ignores_dots=True)),
        ("-ti", Request(takes_from_header=True, ignores_dots=True)),
        ("-oi -oem -odb -- a@b.test", Request(ignores_dots=True, recipients=("a@b.test",))),
        (
            "-FCronDaemon -i -B8BITMIME -oem chris",
            Request(full_name="CronDaemon", ignores_dots=True, recipients=("chris",)),
        ),
        ("-f a@b.test c", Request(sender="a@b.test", recipients=("c",))),
        ("-fa@b.test c", Request(sender="a@b.test", recipients=("c",))),
        ("-ra@b.test c", Request(sender="a@b.test", recipients=("c",))),
        ("c -f a@b.test", Request(recipients=("c", "-f", "a@b.test"))),
        ("-f -q c -q", Request(sender="-q", recipients=("c", "-q"))),
        ("-- -q -I", Request(recipients=("-q", "-I"))),
        ("-iF -q c", Request(ignores_dots=True, full_name="-q", recipients=("c",))),
        ("-tq15m", Request(mode="q", takes_from_header=True)),
        ("-bH", Request(mode="h")),
        (
            "-N success,delay -R hdrs -V id c",
            Request(notify="SUCCESS,DELAY", ret="HDRS", envid="id", recipients=("c",)),
        ),
        ("-N NEVER -Rfull", Request(notify="NEVER", ret="FULL")),
        (
            "-m -n -v -v -U -G -h 5 -Am -Ltag -X log -O x=y -C file -p smtp -e m -x c",
            Request(recipients=("c",)),
        ),
        ("-bm c", Request(recipients=("c",))),
        ("-bp", Request(mode="p")),
        ("-bs", Request(mode="s")),
        ("-bi", Request(mode="i")),
        ("-I", Request(mode="i")),
        ("-q", Request(mode="q")),
        ("-q15m", Request(mode="q")),
    ],
)
def test_options_are_sendmails(options: str, request_: Request) -> None:
    assert parse_options(options.split()) == request_


@pytest.mark.parametrize("options", ["-bd", "-bz", "-b pm", "-Z", "-:", "-f", "-N sometimes", "-R some"])
def test_options_that_make_no_sense_are_refused(options: str) -> None:
    with pytest.raises(UsageError):
        parse_options(options.split())


class TestAMessage:
    def test_is_left_with_its_envelope(self, house: House) -> None:
        sent = house.send(
            "-f", "Chris <chris@x.test>", "-N", "never", "-R", "full", "-V", "a+b", "root", "c@d.test"
        )
        assert (sent.returncode, sent.stderr) == (0, b"")
        envelope, content = house.drop()
        assert envelope == [
            "MAIL FROM:<chris@x.test> RET=FULL ENVID=a+2Bb",
            "RCPT TO:<root> NOTIFY=NEVER",
            "RCPT TO:<c@d.test> NOTIFY=NEVER",
        ]
        assert content == b"From: a@b.test\r\nSubject: hello\r\n\r\nbody\r\n"

    def test_is_from_its_user_by_name(self, house: House) -> None:
        assert house.send("root", content=b"Subject: x\n\n").returncode == 0
        envelope, content = house.drop()
        assert envelope[0] == f"MAIL FROM:<{ME.pw_name}>"
        assert content.startswith(b"From: ")
        assert f"<{ME.pw_name}>" in content.decode() or content.startswith(f"From: {ME.pw_name}\r\n".encode())

    def test_may_be_from_somebody_with_another_name_or_from_nobody(self, house: House) -> None:
        house.send("-F", "The NAS", "root", content=b"")
        assert house.drop()[1] == f"From: The NAS <{ME.pw_name}>\r\n".encode()

    def test_from_nobody_gets_no_from_header(self, house: House) -> None:
        house.send("-f", "<>", "root", content=b"Subject: x\n")
        assert house.drop() == (["MAIL FROM:<>", "RCPT TO:<root>"], b"Subject: x\r\n")

    def test_takes_recipients_from_its_header_and_from_options(self, house: House) -> None:
        content = b"From: x\nTo: Ann <ann@b.test>,\n bob\nBcc: secret@b.test\nCc: root\n\n"
        house.send("-t", "root", content=content)
        envelope, _ = house.drop()
        assert envelope[1:] == [f"RCPT TO:<{a}>" for a in ("root", "ann@b.test", "bob", "secret@b.test")]

    @pytest.mark.parametrize(
        ("options", "content", "body"),
        [
            ([], b"one\n.\ntwo\n", b"one\r\n"),
            ([], b"one\r\n.\r\ntwo\r\n", b"one\r\n"),
            ([], b"one\n.", b"one\r\n"),
            ([], b"one\n..\n .\n", b"one\r\n..\r\n .\r\n"),
            (["-i"], b"one\n.\ntwo\n", b"one\r\n.\r\ntwo\r\n"),
            (["-oi"], b"one\r\n.\r\n\xe9\0\rx", b"one\r\n.\r\n\xe9\0 x\r\n"),
            (["-i"], b"x" * 70_000 + b".\n.", b"x" * 70_000 + b".\r\n.\r\n"),
        ],
    )
    def test_ends_with_a_lone_dot_unless_told_otherwise(
        self, house: House, options: list[str], content: bytes, body: bytes
    ) -> None:
        house.send(*options, "root", content=b"From: x\n\n" + content)
        assert house.drop()[1] == b"From: x\r\n\r\n" + body

    def test_of_an_mbox_loses_the_first_line_of_that(self, house: House) -> None:
        lines = b"From chris Sun May 11 15:21:22 2003\n>From root Sun May 11 15:21:22 2003\n"
        house.send("root", content=lines + b"From: x\n\nFrom here\n")
        assert house.drop()[1] == b"From: x\r\n\r\nFrom here\r\n"

    def test_without_a_header_gets_one(self, house: House) -> None:
        house.send("-F", "x", "root", content=b"just a line\n")
        assert house.drop()[1] == f"From: x <{ME.pw_name}>\r\n\r\njust a line\r\n".encode()

    def test_may_be_from_somebody_whose_name_is_no_text(self, house: House) -> None:
        name = b"J\xe9r\a\nBcc: x".decode("utf-8", "surrogateescape")
        assert house.send("-F", name, "root", content=b"").returncode == 0
        assert house.drop()[1] == f"From: =?utf-8?b?Su+/vXIgQmNjOiB4?= <{ME.pw_name}>\r\n".encode()

    def test_needs_no_standard_streams(self, house: House) -> None:
        closed = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *RELAY, "send")
        assert house.send("root", command=closed, content=b"").returncode == 0
        assert len(house.drops()) == 1

    def test_beyond_ascii_says_so(self, house: House) -> None:
        house.send("é@b.test")
        assert house.drop()[0] == [f"MAIL FROM:<{ME.pw_name}> SMTPUTF8", "RCPT TO:<é@b.test>"]

    def test_is_told_of(self, house: House) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as relay:
            relay.bind(str(house.maildrop / ".wake"))
            house.send("root")
            relay.settimeout(10)
            assert relay.recv(10)


class TestFailures:
    @pytest.mark.parametrize(
        ("options", "content", "status", "words"),
        [
            ([], MESSAGE, 64, "no recipient is named"),
            (["-t"], MESSAGE, 64, "no recipient is named"),
            (["-bd"], b"", 64, "relay serve"),
            (["-Z"], b"", 64, "-Z"),
            (["-f", "a, b", "root"], MESSAGE, 64, "-f a, b: it is no address"),
            (["a@b..test"], MESSAGE, 65, "this is no mail address: a@b..test"),
            (['"a\a"@b.test'], MESSAGE, 65, "this is no mail address"),
            (["-V", "\x01", "root"], MESSAGE, 65, "the relay could not read"),
            (["-t"], b"To: " + b",\n ".join(b"u%d@x.test" % n for n in range(60_000)), 65, "too many"),
            (["root"], b"x" * 2000, 69, "larger than the relay takes"),
            (["root"], b"X: " + b"y" * 1_100_000, 65, "header"),
        ],
    )
    def test_have_the_status_of_sysexits_and_leave_nothing(
        self, tmp_path: Path, options: list[str], content: bytes, status: int, words: str
    ) -> None:
        size = "1KB" if status == 69 else "50MB"
        house = House(tmp_path, f'limits.message_size = "{size}"\n')
        sent = house.send(*options, content=content)
        assert (sent.returncode, words in sent.stderr.decode()) == (status, True), sent.stderr
        assert sent.stderr.startswith(b"sendmail: ")
        assert house.drops() == []

    def test_without_a_maildrop_tell_where_it_should_be(self, house: House) -> None:
        house.maildrop.rmdir()
        sent = house.send("root")
        assert sent.returncode == 75
        assert (
            sent.stderr
            == f"sendmail: there is no {house.maildrop}, which the relay makes when it starts\n".encode()
        )

    @pytest.mark.needs_root
    def test_without_the_right_to_write_tell_what_to_do(self, house: House) -> None:
        house.maildrop.chmod(0o700)
        sent = house.send("root", command=("setpriv", "--reuid=65534", "--clear-groups", *RELAY, "send"))
        assert sent.returncode == 73
        assert b"right o+x" in sent.stderr

    @pytest.mark.needs_root
    def test_of_a_user_who_may_not_see_the_queue(self, house: House) -> None:
        with socket.socket(socket.AF_UNIX) as relay:
            relay.bind(str(house.config.parent / "state/queue.db.sock"))
            (house.config.parent / "state/queue.db.sock").chmod(0o600)
            (house.config.parent / "state/queue.db").touch(0o600)
            sent = house.send("-bp", command=("setpriv", "--reuid=65534", "--clear-groups", *RELAY, "send"))
        assert (sent.returncode, b"only root" in sent.stderr) == (77, True)

    @pytest.mark.parametrize(
        "text",
        [
            "nonsense = ",
            'nonsense = 1\n[queue]\npath = "state/queue.db"\n',
            'nonsense = \n[queue] # ours\npath = "state/queue.db"\n[local]\nusers = \n',
        ],
    )
    def test_of_the_configuration_cost_no_message(self, house: House, text: str) -> None:
        house.config.write_text(text)
        sent = house.send("root")
        if "queue" in text:
            assert sent.returncode == 0
            assert len(house.drops()) == 1
        else:
            assert b"/var/lib/relay/maildrop" in sent.stderr

    def test_of_a_reader_that_is_killed_leave_a_hidden_file_at_most(self, house: House) -> None:
        with subprocess.Popen(
            [*RELAY, "send", "root"],
            stdin=subprocess.PIPE,
            env={**os.environ, "RELAY_CONFIG": str(house.config)},
        ) as child:
            assert child.stdin
            child.stdin.write(b"From: x\n\n" + b"x\n" * 100_000)
            child.stdin.flush()
            child.send_signal(signal.SIGKILL)
        assert [path for path in house.maildrop.iterdir() if not path.name.startswith(".")] == []

    def test_of_standard_input_are_an_empty_message(self, house: House) -> None:
        closed = ("sh", "-c", 'exec "$@" <&-', "sh", *RELAY, "send")
        assert house.send("-F", "x", "root", command=closed).returncode == 0
        assert house.drop()[1] == f"From: x <{ME.pw_name}>\r\n".encode()
        assert house.send("-bs", command=closed).returncode == 0

    def test_of_who_owns_the_present_folder_change_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "relay.toml").write_text(f'[queue]\npath = "{tmp_path}/queue.db"\n')
        code = "from relay.cli.send import find_settings; print(find_settings()[0])"
        env = {name: value for name, value in os.environ.items() if name != "RELAY_CONFIG"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=True
        )
        assert done.stdout == b"/var/lib/relay/maildrop\n"

    @pytest.mark.needs_root
    def test_of_rights_keep_the_queue_from_others(self, house: House) -> None:
        (house.maildrop.parent / "queue.db").touch(0o600)
        house.maildrop.parent.chmod(0o711)
        other = ("setpriv", "--reuid=65534", "--clear-groups", *RELAY, "send")
        done = house.send("-bp", command=other)
        assert done.returncode == 77
        assert b"only root and the user that the relay runs as may see" in done.stderr


class TestOtherNames:
    @pytest.mark.parametrize(("name", "words"), [("mailq", "the queue is empty"), ("newaliases", "")])
    def test_are_sendmails_too(self, house: House, name: str, words: str) -> None:
        link = house.config.with_name(name)
        link.symlink_to(Path(sys.executable).with_name("relay"))
        done = house.send(command=(link,), content=b"")
        assert (done.returncode, done.stderr) == (0, b"")
        assert words in done.stdout.decode()

    def test_send_without_a_command(self, house: House) -> None:
        link = house.config.with_name("sendmail")
        link.symlink_to(Path(sys.executable).with_name("relay"))
        assert house.send("root", command=(link,)).returncode == 0
        assert len(house.drops()) == 1

    def test_show_and_run_the_queue(self, house: House) -> None:
        assert b"the queue is empty" in house.send("-bp", content=b"").stdout
        assert house.send("-q", content=b"").returncode == 0

    def test_are_told_of_in_the_help(self) -> None:
        helped = subprocess.run([*RELAY, "send", "--help"], capture_output=True, check=False)
        assert helped.returncode == 0
        assert b"docs/sendmail.md" in helped.stdout


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_smtp_on_standard_input_leaves_messages_too(house: House, line_end: bytes) -> None:
    dialogue = (
        b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test> NOTIFY=NEVER\r\n"
        b"DATA\r\nSubject: x\r\n\r\n..\r\n.\r\n"
        b"MAIL FROM:<>\r\nRCPT TO:<root>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n"
    )
    done = house.send("-bs", content=dialogue.replace(b"\r\n", line_end))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"250 2.0.0 Ok: left for the relay\r\n") == 2
    assert sorted(house.drops()) == [
        b"MAIL FROM:<>\r\nRCPT TO:<root>\r\nDATA\r\nhello\r\n",
        b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test> NOTIFY=NEVER\r\nDATA\r\nSubject: x\r\n\r\n.\r\n",
    ]


def test_smtp_without_a_maildrop_says_so(house: House) -> None:
    house.maildrop.rmdir()
    dialogue = (
        b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n"
    )
    done = house.send("-bs", content=dialogue)
    assert (
        b"451 4.3.0 The message could not be left for the relay (No such file or directory: " in done.stdout
    )
    assert done.stderr == b""


def test_smtp_that_breaks_off_leaves_nothing(house: House) -> None:
    house.send(
        "-bs", content=b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\nSubject: x\r\n"
    )
    assert house.drops() == []
