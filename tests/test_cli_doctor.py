"""``relay doctor`` as a program, in a small world of its own; and the page that lists what it finds."""

from __future__ import annotations

import asyncio
import json
import pkgutil
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import relay.doctor
from relay.doctor.blocklists import BLOCKLISTS
from relay.doctor.finding import Kind
from relay.doctor.nameservers import KNOWN_DOMAINS
from relay.oauth.token_file import Token, write_token
from tests.support.authority import Authority
from tests.support.dkim import key_of, toml_of
from tests.support.dns_server import DnsServer, Failure, Records
from tests.support.doctor import PUBLIC
from tests.support.service import Service, find_flaw, run
from tests.support.smtp_server import HANG, TLS, Script, ScriptedServer, Step, offer
from tests.support.terminal import TAKEN_AWAY, WIDE, converse

PAGE = Path(__file__).parent.parent / "docs" / "doctor.md"
NAMES: dict[str, Records | Failure] = {
    **{name: {"MX": [f"10 mx.{name}."]} for name in KNOWN_DOMAINS},
    **{f"mx.{name}": {"A": ["127.77.77.77"]} for name in KNOWN_DOMAINS},
    **{f"2.0.0.127.{each.zone}": {"A": ["127.0.0.2"]} for each in BLOCKLISTS},
    "5.113.0.203.zen.spamhaus.org": {"A": ["127.0.0.11"]},
    "5.113.0.203.in-addr.arpa": {"PTR": ["gw1.maison.test."]},
    "gw1.maison.test": {"A": [PUBLIC]},
    "smtp.isp.test": {"A": ["127.0.0.1"]},
    "isp.test": {"MX": ["10 mx.isp.test."], "TXT": ['"v=spf1 include:nowhere.test -all"']},
}
HELLO = offer("AUTH PLAIN XOAUTH2", "SIZE 50000000", name=f"smtp.isp.test Hello gw1 [{PUBLIC}]")
SCRIPT = Script(greeting=(TLS, b"220 smtp.isp.test ESMTP\r\n")).but(EHLO=HELLO, AUTH=b"235 2.7.0 welcome\r\n")
TOML = """
hostname = "gw1.maison.test"
postmaster = "chris@isp.test"
relayhost = "isp"
[dns]
nameservers = ["127.0.0.1:{dns}"]
[access]
networks = ["127.0.0.0/8"]
[smarthost.isp]
host = "smtp.isp.test"
port = {smtp}
username = "chris@isp.test"
{login}
[sender_canonical]
"@gw1.maison.test" = "chris@isp.test"
"""


@dataclass
class House:
    """A household whose relay may be looked at."""

    service: Service
    server: ScriptedServer

    async def report(self) -> tuple[int, dict[str, Any]]:
        """Return exit status and report of ``relay doctor --json``."""
        done = await self.service.command("doctor", "--json")
        assert done.err == ""
        return done.status, json.loads(done.out)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    return Authority.trusted(tmp_path, monkeypatch)


@asynccontextmanager
async def house(
    authority: Authority,
    names: dict[str, Records | Failure] | None = None,
    login: str = 'password = "secret"',
    **steps: Step,
) -> AsyncIterator[House]:
    context = authority.context("smtp.isp.test")
    async with (
        DnsServer({**NAMES, **(names or {})}) as dns,
        ScriptedServer(SCRIPT.but(**steps), tls=context) as server,
    ):
        toml = TOML.format(dns=dns.address[1], smtp=server.port, login=login)
        yield House(Service(authority.folder, toml), server)


def by_name(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in report["findings"]}


async def test_a_household_that_sends_over_its_smarthost_is_well(authority: Authority) -> None:
    async with house(authority) as home:
        status, report = await home.report()
        await home.server.wait_ended()
        assert all(not session.contents for session in home.server.sessions)
    found = by_name(report)
    assert (status, report["problems"]) == (0, 0)
    assert found["smarthost.ready"] == {
        "about": "smarthost isp",
        "name": "smarthost.ready",
        "severity": "ok",
        "what": f"smtp.isp.test[127.0.0.1]:{home.server.port} would take mail from chris@isp.test for"
        " chris@isp.test (TLSv1.3, logged in as chris@isp.test); nothing was sent",
        "why": "",
        "remedy": "",
    }
    assert found["address.known"]["what"] == (
        f"the world sees this relay as {PUBLIC} (seen by a mail server)"
    )
    # No mail goes out directly, so that this is no problem, and a closed port 25 neither.
    assert found["blocklist.home"]["severity"] == "info"
    assert found["blocklist.home"]["remedy"].startswith("Send over a smarthost")
    assert all(finding["severity"] != "problem" for finding in report["findings"])


async def test_each_problem_is_told_with_its_remedy_and_ends_in_status_1(authority: Authority) -> None:
    async with house(authority, AUTH=b"535 5.7.8 no\r\n") as home:
        done = await home.service.command("doctor")
    assert (done.status, done.err) == (1, "")
    text = " ".join(done.out.split())
    assert "PROBLEM no login: login refused: check username and password of [smarthost.isp]; host" in text
    assert "said: 535 5.7.8 no Why: All mail that goes this way waits in the queue" in text
    assert "Mend: Check username, password (an app password?) and auth in [smarthost.isp]" in text
    assert "secret" not in text
    assert re.fullmatch(r"1 problem(, \d+ warnings?)?", done.out.splitlines()[-1])
    # What is worst stands last, next to the reader's eyes.
    marks = re.findall("^  (ok|note|WARNING|PROBLEM) ", done.out, re.MULTILINE)
    assert (marks[0], marks[-1]) == ("ok", "PROBLEM")


async def test_it_works_beside_a_running_relay(authority: Authority) -> None:
    async with house(authority) as home, home.service:
        status, report = await home.report()
    assert status == 0
    assert by_name(report)["service.up"]["severity"] == "ok"


async def test_a_login_by_token_is_tried_too(authority: Authority) -> None:
    token_file = authority.folder / "isp.json"
    now = time.time()
    write_token(token_file, Token("S3CR3T", "S3CR3T-too", now, now + 3600))
    login = f'provider = "gmail"\nauth = "xoauth2"\nclient_id = "mine"\ntoken_file = "{token_file}"'
    async with house(authority, login=login) as home:
        status, report = await home.report()
    found = by_name(report)
    assert status == 0
    assert {found["smarthost.ready"]["severity"], found["token.fresh"]["severity"]} == {"ok"}
    assert "S3CR3T" not in json.dumps(report)


async def test_a_token_that_is_missing_is_a_problem(authority: Authority) -> None:
    login = 'provider = "gmail"\nauth = "xoauth2"\nclient_id = "mine"\ntoken_file = "nowhere.json"'
    async with house(authority, login=login) as home:
        done = await home.service.command("doctor")
    assert done.status == 1
    assert "PROBLEM no login by OAuth: no login at smtp.isp.test" in done.out
    assert "Mend: Log in again: `relay login isp`" in done.out
    assert done.err == ""


async def test_the_key_that_signs_a_domains_mail_is_looked_up(authority: Authority) -> None:
    login = f'password = "secret"\n{toml_of(authority.folder, domain="isp.test")}'
    names: dict[str, Records | Failure] = {"ed25519._domainkey.isp.test": {"TXT": [f'"{key_of().record}"']}}
    async with house(authority, names, login) as home:
        status, report = await home.report()
    assert status == 0
    assert by_name(report)["dkim.published"]["about"] == "DKIM of isp.test"


ODD = "\x1b[2J\x1b]0;owned\x07\u202e\x9b31m"


async def test_nothing_that_others_say_disturbs_the_terminal(authority: Authority) -> None:
    odd = ODD.encode()
    record = "".join(f"\\{byte:03d}" for byte in odd)
    names: dict[str, Records | Failure] = {
        "isp.test": {"MX": ["10 mx.isp.test."], "TXT": [f'"v=spf1 {record}"']},
        "5.113.0.203.in-addr.arpa": {"PTR": [f"{record}.test."]},
    }
    hello = HELLO.replace(b" Hello", b" Hello " + odd)
    async with house(authority, names, EHLO=hello, MAIL=b"550 5.7.1 no " + odd + b"\r\n") as home:
        plain = await home.service.command("doctor")
        data = await home.service.command("doctor", "--json")
    assert "550 5.7.1 no ?" in plain.out
    for text in (plain.out, json.dumps(json.loads(data.out), ensure_ascii=False, indent=1)):
        assert all(character.isprintable() or character == "\n" for character in text)


async def test_a_terminal_without_an_alphabet_for_it_is_no_trouble(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    async with house(authority, MAIL="550 5.7.1 réfusé\r\n".encode()) as home:
        done = await home.service.command("doctor")
    assert "said: 550 5.7.1 r?fus? (in reply to MAIL" in " ".join(done.out.split())


async def test_on_a_terminal_it_tells_what_it_is_looking_at(authority: Authority) -> None:
    async with house(authority) as home:
        command = (sys.executable, "-m", "relay", "doctor", "--config", home.service.config)
        shown = await converse(*command, answers=[], env=WIDE)
    assert " looking at DNS, port 25, smarthost isp, " in shown.text
    _, _, staying = shown.text.rpartition(TAKEN_AWAY)
    assert "looking at" not in staying
    assert staying.startswith("DNS\n  ok ")


async def test_ctrl_c_ends_it_quietly(authority: Authority) -> None:
    async with house(authority, greeting=(TLS, HANG)) as home:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay", "doctor", "--config", home.service.config,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await home.server.wait_for("greeting")
        process.send_signal(2)
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


async def test_a_wrong_configuration_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text("relayhots = 1")
    done = await run("doctor", "--config", tmp_path / "relay.toml")
    assert (done.status, done.out) == (78, "")
    assert not find_flaw(done.err)


# The page


def all_kinds() -> Iterator[Kind]:
    for module in pkgutil.iter_modules(relay.doctor.__path__):
        for value in vars(import_module(f"relay.doctor.{module.name}")).values():
            if isinstance(value, Kind):
                yield value


def describe_kinds() -> str:
    """Return the list of findings as docs/doctor.md has it."""
    by_name = {kind.name: kind for kind in all_kinds()}
    lines = []
    for name in sorted(by_name):
        kind = by_name[name]
        lines.append(f"- **`{name}`** ({kind.severity}): {_mark(kind.what)}.")
        if kind.why:
            lines.append(f"  {_mark(kind.why)}")
        if kind.remedy:
            lines.append(f"  *Mend:* {_mark(kind.remedy)}")
    return "\n".join(lines)


def _mark(text: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: f"*{match[1].upper()}*", text)


def test_the_page_lists_every_finding_as_the_program_has_it() -> None:
    listed = PAGE.read_text().partition("<!-- findings -->\n")[2].partition("\n<!-- end -->")[0]
    assert listed == describe_kinds()


def test_every_finding_that_is_not_well_says_why_and_how_to_mend_it() -> None:
    for kind in all_kinds():
        if kind.severity in {"warning", "problem"}:
            assert kind.why.endswith("."), kind.name
            assert kind.remedy, kind.name
        assert not kind.what.endswith("."), kind.name
