#!/usr/bin/env python3
"""Runs the relay for ``oracle.py --driver``: turns a case's neutral configuration into relay.toml.

``start CASEFILE`` returns when the relay listens, ``busy`` says by its exit status whether work is pending
(0) or not (1), ``stop`` ends the relay and prints what is left in its queue. The relay runs under the
interpreter that runs this file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import tomli_w

sys.path.insert(0, str(Path(__file__).parents[2]))

from relay.mail.passwords import make_hash
from tests.support.postfix_tables import make_pattern, parse_header_checks

HOME = Path("/tmp/oracle/relay")
CONFIG, LOG, PID, CONTROL = (HOME / name for name in ("relay.toml", "log", "pid", "queue.db.sock"))
LISTEN = ("127.0.0.1", 25)
CERTIFICATE, KEY = (Path("/tmp/oracle/relay-tls") / name for name in ("certificate.pem", "key.pem"))
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_LOCAL_PART = r'(?:"(?:[^"\\]|\\.)*"|[^\s"<>()\[\],;:\\*.@][^\s"<>()\[\],;:\\@]*)'
_AT_DOMAIN = r'@(?!\.)[^\s@"]+'
TRANSPORT_KEY = re.compile(rf'\*|{_LOCAL_PART}{_AT_DOMAIN}|\[\S+\]|\.?[^\s@"]+\.[^\s@"]+|\.\w+')
CANONICAL_KEY = re.compile(rf'{_LOCAL_PART}(?:{_AT_DOMAIN})?|{_AT_DOMAIN}|""')
"""Keys that can match; Postfix never looks at any other, and relay.toml refuses them."""

DOMAIN = re.compile(r"[\w-]+(?:\.[\w-]+)+")
ALIAS_KEY = re.compile(rf"{_LOCAL_PART}(?:{_AT_DOMAIN})?|{_AT_DOMAIN}")

MAILBOXES = "127.0.0.24:24"
USERS = {"alice": "secret", "bob@login.test": "hunter2"}
SENDER_KEY = re.compile(r"[^@]*@(?!\.)[^@]+")

Pairs = list[list[str]]
Document = dict[str, Any]


def make_config(case: Mapping[str, Any]) -> Document:
    """Return the relay.toml of a case; what relay has no equivalent for is left out.

    Raises ValueError for tables that have no form there.
    """
    config = case["config"]
    base, options = config["base"], config["options"]
    maps = {name: read_map(table) for name, table in config["maps"].items()}
    document: Document = {
        "hostname": base["hostname"],
        "domain": base["origin"],
        "listen": [{"address": "{}:{}".format(*LISTEN), **make_login(options)}],
        "access": {"networks": base["trusted_networks"]},
        "aliases": make_aliases(maps),
        "local": make_local(case, maps),
        "limits": make_limits(base, options),
        "web": {"address": ""},
        "queue": {"path": str(HOME / "queue.db"), **make_queue(options)},
        "transport": make_transport(maps.get("transport", []), base["relayhost"]),
        "header_checks": [
            {"pattern": make_pattern(pattern, flags), "action": f"{action} {text}".rstrip()}
            for table in config["checks"].get("header_checks", [])
            for pattern, flags, action, text in parse_header_checks(table["text"])
        ],
    }
    if base["relayhost"]:
        document["relayhost"] = base["relayhost"]
    if "smtpd_sasl_auth_enable" in options:
        document["users"] = {
            name: str(make_hash(password.encode(), b"salt")) for name, password in USERS.items()
        }
    if "smtpd_tls_security_level" in options:
        document["tls"] = {"certificate": str(CERTIFICATE), "key": str(KEY)}
    if options.get("smtp_helo_name"):
        document["helo_name"] = options["smtp_helo_name"]
    senders = {key: value for key, value in maps.get("sender_relayhost", []) if SENDER_KEY.fullmatch(key)}
    return document | make_rewriting(maps) | {"sender_relayhost": senders}


def make_aliases(maps: Mapping[str, Pairs]) -> Document:
    """Return the aliases: of local users, of all addresses, and of those who moved."""
    virtual = [pair for pair in maps.get("virtual_alias", []) if not DOMAIN.fullmatch(pair[0])]
    tables = (*maps.get("aliases", []), *virtual)
    aliases: Document = {key: split_list(value) for key, value in tables if ALIAS_KEY.fullmatch(key)}
    moved = maps.get("relocated", [])
    return aliases | {key: f"error:5.1.6 User has moved to {value}" for key, value in moved}


def split_list(text: str) -> list[str]:
    """Return the addresses of a list."""
    return [item.strip() for item in re.findall(r'(?:"[^"]*"|[^",])+', text)]


def make_local(case: Mapping[str, Any], maps: Mapping[str, Pairs]) -> Document:
    """Return local domains and users; where Postfix was told of no users, all that the case names are there.

    A domain that stands alone in Postfix's virtual table has no users but those of the table.
    """
    base, options = case["config"]["base"], case["config"]["options"]
    virtual = [key for key, _ in maps.get("virtual_alias", []) if DOMAIN.fullmatch(key)]
    local: Document = {"domains": [*base["local_domains"], *virtual], "accept": "anyone"}
    if base["local_domains"] and "local_recipient_maps" not in options:
        local |= {"users": sorted(find_users(case)), "lmtp": MAILBOXES}
    return local


def find_users(case: Mapping[str, Any]) -> set[str]:
    """Return the local users that the sessions of a case name."""
    text = "".join(step.get("send", "") for session in case["input"]["sessions"] for step in session["steps"])
    named = r'(?mi)^(?:MAIL FROM:|RCPT TO:|VRFY )[<"]([\w.-]+)(?:\+[\w.-]*)?"?(?:@([^>\r]*))?'
    paths = re.findall(named, text)
    ours = ("", *map(str.lower, case["config"]["base"]["local_domains"]), "[127.0.0.1]")
    return {user.lower() for user, domain in paths if domain.lower() in ours}


def make_login(options: Mapping[str, str]) -> Document:
    """Return what a listener does about TLS and passwords."""
    login: Document = {}
    if "smtpd_tls_security_level" in options:
        login["tls"] = "starttls"
    if "smtpd_sasl_auth_enable" in options:
        login |= {"auth": "optional", "clear_password": options.get("smtpd_tls_auth_only") != "yes"}
    return login


def make_certificate() -> None:
    """Make the certificate of the listener, which no client looks at."""
    CERTIFICATE.parent.mkdir(parents=True)
    new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=relay")
    subprocess.run([*new, "-keyout", KEY, "-out", CERTIFICATE], check=True, capture_output=True)


def read_map(table: Pairs | Mapping[str, str]) -> Pairs:
    """Return keys and values of a table; one written as a file (texthash:) has one entry a line."""
    if isinstance(table, list):
        return table
    if table["syntax"] != "texthash":
        raise ValueError(f"no form in relay.toml: {table['syntax']} tables")
    lines = re.sub(r"(?m)^\s*(#.*)?\n", "", table["text"] + "\n").replace("\n ", " ").splitlines()
    return [line.split(None, 1) for line in lines]


def make_limits(base: Mapping[str, Any], options: Mapping[str, str]) -> Document:
    limits = {}
    if int(base["message_size_limit"]):
        limits["message_size"] = int(base["message_size_limit"])
    if "smtpd_recipient_limit" in options:
        limits["recipients"] = int(options["smtpd_recipient_limit"])
    return limits


def make_queue(options: Mapping[str, str]) -> Document:
    queue: Document = {}
    if "maximal_queue_lifetime" in options:
        queue["lifetime"] = duration(options["maximal_queue_lifetime"], "d")
    if "delay_warning_time" in options:
        queue["warn_after"] = duration(options["delay_warning_time"], "h")
    if "minimal_backoff_time" in options:
        queue["retry"] = [duration(options["minimal_backoff_time"], "s")]
    return queue


def duration(text: str, default_unit: str) -> str:
    """Return a Postfix time as a relay duration; no time at all is as short as can be."""
    number, unit = re.fullmatch(r"(\d+)([smhdw]?)", text).groups()  # type: ignore[union-attr]  # a case is well-formed
    seconds = int(number) * UNITS[unit or default_unit]
    return f"{seconds}s" if seconds else "1ms"


def make_transport(pairs: Pairs, relayhost: str) -> Document:
    hops = {key: next_hop(value, relayhost) for key, value in pairs if TRANSPORT_KEY.fullmatch(key)}
    return {key: hop for key, hop in hops.items() if hop}


def next_hop(text: str, relayhost: str) -> str:
    """Return ``transport:nexthop`` as relay writes it; "" for one that only local delivery has."""
    transport, colon, host = text.partition(":")
    match transport:
        case "error":
            return f"error:{host}"
        case "discard":
            return "discard"
        case "smtp" | "relay":
            return host or "mx"
        case "" if colon:
            return host or relayhost or "mx"
        case "local":
            return "local"
        case "virtual" | "lmtp":
            return ""
    return text


def make_rewriting(maps: Mapping[str, Pairs]) -> Document:
    """Return the canonical tables: Postfix also has one for both sides, and one for delivery (generic)."""
    both = canonical(maps.get("canonical", []))
    return {
        "sender_canonical": both
        | canonical(maps.get("sender_canonical", []))
        | canonical(maps.get("generic", [])),
        "recipient_canonical": both | canonical(maps.get("recipient_canonical", [])),
        "rewrite": {"scope": "external" if "generic" in maps else "all"},
    }


def canonical(pairs: Pairs) -> Document:
    return {key: value for key, value in pairs if CANONICAL_KEY.fullmatch(key)}


def start(case: Mapping[str, Any]) -> None:
    """Start the relay afresh and wait until it listens."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    if not CERTIFICATE.exists():
        make_certificate()
    try:
        text = tomli_w.dumps(make_config(case))
    except ValueError as error:
        text = f"# {error}\nrefused"
    CONFIG.write_text(text, encoding="utf-8", errors="surrogateescape")
    with LOG.open("wb") as log:
        relay = launch("-m", "relay", "serve", "--config", str(CONFIG), output=log)
    while relay.poll() is None and not is_listening():
        time.sleep(0.02)
    if relay.returncode is not None:
        print(f"relay did not start:\n{LOG.read_text(errors='replace')}")
        relay = launch(__file__, "refuse", output=subprocess.DEVNULL)
    PID.write_text(str(relay.pid))


def launch(*arguments: str, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
    )


def is_listening() -> bool:
    try:
        socket.create_connection(LISTEN, 1).close()
    except OSError:
        return False
    return True


def refuse() -> NoReturn:
    """Stand in for a relay that refused its configuration: the oracle needs somebody to talk to."""
    with socket.create_server(LISTEN) as server:
        while True:
            client, _ = server.accept()
            client.sendall(b"421 4.3.0 the relay did not start\r\n")
            client.close()


def is_busy() -> bool:
    """Return whether a message is under way or due; one that waits for its next attempt is not."""
    now = time.time()
    return any(
        recipient["state"] == "queued"
        or (recipient["state"] == "deferred" and recipient["next_attempt_at"] <= now)
        for message in queued_messages()
        for recipient in message["recipients"]
    )


def queued_messages() -> list[dict[str, Any]]:
    """Return what ``relay queue list --json`` prints, without the time that a command takes to start."""
    if not CONTROL.exists():
        return []
    with socket.socket(socket.AF_UNIX) as control, control.makefile("rb") as replies:
        control.connect(str(CONTROL))
        control.sendall(b'{"command": "list", "limit": 1000}\n')
        messages: list[dict[str, Any]] = json.loads(replies.readline())["messages"]
    return messages


def stop() -> Iterator[Document]:
    """Yield what is left in the queue, by message and state, and end the relay."""
    for message in queued_messages():
        for queue, states in (("hold", {"held"}), ("deferred", {"deferred", "queued"})):
            left = [{"to": r["address"]} for r in message["recipients"] if r["state"] in states]
            if left:
                yield {"queue": queue, "sender": message["sender"], "recipients": left}
    pid = int(PID.read_text())
    os.kill(pid, signal.SIGTERM)
    with suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.02)


def main() -> None:
    match sys.argv[1:]:
        case ["start", case_file]:
            start(json.loads(Path(case_file).read_text()))
        case ["refuse"]:
            refuse()
        case ["busy"]:
            sys.exit(0 if is_busy() else 1)
        case ["stop"]:
            print(json.dumps({"queue": list(stop())}))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
