"""The EHLO name that follows the public address: a real DNS server, and sessions with scripted servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relay.config.loading import parse_config
from relay.config.model import Config, Network
from relay.delivery.agent import Endpoint
from relay.delivery.client import Connection
from relay.mail.route import NextHop
from relay.oauth.tokens import Tokens
from relay.routing.lookup import Answer, Ask, Lookup, RecordType, State
from relay.routing.public_address import INSIDE, NOBODY
from relay.routing.public_name import NOTICES_PER_DAY, Pace, PublicName, last_helo_name
from relay.wiring import connect_as
from tests.support.dns_server import DnsServer, Failure, Records
from tests.support.rig import ServerAt, until
from tests.support.smtp_server import Script, offer

ME = "gw1.maison.mrs"
OLD, NEW, LIE = "203.0.113.5", "203.0.113.77", "198.51.100.66"
NAME = {OLD: "h5.isp.example", NEW: "h77.isp.example", LIE: "dns.liar.example"}
MIRROR: dict[str, Records | Failure] = {"resolver1.opendns.com": {"A": ["192.0.2.53"]}}
ASKED = ("5.113.0.203.in-addr.arpa", "PTR")
PATIENT = Pace(patience=60)


def zone(address: str, name: str = "") -> dict[str, Records | Failure]:
    """Return what DNS knows of an address, its name leading back."""
    name = name or NAME[address]
    pointer = ".".join([*reversed(address.split(".")), "in-addr.arpa"])
    return {pointer: {"PTR": [f"{name}."]}, name: {"A": [address]}}


def seen(address: str) -> dict[str, Records | Failure]:
    """Return what a name server answers that sees the relay under an address."""
    return {**MIRROR, "myip.opendns.com": {"A": [address]}}


ZONES = {**zone(OLD), **zone(NEW), **zone(LIE)}


async def ask_nobody(_name: str, _record_type: RecordType) -> Answer:
    return Answer(State.FAILED, reason="nobody is there")


@dataclass
class House:
    """A relay's public name, its DNS server, and what the postmaster was told."""

    dns: DnsServer
    queue: Path
    inside: Iterable[Network] = ()
    pace: Pace = PATIENT
    toml: str = ""
    notices: list[tuple[str, str]] = field(default_factory=list)
    can_tell: bool = True

    def config(self, toml: str = 'helo_name = "auto"\n') -> Config:
        place = f'[dns]\nnameservers = ["127.0.0.1:{self.dns.address[1]}"]\n[queue]\npath = "{self.queue}"\n'
        return parse_config(f"{toml}{self.toml}\n{place}", machine_name=ME)

    async def announce(self, subject: str, text: str) -> bool:
        if self.can_tell:
            self.notices.append((subject, text))
        return self.can_tell

    @asynccontextmanager
    async def running(self, toml: str = 'helo_name = "auto"\n') -> AsyncIterator[PublicName]:
        name = PublicName(self.queue, ask_at=self.ask_at, inside=self.inside, pace=self.pace)
        name.configure(self.config(toml), self.announce)
        try:
            yield name
        finally:
            await name.close()

    def ask_at(self, server: str) -> Ask:
        return ask_nobody if server == NOBODY else Lookup([self.dns.address], timeout=20).ask

    async def greet(self, name: PublicName, server: ServerAt, *, is_lmtp: bool = False) -> str:
        """Open a session as the relay does, and return the name that the server was given."""
        config = self.config()
        connect = connect_as(config, Tokens({}), name)
        next_hop = NextHop("mx.test", server.port, tls="none", is_lmtp=is_lmtp)
        connection = await connect([Endpoint("mx.test", server._address)], next_hop, set())
        assert isinstance(connection, Connection)
        await connection.quit()
        return server.sessions[-1].commands[0].decode().split()[1]


@asynccontextmanager
async def house(
    tmp_path: Path, names: dict[str, Records | Failure], **options: object
) -> AsyncIterator[House]:
    async with DnsServer({**ZONES, **names}) as dns:
        yield House(dns, tmp_path / "queue.db", **options)  # type: ignore[arg-type]


def showing(address: str) -> Script:
    """Return a server that shows an address in its reply to EHLO."""
    return Script().but(EHLO=offer("8BITMIME", name=f"mx.test Hello gw [{address}]"))


async def named(name: PublicName, wanted: str) -> None:
    """Wait until the name is another."""
    async with asyncio.timeout(20):
        while await name.get() != wanted:
            await asyncio.sleep(0.002)


async def test_name_servers_tell_the_address_and_its_name(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD)) as home, home.running() as name, ServerAt("127.0.0.2", 0) as server:
        assert await home.greet(name, server) == NAME[OLD]
        await until((tmp_path / "queue.db.public-name").exists)
        assert (tmp_path / "queue.db.public-name").stat().st_mode & 0o777 == 0o600


async def test_the_name_stays_the_relays_own_where_none_leads_back(tmp_path: Path) -> None:
    names: dict[str, Records | Failure] = {**seen(OLD), NAME[OLD]: {"A": [NEW]}}
    async with house(tmp_path, names) as home, home.running() as name:
        assert await name.get() == ME


@pytest.mark.parametrize(
    ("hostname", "names", "said"),
    [
        ("localhost", seen(OLD), f"[{OLD}]"),
        ("0123456789ab", seen(OLD), f"[{OLD}]"),
        ("localhost", {}, "relay.localdomain"),
        ("0123456789ab", {}, "relay.localdomain"),
    ],
)
async def test_it_is_never_a_container_id_or_localhost(
    tmp_path: Path, hostname: str, names: dict[str, Records | Failure], said: str
) -> None:
    pointer: dict[str, Records | Failure] = {ASKED[0]: {"PTR": [f"{hostname}."]}, hostname: {"A": [OLD]}}
    async with (
        house(tmp_path, {**names, **pointer}, toml=f'hostname = "{hostname}"') as home,
        home.running() as name,
    ):
        assert await name.get() == said


async def test_a_mail_server_tells_where_name_servers_cant(tmp_path: Path) -> None:
    async with (
        house(tmp_path, {}) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(OLD)) as server,
        ServerAt("127.0.0.3", 0, showing(NEW)) as other,
    ):
        assert await home.greet(name, server) == ME
        assert await home.greet(name, server) == NAME[OLD]
        assert await home.greet(name, other) == NAME[OLD]  # one against one
        assert await home.greet(name, other) == NAME[OLD]  # it is the only one heard lately
        assert await home.greet(name, other) == NAME[NEW]


async def test_a_mail_server_that_shows_another_address_has_it_looked_up_at_once(tmp_path: Path) -> None:
    async with (
        house(tmp_path, seen(OLD)) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(NEW)) as server,
    ):
        assert await name.get() == NAME[OLD]
        home.dns.names |= seen(NEW)
        assert await home.greet(name, server) == NAME[OLD]
        assert await home.greet(name, server) == NAME[NEW]


async def test_one_liar_changes_nothing(tmp_path: Path) -> None:
    async with (
        house(tmp_path, seen(OLD)) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(LIE)) as liar,
    ):
        await name.get()
        before = home.dns.queries[ASKED]
        for _ in range(3):
            assert await home.greet(name, liar) == NAME[OLD]
        await named(name, NAME[OLD])
        assert home.dns.queries[ASKED] == before + 1  # it was looked into once


async def test_two_mail_servers_know_better_than_dns(tmp_path: Path) -> None:
    async with (
        house(tmp_path, seen(OLD)) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(NEW)) as one,
        ServerAt("127.0.0.3", 0, showing(NEW)) as other,
    ):
        assert await home.greet(name, one) == NAME[OLD]
        assert await home.greet(name, other) == NAME[OLD]
        assert await home.greet(name, one) == NAME[NEW]


async def test_a_server_inside_is_not_believed(tmp_path: Path) -> None:
    async with (
        house(tmp_path, {}, inside=INSIDE) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(OLD)) as server,
    ):
        assert [await home.greet(name, server) for _ in range(3)] == [ME] * 3
        assert not home.dns.queries[ASKED]


@pytest.mark.parametrize("shown", ["127.0.0.2", "mail", "2001:db8::5"])
async def test_what_tells_nothing_new_is_not_looked_into(tmp_path: Path, shown: str) -> None:
    async with (
        house(tmp_path, seen(OLD)) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(shown)) as server,
    ):
        assert [await home.greet(name, server) for _ in range(3)] == [NAME[OLD]] * 3
        assert home.dns.queries[ASKED] == 1


async def test_an_ipv6_address_has_to_do_where_there_is_no_other(tmp_path: Path) -> None:
    names: dict[str, Records | Failure] = {
        f"5.{'0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ["v6.example."]},
        "v6.example": {"AAAA": ["2001:db8::5"]},
    }
    async with (
        house(tmp_path, names) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing("2001:db8::5")) as server,
    ):
        assert await home.greet(name, server) == ME
        assert await home.greet(name, server) == "v6.example"


async def test_a_mailbox_server_is_given_the_relays_own_name(tmp_path: Path) -> None:
    async with (
        house(tmp_path, seen(OLD)) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0, showing(NEW)) as server,
    ):
        assert await home.greet(name, server, is_lmtp=True) == ME
        assert home.dns.queries[ASKED] <= 1


async def test_the_address_is_looked_at_again_without_mail(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD), pace=Pace(again=0.05)) as home, home.running() as name:
        await named(name, NAME[OLD])
        home.dns.names |= seen(NEW)
        await named(name, NAME[NEW])


async def test_a_look_up_that_fails_is_repeated(tmp_path: Path) -> None:
    names: dict[str, Records | Failure] = {**seen(OLD), ASKED[0]: Failure.SERVFAIL}
    pace = Pace(retry=0.01, again=0.05)
    async with house(tmp_path, names, pace=pace) as home, home.running() as name:
        async with asyncio.timeout(20):
            while home.dns.queries[ASKED] < 6:
                await asyncio.sleep(0.002)
        assert await name.get() == ME
        home.dns.names |= zone(OLD)
        await named(name, NAME[OLD])


async def test_a_failure_of_dns_changes_nothing_and_a_lost_name_does(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD), pace=Pace(retry=0.01, again=0.05)) as home, home.running() as name:
        await named(name, NAME[OLD])
        home.dns.names[ASKED[0]] = Failure.SERVFAIL
        count = home.dns.queries[ASKED]
        await until(lambda: home.dns.queries[ASKED] > count + 3)
        assert await name.get() == NAME[OLD]
        home.dns.names[ASKED[0]] = Failure.NXDOMAIN
        await named(name, ME)


async def test_nobody_waits_long(tmp_path: Path) -> None:
    async with (
        house(tmp_path, seen(OLD), pace=Pace(patience=0.01)) as home,
        home.running() as name,
        ServerAt("127.0.0.2", 0) as server,
    ):
        release = home.dns.hold(ASKED[0])
        assert await home.greet(name, server) == ME
        release.set()
        await named(name, NAME[OLD])


async def test_it_is_kept_over_a_restart(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD)) as home:
        async with home.running() as name:
            assert await name.get() == NAME[OLD]
            await until((tmp_path / "queue.db.public-name").exists)
        assert last_helo_name(home.config()) == NAME[OLD]
        home.dns.names.clear()
        home.dns.names[ASKED[0]] = Failure.SERVFAIL
        async with home.running() as name:
            assert await name.get() == NAME[OLD]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"address": 1, "asked": 2, "name": "x", "told": null}',
        '{"address": "203.0.113.5", "asked": "", "name": 5, "told": null}',
        '{"address": "203.0.113.5", "asked": "", "name": "h.example", "told": [1]}',
        '{"address": "203.0.113.5", "asked": "", "name": "localhost", "told": null}',
        '{"address": "no", "asked": "", "name": "a b\\r\\nQUIT", "told": null}',
        "\\u00ff",
        "[" * 100_000,
    ],
)
async def test_a_damaged_file_is_as_none(tmp_path: Path, damage: str) -> None:
    (tmp_path / "queue.db.public-name").write_text(damage)
    async with house(tmp_path, {ASKED[0]: Failure.NXDOMAIN}) as home:
        assert last_helo_name(home.config()) == ME
        async with home.running() as name:
            assert await name.get() == ME


NOTICE = 'helo_name = "auto"\naddress_notice = true\npostmaster = "chris@free.fr"\n'


async def test_the_postmaster_is_told_once_of_each_change(tmp_path: Path) -> None:
    file = tmp_path / "queue.db.public-name"
    async with house(tmp_path, seen(OLD), pace=Pace(again=0.05)) as home:
        async with home.running(NOTICE) as name:
            await named(name, NAME[OLD])
            await until(lambda: len(home.notices) == 1)
            home.dns.names |= seen(NEW)
            await until(lambda: len(home.notices) == 2)
            await until(lambda: json.loads(file.read_text())["told"] == [NEW, NAME[NEW]])
        count = home.dns.queries["77.113.0.203.in-addr.arpa", "PTR"]
        async with home.running(NOTICE):
            await until(lambda: home.dns.queries["77.113.0.203.in-addr.arpa", "PTR"] > count + 2)
    (subject, first), (_, second) = home.notices
    assert subject == f"{ME}: the public address is {OLD}"
    assert "before" not in first
    assert f"{NEW} (before: {OLD})" in second
    assert f"{NAME[NEW]} (before: {NAME[OLD]})" in second


async def test_what_could_not_be_told_is_told_later(tmp_path: Path) -> None:
    async with (
        house(tmp_path, seen(OLD), pace=Pace(again=0.05), can_tell=False) as home,
        home.running(NOTICE) as name,
    ):
        await named(name, NAME[OLD])
        await until(lambda: home.dns.queries[ASKED] > 2)
        home.can_tell = True
        await until(lambda: len(home.notices) == 1)


async def test_nobody_is_told_who_does_not_want_it_and_the_present_state_who_does(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD), pace=Pace(again=0.05)) as home, home.running() as name:
        await named(name, NAME[OLD])
        await until(lambda: home.dns.queries[ASKED] > 2)
        assert not home.notices
        name.configure(home.config(NOTICE), home.announce)
        await until(lambda: len(home.notices) == 1)


async def test_a_line_that_never_rests_does_not_flood_the_postmaster(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD), pace=Pace(again=0.005)) as home, home.running(NOTICE) as name:
        for count in range(NOTICES_PER_DAY):
            await until(lambda wanted=count + 1: len(home.notices) == wanted)  # type: ignore[misc]
            home.dns.names |= seen((NEW, OLD)[count % 2])
        await named(name, NAME[OLD])
        home.dns.names |= seen(NEW)
        await named(name, NAME[NEW])
        assert len(home.notices) == NOTICES_PER_DAY


async def test_a_changed_configuration_is_followed(tmp_path: Path) -> None:
    file = tmp_path / "queue.db.public-name"
    async with (
        house(tmp_path, seen(OLD)) as home,
        ServerAt("127.0.0.2", 0, showing(NEW)) as server,
        DnsServer({**ZONES, **seen(NEW)}) as other,
        home.running('helo_name = "fixed.example"\n') as name,
    ):
        await home.greet(name, server)
        name.configure(home.config(), home.announce)
        assert await name.get() == NAME[OLD]
        await until(file.exists)
        name.configure(home.config('helo_name = "auto"\ndomain = "maison.mrs"\n'), home.announce)
        assert await name.get() == NAME[OLD]
        assert home.dns.queries[ASKED] == 1
        home.dns, before = other, home.dns
        name.configure(home.config(), home.announce)
        assert await name.get() == NAME[NEW]
        name.configure(home.config('helo_name = "fixed.example"\n'), home.announce)
        home.dns = before
        name.configure(home.config(), home.announce)
        assert await name.get() == NAME[OLD]


async def test_it_ends_at_any_point_of_a_look_up(tmp_path: Path) -> None:
    async with house(tmp_path, seen(OLD)) as home:
        for turns in range(0, 200, 3):
            async with home.running():
                for _ in range(turns):
                    await asyncio.sleep(0)


async def test_a_defect_is_told_and_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(_subject: str, _text: str) -> bool:
        raise RuntimeError("a defect")

    async with house(tmp_path, seen(OLD)) as home, home.running(NOTICE) as name:
        home.dns.hold(ASKED[0])
        name.configure(home.config(NOTICE), fail)
        home.dns.hold(ASKED[0]).set()
        assert await name.get() == NAME[OLD]
        await until(lambda: "the public name: RuntimeError('a defect')" in caplog.messages)
        assert await name.get() == NAME[OLD]


async def test_the_log_says_what_the_name_is_and_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "relay")
    names: dict[str, Records | Failure] = {ASKED[0]: Failure.SERVFAIL}
    async with house(tmp_path, names, pace=Pace(again=0.02, retry=0.01)) as home, home.running() as name:
        await until(lambda: len(caplog.messages) == 1)
        home.dns.names |= seen(OLD)
        await until(lambda: len(caplog.messages) == 2)
        home.dns.names |= zone(OLD)
        await named(name, NAME[OLD])
        home.dns.names[ASKED[0]] = Failure.NXDOMAIN
        await named(name, ME)
    assert caplog.messages == [
        f"the EHLO name is {ME}: the public address is not known yet",
        f"the EHLO name is {ME}: the name of {OLD} could not be looked up",
        f"the EHLO name is {NAME[OLD]}: the name of {OLD}, which leads back to it",
        f"the EHLO name is {ME}: {OLD} has no name that leads back to it",
    ]
