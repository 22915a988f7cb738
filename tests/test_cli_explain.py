"""``relay explain`` as a command: what it says, of good and bad arguments, and its page."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.cli.main import EX_CONFIG, main
from relay.oauth.token_file import Token, write_token
from tests.support.dns_server import DnsServer, Failure, Records
from tests.support.smtp_server import Script, ScriptedServer

PAGE = Path(__file__).parents[1] / "docs" / "explain.md"
NAMES: dict[str, Records | Failure] = {
    "smtp.orange.fr": {"A": ["198.51.100.25"]},
    "aol.com": {"MX": ["10 mx1.aol.com.", "20 mx2.aol.com."]},
    "mx1.aol.com": {"A": ["198.51.100.71"], "AAAA": ["2001:db8::71"]},
    "mx2.aol.com": {"A": ["198.51.100.72"]},
    "half.test": {"MX": ["10 gone.half.test.", "20 mx.half.test."]},
    "mx.half.test": {"A": ["198.51.100.80"]},
    "null.test": {"MX": ["0 ."]},
    "free.fr": {"MX": ["10 mx1.free.fr."]},
    "free.test": {"MX": ["10 mx.half.test."]},
    "x.test": {"MX": ["10 mx.half.test."]},
    "broken.test": Failure.SERVFAIL,
}
WORDS = {
    "NO_RULE": "no line of relay.toml names another way",
    "TLS": "TLS where the server offers it, certificate not verified",
    "HALF": "mx.half.test [198.51.100.80]",
    "LOST": "Host or domain name not found. Name service error for",
    "INSIDE": "with the addresses of the house",
    "AOL1": "mx1.aol.com [2001:db8::71, 198.51.100.71]",
    "AOL2": "mx2.aol.com [198.51.100.72]",
}
"""What is said often."""
HOUSE = """
hostname = "gw1.maison.mrs"
domain = "maison.mrs"
postmaster = "boss@free.test"

[local]
domains = ["maison.mrs", "gw1.maison.mrs"]
users = ["chris"]
maildir = "/var/mail/{user}"
"""


@dataclass(frozen=True)
class Told:
    """What the command came to."""

    status: int
    out: str

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def steps(self) -> list[str]:
        """The steps as "kind: words", each on one line."""
        return [f"{step['step']}: {step['what']}" for step in self.data["steps"]]

    def about(self, kind: str) -> list[str]:
        """Return the words of the steps of one kind."""
        return [step["what"] for step in self.data["steps"] if step["step"] == kind]


Explain = Callable[..., Awaitable[Told]]


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer(NAMES) as server:
        yield server


@pytest.fixture
def explain(
    dns: DnsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Explain:
    """Return what runs the command under a configuration; JSON unless told otherwise."""
    monkeypatch.setenv("COLUMNS", "100")

    async def run(toml: str, *arguments: str, as_json: bool = True) -> Told:
        path = tmp_path / "relay.toml"
        path.write_text(toml + '\n[dns]\nnameservers = ["{}:{}"]\n'.format(*dns.address))
        options = ["--config", str(path), *(["--json"] if as_json else [])]
        status = await asyncio.to_thread(main, ["explain", *options, *arguments])
        return Told(status, capsys.readouterr().out)

    return run


def block_of(page: str, start: str) -> str:
    """Return the block of a page that begins with this text, without its fences."""
    found = re.search(rf"^```\w*\n({re.escape(start)}.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


async def test_the_example_of_the_page_is_what_the_command_says(explain: Explain, tmp_path: Path) -> None:
    page = PAGE.read_text()
    (tmp_path / "isp-password").write_text("secret")
    told = await explain(
        block_of(page, "hostname"),
        *("root@gw1.maison.mrs", "family", "--header", "Subject: hello", "--client", "192.168.0.3"),
        as_json=False,
    )
    assert told.out == block_of(page, "$ relay explain").partition("\n")[2]
    assert told.status == 0


class TestAccess:
    async def test_a_stranger_is_told_what_the_client_is_told(self, explain: Explain) -> None:
        told = await explain(HOUSE, "--client", "192.0.2.1", "a@x.test", "b@y.test")
        assert told.status == 1
        assert told.data["reply"].startswith(
            "554 5.7.1 <b@y.test>: relay access denied; your address is 192.0.2.1"
        )
        assert told.about("access")[0].startswith(
            '192.0.2.1 may not send to b@y.test (access.networks): the client is told "554 5.7.1 <b@y.test>'
        )
        assert told.data["verdict"] == "The message would not be taken as it is: see 1."
        assert (len(told.steps), told.data["copies"]) == (1, [])

    async def test_the_network_that_the_owner_wrote_has_a_line(self, explain: Explain) -> None:
        toml = f'{HOUSE}\n[access]\nnetworks = ["192.168.0.0/24", "fd00::/8"]\n'
        told = await explain(toml, "--client", "::ffff:192.168.0.3", "a@x.test", "chris@maison.mrs")
        words = "192.168.0.3 may send to anywhere (it is in 192.168.0.0/24: access.networks, relay.toml:12)"
        assert told.about("access") == [words]

    async def test_an_open_relay_says_so(self, explain: Explain) -> None:
        toml = f"{HOUSE}\n[access]\nopen_relay = true\n"
        told = await explain(toml, "--client", "192.0.2.1", "a@x.test", "chris")
        assert told.about("access") == ["192.0.2.1 may send to anywhere (access.open_relay, relay.toml:12)"]

    async def test_anybody_may_write_to_an_open_house(self, explain: Explain) -> None:
        rewriting = '[sender_canonical]\n"a@x.test" = "b@x.test"\n[rewrite]\nscope = "all"\n'
        toml = f'{HOUSE}accept = "anyone"\n{rewriting}'
        told = await explain(toml, "--client", "192.0.2.1", "a@x.test", "chris@maison.mrs")
        words = "192.0.2.1 may write to chris@maison.mrs, as anybody may (local.accept, relay.toml:10)"
        assert told.about("access") == [words]
        assert told.about("headers") == ["Received: added"]  # what strangers send is not rewritten
        assert told.about("sender") == ['a@x.test -> b@x.test (sender_canonical "a@x.test", relay.toml:12)']

    async def test_where_a_login_is_needed_it_is_told(self, explain: Explain) -> None:
        toml = f"""{HOUSE}
            [[listen]]
            auth = "required"
            clear_password = true
            [users]
            chris = "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$ca+UNSvPUNsDvh2I8ijnHGGJJAVw6AORKGaw/11W0N0"
        """
        told = await explain(toml, "a@x.test", "chris")
        assert told.about("access")[0].endswith(", once it has logged in (listen[1].auth, relay.toml:12)")


class TestRecipients:
    async def test_each_step_of_an_expansion_is_told(self, explain: Explain) -> None:
        toml = f"""{HOUSE}
            [recipient_canonical]
            "old@maison.mrs" = "all@maison.mrs"
            [aliases]
            All = ["chris", "family"]
            family = ["chris", "Aunt@x.test"]
        """
        told = await explain(toml, "a@x.test", "old@maison.mrs")
        assert told.about("recipient") == [
            'old@maison.mrs -> all@maison.mrs (recipient_canonical "old@maison.mrs", relay.toml:12)',
            'all@maison.mrs -> chris@maison.mrs, family@maison.mrs (aliases "all", relay.toml:14)',
            'family@maison.mrs -> chris@maison.mrs, Aunt@x.test (aliases "family", relay.toml:15)',
        ]

    async def test_a_name_alone_is_somebody_here(self, explain: Explain) -> None:
        toml = HOUSE.replace('domain = "maison.mrs"', 'domain = "free.test"')
        told = await explain(toml, "a@x.test", "chris")
        words = "chris -> chris@maison.mrs (a name alone is somebody here, where it is known)"
        assert told.about("recipient") == [words]
        assert told.about("delivery") == [
            "chris@maison.mrs goes into the mailbox /var/mail/chris (local.users, relay.toml:8)"
        ]

    async def test_the_postmaster_gets_what_nobody_else_takes(self, explain: Explain) -> None:
        told = await explain(HOUSE, "a@x.test", "postmaster")
        assert told.about("recipient") == ["postmaster -> boss@free.test (postmaster, relay.toml:4)"]
        told = await explain(HOUSE, "a@x.test", "root@maison.mrs")
        assert told.about("recipient") == ["root@maison.mrs -> boss@free.test (postmaster, relay.toml:4)"]

    async def test_everybody_else_may_have_an_alias(self, explain: Explain) -> None:
        told = await explain(f'{HOUSE}\n[aliases]\n"*" = "chris"\n', "a@x.test", "who@maison.mrs")
        assert told.about("recipient") == ['who@maison.mrs -> chris@maison.mrs (aliases "*", relay.toml:12)']

    @pytest.mark.parametrize(
        ("toml", "recipient", "rule", "reply"),
        [
            (
                "",
                "who@maison.mrs",
                "local.domains, relay.toml:7",
                "550 5.1.1 <who@maison.mrs>: there is no such",
            ),
            (
                '[transport]\n"gone.test" = "error:5.1.2 it is gone"',
                "a@Gone.test",
                'transport "gone.test", relay.toml:12',
                "550 5.1.2 <a@Gone.test>: it is gone",
            ),
            (
                '[aliases]\nAnna = "error:5.1.6 has moved"',
                "anna@maison.mrs",
                'aliases "anna", relay.toml:12',
                "550 5.1.6 <anna@maison.mrs>: has moved",
            ),
            (
                '[aliases]\n"*" = "error:nobody"',
                "who@maison.mrs",
                'aliases "*", relay.toml:12',
                "550 5.1.1 <who@maison.mrs>: nobody",
            ),
        ],
    )
    async def test_refusals_have_the_reply_of_the_session(
        self, explain: Explain, toml: str, recipient: str, rule: str, reply: str
    ) -> None:
        told = await explain(f"{HOUSE}\n{toml}\n", "a@x.test", recipient)
        assert told.status == 1
        assert told.data["reply"].startswith(reply)
        last = told.data["steps"][-1]
        assert last["what"].startswith(f'{recipient} is refused ({rule}): the client is told "{reply}')
        assert last["is_obstacle"] is True

    async def test_an_address_as_nobody_writes_it_today(self, explain: Explain) -> None:
        told = await explain(HOUSE, "a@x.test", "chris%maison.mrs")
        assert told.about("recipient") == ["chris%maison.mrs -> chris@maison.mrs (as always)"]

    async def test_a_mailbox_server_is_asked_whom_it_knows(self, explain: Explain) -> None:
        script = Script().but(RCPT=b"550 5.1.1 who?\r\n")
        async with ScriptedServer(script) as server:
            local = f'users = "*"\nlmtp = "127.0.0.1:{server.port}"'
            toml = HOUSE.replace('users = ["chris"]\nmaildir = "/var/mail/{user}"', local)
            told = await explain(toml, "a@x.test", "who@maison.mrs")
            assert all(not session.contents for session in server.sessions)
        assert told.status == 1
        assert told.steps[-1].startswith(
            "recipient: who@maison.mrs is refused (local.lmtp, relay.toml:9): the client"
        )


class TestWays:
    @pytest.mark.parametrize(
        ("toml", "recipient", "words"),
        [
            (
                "",
                "a@aol.com",
                "goes to the mail exchangers of aol.com ({NO_RULE}): {AOL1}:25, then {AOL2}:25, {TLS}",
            ),
            (
                "",
                "a@half.test",
                "goes to the mail exchangers of half.test ({NO_RULE}): {HALF}:25, {TLS}",
            ),
            ("", "a@[192.0.2.7]", "goes to 192.0.2.7 ({NO_RULE}): [192.0.2.7]:25, {TLS}"),
            (
                '[transport]\n".Test" = "[mx.half.test]:2525"',
                "a@b.test",
                'goes to mx.half.test (transport ".test", relay.toml:12): {HALF}:2525, {TLS}',
            ),
            (
                '[transport]\n"x.test" = { via = "[10.0.0.9]", internal = true }',
                "a@x.test",
                'goes to 10.0.0.9 (transport "x.test", relay.toml:12), {INSIDE}: [10.0.0.9]:25, {TLS}',
            ),
            (
                '[transport]\n"*" = "discard"',
                "a@x.test",
                'is accepted and forgotten (transport "*", relay.toml:12)',
            ),
            (
                '[sender_relayhost]\n"@X.test" = "[10.0.0.8]"',
                "a@y.test",
                'goes to 10.0.0.8 (sender_relayhost "@x.test", relay.toml:12): [10.0.0.8]:25, {TLS}',
            ),
            (
                '[sender_canonical]\n"b@half.test" = "c@half.test"',
                "b@half.test",
                "goes as c@half.test to the mail exchangers of half.test ({NO_RULE}): {HALF}:25, {TLS}",
            ),
        ],
    )
    async def test_a_way_is_told_with_its_rule_and_servers(
        self, explain: Explain, toml: str, recipient: str, words: str
    ) -> None:
        told = await explain(f"{HOUSE}\n{toml}\n", "a@x.test", recipient)
        expected = f"{recipient} {words.format_map(WORDS)}"
        assert (told.status, told.about("delivery")) == (0, [expected])

    @pytest.mark.parametrize(
        ("recipient", "words"),
        [
            ("a@null.test", "comes back to the sender: Domain null.test does not accept mail (null MX)"),
            (
                "a@nowhere.test",
                "comes back to the sender: {LOST} name=nowhere.test type=A: Host not found",
            ),
            (
                "a@broken.test",
                "waits, and is tried again: {LOST} name=broken.test type=MX: Host not found, try again",
            ),
        ],
    )
    async def test_a_domain_without_servers_is_an_obstacle(
        self, explain: Explain, recipient: str, words: str
    ) -> None:
        told = await explain(HOUSE, "a@x.test", recipient)
        assert told.status == 1
        assert told.about("delivery")[0].endswith(f"({WORDS['NO_RULE']}), but {words.format_map(WORDS)}")
        assert (
            told.data["verdict"]
            == f"The message would be taken, but not all copies would arrive now: see {len(told.steps)}."
        )
        assert told.data["copies"][0]["servers"] == []

    async def test_while_the_name_server_fails_mail_waits(self, explain: Explain, dns: DnsServer) -> None:
        dns.names = {"x.test": Failure.SERVFAIL}
        told = await explain(HOUSE, "a@x.test", "b@x.test")
        assert told.status == 1
        assert "waits, and is tried again" in told.steps[-1]

    async def test_who_is_refused_behind_an_alias_comes_back(self, explain: Explain) -> None:
        toml = f"""{HOUSE}
            [aliases]
            all = ["chris", "a@gone.test"]
            [transport]
            "gone.test" = "error:5.1.2 it is gone"
        """
        told = await explain(toml, "a@x.test", "all@maison.mrs")
        assert told.status == 1
        assert [copy["way"] for copy in told.data["copies"]] == ["mailbox", "refuse"]
        fate = 'comes back to the sender: 550 5.1.2 it is gone (transport "gone.test", relay.toml:14)'
        assert told.about("delivery")[1] == f"a@gone.test {fate}"

    async def test_a_mailbox_server_is_a_way(self, explain: Explain) -> None:
        toml = HOUSE.replace('maildir = "/var/mail/{user}"', 'lmtp = "mx.half.test"')
        told = await explain(toml, "a@x.test", "chris")
        words = f"goes to the mailbox server mx.half.test (local.lmtp, relay.toml:9): {WORDS['HALF']}:24"
        assert told.about("delivery") == [f"chris@maison.mrs {words}"]
        told = await explain(toml.replace("mx.half.test", "/run/lmtp"), "a@x.test", "chris")
        assert told.about("delivery") == [
            "chris@maison.mrs goes to the mailbox server /run/lmtp (local.lmtp, relay.toml:9)"
        ]


class TestTheSender:
    async def test_nobody_could_answer_it(self, explain: Explain) -> None:
        told = await explain(HOUSE, "root@gw1.maison.mrs", "b@y.test")
        assert told.status == 1
        (words,) = told.about("sender")
        assert words == (
            "root@gw1.maison.mrs may not write to b@y.test: the client is told"
            ' "550 5.1.8 <root@gw1.maison.mrs>: nobody outside could answer this sender, as the domain'
            ' gw1.maison.mrs does not exist. In relay.toml, put root = "your real address" under'
            ' [sender_canonical]."'
        )
        assert told.about("recipient") == ["b@y.test stays as it is"]

    async def test_the_rewritten_one_can_be_answered(self, explain: Explain) -> None:
        toml = f'{HOUSE}\n[sender_canonical]\nroot = "chris@free.fr"'
        told = await explain(toml, "root@gw1.maison.mrs", "b@x.test")
        assert told.status == 0


class TestLogins:
    SMARTHOST = """
        relayhost = "isp"
        [smarthost.isp]
        host = "smtp.orange.fr"
        tls = "{tls}"
        username = "chris"
        clear_password = true
        {secret}
    """
    START = "b@y.test goes to smarthost isp (relayhost, relay.toml:2): smtp.orange.fr [198.51.100.25]"

    @pytest.mark.parametrize(
        ("tls", "port", "words"),
        [
            ("implicit", 465, "TLS from the start, certificate verified"),
            ("starttls", 587, "TLS after STARTTLS or not at all, certificate verified"),
            ("opportunistic", 25, "TLS where the server offers it, certificate not verified"),
            ("none", 25, "no TLS"),
        ],
    )
    async def test_tls_and_login_are_told(self, explain: Explain, tls: str, port: int, words: str) -> None:
        toml = self.SMARTHOST.format(tls=tls, secret='password = "hunter2"')
        told = await explain(toml, "a@x.test", "b@y.test")
        end = "(smarthost.isp.tls, relay.toml:5), login as chris (smarthost.isp.password, relay.toml:8)"
        assert (told.status, told.about("delivery")) == (0, [f"{self.START}:{port}, {words} {end}"])
        assert "hunter2" not in told.out

    async def test_what_transport_demands_is_told(self, explain: Explain) -> None:
        toml = '[transport]\n"half.test" = { via = "mx", tls = "verify" }'
        told = await explain(toml, "a@x.test", "b@half.test")
        rule = 'transport "half.test", relay.toml:2'
        tls = "TLS after STARTTLS or not at all, certificate verified"
        assert told.about("delivery") == [
            f"b@half.test goes to the mail exchangers of half.test ({rule}): {WORDS['HALF']}:25, {tls}"
        ]

    async def test_a_secret_that_is_not_to_be_had_is_an_obstacle(
        self, explain: Explain, tmp_path: Path
    ) -> None:
        toml = self.SMARTHOST.format(tls="implicit", secret='password_file = "isp"')
        told = await explain(toml, "a@x.test", "b@y.test")
        assert told.status == 1
        assert told.steps[-1].endswith(
            f"but waits, as there is no login: the secret file {tmp_path}/isp cannot be read:"
            " No such file or directory"
        )

    async def test_a_token_is_looked_for_and_not_renewed(self, explain: Explain, tmp_path: Path) -> None:
        toml = """
            relayhost = "gmail"
            [smarthost.gmail]
            provider = "gmail"
            host = "smtp.orange.fr"
            username = "chris@gmail.com"
            auth = "xoauth2"
            client_id = "mine"
            token_file = "token.json"
        """
        told = await explain(toml, "a@x.test", "b@y.test")
        assert told.status == 1
        assert told.steps[-1].endswith(
            "as there is no login: smarthost gmail has no token yet; log in: relay login gmail"
        )
        write_token(tmp_path / "token.json", Token("opaque", "renewal", 0.0, 0.0))
        told = await explain(toml, "a@x.test", "b@y.test")
        assert told.status == 0
        assert told.steps[-1].endswith(
            "login as chris@gmail.com with an OAuth token (smarthost.gmail.auth, relay.toml:7)"
        )
        assert "opaque" not in told.out

    async def test_an_account_is_no_must(self, explain: Explain) -> None:
        toml = 'relayhost = "isp"\n[smarthost.isp]\nhost = "smtp.orange.fr"\n'
        told = await explain(toml, "a@x.test", "b@y.test")
        assert told.status == 0
        assert told.steps[-1].endswith("]:465, TLS from the start, certificate verified")


def checks(*rules: tuple[str, str], scope: str = "all") -> str:
    """Return header checks in TOML."""
    return "".join(
        f"[[header_checks]]\npattern = '{pattern}'\naction = '{action}'\nscope = '{scope}'\n"
        for pattern, action in rules
    )


class TestHeaders:
    @pytest.mark.parametrize(
        ("action", "words"),
        [
            ("IGNORE", "Subject is removed"),
            ("STRIP", "Subject is removed"),
            ("REPLACE X-$1: $1", 'Subject becomes "X-hello: hello"'),
            ("PREPEND X-Was: $1", 'above Subject stands "X-Was: hello"'),
            ("REPLACE $1", None),
            ("HOLD", "Subject makes the relay hold the message back"),
            ("DUNNO", "Subject is left alone: no later check looks at it"),
            ("PASS", "Subject ends the checks for this message"),
            ("WARN why", "Subject is written to the log, as a warning"),
            ("INFO", "Subject is written to the log"),
            ("BCC $1@x.test", "Subject makes the relay send the message to hello@x.test too"),
            (
                "REDIRECT chris@maison.mrs",
                "Subject makes the relay send the message to chris@maison.mrs in the place of its recipients",
            ),
        ],
    )
    async def test_a_check_is_told_with_its_place(
        self, explain: Explain, action: str, words: str | None
    ) -> None:
        toml = HOUSE + checks(("^X-No:", "IGNORE"), (r"^Subject: (\w+)", action))
        if words is None:
            assert await self.refused(explain, toml)
            return
        told = await explain(toml, "a@x.test", "chris@maison.mrs", "--header", "Subject: hello")
        assert told.about("headers")[0] == f"{words} (header_checks 2, relay.toml:14)"

    async def refused(self, explain: Explain, toml: str) -> bool:
        """Whether a configuration is refused."""
        return (await explain(toml, "a@x.test", "b@x.test")).status == EX_CONFIG

    async def test_what_a_check_makes_of_the_message_is_told(self, explain: Explain) -> None:
        arguments = ("a@x.test", "chris@maison.mrs", "--header", "Subject: hello")
        held = await explain(HOUSE + checks(("^Subject", "HOLD")), *arguments)
        assert (held.status, held.data["held"]) == (0, True)
        assert held.about("message") == ["The message waits until it is let go: relay queue release"]
        gone = await explain(HOUSE + checks(("^Subject", "DISCARD")), *arguments)
        assert (gone.status, gone.data["copies"]) == (0, [])
        assert gone.about("message") == ["The message is accepted and thrown away"]
        refused = await explain(HOUSE + checks(("^Subject", "REJECT 5.7.9 no $$")), *arguments)
        assert refused.status == 1
        assert refused.steps[-2:] == [
            "headers: Subject makes the relay refuse the message (header_checks 1, relay.toml:10)",
            'message: The message is refused: the client is told "550 5.7.9 no $"',
        ]
        copied = await explain(HOUSE + checks(("^Subject", "BCC a@aol.com")), *arguments)
        assert [copy["rcpt_to"] for copy in copied.data["copies"]] == ["chris@maison.mrs", "a@aol.com"]

    async def test_headers_of_one_name_are_told_together(self, explain: Explain) -> None:
        toml = HOUSE + checks(("^X-", "IGNORE"))
        headers = ("--header", "X-A: 1", "--header", "x-a: 2", "--header", "X-B: 3")
        told = await explain(toml, "a@x.test", "chris@maison.mrs", *headers)
        assert told.about("headers")[:2] == [
            "X-A is removed (2 times) (header_checks 1, relay.toml:10)",
            "X-B is removed (header_checks 1, relay.toml:10)",
        ]

    async def test_addresses_are_rewritten_on_arrival_and_on_the_way_out(self, explain: Explain) -> None:
        toml = f"""{HOUSE}
            [sender_canonical]
            root = "Boss <boss@free.test>"
            [recipient_canonical]
            "old@aol.com" = "new@aol.com"
        """ + checks(("^X-Secret", "IGNORE"), scope="external")
        headers = ("--header", "From: Root <root>", "--header", "To: old@aol.com", "--header", "X-Secret: 1")
        told = await explain(toml, "root", "old@aol.com", *headers, "--header", "Bcc: me@x.test")
        out, rule = "in copies that leave the house", 'sender_canonical "root", relay.toml:12'
        assert told.about("headers") == [
            'From "Root <root>" becomes "Root <root@maison.mrs>" (completed: domain, relay.toml:3)',
            'To "old@aol.com" becomes "new@aol.com" (recipient_canonical "old@aol.com", relay.toml:14)',
            "Bcc: not kept, as with any message",
            "Received, Message-Id, Date: added",
            f"X-Secret is removed {out} (header_checks 1, relay.toml:15)",
            f'From "Root <root@maison.mrs>" becomes "Boss <boss@free.test>" {out} ({rule})',
        ]
        assert told.about("sender") == [
            "root -> root@maison.mrs (completed: domain, relay.toml:3)",
            f"root@maison.mrs -> boss@free.test {out} ({rule})",
        ]
        copy = told.data["copies"][0]
        assert (copy["mail_from"], copy["rcpt_to"]) == ("boss@free.test", "new@aol.com")
        assert copy["headers"][1:3] == ["From: Boss <boss@free.test>", "To: new@aol.com"]

    async def test_a_long_header_is_cut(self, explain: Explain) -> None:
        toml = HOUSE + checks(("^Subject", "REPLACE Subject: " + "x" * 300))
        told = await explain(toml, "a@x.test", "chris@maison.mrs", "--header", "Subject: hello")
        assert told.about("headers")[0].startswith(f'Subject becomes "Subject: {"x" * 191} ..."')


class TestContent:
    async def test_a_whole_message_is_read(self, explain: Explain, tmp_path: Path) -> None:
        file = tmp_path / "message"
        file.write_bytes(
            b"From mailbox line\nSubject: =?utf-8?q?h=C3=A9?=\n folded\nX-Raw: caf\xe9 \xc3\xa9\n"
            b"From: root\r\n\nbody \xff\n.\nlast line"
        )
        toml = HOUSE + checks((r"^X-Raw: caf(.)", "PREPEND X-Seen: yes"), (r"q\?h.*\n folded", "IGNORE"))
        told = await explain(toml, "a@x.test", "chris@maison.mrs", "--message", str(file))
        assert told.status == 0
        assert told.about("headers")[:3] == [
            "Subject is removed (header_checks 2, relay.toml:14)",
            'above X-Raw stands "X-Seen: yes" (header_checks 1, relay.toml:10)',
            'From "root" becomes "root@maison.mrs" (completed: domain, relay.toml:3)',
        ]
        headers = told.data["copies"][0]["headers"]
        assert headers[1:5] == [
            "X-Mailbox-Line: From mailbox line",
            "X-Seen: yes",
            "X-Raw: caf\udce9 é",
            "From: root@maison.mrs",
        ]

    async def test_it_may_come_on_standard_input(
        self, explain: Explain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"To: all\n\nhello\n")))
        told = await explain(HOUSE, "a@x.test", "chris@maison.mrs", "--message", "-")
        assert 'headers: To "all" becomes "all@maison.mrs" (completed: domain, relay.toml:3)' in told.steps

    async def test_it_may_be_empty(self, explain: Explain, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        told = await explain(HOUSE, "", "chris@maison.mrs", "--message", str(tmp_path / "empty"))
        assert told.status == 0
        assert told.about("sender") == ["<> is nobody, as in reports"]
        assert told.about("headers") == ["Received, Message-Id, Date, From: added"]

    @pytest.mark.parametrize(
        ("content", "reply"),
        [
            ("Received: x\n" * 49, "554 5.4.0 The message has passed so many servers"),
            ("Delivered-To: chris@maison.mrs\n", "554 5.4.6 The message was in this mailbox before"),
            (f"X: 1\n\n{'x' * 2000}\n", "552 5.3.4 The message is too big"),
            (
                "Content-Type: multipart/mixed; boundary=b\n\n--b\nX-Bad: 1\n\nx\n--b--\n",
                "550 5.7.1 bad part",
            ),
        ],
    )
    async def test_what_the_relay_refuses_is_refused(
        self, explain: Explain, tmp_path: Path, content: str, reply: str
    ) -> None:
        (tmp_path / "message").write_text(content)
        toml = f'{HOUSE}\n[limits]\nmessage_size = "1500B"\n' + checks(("^X-Bad", "REJECT bad part"))
        told = await explain(toml, "a@x.test", "chris@maison.mrs", "--message", str(tmp_path / "message"))
        assert told.status == 1
        assert told.about("message")[0].startswith(f'The message is refused: the client is told "{reply}')
        assert told.data["verdict"] == f"The message would not be taken as it is: see {len(told.steps)}."

    async def test_a_header_may_be_folded_and_stand_for_the_address(self, explain: Explain) -> None:
        headers = ("--header", "Subject: a\n b", "--header", "from: me@x.test", "--header", "To :you@x.test")
        told = await explain(HOUSE, "a@x.test", "chris@maison.mrs", *headers)
        assert told.data["copies"][0]["headers"][1:4] == [
            "Subject: a\n b",
            "from: me@x.test",
            "To:you@x.test",
        ]


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["a b", "c@x.test"], 'SENDER: "a b" is no address; write it as anna@example.com'),
            (["a@x.test", ""], 'RECIPIENT: "" is no address; write it as anna@example.com'),
            (["a@x.test", "b@-.test"], 'RECIPIENT: "b@-.test" is no address'),
            (["\x1b[31m@x.test", "b@x.test"], 'SENDER: "?[31m@x.test" is no address'),
            (["a%\n@x..test", "b@x.test"], 'SENDER: "a% @x..test" is no address'),
            (["\udce9@x.test", "b@x.test"], 'SENDER: "?@x.test" is no address'),
            (
                ["a@x.test", "b@x.test", "--header", "Subject"],
                '--header: "Subject" is no header; write it as',
            ),
            (["a@x.test", "b@x.test", "--header", "A: 1\nB: 2"], '--header: "A: 1 B: 2" is no header'),
            (["a@x.test", "b@x.test", "--header", "A: 1\n\nbody"], '--header: "A: 1 body" is no header'),
            (
                ["a@x.test", "b@x.test", "--client", "laptop"],
                '--client: "laptop" is no IP address; write it as',
            ),
        ],
    )
    def test_what_makes_no_sense_is_told(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["explain", *arguments])
        assert caught.value.code == 2
        assert f"argument {words}" in capsys.readouterr().err

    async def test_hostile_addresses_are_made_printable(self, explain: Explain) -> None:
        told = await explain(HOUSE, '"a\u202eb"@x.test', "ü@half.test", as_json=False)
        assert told.status == 0
        assert "a?b@x.test stays as it is" in told.out
        assert all(character.isprintable() or character == "\n" for character in told.out)

    async def test_hostile_headers_are_made_printable(self, explain: Explain, tmp_path: Path) -> None:
        (tmp_path / "message").write_bytes(b"From: \x1b[2J\x07 <root>\nTo: caf\xe9 <all>\nSubject\t: x\n\n")
        toml = HOUSE + checks((r"^Subject(.*)", r"PREPEND X-Was: $1"))
        told = await explain(
            toml, "a@x.test", "chris@maison.mrs", "--message", str(tmp_path / "message"), as_json=False
        )
        assert told.status == 0
        assert all(character.isprintable() or character == "\n" for character in told.out)

    def test_a_configuration_with_errors_is_not_explained(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "relay.toml").write_text('relayhost = "isp"\n[x\n')
        arguments = ["--config", str(tmp_path / "relay.toml"), "a@x.test", "b@x.test"]
        assert main(["explain", *arguments]) == EX_CONFIG
        assert capsys.readouterr().err.startswith(f"{tmp_path}/relay.toml:2: not valid TOML")

    def test_a_message_that_is_not_there_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["explain", "a@x.test", "b@x.test", "--message", "/nonexistent"]) == 1
        assert "No such file or directory: '/nonexistent'" in capsys.readouterr().err
