"""A relay with a door for everybody and one for who has a password, and the outside that it sends to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

import trustme

from relay.mail.passwords import SALT_SIZE, make_hash
from tests.support.authority import Authority
from tests.support.service import HOSTNAME, Service, deliveries
from tests.support.smtp_server import ScriptedServer

NAME, ADDRESS, OUTSIDE = "Christian Caléca", "chris@maison.mrs", "christian.caleca@free.fr"
"""Who sends, and what his address is for those outside."""
USER, PASSWORD = "chris", "p@ss: wörd/1"
SUBJECT = "Un été à Marseille"
TEXT = "Les cigales chantent.\nÀ bientôt !\n.\n..\n .\nFrom the end:\n\n.\nlast line\n"
"""The end of it is what a program would spoil that ends a message at a dot, or takes dots off."""
SETTINGS = """
domain = "maison.mrs"
relayhost = "[127.0.0.1]:{outside}"
[[listen]]
address = "127.0.0.1:{plain}"
[[listen]]
address = "127.0.0.1:{submission}"
tls = "starttls"
auth = "required"
[tls]
certificate = "{certificate}"
key = "{key}"
[users]
{user} = "{password}"
[local]
domains = ["maison.mrs"]
users = ["chris", "marc"]
maildir = "{folder}/mail/{{user}}"
[sender_canonical]
"{address}" = "{address_outside}"
"""


@dataclass(frozen=True)
class House:
    """The relay, its ports, and the outside."""

    folder: Path
    relay: Service
    outside: ScriptedServer
    authority: Path
    """The certificate of who signed the relay's, for HOSTNAME and localhost."""
    plain: int
    submission: int

    async def arrived(self, *recipients: str, count: int, protocol: str) -> EmailMessage:
        """Wait until the first recipient was sent so many messages in all; check the last, and return it."""
        await self.relay.logged(rf"to=<{recipients[0]}>.* status=sent", count)
        delivery = deliveries(self.outside)[-1]
        assert delivery.reverse_path == OUTSIDE
        assert sorted(delivery.recipients) == [*recipients]
        message = message_from_bytes(delivery.content.replace(b"\r\n", b"\n"), policy=policy.default)
        assert isinstance(message, EmailMessage)
        assert not message.defects
        [author] = message["From"].addresses
        assert (author.display_name, author.addr_spec) == (NAME, OUTSIDE)
        assert (message["To"], message["Subject"]) == (recipients[0], SUBJECT)
        assert message["Date"].datetime is not None
        [trace], [_] = message.get_all("Received"), message.get_all("Message-ID")
        assert f" by {HOSTNAME} (relay) with {protocol} id " in " ".join(trace.split())
        return message


@asynccontextmanager
async def open_house(folder: Path, ports: tuple[int, int] | None = None) -> AsyncIterator[House]:
    """Start the relay, at free ports if none are given."""
    authority = Authority(trustme.CA(), folder)
    authority.ca.cert_pem.write_to_path(str(folder / "authority.pem"))
    certificate, key = authority.files(HOSTNAME, "localhost")
    plain, submission = ports or find_ports()
    async with ScriptedServer() as outside:
        settings = SETTINGS.format(
            outside=outside.port,
            plain=plain,
            submission=submission,
            certificate=certificate,
            key=key,
            user=USER,
            password=make_hash(PASSWORD.encode(), bytes(SALT_SIZE)),
            folder=folder,
            address=ADDRESS,
            address_outside=OUTSIDE,
        )
        async with Service(folder, settings) as relay:
            yield House(folder, relay, outside, folder / "authority.pem", plain, submission)


def find_ports() -> tuple[int, int]:
    """Return two ports that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
