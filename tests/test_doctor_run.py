"""All checks together: each on its own, and none that could end in a traceback."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import pytest

from relay.doctor.finding import Finding, Kind, Severity
from relay.doctor.run import Section, examine, run_checks
from relay.threads import in_thread
from tests.support.dns_server import DnsServer
from tests.support.doctor import PUBLIC, config, kinds
from tests.support.smtp_server import Script, ScriptedServer, offer

FINE = Kind("fine", Severity.OK, "fine").found()


async def fine() -> list[Finding]:
    return [FINE]


async def raising() -> list[Finding]:
    raise ZeroDivisionError("\x1b[31mdivision")


async def hanging() -> list[Finding]:
    await asyncio.Event().wait()
    return []


def ignore(_: Sequence[str]) -> None:
    pass


async def test_a_check_that_fails_or_hangs_has_found_just_that() -> None:
    checks = {"a": raising(), "b": hanging(), "c": fine()}
    failed, hung, done = await run_checks(checks, ignore, limit=0.1)
    assert kinds([*failed.findings, *hung.findings]) == ["unchecked warning"] * 2
    assert failed.findings[0].what == "this could not be checked: ZeroDivisionError: ?[31mdivision"
    assert hung.findings[0].what == "this could not be checked: it took more than 0 s"
    assert done == Section("c", (FINE,))


async def test_a_disk_that_hangs_is_not_waited_for() -> None:
    release = Event()

    def hang() -> list[Finding]:
        release.wait()
        return []

    (disk,) = await run_checks({"disk": in_thread(hang)}, ignore, limit=0.1)
    release.set()
    assert kinds(disk.findings) == ["unchecked warning"]


async def test_progress_tells_what_is_not_done_yet() -> None:
    told: list[list[str]] = []
    second_may_end = asyncio.Event()

    async def first() -> list[Finding]:
        asyncio.get_running_loop().call_soon(second_may_end.set)
        return []

    async def second() -> list[Finding]:
        await second_may_end.wait()
        return []

    await run_checks({"one": first(), "two": second()}, lambda pending: told.append([*pending]))
    assert told == [["one", "two"], ["two"], []]


async def test_blocking_work_gives_its_result_or_its_error() -> None:
    assert await in_thread(lambda: 7) == 7
    with pytest.raises(OSError, match="broken"):
        await in_thread(lambda: (_ for _ in ()).throw(OSError("broken")))


async def test_the_public_address_that_a_server_shows_is_what_the_rest_is_about(tmp_path: Path) -> None:
    names = {
        "next.test": {"A": ["127.0.0.1"]},
        "house.test": {"MX": ["10 next.test."], "TXT": [f'"v=spf1 ip4:{PUBLIC} -all"']},
        "5.113.0.203.in-addr.arpa": {"PTR": ["gw1.example.net."]},
        "gw1.example.net": {"A": [PUBLIC]},
    }
    script = Script().but(EHLO=offer(name=f"next.test Hello [{PUBLIC}]"))
    async with DnsServer(names) as server, ScriptedServer(script) as smtp:
        house = config(
            f"""
            postmaster = "chris@house.test"
            dns = {{ nameservers = ["127.0.0.1:{server.address[1]}"] }}
            queue = {{ path = "{tmp_path}/queue.db" }}
            sender_canonical = {{ "@gw1.example.net" = "@house.test" }}
            transport = {{ "far.test" = "next.test:{smtp.port}" }}
            """
        )
        sections = await examine(house, ignore, root=tmp_path)
    found = {section.title: kinds(section.findings) for section in sections}
    assert found["public address"] == ["address.known ok"]
    assert found[f"reverse name of {PUBLIC}"] == ["reverse.confirmed ok", "helo.fits ok"]
    assert found[f"blocklists about {PUBLIC}"] == ["blocklist.unusable info"] * 3
    assert found["sender domain house.test"] == ["sender.exists ok", "spf.pass ok"]
    assert found["port 25"] == ["port25.unknown warning"] or found["port 25"] == ["port25.unknown info"]
    assert found["clients"] == ["clients.real ok"]
    assert found["DNS"] == ["dns.dead problem", "dns.honest ok"]
