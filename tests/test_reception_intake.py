"""What becomes of mail that a session brings, with the real queue, routing and access rules."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.mail.aliases import Aliases
from relay.mail.arrival import ArrivalRules
from relay.mail.attempt import Claim, State
from relay.mail.destinations import Destinations, Mailboxes
from relay.mail.envelope import Client, Envelope, Message, Recipient
from relay.mail.header_checks import Action, HeaderCheck
from relay.mail.headers import split_content
from relay.mail.reply import Reply
from relay.mail.rewrite import Canonical, Home
from relay.mail.route import Discard, NextHop, Refuse, TransportEntry
from relay.mail.trace import HOP_LIMIT
from relay.queue.errors import refusal
from relay.queue.incoming import BLOCK_SIZE, SMALL_SIZE
from relay.queue.selection import Selection
from relay.queue.store import Store
from relay.reception.access import Access
from relay.reception.intake import HEADER_LIMIT, Arrival, Intake, Outlets
from relay.reception.logins import Logins
from relay.reception.server import Reception
from tests.support import queue
from tests.support.postfix_tables import make_pattern, parse_header_checks
from tests.support.queue import NOW, content_files, content_of, opened, states
from tests.support.reception import LIMITS, NO_FILES, PLAIN, SETTINGS, Peer, connected, make_names

HOME = Home("gw.test", frozenset({"gw.test"}), "+")
CLIENT = Client("192.168.0.3", "pc.gw.test", "pc", "ESMTP")
HEADER = b"From: a@gw.test\r\nDate: now\r\nMessage-ID: <1@pc>\r\nSubject: hello\r\n"
CONTENT = HEADER + b"\r\nworld\r\n"
LARGE_BODY = b"\r\n" + b"0123456789abcd\r\n" * (SMALL_SIZE + 3 * BLOCK_SIZE >> 4)
MULTIPART = HEADER + b"Content-Type: multipart/mixed; boundary=b\r\n"
TRANSPORT = {
    "gone.test": TransportEntry(Refuse(Reply(550, "5.1.2", "This domain is gone"))),
    "void.test": TransportEntry(Discard()),
    "office.test": TransportEntry(NextHop("192.168.0.9"), internal=True),
}
CASES = Path(__file__).parent / "vectors/cases"


FAMILY = {"family": ("chris", "aunt@x.test"), "half": ("a@gone.test", "b@x.test"), "us": ("chris",)}


@dataclass
class Delivery:
    """What intake tells delivery."""

    has_room: bool = True
    submitted: list[Claim] = field(default_factory=list)
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


@dataclass
class Relay:
    store: Store
    intake: Intake
    delivery: Delivery
    path: Path

    def begin(
        self, *recipients: str | Recipient, reverse_path: str = "a@gw.test", client: Client = CLIENT
    ) -> Arrival:
        found = tuple(Recipient(r) if isinstance(r, str) else r for r in recipients or ("b@x.test",))
        return self.intake.begin(client, Envelope(reverse_path, found, given_reverse_path=reverse_path))

    async def take(self, *recipients: str | Recipient, content: bytes = CONTENT, **options: Any) -> Reply:
        arrival = self.begin(*recipients, **options)
        await feed(arrival, content)
        return await arrival.finish()

    async def judge(
        self, address: str, client: Client = CLIENT, reverse_path: str = "a@gw.test"
    ) -> Reply | None:
        return await self.intake.judge_recipient(client, reverse_path, Recipient(address))

    async def messages(self) -> list[Message]:
        return [entry.message for entry in await self.store.list_messages(0, 100, Selection())]

    async def message(self) -> Message:
        (message,) = await self.messages()
        return message

    async def content(self) -> bytes:
        return await content_of(self.store, await self.message())

    async def recipients(self) -> list[tuple[str, str, str]]:
        message = await self.message()
        found = message.envelope.recipients
        assert [recipient.index for recipient in found] == [*range(len(found))]
        return [(r.address, r.original, r.notify) for r in found]

    async def is_empty(self) -> bool:
        """Whether neither a message nor content without one is in the queue."""
        return not await self.messages() and not content_files(self.store.path)


@asynccontextmanager
async def relaying(
    folder: Path,
    *checks: HeaderCheck,
    postmaster: str = "owner@isp.test",
    home: Home = HOME,
    senders: dict[str, str] | None = None,
    recipients: dict[str, str] | None = None,
    aliases: dict[str, tuple[str, ...]] | None = None,
    open_domains: frozenset[str] = frozenset(),
    **outlets: Any,
) -> AsyncIterator[Relay]:
    mailboxes = Mailboxes({"chris": "chris"}, "/var/mail/{user}")
    destinations = Destinations(
        TRANSPORT,
        None,
        home,
        postmaster,
        aliases=Aliases(aliases or {}),
        mailboxes=mailboxes,
        user_domain="gw.test",
    )
    networks = (ip_network("192.168.0.0/24"), ip_network("127.0.0.0/8"))
    access = Access(networks, open_domains=open_domains)
    rules = ArrivalRules("gw.test", home, canonical(senders), canonical(recipients))
    delivery = Delivery()
    async with opened(folder / "queue.db") as store:
        parts = Outlets(
            new_number=store.new_number,
            incoming=store.incoming,
            is_ours=access.is_ours,
            judge_access=access.judge,
            expand=destinations.expand,
            identity=destinations.identity,
            route=destinations.route,
            verify=know_nothing,
            verify_sender=know_nothing,
            has_room=lambda _: delivery.has_room,
            may_begin=lambda _: delivery.has_room,
            submit=delivery.submitted.append,
            wake=delivery.wake,
            retry_at=lambda _, now: now + 300,
            explain_failure=refusal,
            now=lambda: NOW,
        )
        intake = Intake(rules, checks, replace(parts, **outlets))
        yield Relay(store, intake, delivery, folder / "queue.db")


async def know_nothing(*_: str) -> Reply | None:
    """Stand where nobody is asked."""
    return None


def canonical(table: dict[str, str] | None) -> Canonical:
    return Canonical({key: (value, "") for key, value in (table or {}).items()})


def check(pattern: str, action: str, text: str = "") -> HeaderCheck:
    return HeaderCheck(regex.compile(pattern, regex.IGNORECASE | regex.DOTALL), Action(action), text)


@asynccontextmanager
async def talking(relay: Relay) -> AsyncIterator[Peer]:
    """Connect a client to a session of the relay."""
    reception = Reception(relay.intake, SETTINGS, LIMITS, make_names(), Logins({}))
    await reception.open([PLAIN], NO_FILES)
    try:
        async with connected(reception) as peer:
            yield peer
    finally:
        await reception.close(0)


async def feed(arrival: Arrival, content: bytes, size: int = 50_000) -> None:
    for start in range(0, len(content), size):
        await arrival.write(content[start : start + size])


def break_queue(store: Store, is_broken: bool = True) -> None:
    """Let everything fail that is written to the queue."""
    store._writer._db.execute(f"PRAGMA query_only = {is_broken}")


def fill_disk(store: Store) -> None:
    """Let the queue miss its margin on the disk."""
    store._room.margin = 2**60


class TestRecipients:
    async def test_a_stranger_is_told_nothing_about_addresses(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            for address in ("b@x.test", "nobody@gw.test", "b@gone.test", "postmaster"):
                reply = await relay.judge(address, Client("192.0.2.1"))
                assert reply is not None
                assert str(reply).startswith(f"554 5.7.1 <{address}>: relay access denied")

    async def test_whoever_may_relay_may_write_to_anybody_outside_as_anybody(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            assert await relay.judge("b@x.test") is None
            assert await relay.intake.judge_sender(CLIENT, "anybody@isp.test") is None

    async def test_a_refusal_of_the_transport_table_names_the_address_that_was_given(
        self, tmp_path: Path
    ) -> None:
        async with relaying(tmp_path, recipients={"a b@old.test": "c@gone.test"}) as relay:
            assert str(await relay.judge("a b@old.test")) == '550 5.1.2 <"a b"@old.test>: This domain is gone'

    async def test_an_unknown_local_user_is_refused_where_no_table_gives_another_address(
        self, tmp_path: Path
    ) -> None:
        async with relaying(tmp_path, recipients={"marc": "marc@isp.test"}) as relay:
            assert await relay.judge("marc@gw.test") is None
            reply = await relay.judge("joe")
            assert str(reply).startswith("550 5.1.1 <joe>: there is no such user at gw.test")

    @pytest.mark.parametrize("address", ["postmaster", "POSTMASTER", "root@gw.test", "Mailer-Daemon@GW.test"])
    async def test_mail_for_a_reserved_user_goes_to_the_postmaster(
        self, tmp_path: Path, address: str
    ) -> None:
        async with relaying(tmp_path) as relay:
            assert await relay.judge(address) is None
            assert (await relay.take(address)).code == 250
            assert await relay.recipients() == [("owner@isp.test", address, "")]

    async def test_a_bare_postmaster_is_ours_even_where_the_domain_is_not(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, home=Home("isp.test", frozenset({"gw.test"}))) as relay:
            await relay.take("postmaster", "postmaster@isp.test", "root")
            assert await relay.recipients() == [
                ("owner@isp.test", "postmaster", ""),
                ("postmaster@isp.test", "", ""),
                ("root@isp.test", "root", ""),
            ]


class TestTheHouse:
    async def test_an_alias_is_expanded_and_each_address_queued_once(self, tmp_path: Path) -> None:
        aliases = {"family": ("chris", "aunt@x.test"), "dad": ("chris",)}
        async with relaying(tmp_path, aliases=aliases) as relay:
            assert await relay.judge("family@gw.test") is None
            await relay.take(
                Recipient("family@gw.test", notify="DELAY"), "dad", "Chris@gw.test", "aunt@x.test"
            )
            assert await relay.recipients() == [
                ("chris@gw.test", "family@gw.test", "DELAY"),
                ("aunt@x.test", "family@gw.test", "DELAY"),
            ]

    async def test_a_message_from_a_mailbox_is_not_put_there_again(self, tmp_path: Path) -> None:
        content = b"Delivered-To: Chris@gw.test\r\nDelivered-To: other@x.test\r\n" + CONTENT
        async with relaying(tmp_path, aliases={"both": ("chris", "other@x.test")}) as relay:
            reply = await relay.take("chris@gw.test", content=content)
            assert str(reply).startswith("554 5.4.6 The message was in this mailbox before")
            assert await relay.is_empty()
            assert (await relay.take("both@gw.test", content=content)).code == 250
            assert await relay.recipients() == [("other@x.test", "both@gw.test", "")]

    async def test_an_alias_is_refused_where_nobody_of_it_takes_mail(self, tmp_path: Path) -> None:
        aliases = {"old": ("a@gone.test", "b@gone.test"), "half": ("a@gone.test", "chris")}
        async with relaying(tmp_path, aliases=aliases) as relay:
            assert str(await relay.judge("old@gw.test")) == "550 5.1.2 <old@gw.test>: This domain is gone"
            assert await relay.judge("half@gw.test") is None

    async def test_redirect_and_bcc_go_through_aliases(self, tmp_path: Path) -> None:
        aliases = {"archive": ("one@x.test", "two@x.test")}
        async with relaying(tmp_path, check("^Subject:", "BCC", "archive@gw.test"), aliases=aliases) as relay:
            await relay.take("b@x.test")
            assert await relay.recipients() == [
                ("b@x.test", "", ""),
                ("one@x.test", "", "NEVER"),
                ("two@x.test", "", "NEVER"),
            ]

    async def test_anyone_may_write_to_open_domains_only(self, tmp_path: Path) -> None:
        stranger = Client("192.0.2.1")
        async with relaying(tmp_path, open_domains=frozenset({"gw.test"})) as relay:
            assert await relay.judge("chris@gw.test", stranger) is None
            assert await relay.judge("postmaster", stranger) is None
            assert str(await relay.judge("who@gw.test", stranger)).startswith("550 5.1.1 ")
            assert str(await relay.judge("b@x.test", stranger)).startswith("554 5.7.1 ")

    async def test_what_a_stranger_writes_is_neither_rewritten_nor_completed(self, tmp_path: Path) -> None:
        content = b"From: anybody\r\nBcc: x\r\nTo: chris\r\n\r\nhello\r\n"
        async with relaying(tmp_path, open_domains=frozenset({"gw.test"})) as relay:
            arrival = relay.begin("chris@gw.test", client=Client("192.0.2.1"))
            await feed(arrival, content)
            assert (await arrival.finish()).code == 250
            kept = await relay.content()
            assert kept.startswith(b"Received: from ")
            assert kept.endswith(b"\r\nFrom: anybody\r\nTo: chris\r\n\r\nhello\r\n")

    @pytest.mark.parametrize(
        ("code", "client", "is_refused"),
        [
            (550, CLIENT, True),
            (451, CLIENT, False),
            (451, Client("192.0.2.1"), True),
            (0, CLIENT, False),
            (0, Client("192.0.2.1"), False),
        ],
    )
    async def test_the_mailbox_server_may_be_asked(
        self, tmp_path: Path, code: int, client: Client, is_refused: bool
    ) -> None:
        asked = []

        async def verify(address: str) -> Reply | None:
            asked.append(address)
            return Reply(code, "", "who?") if code else None

        async with relaying(tmp_path, verify=verify, open_domains=frozenset({"gw.test"})) as relay:
            reply = await relay.judge("chris@gw.test", client)
            assert str(reply) == (f"{code} <chris@gw.test>: who?" if is_refused else "None")
            assert asked == ["chris@gw.test"]


class TestTheSender:
    """A sender that nobody outside could answer."""

    @pytest.mark.parametrize("address", ["b@x.test", "family@gw.test", "half@gw.test"])
    async def test_is_refused_where_a_copy_leaves_the_house(self, tmp_path: Path, address: str) -> None:
        asked = []

        async def verify_sender(reverse_path: str, _: str) -> Reply | None:
            asked.append(reverse_path)
            return Reply(550, "5.1.8", "<a@gw.test>: who?")

        async with relaying(tmp_path, verify_sender=verify_sender, aliases=FAMILY) as relay:
            assert str(await relay.judge(address)) == "550 5.1.8 <a@gw.test>: who?"
            assert asked == ["a@gw.test"]

    @pytest.mark.parametrize(
        ("address", "reverse_path", "client"),
        [
            ("us@gw.test", "a@gw.test", CLIENT),
            ("b@void.test", "a@gw.test", CLIENT),
            ("b@office.test", "a@gw.test", CLIENT),
            ("b@x.test", "", CLIENT),
            ("family@gw.test", "a@gw.test", Client("192.0.2.1")),
        ],
    )
    async def test_is_not_looked_up_without_need(
        self, tmp_path: Path, address: str, reverse_path: str, client: Client
    ) -> None:
        async def verify_sender(*_: str) -> Reply | None:
            raise AssertionError

        async with relaying(
            tmp_path,
            verify_sender=verify_sender,
            aliases=FAMILY,
            open_domains=frozenset({"gw.test"}),
        ) as relay:
            assert await relay.judge(address, client, reverse_path) is None

    async def test_that_is_fine_is_taken(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, aliases=FAMILY) as relay:
            assert await relay.judge("family@gw.test") is None


class TestTheEnvelope:
    async def test_addresses_are_completed_and_rewritten_and_the_given_ones_kept(
        self, tmp_path: Path
    ) -> None:
        async with relaying(
            tmp_path, senders={"root": "owner@isp.test"}, recipients={"b@old.test": "b@new.test"}
        ) as relay:
            recipient = Recipient("b@old.test", orcpt="rfc822;b@old.test", notify="FAILURE")
            await relay.take(recipient, "c@x.test", reverse_path="root")
            envelope = (await relay.message()).envelope
            assert envelope.reverse_path == "owner@isp.test"
            assert envelope.given_reverse_path == "root@gw.test"
            assert envelope.recipients == (
                Recipient("b@new.test", "b@old.test", "rfc822;b@old.test", "FAILURE", 0),
                Recipient("c@x.test", index=1),
            )
            assert (await relay.message()).client == "pc.gw.test[192.168.0.3]"

    async def test_the_null_reverse_path_stays(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            await relay.take(reverse_path="")
            envelope = (await relay.message()).envelope
            assert (envelope.reverse_path, envelope.given_reverse_path) == ("", "")

    async def test_each_address_gets_one_copy_whatever_its_case(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, recipients={"b@old.test": "B@x.test"}) as relay:
            await relay.take("b@x.test", "c@x.test", "b@old.test", "b@X.TEST", "root@gw.test", "postmaster")
            assert [address for address, *_ in await relay.recipients()] == [
                "b@x.test",
                "c@x.test",
                "owner@isp.test",
            ]

    @pytest.mark.parametrize(
        ("recipients", "shown"),
        [
            (["root"], "\tfor <root>; "),
            (["a b@old.test"], '\tfor <"a b"@old.test>; '),
            (["b@x.test", "c@x.test"], ""),
        ],
    )
    async def test_received_shows_a_single_recipient_as_it_was_given(
        self, tmp_path: Path, recipients: list[str], shown: str
    ) -> None:
        async with relaying(tmp_path, recipients={"a b@old.test": "b@new.test"}) as relay:
            await relay.take(*recipients)
            received = (await relay.content()).split(b"From:")[0].decode()
            number = (await relay.message()).number
            assert received.startswith(
                "Received: from pc (pc.gw.test [192.168.0.3])\r\n\tby gw.test (relay) with"
            )
            assert f"with ESMTP id {number:X}" in received
            assert shown in received
            assert (" for " in received.replace("\t", " ")) == bool(shown)


class TestContent:
    async def test_is_kept_behind_our_header_byte_for_byte(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            await relay.take()
            message, content = await relay.message(), await relay.content()
            assert content.endswith(b"\r\n" + CONTENT)
            assert message.size == len(content)
            assert content[message.header_size :] == b"\r\nworld\r\n"
            assert message.received_at == NOW

    @given(
        lines=st.lists(
            st.sampled_from([b"X-A: 1", b"X-B : 2", b" fold", b"", b"text", b"From x", b":", b"\xe9: \xff"])
            | st.binary(max_size=20).map(lambda line: line.translate(None, b"\r\n"))
        ),
        has_last_line_end=st.booleans(),
        sizes=st.lists(st.integers(1, 40), min_size=1),
    )
    @settings(max_examples=40)
    def test_is_the_same_however_it_is_cut_into_chunks(
        self, lines: list[bytes], has_last_line_end: bool, sizes: list[int]
    ) -> None:
        given_content = b"Date: now\r\nFrom: a@gw.test\r\nMessage-Id: <1@pc>\r\n" + b"\r\n".join(lines)
        given_content += b"\r\n" * has_last_line_end
        headers, rest = split_content(given_content)

        async def take() -> None:
            with TemporaryDirectory() as folder:
                async with relaying(Path(folder)) as relay:
                    arrival, start, step = relay.begin(), 0, 0
                    while start < len(given_content):
                        end = start + sizes[step % len(sizes)]
                        await arrival.write(given_content[start:end])
                        start, step = end, step + 1
                    assert (await arrival.finish()).code == 250
                    content, message = await relay.content(), await relay.message()
                    assert content.endswith(b"".join(headers) + rest)
                    assert content[message.header_size :] == rest
                    assert message.size == len(content)
                    assert message.body_is_8bit == (not rest.isascii())

        asyncio.run(take())

    @pytest.mark.parametrize("size", [1, len(CONTENT)])
    async def test_of_a_small_message_is_handed_to_delivery_already_claimed(
        self, tmp_path: Path, size: int
    ) -> None:
        async with relaying(tmp_path) as relay:
            arrival = relay.begin()
            await feed(arrival, CONTENT, size)
            reply = await arrival.finish()
            (claim,) = relay.delivery.submitted
            assert str(reply) == f"250 2.0.0 Ok: queued as {claim.message.queue_id}"
            assert claim.message == await relay.message()
            assert claim.content == await relay.content()
            assert await queue.claim(relay.store, NOW + 299) == []
            assert len(await queue.claim(relay.store, NOW + 300)) == 1
            assert relay.delivery.woken == 0

    async def test_of_a_large_message_stays_on_disk(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            await relay.take(content=HEADER + LARGE_BODY)
            (claim,) = relay.delivery.submitted
            assert claim.content is None
            content = await relay.content()
            assert content.endswith(HEADER + LARGE_BODY)
            assert claim.message.size == len(content)

    async def test_waits_in_the_queue_where_delivery_has_no_room(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            relay.delivery.has_room = False
            assert (await relay.take()).code == 250
            assert relay.delivery.submitted == []
            assert relay.delivery.woken == 0
            assert len(await queue.claim(relay.store, NOW)) == 1

    async def test_wakes_delivery_that_has_got_room_meanwhile(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, has_room=lambda _: False) as relay:
            assert (await relay.take()).code == 250
            assert relay.delivery.submitted == []
            assert relay.delivery.woken == 1

    @pytest.mark.parametrize(
        ("content", "is_8bit"),
        [
            (CONTENT, False),
            (b"Subject: caf\xc3\xa9\r\n\r\nworld\r\n", False),
            (HEADER + b"\r\ncaf\xe9\r\n", True),
            (HEADER + b"\r\nplain\r\n" * 9000 + b"\xe9\r\n" + b"plain\r\n" * 9000, True),
        ],
    )
    async def test_is_8bit_where_the_body_is(self, tmp_path: Path, content: bytes, is_8bit: bool) -> None:
        async with relaying(tmp_path) as relay:
            await relay.take(content=content)
            assert (await relay.message()).body_is_8bit is is_8bit

    async def test_may_be_empty(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            assert (await relay.take(content=b"")).code == 250
            content, message = await relay.content(), await relay.message()
            assert message.header_size == message.size == len(content)
            assert [header.partition(b":")[0] for header in split_content(content)[0]] == [
                b"Received",
                b"Message-Id",
                b"Date",
                b"From",
            ]

    async def test_headers_are_rewritten_and_completed(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, senders={"a@gw.test": "a@isp.test"}) as relay:
            await relay.take(content=b"To: b\r\n\r\n")
            headers = split_content(await relay.content())[0]
            assert b"To: b@gw.test\r\n" in headers
            assert headers[-1] == b"From: a@isp.test\r\n"


class TestRefusals:
    async def test_a_message_that_goes_in_circles(self, tmp_path: Path) -> None:
        hops = b"Received: from a by b; now\r\n"
        async with relaying(tmp_path) as relay:
            reply = await relay.take(content=hops * (HOP_LIMIT - 1) + CONTENT + LARGE_BODY)
            assert str(reply).startswith("554 5.4.0 The message has passed so many servers")
            assert await relay.is_empty()
            attached = b"Content-Type: message/rfc822\r\n" + HEADER + b"\r\n" + hops * HOP_LIMIT
            assert (await relay.take(content=hops * (HOP_LIMIT - 2) + attached)).code == 250

    async def test_a_header_without_end(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            reply = await relay.take(content=b"X-Long: " + b"x" * 2 * HEADER_LIMIT)
            assert str(reply).startswith("552 5.3.4 The message has too long a header")
            assert await relay.is_empty()

    @pytest.mark.parametrize("body", [b"\r\nx\r\n", LARGE_BODY])
    async def test_a_disk_without_room(self, tmp_path: Path, body: bytes) -> None:
        async with relaying(tmp_path) as relay:
            fill_disk(relay.store)
            reply = await relay.take(content=HEADER + b"X: " + b"x" * 9000 + b"\r\n" + body)
            assert str(reply).startswith("452 4.3.1 This server's disk is full")
            assert await relay.is_empty()
            assert relay.delivery == Delivery()

    @pytest.mark.parametrize("body", [b"\r\nx\r\n", LARGE_BODY])
    async def test_a_queue_that_cannot_be_written(self, tmp_path: Path, body: bytes) -> None:
        async with relaying(tmp_path) as relay:
            break_queue(relay.store)
            reply = await relay.take(content=HEADER + body)
            assert str(reply).startswith("451 4.3.0 This server could not store the message")
            break_queue(relay.store, False)
            assert await relay.is_empty()

    @pytest.mark.parametrize("outlet", ["expand", "has_room", "retry_at"])
    async def test_a_defect_of_ours(self, tmp_path: Path, outlet: str) -> None:
        def fail(*_: object) -> Any:
            raise ZeroDivisionError

        broken: dict[str, Any] = {outlet: fail}
        async with relaying(tmp_path, **broken) as relay:
            assert (await relay.take(content=HEADER + LARGE_BODY)).code == 451
            assert await relay.is_empty()

    async def test_no_defect_undoes_what_is_stored(self, tmp_path: Path) -> None:
        def fail(_: object) -> None:
            raise ZeroDivisionError

        async with relaying(tmp_path, submit=fail) as relay:
            arrival = relay.begin()
            await feed(arrival, HEADER + LARGE_BODY)
            assert (await arrival.finish()).code == 250
            await arrival.abort()
            assert (await relay.content()).endswith(HEADER + LARGE_BODY)


@pytest.mark.parametrize("content", [b"", b"Subject: x", CONTENT, HEADER + LARGE_BODY])
@pytest.mark.parametrize("check_action", ["DUNNO", "REJECT"])
async def test_what_is_aborted_leaves_nothing(tmp_path: Path, content: bytes, check_action: str) -> None:
    async with relaying(tmp_path, check("^Subject:", check_action)) as relay:
        arrival = relay.begin()
        await feed(arrival, content)
        await arrival.abort()
        assert await relay.is_empty()
        assert relay.delivery == Delivery()


class TestHeaderChecks:
    @pytest.mark.parametrize("body", [b"\r\nx\r\n", LARGE_BODY])
    async def test_reject_refuses_with_the_owners_words(self, tmp_path: Path, body: bytes) -> None:
        async with relaying(tmp_path, check("^Subject:", "REJECT", "5.7.1 no, thanks")) as relay:
            assert str(await relay.take(content=HEADER + body)) == "550 5.7.1 no, thanks"
            assert await relay.is_empty()

    @pytest.mark.parametrize("body", [b"\r\nx\r\n", LARGE_BODY])
    async def test_discard_accepts_and_forgets(self, tmp_path: Path, body: bytes) -> None:
        async with relaying(tmp_path, check("^Subject:", "DISCARD")) as relay:
            assert str(await relay.take(content=HEADER + body)).startswith("250 2.0.0 Ok: queued as ")
            assert await relay.is_empty()
            assert relay.delivery == Delivery()

    async def test_a_message_that_is_discarded_needs_no_room(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, check("^Subject:", "DISCARD")) as relay:
            fill_disk(relay.store)
            assert (await relay.take(content=HEADER + LARGE_BODY)).code == 250

    async def test_hold_keeps_the_message_from_delivery(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, check("^Subject:", "HOLD")) as relay:
            assert (await relay.take()).code == 250
            assert await states(relay.store, await relay.message()) == [State.HELD]
            assert relay.delivery == Delivery()

    async def test_redirect_takes_the_place_of_all_recipients(self, tmp_path: Path) -> None:
        checks = [
            check("^From:", "BCC", "copy@x.test"),
            check("^Subject:", "REDIRECT", "q@x.test"),
        ]
        async with relaying(tmp_path, *checks, recipients={"q@x.test": "not@x.test"}) as relay:
            await relay.take(Recipient("b", notify="SUCCESS"), "c@x.test")
            assert await relay.recipients() == [("q@x.test", "b", "SUCCESS")]
            assert b"Received:" in await relay.content()

    async def test_redirect_may_go_to_the_postmaster(self, tmp_path: Path) -> None:
        async with relaying(tmp_path, check("^Subject:", "REDIRECT", "postmaster@gw.test.")) as relay:
            await relay.take()
            assert await relay.recipients() == [("owner@isp.test", "b@x.test", "")]

    async def test_bcc_adds_recipients_that_are_rewritten_and_never_reported(self, tmp_path: Path) -> None:
        checks = [
            check("^From:", "BCC", "old@x.test"),
            check("^Date:", "BCC", "b@X.test"),
            check("^Subject: (.*)", "BCC", "$1@x.test"),
        ]
        async with relaying(tmp_path, *checks, recipients={"old@x.test": "new@x.test"}) as relay:
            await relay.take("b@x.test")
            assert await relay.recipients() == [
                ("b@x.test", "", ""),
                ("new@x.test", "", "NEVER"),
                ("hello@x.test", "", "NEVER"),
            ]

    @pytest.mark.parametrize("size", [1, 50_000])
    async def test_headers_of_parts_are_checked_while_the_body_streams(
        self, tmp_path: Path, size: int
    ) -> None:
        body = b"\r\n--b\r\nContent-Type: text/x-virus\r\n\r\nx\r\n"
        async with relaying(tmp_path, check("x-virus", "REJECT", "a virus")) as relay:
            arrival = relay.begin()
            await feed(arrival, MULTIPART + body, size)
            assert str(await arrival.finish()) == "550 5.7.1 a virus"
            assert await relay.is_empty()

    @pytest.mark.parametrize("end", [b"", b"\r\n"])
    async def test_a_part_at_the_very_end_counts_and_leaves_nothing(self, tmp_path: Path, end: bytes) -> None:
        async with relaying(tmp_path, check("x-virus", "REJECT", "a virus")) as relay:
            content = MULTIPART + LARGE_BODY + b"--b\r\nContent-Type: text/x-virus" + end
            assert (await relay.take(content=content)).code == 550
            assert await relay.is_empty()

    async def test_headers_of_parts_can_redirect_hold_and_copy_but_not_change(self, tmp_path: Path) -> None:
        checks = [
            check("^X-Hold", "HOLD"),
            check("^X-Copy", "BCC", "copy@x.test"),
            check("^X-Gone", "IGNORE"),
        ]
        body = b"\r\n--b\r\nX-Hold: 1\r\nX-Copy: 1\r\nX-Gone: 1\r\n\r\nx\r\n"
        async with relaying(tmp_path, *checks) as relay:
            await relay.take(content=MULTIPART + body)
            assert [address for address, *_ in await relay.recipients()] == ["b@x.test", "copy@x.test"]
            assert await states(relay.store, await relay.message()) == [State.HELD] * 2
            assert (await relay.content()).endswith(MULTIPART + body)

    async def test_headers_are_edited(self, tmp_path: Path) -> None:
        checks = [
            check("^Received:", "IGNORE"),
            check("^Subject:", "REPLACE", "Subject: bye"),
            check("^From:", "PREPEND", "X-A: 1"),
        ]
        async with relaying(tmp_path, *checks) as relay:
            await relay.take(content=b"Received: x\r\n" + CONTENT)
            assert await relay.content() == (
                b"X-A: 1\r\n" + HEADER.replace(b"hello", b"bye") + b"\r\nworld\r\n"
            )
            assert (await relay.message()).header_size == len(await relay.content()) - len(b"\r\nworld\r\n")

    @pytest.mark.parametrize(
        "case_id", ["header_checks-038", "header_checks-045", "header_checks-136", "header_checks-137"]
    )
    async def test_recipients_are_those_that_postfix_wrote_to(self, tmp_path: Path, case_id: str) -> None:
        cases = json.loads((CASES / "header_checks.json").read_text())
        case = next(case for case in cases if case["id"] == case_id)
        rules = parse_header_checks(case["config"]["checks"]["header_checks"][0]["text"])
        checks = [check(make_pattern(pattern, flags), action, text) for pattern, flags, action, text in rules]
        steps = [step["send"] for step in case["input"]["sessions"][0]["steps"]]
        content = next(step for step in steps if step.endswith("\r\n.\r\n")).removesuffix(".\r\n").encode()
        async with relaying(tmp_path, *checks) as relay:
            await relay.take("rcpt@dest.test", content=content)
            found = [address for address, *_ in await relay.recipients()]
            assert sorted(found) == sorted(line["to"] for line in case["expected"]["dispositions"])


class TestTheLog:
    async def test_tells_what_was_accepted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "relay")
        async with relaying(tmp_path) as relay:
            await relay.take("b@x.test", "c@x.test", content=CONTENT.replace(b"<1@pc>", b"\r\n <1@pc>"))
            message = await relay.message()
            (line,) = caplog.messages
            assert line == (
                f"{message.queue_id}: client=pc.gw.test[192.168.0.3], message-id=<1@pc>, from=<a@gw.test>, "
                f"size={message.size}, nrcpt=2"
            )

    async def test_shows_a_message_id_that_we_added(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "relay")
        async with relaying(tmp_path, check("^Message-ID:", "IGNORE")) as relay:
            await relay.take()
            assert f".{(await relay.message()).queue_id}@gw.test>, from=" in caplog.text
            assert "<1@pc>" not in caplog.text

    async def test_tells_what_header_checks_did_even_where_nothing_is_stored(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "relay")
        checks = [check("^Subject:", "WARN", "look here"), check("^X-Bad", "REJECT")]
        async with relaying(tmp_path, *checks) as relay:
            await relay.take(content=HEADER + b"X-Bad: secret\r\n")
        where = "from pc.gw.test[192.168.0.3]; from=<a@gw.test> to=<b@x.test> proto=ESMTP helo=<pc>"
        assert [message.partition(": ")[2] for message in caplog.messages] == [
            f"warn: header Subject: hello {where}: look here",
            f"reject: header X-Bad {where}",
        ]
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


class TestTheHistory:
    @pytest.mark.parametrize("keeps_subject", [True, False])
    async def test_gets_the_message_id_and_if_wanted_the_subject(
        self, tmp_path: Path, keeps_subject: bool
    ) -> None:
        async with relaying(tmp_path, check("^Subject: spam", "IGNORE")) as relay:
            relay.intake.rules = replace(relay.intake.rules, keeps_subject=keeps_subject)
            await relay.take(content=b"Subject: spam\r\nsubject: =?utf-8?q?=C3=A9t=C3=A9?=\r\n" + CONTENT)
            message = await relay.message()
        assert (message.message_id, message.subject) == ("<1@pc>", "été" if keeps_subject else "")

    async def test_gets_the_message_id_that_we_added(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            relay.intake.rules = replace(relay.intake.rules, keeps_subject=True)
            await relay.take(content=b"\r\nhello\r\n")
            message = await relay.message()
        assert message.message_id.endswith(f".{message.queue_id}@gw.test>")
        assert message.subject == ""

    async def test_keeps_no_message_id_of_any_length(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            await relay.take(content=b"Message-ID: <" + b"x" * 100_000 + b">\r\n\r\n")
            assert len((await relay.message()).message_id) == 998


class TestInASession:
    async def test_a_dialogue_ends_with_the_message_in_the_queue(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay, talking(relay) as peer:
            await peer.ask("EHLO pc", "MAIL FROM:<root>")
            assert await peer.ask("RCPT TO:<joe@gw.test>") == (
                "550 5.1.1 <joe@gw.test>: there is no such user at gw.test, whose mail stays on this server. "
                "Check the address."
            )
            await peer.ask("RCPT TO:<postmaster>", "DATA")
            peer.send(CONTENT + b".\r\n")
            reply = await peer.reply()
            message = await relay.message()
            assert reply == f"250 2.0.0 Ok: queued as {message.queue_id}"
            assert message.envelope.reverse_path == "root@gw.test"
            assert (await relay.content()).endswith(CONTENT)

    async def test_a_client_that_vanishes_leaves_nothing(self, tmp_path: Path) -> None:
        async with relaying(tmp_path) as relay:
            async with talking(relay) as peer:
                await peer.ask("EHLO pc", "MAIL FROM:<a@x.test>", "RCPT TO:<b@x.test>", "DATA")
                peer.send(HEADER + LARGE_BODY)
                await peer.writer.drain()
            assert await relay.is_empty()
