"""Whether mail would leave directly: port 25 is tried, and a test message looks for the owner's MX."""

from __future__ import annotations

from relay.config.loading import parse_config
from relay.config.model import Config
from relay.doctor.nameservers import KNOWN_DOMAINS
from relay.init.answers import Answers, parse_networks
from relay.init.trial import send_test_message, try_way
from relay.init.writing import Surroundings, write_toml
from tests.support.dns_server import DnsServer, Failure, Records

NAMES: dict[str, Records | Failure] = {
    **{name: {"MX": [f"10 mx.{name}."]} for name in (*KNOWN_DOMAINS, "maison.test")},
    **{f"mx.{name}": {"A": ["127.77.77.77"]} for name in (*KNOWN_DOMAINS, "maison.test")},
}


def household(dns: DnsServer) -> Config:
    answers = Answers("chris@maison.test", None, parse_networks("private"), "127.0.0.1:2525")
    text = write_toml(answers, Surroundings("gw1.maison.test"))
    return parse_config(f'{text}\n[dns]\nnameservers = ["127.0.0.1:{dns.address[1]}"]', machine_name="gw1")


async def test_a_port_25_that_is_closed_is_a_problem() -> None:
    async with DnsServer(NAMES) as dns:
        tried = await try_way(household(dns))
    assert tried.problem
    assert tried.problem.name == "port25.blocked"
    assert tried.message_size is None


async def test_a_test_message_that_finds_nobody_is_told() -> None:
    async with DnsServer(NAMES) as dns:
        attempt = await send_test_message(household(dns), "chris@maison.test")
    assert "connect to mx.maison.test[127.77.77.77]:25: Connection refused" in attempt.explain()


async def test_an_address_beyond_ascii_is_sent_as_such() -> None:
    async with DnsServer(NAMES) as dns:
        attempt = await send_test_message(household(dns), "été@maison.test")
    assert not attempt.reply.is_positive
