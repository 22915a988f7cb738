"""Signatures of what leaves, over the bytes that each next hop gets: judged by dkimpy and by OpenDKIM."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from relay.delivery.agent import ContentError, Transfer
from relay.delivery.departure import DepartureRules, Departures
from relay.mail.attempt import Claim
from relay.mail.dkim_key import make_key, parse_key
from relay.mail.envelope import Envelope, Message, Recipient
from relay.mail.rewrite import Canonical, Home
from tests.support.delivery import connected
from tests.support.dkim import DOMAIN, find_fault, judge, record_of, signer, toml_of
from tests.support.rig import commands_at, messages_at
from tests.support.service import Service, deliveries
from tests.support.smtp_server import PLAIN_EHLO, Script, ScriptedServer

HEAD = b"From: Chris <chris@gw1.maison.lan>\r\nTo: ann@dest.test\r\nSubject: hi\r\nX-Secret: 1\r\n"
LATIN = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
PARTS = (
    LATIN.replace(b"text/plain; charset=utf-8", b"multipart/mixed; boundary=b")
    + b"\r\n--b\r\n"
    + LATIN
    + b"\r\n\xc3\xa9 \r\n--b\r\n\r\nplain\r\n--b--\r\n"
)
OLD = b"DKIM-Signature: v=1; a=rsa-sha256; d=maison.example; s=rsa; h=from; bh=x; b=y\r\n"
BODIES: Mapping[str, bytes] = {
    "plain": b"\r\nHello\r\n",
    "a body that is empty": b"\r\n",
    "no body": b"",
    "blank lines at the end": b"\r\nHello\r\n\r\n\r\n",
    "nothing but blank lines": b"\r\n\r\n\r\n\r\n",
    "dots": b"\r\n..\r\n..one\r\na.\r\n...two\r\n",
    "white space": b"\r\n \t\r\na\t \tb  \r\n \r\n\t\r\n",
    "line ends of a device": b"\r\none\ntwo\n\nthree\r\n\n\r\n",
    "long lines": b"\r\n" + b"word  " * 1000 + b"\r\n" + b"x" * 998 + b"\r\n" + b"y" * 999 + b"\r\n",
    "a long header": b"X-Long: " + b"h" * 3000 + b"\r\nReferences: " + b"<a@b> " * 500 + b"\r\n\r\nHello\r\n",
    "8 bits": LATIN + b"\r\ncaf\xc3\xa9 \r\n\r\n",
    "8 bits in long lines": LATIN + b"\r\n" + b"\xc3\xa9 " * 1000 + b"\r\n",
    "8 bits in parts": PARTS,
    "8 bits without a label": b"\r\n\xe9\xff\r\n",
    "8 bits in a header": b"Comments: caf\xc3\xa9\r\nReferences: \xe9\r\n\r\nHello\r\n",
    "300 KB": b"\r\n" + (b"0123456789abcdef " * 4 + b"\r\n") * 4400,
    "300 KB of 8 bits": LATIN + b"\r\n" + (b"\xc3\xa9" * 32 + b" \t\r\n") * 4400,
    "a signature already": OLD + b"\r\nHello\r\n",
}
"""What follows ``HEAD``, as a client gives it."""


def house(folder: Path, server: ScriptedServer, plain: ScriptedServer, kind: str = "rsa") -> str:
    """Return the settings of a house that rewrites, checks and signs; ``plain`` gets most of its mail."""
    return f"""
postmaster = "boss@{DOMAIN}"
relayhost = "[127.0.0.1]:{plain.port}"
[transport]
"dest.test" = "[127.0.0.1]:{server.port}"
"office.test" = {{ via = "[127.0.0.1]:{server.port}", internal = true }}
[sender_canonical]
"@gw1.maison.lan" = "@{DOMAIN}"
[[header_checks]]
pattern = '^X-Secret:'
action = "IGNORE"
scope = "external"
[[header_checks]]
pattern = '^Subject: (.*)'
action = "REPLACE Subject: [house] $1"
scope = "external"
{toml_of(folder, kind=kind)}
"""


def name_of(content: bytes) -> str:
    found = re.search(rb"^X-Name: ([^\r]*)", content, re.MULTILINE)
    return found[1].decode() if found else ""


@pytest.mark.needs("opendkim")
@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
async def test_each_next_hop_can_verify_what_it_gets(tmp_path: Path, kind: str) -> None:
    async with ScriptedServer() as able, ScriptedServer(Script().but(EHLO=PLAIN_EHLO)) as plain:
        async with Service(tmp_path, house(tmp_path, able, plain, kind)) as relay:
            for name, body in BODIES.items():
                content = HEAD + f"X-Name: {name}\r\n".encode() + body
                reply = await relay.send(
                    content, "a@dest.test", "a@plain.test", sender="chris@gw1.maison.lan"
                )
                assert reply.startswith("250 ")
            await relay.emptied()
        taken = [*messages_at(able), *messages_at(plain)]
        assert sorted(map(name_of, taken)) == sorted([*BODIES] * 2)
        assert [found for content in taken if (found := (name_of(content), find_fault(content)))[1]] == []
        assert await judge(taken, tmp_path / "judge") == [DOMAIN] * len(taken)
        for content in taken:
            assert content.startswith(b"DKIM-Signature: ")
            assert b"\r\nFrom: Chris <chris@maison.example>\r\n" in content
            assert b"Secret" not in content
        converted = {name_of(content) for content in messages_at(plain) if b"quoted-printable" in content}
        assert converted == {"8 bits", "8 bits in long lines", "8 bits in parts", "300 KB of 8 bits"}
        for server in (able, plain):
            assert all(re.search(rb" SIZE=", mail) for mail in commands_at(server, b"MAIL")) == (
                server is able
            )


async def test_a_report_is_signed_as_mail_of_the_postmaster(tmp_path: Path) -> None:
    script = Script().but(RCPT=b"550 5.1.1 unknown\r\n")
    async with ScriptedServer() as server, ScriptedServer(script) as refusing:
        async with Service(tmp_path, house(tmp_path, server, refusing)) as relay:
            await relay.send(b"Subject: hi\r\n\r\nHello\r\n", "nobody@else.test", sender="ann@dest.test")
            await relay.logged("to=<ann@dest.test>, .*status=sent")
        [report] = deliveries(server)
        assert report.reverse_path == ""
        assert not find_fault(report.content)


@pytest.mark.parametrize(
    ("header", "recipient"),
    [
        pytest.param(b"From: chris@free.test\r\n", "a@dest.test", id="another domain"),
        pytest.param(b"From: chris@sub.maison.example\r\n", "a@dest.test", id="a domain below"),
        pytest.param(b"From: a@maison.example, b@free.test\r\n", "a@dest.test", id="two authors"),
        pytest.param(b"From: a@maison.example\r\nFrom: b@free.test\r\n", "a@dest.test", id="two headers"),
        pytest.param(b"From: chris@maison.example\r\n", "a@office.test", id="inside"),
    ],
)
async def test_what_is_not_mail_of_the_domain_leaves_unsigned(
    header: bytes, recipient: str, tmp_path: Path
) -> None:
    async with ScriptedServer() as server:
        async with Service(tmp_path, house(tmp_path, server, server)) as relay:
            await relay.send(header + b"\r\nHello\r\n", recipient)
            await relay.logged("status=sent")
        [content] = messages_at(server)
        assert b"DKIM" not in content


async def test_a_changed_key_is_taken_and_a_lost_one_goes_on_in_use(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        toml = house(tmp_path, server, server, "ed25519")
        key_file = tmp_path / f"{DOMAIN}.pem"
        async with Service(tmp_path, toml) as relay:
            await relay.send(HEAD + b"\r\nfirst\r\n", "a@dest.test")
            await relay.logged("status=sent")
            changed = make_key("ed25519")
            key_file.write_bytes(changed)
            os.kill(relay.pid, signal.SIGHUP)
            await relay.logged("relay.toml is applied; changed: dkim\n")
            await relay.send(HEAD + b"\r\nsecond\r\n", "a@dest.test")
            await relay.logged("status=sent", 2)
            key_file.unlink()
            os.kill(relay.pid, signal.SIGHUP)
            await relay.logged(f"the relay goes on as before: .*key_file: {key_file} is not there")
            assert (await relay.send(HEAD + b"\r\nthird\r\n", "a@dest.test")).startswith("250 ")
            await relay.logged("status=sent", 3)
            checked = await relay.command("check")
            assert checked.status == 78
            assert checked.err.endswith(f"{key_file} is not there; `relay dkim {DOMAIN}` makes it\n")
        new = {f"ed25519._domainkey.{DOMAIN}": parse_key(changed).record}
        first, second, third = messages_at(server)
        assert [find_fault(first), find_fault(second, new), find_fault(third, new)] == ["", "", ""]
        assert find_fault(second)
        assert relay.log.count("is not there") == 1


async def test_where_no_key_is_configured_nothing_of_cryptography_is_loaded(tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        relayhost = f'relayhost = "[127.0.0.1]:{server.port}"\n'
        for toml, is_loaded in ((relayhost, False), (relayhost + toml_of(tmp_path), True)):
            async with Service(tmp_path, toml) as relay:
                await relay.send(HEAD + b"\r\nHello\r\n", "a@dest.test")
                await relay.logged("status=sent")
                maps = Path(f"/proc/{relay.pid}/maps").read_text()
            assert ("/cryptography/" in maps) is is_loaded


# One transfer

CONTENT = b"From: chris@maison.example\r\nTo: ann@dest.test\r\nSubject: hi\r\n\r\nHello \r\n..\r\n"


def transfer(content: bytes) -> Transfer:
    """Return a transfer of a content that the queue has to read."""
    recipients = (Recipient("ann@dest.test"),)
    size = content.index(b"\r\n\r\n") + 2
    message = Message(1, Envelope("chris@maison.example", recipients), len(content), size, False, 0.0)
    return Transfer(Claim(message), recipients, internal=False, report=lambda _: None)


def rules() -> DepartureRules:
    return DepartureRules(Home("home.test"), Canonical(), (), "", {DOMAIN: signer()})


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 1000])
async def test_a_content_is_signed_however_the_queue_cuts_it(chunk_size: int) -> None:
    async def read(_: int) -> AsyncIterator[bytes]:
        for start in range(0, len(CONTENT), chunk_size):
            yield CONTENT[start : start + chunk_size]

    async with ScriptedServer() as server, connected(server) as connection:
        await Departures(rules(), read, lambda: 1_790_000_000.0).send(connection, transfer(CONTENT))
    [content] = messages_at(server)
    assert content.endswith(CONTENT)
    assert b" t=1790000000;" in content
    assert not find_fault(content, record_of(signer()))
    assert b"SIZE=%d" % len(content) in commands_at(server, b"MAIL")[0]


async def test_a_content_that_cannot_be_read_to_its_end_is_not_even_begun() -> None:
    async def read(_: int) -> AsyncIterator[bytes]:
        yield CONTENT[:-3]
        raise OSError("the disk failed")

    async with ScriptedServer() as server, connected(server) as connection:
        with pytest.raises(ContentError, match="the disk failed"):
            await Departures(rules(), read).send(connection, transfer(CONTENT))
        assert commands_at(server, b"MAIL") == []
