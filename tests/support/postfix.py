"""A Postfix of the test's own: it takes mail from those who log in, over TLS, and relays it to a sink."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SEARCH_PATH
from tests.support.authority import Authority

NAME, USER, PASSWORD = "mx.test", "chris", "s3cret"
START_SECONDS = 20.0

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
myhostname = {name}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
local_recipient_maps =
mynetworks = 192.0.2.0/32
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {key}, {chain}
smtpd_sasl_auth_enable = yes
smtpd_sasl_authenticated_header = yes
smtpd_sasl_local_domain = {name}
relayhost = [127.0.0.1]:{sink}
smtp_tls_security_level = none
"""
MASTER_CF = """
127.0.0.1:{starttls} inet n - n - - smtpd
127.0.0.1:{implicit} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
SASL_CONF = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb2
mech_list: PLAIN LOGIN CRAM-MD5
"""


@dataclass(frozen=True)
class Postfix:
    """Where it listens, and where it takes mail to."""

    starttls: int
    implicit: int
    sink: int


@contextlib.contextmanager
def running(folder: Path, authority: Authority) -> Iterator[Postfix]:
    """Run a Postfix; everybody must be able to enter the folder, which gets all its files."""
    postfix = Postfix(*unused_ports(3))
    _configure(folder, authority, postfix)
    environment = {"MAIL_CONFIG": str(folder), "PATH": SEARCH_PATH, "LANG": "C", "MAIL_LOGTAG": "postfix"}
    subprocess.run([_program("postfix"), "check"], env=environment, check=True, capture_output=True)
    master = subprocess.Popen(
        ["/usr/lib/postfix/sbin/master", "-c", str(folder), "-d"], start_new_session=True, env=environment
    )
    try:
        _await_greeting(postfix.starttls, master, folder / "mail.log")
        yield postfix
    finally:
        master.terminate()
        master.wait()


def _configure(folder: Path, authority: Authority, postfix: Postfix) -> None:
    chain, key = authority.files(NAME)
    values = {"folder": folder, "name": NAME, "chain": chain, "key": key, **vars(postfix)}
    for name in ("queue", "data", "sasl"):
        (folder / name).mkdir()
    for name, template in {"main.cf": MAIN_CF, "master.cf": MASTER_CF, "sasl/smtpd.conf": SASL_CONF}.items():
        (folder / name).write_text(template.format(**values))
    shutil.chown(folder / "data", "postfix")
    database = folder / "sasldb2"
    command = [_program("saslpasswd2"), "-p", "-c", "-f", str(database), "-u", NAME, USER]
    subprocess.run(command, input=PASSWORD.encode(), check=True, capture_output=True)
    shutil.chown(database, "postfix")


def _program(name: str) -> str:
    found = shutil.which(name, path=SEARCH_PATH)
    assert found is not None
    return found


def unused_ports(count: int) -> list[int]:
    """Return ports from below those that the kernel gives to clients, which other tests have many of."""
    found: list[int] = []
    for port in random.sample(range(20000, 32000), 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found[:count]


def _await_greeting(port: int, master: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while master.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as probe:
            if probe.recv(100):
                return
        time.sleep(0.05)
    raise AssertionError(f"Postfix does not run: {log.read_text() if log.exists() else 'no log'}")
