"""Clients with bad intentions: open-relay probes, browsers, injected commands and headers."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.support.reception import Peer
from tests.support.service import Service, deliveries
from tests.torture.clients_rig import AREA, STRANGER, check_log, connected, exchange, relaying, until_sent
from tests.torture.conftest import Figure

HOUSE = """
[access]
networks = ["127.0.0.1/32"]
[local]
domains = ["maison.mrs"]
users = ["chris"]
accept = "anyone"
maildir = "%s/{user}"
"""
CONTENT = b"Subject: probe\r\n\r\nprobe\r\n"


# Open relay

OUTSIDE = "victim@free.fr"
PROBES = [
    OUTSIDE,
    "victim%free.fr@maison.mrs",
    "victim%free.fr",
    "victim%free.fr@",
    "victim%free.fr@localhost",
    "victim%free.fr@[127.0.0.1]",
    "victim%free.fr%maison.mrs@maison.mrs",
    "free.fr!victim",
    "free.fr!victim@maison.mrs",
    "maison.mrs!free.fr!victim",
    "maison.mrs!victim@free.fr",
    "@maison.mrs:victim@free.fr",
    "@free.fr:chris@maison.mrs@free.fr",
    "@free.fr,@maison.mrs:victim@free.fr",
    '"victim@free.fr"',
    '"victim@free.fr"@maison.mrs',
    '"victim%free.fr"@maison.mrs',
    '"free.fr!victim"@maison.mrs',
    '"victim\\@free.fr"@maison.mrs',
    "victim\\@free.fr@maison.mrs",
    "victim@free.fr@maison.mrs",
    "chris@maison.mrs@free.fr",
    "victim@[127.0.0.1]",
    "victim@[IPv6:::1]",
    "victim@[IPv6:::ffff:127.0.0.1]",
    "victim@localhost",
    "victim@localhost.",
    "victim@",
    "@free.fr",
    "@",
    "",
    "victim",
    "postmaster@free.fr",
    "postmaster%free.fr",
    "MAILER-DAEMON@free.fr",
    "chris+victim@free.fr",
    "chris+victim@free.fr@maison.mrs",
    "chris@maison.mrs, victim@free.fr",
    "chris@maison.mrs victim@free.fr",
    "chris@maison.mrs;victim@free.fr",
    "victim@free.fr (chris@maison.mrs)",
    "house: victim@free.fr;",
    "house: chris@maison.mrs, victim@free.fr;",
    "chris@maison.mrs\0@free.fr",
    "victim@free.fr\0@maison.mrs",
    "victim@free.fr.maison.mrs.free.fr",
    "victim@FREE.FR.",
    "victim@maison.mrs.free.fr",
    "victim@evilmaison.mrs",
    "victim@.maison.mrs",
    "victim@maison.mrs/free.fr",
    "victim\uff20free.fr@maison.mrs",
    "victim@free\u3002fr",
    "victim@free.fr\uff20maison.mrs",
    "|cat@maison.mrs",
    "/dev/null",
    ":include:/etc/passwd",
    "../../victim@maison.mrs",
    "chris/../victim@maison.mrs",
    "\\victim@free.fr",
    "-oQ/tmp@free.fr",
]
SENDERS = ["chris@maison.mrs", "", "postmaster", "chris@[127.0.0.1]"]
PRETENCES = [
    "XCLIENT ADDR=127.0.0.1 NAME=localhost",
    "XFORWARD ADDR=127.0.0.1",
    "PROXY TCP4 127.0.0.1 127.0.0.1 1 25",
    "EHLO [127.0.0.1]",
    "EHLO maison.mrs",
]


async def probe(peer: Peer, sender: str, recipient: str, parameters: str = "") -> None:
    """Try to have a stranger's message sent; where the recipient is accepted, send it."""
    await peer.ask("RSET", f"MAIL FROM:<{sender}>{parameters}")
    reply = await peer.ask(f"RCPT TO:<{recipient}>")
    if not reply.startswith("2"):
        assert re.match(r"[45]\d\d [45]\.\d", reply), (recipient, reply)
        return
    await peer.ask("DATA")
    peer.send(CONTENT + b".\r\n")
    await peer.reply()


async def test_strangers_reach_nobody_outside(tmp_path: Path, figure: Figure) -> None:
    async with relaying(tmp_path, HOUSE % tmp_path) as (relay, next_hop):
        for sender in SENDERS:
            for start in range(0, len(PROBES), 12):  # twenty errors end a session
                async with connected(relay, STRANGER) as peer:
                    await peer.ask("EHLO chris")
                    for recipient in PROBES[start : start + 12]:
                        await probe(peer, sender, recipient, " SMTPUTF8" * (not recipient.isascii()))
        for pretence in PRETENCES:
            async with connected(relay, STRANGER) as peer:
                await peer.ask(pretence)
                await probe(peer, "chris@maison.mrs", OUTSIDE)
        async with connected(relay, STRANGER) as peer:
            await peer.ask("EHLO chris")
            await probe(peer, "chris@maison.mrs", OUTSIDE, " AUTH=<chris@maison.mrs>")
            await probe(peer, "chris@maison.mrs", OUTSIDE, " AUTH=chris+40maison.mrs")
        assert (await relay.send(CONTENT, "anne@free.fr")).startswith("250 ")
        await until_sent(relay, next_hop, 1)
        assert [d.recipients for d in deliveries(next_hop)] == [("anne@free.fr",)]
    figure(AREA, "open-relay probes", len(PROBES) * len(SENDERS) + len(PRETENCES) + 2)


async def test_an_ipv4_address_written_as_ipv6_is_judged_as_ipv4(tmp_path: Path) -> None:
    listen = 'listen = [{ address = "0.0.0.0:0" }, { address = "[::]:0" }]\n'
    async with relaying(tmp_path, listen + HOUSE % tmp_path) as (relay, next_hop):
        ports = [int(port) for port in re.findall(r"(?:0\.0\.0\.0|\[::\]):(\d+)", relay.log)]
        for target, source, port, code in [
            ("::ffff:127.0.0.1", f"::ffff:{STRANGER}", ports[0], "554"),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", ports[0], "250"),
            ("::1", "::1", ports[1], "554"),
        ]:
            reader, writer = await asyncio.open_connection(target, port, local_addr=(source, 0))
            peer = Peer(reader, writer)
            await peer.reply()
            reply = await peer.ask("EHLO a", "MAIL FROM:<chris@maison.mrs>", f"RCPT TO:<{OUTSIDE}>")
            assert reply.startswith(code), (source, reply)
            await peer.close()
        assert not next_hop.sessions


# Browsers and other strangers to SMTP

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: gw1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: gw1\r\nContent-Type: text/plain\r\n\r\n",
    b"PUT /x HTTP/1.1\r\nHost: gw1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nOrigin: http://evil.test\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: gw1\r\n\r\n",
    b"DELETE / HTTP/1.1\r\nHost: gw1\r\n\r\n",
    b"CONNECT gw1:25 HTTP/1.1\r\nHost: gw1\r\n\r\n",
    b"get / http/1.0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: gw1\n\n",
    b"POST / HTTP/1.1\r\n",
    b"Subject: hello\r\nFrom: a@b.c\r\n\r\n",
    b"<?xml version='1.0'?>\r\n",
    b'{"a": 1}\r\n',
]
ORDERS = (
    b"EHLO x\r\nMAIL FROM:<chris@free.fr>\r\nRCPT TO:<victim@free.fr>\r\nDATA\r\n"
    + CONTENT
    + b".\r\nQUIT\r\n"
)


@pytest.mark.parametrize("is_split", [False, True], ids=["one packet", "two packets"])
async def test_a_browser_is_not_made_to_speak_smtp(tmp_path: Path, is_split: bool, figure: Figure) -> None:
    await must_not_speak(tmp_path, REQUESTS, is_split=is_split)
    figure(AREA, "requests of other protocols", len(REQUESTS))


BINARY_REQUESTS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    b"\x80\x2e\x01\x03\x01\n",
    b"\xff\xfb\x1f\xff\xfb\x20\n",
]
"""TLS, SSL 2 and Telnet. A browser's TLS greeting holds a server name, which can hold lines."""


async def test_a_browser_is_not_made_to_speak_smtp_within_tls(tmp_path: Path) -> None:
    await must_not_speak(tmp_path, BINARY_REQUESTS, is_split=False)


async def must_not_speak(folder: Path, requests: list[bytes], *, is_split: bool) -> None:
    """Check that no orders behind a request are followed."""
    async with relaying(folder) as (relay, next_hop):
        for request in requests:
            parts = (request, ORDERS) if is_split else (request + ORDERS,)
            answer = await exchange(relay, *parts)
            assert b"queued as" not in answer, (request, answer)
        await relay.emptied()
        assert not next_hop.sessions


# Injection

NASTY = [
    "a@free.fr>\r\nRCPT TO:<victim@free.fr",
    "a@free.fr\nRCPT TO:<victim@free.fr>",
    "a@free.fr\rRCPT TO:<victim@free.fr>",
    "a@free.fr> SIZE=1",
    "a@free.fr> BODY=8BITMIME BODY=7BIT",
    '"a\\\r\\\nRCPT TO:<victim@free.fr>"@free.fr',
    '"a> NOTIFY=NEVER"@free.fr',
    '"a>\tX"@free.fr',
    "a\0b@free.fr",
    "a@free.fr\0",
    "\x1b[2J\x1b]0;owned\x07@free.fr",
    "a\x7f@free.fr",
    "a\u2028b@free.fr",
    "a\x85b@free.fr",
    "a\u202eb@free.fr",
    "a'; DROP TABLE message; --@free.fr",
    "%(client)s%n%s{0}@free.fr",
    '"%s %(x)d {}"@free.fr',
    '"a b"@free.fr',
    '"a\\"b"@free.fr',
    '"a,b;c:d<e>f"@free.fr',
    '""@free.fr',
    '"\\\\"@free.fr',
    "é@free.fr",
    "a@é.fr",
    "=?utf-8?q?a=0D=0ARCPT?=@free.fr",
    "a" * 2000 + "@free.fr",
    "a@" + "b." * 120 + "fr",
    "a@" + "b" * 64 + ".fr",
    "<" * 5000,
    "(" * 5000,
    '"' * 5001,
    "\\" * 5001,
    "@a:" * 3000 + "b@free.fr",
]
PARAMETERS = [
    " SIZE=\u0661\u0662",
    " SIZE=1_000",
    " SIZE=+5",
    " SIZE=-5",
    " SIZE=1e3",
    " SIZE=0x10",
    " SIZE=",
    " SIZE=" + "9" * 5000,
    " SIZE=" + "0" * 5000 + "1",
    " SIZE=" + "\u0665" * 5000,
    " BODY=BINARYMIME",
    " BODY=",
    " BODY",
    " RET=FULL RET=HDRS",
    " RET=\u017f",
    " ENVID=a+0D+0AX",
    " ENVID=+",
    " ENVID=+GG",
    " ENVID=" + "a" * 9000,
    " ENVID=\x1b[2J",
    " AUTH=+0D+0A",
    " SMTPUTF8=1",
    " SMTPUTF8 SMTPUTF8",
    " X=\0Y",
    " FROM:<b@free.fr>",
    " NOTIFY=NEVER",
    " =",
    " ==",
    " \u00a0SIZE=5",
    "SIZE=5",
    " SIZE=5;RET=FULL",
]
RECIPIENT_PARAMETERS = [
    " NOTIFY=NEVER,FAILURE",
    " NOTIFY=",
    " NOTIFY=" + "SUCCESS," * 1000,
    " ORCPT=",
    " ORCPT=rfc822;a+0D+0AX@b.c",
    " ORCPT=rfc822;a+00b@c.d",
    " ORCPT=utf-8;\\x{D800}",
    " ORCPT=utf-8;\\x{110000}",
    " ORCPT=utf-8;\\x{0}",
    " ORCPT=utf-8;é",
    " ORCPT=rfc822;" + "a" * 9000,
    " ORCPT=rfc822;+FF+FE",
    " ORCPT=;",
    " ORCPT=a;b;c",
    " SIZE=5",
]
GREETINGS = [
    "x\r\nMAIL FROM:<evil@free.fr>",
    "x\0y",
    "\x1b[31mred",
    "a" * 500,
    "é" * 255,
    "\U0001f600" * 255,
    "x) (y",
    "x;\ty",
    "[127.0.0.1",
    "<x>",
    "a\u2028b",
    "\ud7ff\ue000",
    "x\r(y",
    '"x',
    "%s%n",
    ".",
    "-",
    "x" * 12000,
]
COMMAND = re.compile(
    rb"EHLO gw1\.maison\.mrs|DATA|RSET|QUIT|NOOP"
    rb"|MAIL FROM:<[^\r\n\0]*>( (SIZE=\d+|BODY=8BITMIME|SMTPUTF8|RET=(FULL|HDRS)|ENVID=[!-~]+))*"
    rb"|RCPT TO:<[^\r\n\0]+>( (NOTIFY=[A-Z,]+|ORCPT=[!-~\x80-\xff]+))*"
)


TRACE = re.compile(rb"Received: from [^\r\n ()]+ \([^\r\n()]+\)\r\n(\t[^\r\n]+\r\n)+")


async def say_all(relay: Service, lines: list[bytes]) -> int:
    """Begin a message with each of these commands at one place or another; return how many were sent."""
    sent = 0
    for number in range(len(lines)):
        answer = await exchange(relay, lines[number] + CONTENT + b".\r\nQUIT\r\n")
        sent += answer.count(b"queued as")
        for reply in answer.splitlines(keepends=True):
            assert re.fullmatch(rb"\d{3}[ -][\t -~\x80-\xff]*\r\n", reply), reply
    return sent


async def test_nothing_is_injected(tmp_path: Path, figure: Figure) -> None:
    lines = []
    good = "MAIL FROM:<a@free.fr>\r\n"
    for utf8 in ("", " SMTPUTF8"):
        for nasty in NASTY:
            lines.append(f"EHLO x\r\nMAIL FROM:<{nasty}>{utf8}\r\nRCPT TO:<anne@free.fr>\r\nDATA\r\n")
            lines.append(f"EHLO x\r\nMAIL FROM:<a@free.fr>{utf8}\r\nRCPT TO:<{nasty}>\r\nDATA\r\n")
            lines.append(f"EHLO x\r\nVRFY {nasty}{utf8}\r\n{good}RCPT TO:<anne@free.fr>\r\nDATA\r\n")
    lines += [f"EHLO x\r\nMAIL FROM:<a@free.fr>{p}\r\nRCPT TO:<anne@free.fr>\r\nDATA\r\n" for p in PARAMETERS]
    lines += [f"EHLO x\r\n{good}RCPT TO:<anne@free.fr>{p}\r\nDATA\r\n" for p in RECIPIENT_PARAMETERS]
    lines += [
        f"{h} {g}\r\n{good}RCPT TO:<anne@free.fr>\r\nDATA\r\n" for g in GREETINGS for h in ("HELO", "EHLO")
    ]
    async with relaying(tmp_path, "log = { level = 'debug' }\nqueue = { history_subjects = true }\n") as (
        relay,
        next_hop,
    ):
        sent = await say_all(relay, [line.encode("utf-8", "surrogatepass") for line in lines])
        await relay.emptied()
        for session in next_hop.sessions:
            for command in session.commands:
                assert COMMAND.fullmatch(command), command
        for delivery in deliveries(next_hop):
            assert max(map(len, delivery.content.split(b"\r\n"))) <= 998
            trace = delivery.content.replace(b"\r\n ", b"").partition(b"Subject: ")[0]
            assert TRACE.fullmatch(trace), trace
        check_log(relay)
    figure(AREA, "nasty commands", len(lines))
    assert sent > len(lines) / 3


HEADERS = [
    b'From: "a\\\r\n\tb" <a@free.fr>',
    b'From: "x\r\n\r\n" <a@free.fr>',
    b"From: =?utf-8?q?a=0D=0ABcc:_victim@free.fr?= <a@free.fr>",
    b"From: =?utf-8?b?DQpCY2M6IHZpY3RpbUBmcmVlLmZy?= <a>",
    b"Subject: \xff\xfe\x80",
    b"Subject: \x1b[2J\x07",
    b"Subject: \xed\xa0\x80",
    b"Message-Id: <\x1b]0;owned\x07\xff@free.fr>",
    b"Message-Id: " + b"<" * 900,
    b"To: " + b"(" * 900,
    b'To: a, , ,b <c@d>, "',
    b'Content-Type: multipart/mixed; boundary=""',
    b'Content-Type: multipart/mixed; boundary="\r\n\tx"',
    b"Date: \0",
    b"Resent-From: a\r\nResent-To: \0",
    b"X" * 900 + b":",
    b": empty",
    b" starts with a blank",
    b"Subject:\r\n\r\n.\r\n"[:-5],
]


async def test_headers_leave_as_headers(tmp_path: Path, figure: Figure) -> None:
    """What the relay rewrites, checks, keeps and logs of headers stays within its lines."""
    toml = (
        "queue = { history_subjects = true }\n"
        '[sender_canonical]\n"a" = "\\"Ann\\\\\\" <x@y>\\" <a@free.fr>"\n[rewrite]\nscope = "all"\n'
        '[[header_checks]]\npattern = "^Subject: (.*)"\naction = "PREPEND X-Copy: $1"\n'
        '[[header_checks]]\npattern = "^Message-Id:"\naction = "WARN seen"\n'
    )
    async with relaying(tmp_path, toml) as (relay, next_hop):
        for number, header in enumerate(HEADERS):
            async with connected(relay) as peer:
                await peer.ask("EHLO x", f"MAIL FROM:<a{number}@free.fr>", "RCPT TO:<anne@free.fr>", "DATA")
                peer.send(header + b"\r\nX-Last: header\r\n\r\nbody\r\n.\r\n")
                assert (await peer.reply()).startswith("250 "), header
        await until_sent(relay, next_hop, len(HEADERS))
        for delivery in deliveries(next_hop):
            assert not re.search(rb"(?im)^Bcc:", delivery.content), delivery.content
            assert delivery.recipients == ("anne@free.fr",)
        check_log(relay)
        listed = (
            await relay.command("queue", "list", "--history")
            if False
            else await relay.command("queue", "list")
        )
        assert listed.status == 0
    figure(AREA, "nasty headers", len(HEADERS))
