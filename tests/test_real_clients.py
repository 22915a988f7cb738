"""Clients and next hops that others wrote, and the relay's own commands, with the real program."""

from __future__ import annotations

import asyncio
import json
import os
import re
import smtplib
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.conftest import SEARCH_PATH
from tests.support.service import Finished, Service, deliveries, run_program
from tests.support.smtp_server import DROP, Script, ScriptedServer, offer

EIGHT_BIT = (
    b"From: chris@free.fr\r\n"
    b"To: marc@machin.com\r\n"
    b"Subject: accents\r\n"
    b"Date: Thu, 11 May 2000 08:28:22 +0200\r\n"
    b"Message-ID: <1@free.fr>\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"\r\n"
    b"\xe9\xe0\xe7\xe8\xee\xf9\r\n"
    b".\r\n"
    b"..two dots\r\n"
)
BIG = Script(steps={"EHLO": offer("PIPELINING", "8BITMIME")})


@asynccontextmanager
async def relaying_to(server: ScriptedServer, folder: Path) -> AsyncIterator[Service]:
    async with Service(folder, f'relayhost = "[127.0.0.1]:{server.port}"') as relay:
        yield relay


@asynccontextmanager
async def sink(*options: str | Path) -> AsyncIterator[int]:
    """Run Postfix's smtp-sink and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    user = ("-u", "root") if os.geteuid() == 0 else ()
    process = await asyncio.create_subprocess_exec(
        *program("smtp-sink"), *user, *options, f"127.0.0.1:{port}", "100"
    )
    try:
        async with asyncio.timeout(10):
            while not await is_listening(port):
                await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()


def program(name: str) -> list[str]:
    return ["env", f"PATH={SEARCH_PATH}", name]


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


# swaks


async def swaks(relay: Service, *options: str | Path) -> Finished:
    where = ("--server", "127.0.0.1", "--port", str(relay.port), "--helo", "chris", "--from", "chris@free.fr")
    return await run_program(*program("swaks"), *where, *options)


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("options", [[], ["--pipeline"], ["--protocol", "SMTP"]])
async def test_swaks_delivers(tmp_path: Path, options: list[str]) -> None:
    async with ScriptedServer() as server, relaying_to(server, tmp_path) as relay:
        sent = await swaks(
            relay, "--to", "marc@machin.com,anne@machin.com", "--body", "one\\n.\\ntwo", *options
        )
        assert sent.status == 0, sent.out
        await relay.logged("status=sent", 2)
        [delivery] = deliveries(server)
        assert delivery.reverse_path == "chris@free.fr"
        assert delivery.recipients == ("marc@machin.com", "anne@machin.com")
        assert b"\r\n\r\none\r\n.\r\ntwo\r\n" in delivery.content


@pytest.mark.needs("swaks")
@pytest.mark.parametrize("options", [[], ["--pipeline"]])
async def test_swaks_delivers_eight_bits_as_they_are(tmp_path: Path, options: list[str]) -> None:
    message = tmp_path / "message"
    message.write_bytes(EIGHT_BIT.removesuffix(b"\r\n").replace(b"\r\n", b"\n"))
    async with ScriptedServer() as server, relaying_to(server, tmp_path) as relay:
        sent = await swaks(relay, "--to", "marc@machin.com", "--data", f"@{message}", *options)
        assert sent.status == 0, sent.out
        await relay.logged("status=sent")
        [delivery] = deliveries(server)
        assert delivery.without_trace == EIGHT_BIT


@pytest.mark.needs("swaks")
async def test_swaks_shows_what_it_is_refused(tmp_path: Path) -> None:
    async with Service(tmp_path, '[transport]\n"gone.test" = "error:5.1.2 This domain is gone"') as relay:
        sent = await swaks(relay, "--to", "marc@gone.test")
        assert sent.status == 24  # no recipient was accepted
        assert "550 5.1.2 <marc@gone.test>: This domain is gone" in sent.out


# Postfix's test programs


async def flood(relay: Service, *options: str) -> None:
    sent = await run_program(*program("smtp-source"), *options, f"127.0.0.1:{relay.port}")
    assert (sent.status, sent.err) == (0, "")


@pytest.mark.needs("smtp-source", "smtp-sink")
async def test_ten_sessions_of_smtp_source_deliver_all_to_smtp_sink(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    async with sink("-D", dump) as port, Service(tmp_path, f'relayhost = "[127.0.0.1]:{port}"') as relay:
        await flood(relay, "-d", "-s", "10", "-m", "2000", "-l", "4096", "-N", "-t", "user@machin.com")
        await relay.logged("removed", 2000)
        assert await relay.queue() == []
    taken = Counter(re.findall(rb"^X-Rcpt-Args: <(\w+)@", dump.read_bytes(), re.MULTILINE))
    assert taken == {f"{number}user".encode(): 1 for number in range(1, 2001)}


@pytest.mark.needs("smtp-source")
async def test_big_messages_of_smtp_source_arrive_whole(tmp_path: Path) -> None:
    size = 5_000_000
    async with ScriptedServer(BIG) as server, relaying_to(server, tmp_path) as relay:
        await flood(relay, "-s", "2", "-m", "4", "-l", str(size), "-t", "marc@machin.com")
        await relay.logged("status=sent", 4)
        assert len(deliveries(server)) == 4
        for delivery in deliveries(server):
            _, _, body = delivery.content.partition(b"\r\n\r\n")
            assert len(body) == size + len(b"\r\n")
            assert {len(line) for line in body.split(b"\r\n")[:-2]} == {78}


@pytest.mark.needs("smtp-source")
async def test_a_client_without_headers_and_a_crowd_of_recipients_are_served(tmp_path: Path) -> None:
    async with ScriptedServer() as server, relaying_to(server, tmp_path) as relay:
        await flood(relay, "-o", "-r", "120", "-t", "user@machin.com", "-f", "cron@free.fr")
        await relay.logged("status=sent", 120)
        taken = deliveries(server)
        assert sum(len(delivery.recipients) for delivery in taken) == 120
        assert len({recipient for delivery in taken for recipient in delivery.recipients}) == 120
        for delivery in taken:
            assert b"\r\nFrom: cron@free.fr\r\n" in delivery.header


# Libraries and curl


async def test_smtplib_delivers(tmp_path: Path) -> None:
    message = EmailMessage()
    message["From"] = "Christian Caléca <chris@free.fr>"
    message["To"] = "marc@machin.com"
    message["Bcc"] = "anne@machin.com"
    message["Subject"] = "Un été à Marseille"
    message.set_content("éèàçùî\n.\n", cte="8bit")

    def talk(port: int) -> None:
        with smtplib.SMTP("127.0.0.1", port, local_hostname="chris") as client:
            client.ehlo()
            assert {
                "pipelining",
                "size",
                "8bitmime",
                "smtputf8",
                "dsn",
                "chunking",
            } <= client.esmtp_features.keys()
            assert client.send_message(message) == {}
            options = ["BODY=8BITMIME", f"SIZE={len(EIGHT_BIT)}"]
            assert client.sendmail("chris@free.fr", ["marc@machin.com"], EIGHT_BIT, options) == {}
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("chris@free.fr", ["marc@gw1.maison.mrs"], EIGHT_BIT)

    async with ScriptedServer() as server, relaying_to(server, tmp_path) as relay:
        await asyncio.to_thread(talk, relay.port)
        await relay.logged("status=sent", 3)
        first, second = sorted(deliveries(server), key=lambda delivery: -len(delivery.recipients))
        assert first.recipients == ("marc@machin.com", "anne@machin.com")
        assert b"Bcc" not in first.content
        assert first.content.endswith("éèàçùî\r\n.\r\n".encode())
        assert second.without_trace == EIGHT_BIT


@pytest.mark.needs("curl")
async def test_curl_delivers(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_bytes(EIGHT_BIT)
    async with ScriptedServer() as server, relaying_to(server, tmp_path) as relay:
        addresses = ("--mail-from", "chris@free.fr", "--mail-rcpt", "marc@machin.com")
        url = f"smtp://127.0.0.1:{relay.port}/chris"
        sent = await run_program(
            "curl", "--silent", "--show-error", url, *addresses, "--upload-file", message
        )
        assert (sent.status, sent.err) == (0, "")
        await relay.logged("status=sent")
        [delivery] = deliveries(server)
        assert delivery.without_trace == EIGHT_BIT


# The relay's own commands

CLOSED = Script(greeting=(b"421 4.3.2 closed for repairs\r\n", DROP))


async def states(relay: Service) -> dict[str, str]:
    return {r["address"]: r["state"] for message in await relay.queue() for r in message["recipients"]}


async def test_the_queue_is_seen_and_ruled_with_the_relay_up_and_down(tmp_path: Path) -> None:
    async with ScriptedServer(CLOSED) as server:
        relay = Service(tmp_path, f'relayhost = "[127.0.0.1]:{server.port}"')
        assert await relay.queue() == []
        async with relay:
            for name in ("anne", "marc", "paul"):
                await relay.send(EIGHT_BIT, f"{name}@machin.com", sender=f"for-{name}@free.fr")
            await relay.logged("status=deferred", 3)
            assert await states(relay) == dict.fromkeys(
                ("anne@machin.com", "marc@machin.com", "paul@machin.com"), "deferred"
            )
            assert (await relay.command("queue", "hold", "--to", "anne@machin.com")).out == "1 message held\n"
            listed = await relay.command("queue", "list")
            assert "to <marc@machin.com>: deferred after 1 attempt, next attempt in" in listed.out
            assert "closed for repairs" in listed.out
            assert "\n3 messages, " in listed.out

        assert (
            await relay.command("queue", "delete", "--to", "paul@machin.com")
        ).out == "1 message deleted\n"
        assert await states(relay) == {"anne@machin.com": "held", "marc@machin.com": "deferred"}
        [marc] = [message["id"] for message in await relay.queue() if message["sender"] == "for-marc@free.fr"]
        shown = await relay.command("queue", "show", marc)
        assert "Subject: accents" in shown.out
        assert (await relay.command("queue", "show", "1234567890")).status == 1

        server.script = Script()
        async with relay:
            assert (await relay.command("queue", "retry", "--all")).status == 0
            await relay.logged("to=<marc@machin.com>, .*status=sent")
            assert await states(relay) == {"anne@machin.com": "held"}
            released = await relay.command("queue", "release", "--from", "for-anne@free.fr")
            assert released.out == "1 message released\n"
            await relay.logged("to=<anne@machin.com>, .*status=sent")
            await relay.emptied()
            assert json.loads((await relay.command("queue", "retry", "--all", "--json")).out)["changed"] == 0
        assert sorted(delivery.recipients[0] for delivery in deliveries(server)) == [
            "anne@machin.com",
            "marc@machin.com",
        ]


async def test_healthcheck_tells_up_from_down(tmp_path: Path) -> None:
    async with Service(tmp_path) as relay:
        assert await relay.command("healthcheck") == Finished(0, "", "")
        assert await relay.stop() == 0
        down = await relay.command("healthcheck")
        assert down.status == 1
        assert down.err == f"relay: no relay is running on the queue {relay.queue_path}\n"


async def test_check_prints_a_configuration_that_serves(tmp_path: Path) -> None:
    given = Service(
        tmp_path, '[smarthost.isp]\nhost = "127.0.0.1"\ntls = "none"\n[transport]\n"a.fr" = "isp"'
    )
    checked = await given.command("check")
    assert checked.status == 0
    again = Service(tmp_path, checked.out)
    assert (await again.command("check")).out == checked.out
    async with again:
        assert (await again.command("healthcheck")).status == 0
