"""Arrival and rewriting judged by what a real Postfix did with the same messages (tests/vectors/)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from relay.mail.address import fold, unquote_address
from relay.mail.arrival import ArrivalRules, arrange_headers
from relay.mail.envelope import Client
from relay.mail.headers import split_content
from relay.mail.rewrite import Canonical, Home, rewrite_address, rewrite_headers
from relay.mail.trace import received_header

VECTORS = Path(__file__).parent / "vectors"
ELSEWHERE = {
    "canonical-037": "headers of every client that may relay are rewritten, not only the machine's own",
    "headers-021": "headers of every client that may relay are completed, not only the machine's own",
    "generic-009": "a report",
    "generic-025": "a local alias",
    "headers-018": "a local alias",
    "headers-016": "an alias",
    "headers-004": "TLS",
    "headers-006": "AUTH",
    "headers-008": "TLS and AUTH",
    "headers-044": "a line over 998 bytes is split at delivery",
    "headers-050": "8-bit text is converted at delivery",
    "headers-051": "8-bit text is converted at delivery",
    "headers-058": "header checks",
}
MORE = {"smtp_dialogue-048", "smtp_dialogue-050", "smtp_dialogue-051", "smtp_dialogue-111", "transport-086"}


class Copy(NamedTuple):
    reverse_path: str
    recipients: set[str]
    headers: list[tuple[str, str]]
    body: str


def cases() -> list[Any]:
    scope = set((VECTORS / "scope.txt").read_text().split())
    inexpressible = {line.split()[0] for line in (VECTORS / "inexpressible.txt").read_text().splitlines()}
    files = ("canonical", "generic", "headers", "smtp_dialogue", "transport")
    return [
        pytest.param(case, id=case["id"])
        for name in files
        for case in json.loads((VECTORS / f"cases/{name}.json").read_text())
        if set(case["tags"]) <= scope and case["id"] not in inexpressible | set(ELSEWHERE)
        if case["area"] in {"canonical", "generic", "headers"} or case["id"] in MORE
    ]


@pytest.mark.parametrize("case", cases())
def test_a_message_is_rewritten_as_postfix_does(case: dict[str, Any]) -> None:
    copies = [copy for session in case["input"]["sessions"] for copy in relay(case["config"], session)]
    for message in case["expected"]["relayed"]:
        recipients = {unquote_address(recipient["to"]) for recipient in message["rcpt"]}
        expected = (
            unquote_address(message["mail_from"]),
            normalise([(name, value) for name, value in message["headers"] if name is not None]),
        )
        found = [copy for copy in copies if recipients <= copy.recipients]
        assert expected in [(copy.reverse_path, copy.headers) for copy in found]
        # The recording shows a header block that no empty line ends as if it had a header without a name.
        ends_with_header = message["headers"][-1][0] is None
        assert message.get("body", "") in [copy.body.removeprefix("\r\n") for copy in found]
        assert ends_with_header in [copy.body == "" for copy in found]


def relay(config: dict[str, Any], session: dict[str, Any]) -> list[Copy]:
    """Return what the pure functions make of the messages of a session."""
    base = config["base"]
    local = {*base["local_domains"], "[127.0.0.1]"}
    home = Home(base["origin"], frozenset(local), base["recipient_delimiter"])
    maps = config["maps"]
    both = maps.get("canonical", [])
    sender_canonical = make_table(both + maps.get("sender_canonical", []))
    recipient_canonical = make_table(both + maps.get("recipient_canonical", []))
    rules = ArrivalRules(base["hostname"], home, sender_canonical, recipient_canonical)
    generic = make_table(maps.get("generic", []))
    copies = []
    address = session.get("client_ip", "127.0.0.1")
    client = Client(address, {"127.0.0.1": "localhost", "127.0.0.66": "outside.test"}.get(address, "unknown"))
    reverse_path, recipients = "", list[str]()
    for step in session["steps"]:
        line = step.get("send", "")
        if match := re.match(r"(HELO|EHLO) (\S+)", line):
            protocol = "ESMTP" if match[1] == "EHLO" else "SMTP"
            client = Client(client.address, client.name, match[2], protocol)
        elif match := re.match(r"MAIL FROM:<(.*)>( SMTPUTF8)?", line):
            reverse_path, recipients = unquote_address(match[1]), []
            if match[2]:
                client = Client(client.address, client.name, client.helo, "UTF8SMTP")
        elif match := re.match(r"RCPT TO:<(.+)>", line):
            recipients.append(unquote_address(match[1]))
        elif step.get("if_prev") == 354:
            content = re.sub(rb"(?m)^\.", b"", line.encode("latin-1").removesuffix(b".\r\n"))
            content = re.sub(rb"\r+\n", b"\r\n", content)
            headers, body = split_content(re.sub(rb"\r(?!\n)", b" ", content))
            sender = rules.rewrite_sender(reverse_path)
            targets = [rules.rewrite_recipient(path) for path in recipients]
            only = recipients[0] if len(recipients) == 1 else None
            arranged = arrange_headers(
                rules,
                received_header(client, base["hostname"], "1F", 1.0, only),
                headers,
                reverse_path=sender,
                queue_id="1F",
                now=1.0,
            )
            copies.append(
                Copy(
                    rewrite_address(sender, generic, home),
                    {rewrite_address(target, generic, home) for target in targets},
                    normalise(parse(rewrite_headers(arranged, generic, home))),
                    body.decode("latin-1"),
                )
            )
    return copies


def make_table(rows: list[list[str]]) -> Canonical:
    """Return a table of a case: the last entry for a key counts, Postfix prefers keys with quotes."""
    rows = sorted(rows, key=lambda row: row[0].startswith('"'))
    return Canonical({fold(unquote_address(key)): (first_address(value), "") for key, value in rows})


def first_address(value: str) -> str:
    """Return the address of a table value: the first one, without a display name."""
    return value.partition(",")[0].rpartition("<")[2].rstrip(">")


def parse(headers: list[bytes]) -> list[tuple[str, str]]:
    pairs = (header.decode("latin-1").split(":", 1) for header in headers)
    return [(name, value) for name, value in pairs]


def normalise(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    result = []
    for name, value in headers:
        text = re.sub(r"\s+", " ", value).strip()
        text = re.sub(r"<\d{14}\.1F@", "<GENERATED-MSGID@", text)
        text = re.sub(r"\w{3}, 01 Jan 1970 \d\d:\d\d:\d\d [+-]\d{4}", "<DATE>", text)
        text = text.replace("(Postfix)", "(relay)").replace("id 1F", "id <QID>")
        result.append((name.lower(), text))
    return result
