"""A Dovecot of the test's own: LMTP, IMAP and POP3 on loopback, over Maildirs that others may fill too.

It runs as the test's own user; where that is root, whose mail Dovecot does not touch, as nobody. The
configuration is that of Dovecot 2.3, which Debian 12 has.
"""

from __future__ import annotations

import contextlib
import grp
import os
import poplib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SEARCH_PATH
from tests.support.postfix import unused_ports

USERS = ("chris", "marc")
FULL = "full"
"""A user whose mailbox has no room for a single message."""
PASSWORD = "s3cret"
"""Of all of them; they log in with the name alone or with any domain after it."""
START_SECONDS = 20.0

LOGINS = """
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
}}
service anvil {{
  chroot =
}}
"""
"""The services at which people log in, as an ordinary user can run them."""

CONF = (
    """
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = imap pop3 lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_internal_user = {user}
default_internal_group = {group}
default_login_user = {user}
first_valid_uid = 1
hostname = mailbox.test
postmaster_address = postmaster@mailbox.test

# chris, Chris@any.domain and chris+tag@any.domain are chris; the tag names a folder, unless a script files.
auth_username_format = %Ln
recipient_delimiter = +
lmtp_save_to_detail_mailbox = yes
lda_mailbox_autocreate = yes
mail_location = maildir:{folder}/mail/%n
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {folder}/passwd
}}
userdb {{
  driver = passwd-file
  args = {folder}/passwd
}}
mail_plugins = quota
protocol lmtp {{
  mail_plugins = quota sieve
}}
plugin {{
  quota = maildir:User quota
  sieve = file:{folder}/sieve/%n.sieve
}}

service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
"""
    + LOGINS
)
PASSWD = "{name}:{{PLAIN}}{password}:{uid}:{gid}::{folder}/mail/{name}::{extra}\n"


@dataclass(frozen=True)
class Dovecot:
    """Where it keeps its files, and the ports of 127.0.0.1 where it listens."""

    folder: Path
    lmtp: int
    imap: int
    pop3: int

    @property
    def socket(self) -> Path:
        """Where it speaks LMTP too."""
        return self.folder / "run" / "lmtp"

    @property
    def log(self) -> str:
        """What it has logged."""
        path = self.folder / "log"
        return path.read_text() if path.exists() else "no log"

    def maildir(self, user: str) -> Path:
        """Return the Maildir of a user, which is there from the first message on."""
        return self.folder / "mail" / user

    def messages(self, user: str, folder: str = "") -> list[bytes]:
        """Return the messages in a folder of a user, the inbox if none is named, with CRLF line ends."""
        maildir = self.maildir(user) / (f".{folder}" if folder else "")
        paths = sorted(path for new in ("new", "cur") for path in (maildir / new).glob("*"))
        return [b"\r\n".join(path.read_bytes().splitlines()) + b"\r\n" for path in paths]

    def fetch(self, user: str) -> list[str]:
        """Return the messages that a POP3 client fetches, with LF line ends."""
        client = poplib.POP3("127.0.0.1", self.pop3)
        try:
            client.user(user)
            client.pass_(PASSWORD)
            count = len(client.list()[1])
            return [b"\n".join(client.retr(number + 1)[1]).decode() for number in range(count)]
        finally:
            client.quit()

    def filter_by(self, user: str, script: str) -> None:
        """Let a Sieve script decide what becomes of a user's mail."""
        (self.folder / "sieve" / f"{user}.sieve").write_text(script)

    def adopt(self) -> None:
        """Make mail that the test, or the relay, has put into the Maildirs Dovecot's own."""
        if os.geteuid() == 0:
            account = _account()
            for path in (self.folder / "mail", *(self.folder / "mail").rglob("*")):
                os.chown(path, account.pw_uid, account.pw_gid)


@contextlib.contextmanager
def running(conf: str = CONF) -> Iterator[Dovecot]:
    """Run a Dovecot in a folder of its own, whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="dovecot-", ignore_cleanup_errors=True) as name:
        dovecot = Dovecot(Path(name), *unused_ports(3))
        _configure(dovecot, conf)
        account = _account()
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        program = shutil.which("dovecot", path=SEARCH_PATH)
        assert program is not None
        master = subprocess.Popen(
            [program, "-F", "-c", str(dovecot.folder / "conf")],
            start_new_session=True,
            **(identity if os.geteuid() == 0 else {}),
        )
        try:
            _await_greeting(dovecot, master)
            yield dovecot
        finally:
            os.killpg(master.pid, signal.SIGTERM)  # the master alone would take a second over it
            master.wait()


def _account() -> pwd.struct_passwd:
    """Return whom Dovecot runs as."""
    return pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam("nobody")


def _configure(dovecot: Dovecot, conf: str) -> None:
    account, folder = _account(), dovecot.folder
    group = grp.getgrgid(account.pw_gid).gr_name
    identity = {"user": account.pw_name, "group": group, "uid": account.pw_uid, "gid": account.pw_gid}
    (folder / "conf").write_text(conf.format(**identity, **vars(dovecot)))
    lines = [
        PASSWD.format(
            name=name,
            password=PASSWORD,
            uid=account.pw_uid,
            gid=account.pw_gid,
            folder=folder,
            extra="userdb_quota_rule=*:bytes=1" if name == FULL else "",
        )
        for name in (*USERS, FULL)
    ]
    (folder / "passwd").write_text("".join(lines))
    for name in ("run", "mail", "sieve"):
        (folder / name).mkdir()
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)


def _await_greeting(dovecot: Dovecot, master: subprocess.Popen[bytes]) -> None:
    """Wait until it speaks; all its sockets are there once it listens on one."""
    end = time.monotonic() + START_SECONDS
    while master.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", dovecot.imap), 5) as probe:
            if probe.recv(100):
                return
        time.sleep(0.02)
    raise AssertionError(f"Dovecot does not run: {dovecot.log}")
