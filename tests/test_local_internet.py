"""A house that delivers directly, on a local internet where some sites refuse it: no hand-written route."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from tests.support.internet import Internet, deaf, online
from tests.support.service import Service
from tests.support.smtp_server import DROP, EHLO, OK, Script, Step, Wait, offer

MESSAGES = 500
SESSIONS = 20
SENDER = "chris@sender.test"
BLOCKLIST = b"554 5.7.1 Service unavailable; Client host [203.0.113.7] blocked using zen.spamhaus.org\r\n"
UNALIGNED = (
    b"550-5.7.26 Unauthenticated email from sender.test is not accepted due to domain's\r\n"
    b"550 5.7.26 DMARC policy. Please contact the administrator.\r\n"
)
DYNAMIC = b"550 5.7.1 Mail from dynamic IP addresses is not accepted here, use your provider's server\r\n"
NO_REVERSE = (b"554 mx.test no PTR record for 203.0.113.7, fix your reverse DNS\r\n", DROP)
UNKNOWN = b"550 5.1.1 no such mailbox in this house\r\n"
FULL = b"552 5.2.2 the mailbox of this person is full\r\n"

RELAY = """
hostname = "gw1.sender.test"
fallback = "isp"
[smarthost.isp]
host = "smtp.isp.test"
port = 25
tls = "none"
[queue]
retry = ["2s"]
path = "{path}"
[dns]
nameservers = ["{address}"]
"""


class Greylist:
    """Defers who was not seen before."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def __call__(self, line: bytes) -> Step:
        if line in self._seen:
            return OK
        self._seen.add(line)
        return b"450 4.2.0 Greylisted, see http://postgrey.example/help\r\n"


def judge_user(line: bytes) -> Step:
    if b"<nobody" in line:
        return UNKNOWN
    return FULL if b"<full" in line else OK


DIRECT = ("good", "slow", "two", "moody", "grey", "tls", "people")
REFUSING = ("greeting", "mail", "rcpt", "data")
SILENT = ("closed", "refused")
LOST = ("nobody@people.test", "full@people.test", "chris@null.test")


def sites(patience: asyncio.Event) -> dict[str, Script | list[Script | None]]:
    takes_all = Script()
    return {
        "isp.test": takes_all,
        "sender.test": takes_all,
        "good.test": takes_all,
        "slow.test": takes_all.but(greeting=(b"220-patience\r\n", Wait(patience), b"220 mx.test\r\n")),
        "two.test": [None, takes_all],
        "moody.test": [takes_all.but(RCPT=b"451 4.3.0 not today\r\n"), takes_all],
        "grey.test": takes_all.but(RCPT=Greylist()),
        "tls.test": takes_all.but(EHLO=offer("STARTTLS", "8BITMIME"), STARTTLS=(b"220 go\r\n", DROP)),
        "people.test": takes_all.but(RCPT=judge_user),
        "greeting.test": takes_all.but(greeting=NO_REVERSE),
        "mail.test": takes_all.but(MAIL=DYNAMIC),
        "rcpt.test": takes_all.but(RCPT=BLOCKLIST),
        "data.test": takes_all.but(EHLO=EHLO, DOT=UNALIGNED),
        "refused.test": [None],
        "closed.test": [None],
    }


def choose_recipients(random: Random) -> list[str]:
    domains = random.sample([*DIRECT, *REFUSING, *SILENT], random.choice([1, 1, 1, 2, 3]))
    chosen = [f"{random.choice(['anna', 'bert'])}@{domain}.test" for domain in domains]
    return [*chosen, random.choice(LOST)] if random.random() < 0.15 else chosen


@pytest.mark.needs_root  # for port 25
async def test_every_message_arrives_once_and_the_second_one_to_a_refusing_site_goes_straight_to_the_fallback(
    tmp_path: Path,
) -> None:
    asyncio.get_running_loop().set_debug(False)
    random, patience = Random(25), asyncio.Event()
    load = [(b"number %d" % number, choose_recipients(random)) for number in range(MESSAGES)]
    names = {"null.test": {"MX": ["0 ."]}, "smtp.isp.test": {"A": ["127.0.9.1"]}}
    async with online(sites(patience), names) as internet:
        (deaf_address,) = internet.dns.names["mx1.closed.test"]["A"]
        address = ":".join(map(str, internet.dns.address))
        toml = RELAY.format(address=address, path=tmp_path / "queue.db")
        with deaf(deaf_address):
            async with Service(tmp_path, toml) as relay:
                await send_all(relay, load)
                patience.set()
                await relay.emptied(120)  # connecting to who does not answer takes half a minute
                check_arrivals(internet, load)
                check_reports(internet, load)
                await check_second_messages(relay, internet)


async def send_all(relay: Service, load: list[tuple[bytes, list[str]]]) -> None:
    waiting = iter(load)

    async def send_some() -> None:
        for subject, recipients in waiting:
            reply = await relay.send(b"Subject: %b\r\n\r\nHello.\r\n" % subject, *recipients, sender=SENDER)
            assert reply.startswith("250 "), reply

    await asyncio.gather(*(send_some() for _ in range(SESSIONS)))


def check_arrivals(internet: Internet, load: list[tuple[bytes, list[str]]]) -> None:
    wanted: dict[str, Counter[tuple[str, bytes]]] = {name: Counter() for name in internet.servers}
    for subject, recipients in load:
        for recipient in set(recipients) - set(LOST):
            domain = recipient.partition("@")[2]
            is_direct = domain.removesuffix(".test") in DIRECT
            wanted[domain if is_direct else "isp.test"][recipient, subject] += 1
    for domain, messages in wanted.items():
        if domain != "sender.test":
            assert internet.taken(domain) == messages, domain


def check_reports(internet: Internet, load: list[tuple[bytes, list[str]]]) -> None:
    reports = internet.contents("sender.test")
    words = {
        "nobody@people.test": b"5.1.1 no such mailbox in this house",
        "full@people.test": b"5.2.2 the mailbox of this person is full",
        "chris@null.test": b"Domain null.test does not accept mail (null MX)",
    }
    lost = [
        (subject, recipient) for subject, recipients in load for recipient in recipients if recipient in LOST
    ]
    assert len(reports) == len(lost) > 20
    for subject, recipient in lost:
        (report,) = [report for report in reports if b"Subject: %b\r\n" % subject in report]
        assert b"Final-Recipient: rfc822; %b" % recipient.encode() in report
        assert words[recipient] in report.replace(b"\r\n    ", b" ")


async def check_second_messages(relay: Service, internet: Internet) -> None:
    domains = [f"{name}.test" for name in (*REFUSING, *SILENT)]
    listed = await relay.command("routes", "--json")
    learned = {route["domain"]: route for route in map(json.loads, listed.out.splitlines())}
    assert sorted(learned) == sorted(domains)
    assert {domain: route["reason"] for domain, route in learned.items()} == {
        "greeting.test": "reverse DNS",
        "mail.test": "dynamic address",
        "rcpt.test": "blocklist",
        "data.test": "SPF, DKIM or DMARC",
        "refused.test": "port 25 not reached",
        "closed.test": "port 25 not reached",
    }
    before = {domain: [len(s.sessions) for s in internet.servers[domain]] for domain in domains}
    for domain in domains:
        await relay.send(b"Subject: second\r\n\r\nHello.\r\n", f"anna@{domain}", sender=SENDER)
    await relay.emptied()
    taken = internet.taken("isp.test")
    assert [taken[f"anna@{domain}", b"second"] for domain in domains] == [1] * len(domains)
    assert {domain: [len(s.sessions) for s in internet.servers[domain]] for domain in domains} == before
