"""``relay login`` as its owner sees it, against a provider on the loopback interface."""

from __future__ import annotations

import io
import re
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from relay.cli.login import REDIRECT_URI
from relay.cli.main import EX_CONFIG, main
from relay.config.loading import load_config
from relay.config.providers import PROVIDERS, OAuth
from relay.oauth.account import oauth_account
from relay.oauth.token_file import read_token
from relay.oauth.tokens import Tokens
from tests.support.oauth_server import CLIENT_ID, SECRET_MARK, Answer, OAuthServer, refusal
from tests.support.service import find_flaw


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[OAuthServer]:
    """A provider that stands in for Microsoft, with a device flow, and for Google, without."""
    with OAuthServer() as server:
        endpoints = OAuth(server.url("authorize"), server.url("token"), "mail", server.url("device"))
        monkeypatch.setitem(PROVIDERS, "outlook", replace(PROVIDERS["outlook"], oauth=endpoints))
        monkeypatch.setitem(
            PROVIDERS, "gmail", replace(PROVIDERS["gmail"], oauth=replace(endpoints, device=""))
        )
        yield server


class Owner(io.StringIO):
    """A keyboard: what is typed depends on what is read; without an answer, the end of the input."""

    def __init__(self, screen: pytest.CaptureFixture[str], *answers: Callable[[str], str]) -> None:
        super().__init__()
        self.out = ""
        self.err = ""
        self._screen = screen
        self._answers = list(answers)

    def look(self) -> None:
        out, err = self._screen.readouterr()
        self.out += out
        self.err += err

    def readline(self, *_: object) -> str:
        self.look()
        return self._answers.pop(0)(self.out) + "\n" if self._answers else ""


Sit = Callable[..., Owner]


@pytest.fixture
def sit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Sit:
    def sit(*answers: Callable[[str], str]) -> Owner:
        owner = Owner(capsys, *answers)
        monkeypatch.setattr(sys, "stdin", owner)
        return owner

    return sit


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    accounts = (
        f"""
        [smarthost.{name}]
        provider = "{name}"
        username = "me@{name}.com"
        auth = "xoauth2"
        client_id = "{CLIENT_ID}"
        """
        for name in ("gmail", "outlook")
    )
    isp = '[smarthost.isp]\nhost = "smtp.example.net"\n'
    path.write_text(f'[queue]\npath = "{tmp_path}/queue.db"\n{isp}{"".join(accounts)}')
    return path


def log_in(name: str, config: Path) -> int:
    return main(["login", name, "--config", str(config)])


async def token_of(name: str, config: Path) -> str:
    account = oauth_account(name, load_config(config, {}).smarthost[name])
    assert account is not None
    return await Tokens({name: account}).access_token(name)


# Device flow


async def test_a_code_typed_at_the_provider_gives_a_token(
    config: Path, provider: OAuthServer, sit: Sit
) -> None:
    provider.polls_before_consent = 2
    owner = sit()
    assert log_in("outlook", config) == 0
    owner.look()
    path = config.parent / "tokens" / "outlook.json"
    assert owner.out == (
        f"1. On any computer or telephone, open {provider.url('activate')}\n"
        "2. Enter the code WDJB-MJHT\n"
        "3. Log in as me@outlook.com and agree.\n"
        "Waiting for you, 15 minutes at most (Ctrl-C gives up) ...\n"
        f"Logged in: smarthost outlook has its token, in {path}.\n"
        "The relay uses it from its next attempt on; for that at once: relay queue retry --all\n"
    )
    assert owner.err == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert provider.accepts(await token_of("outlook", config))


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (refusal("access_denied"), "you or the provider did not agree (access_denied)"),
        (
            refusal("authorization_declined", "No."),
            "you or the provider did not agree (authorization_declined: No.)",
        ),
        (refusal("expired_token"), "the code has expired; start again"),
        (
            refusal("invalid_scope"),
            "the provider refuses (invalid_scope); check client_id and client_secret, see docs/oauth.md",
        ),
    ],
)
def test_a_refusal_is_told_in_a_sentence(
    config: Path, provider: OAuthServer, sit: Sit, answer: Answer, sentence: str
) -> None:
    provider.script.extend([provider.begin_device_flow(), answer])
    owner = sit()
    assert log_in("outlook", config) == 1
    owner.look()
    assert owner.err == f"relay: {sentence}\n"
    assert not (config.parent / "tokens").exists()


def test_a_provider_that_is_down_is_told_in_a_sentence(config: Path, provider: OAuthServer, sit: Sit) -> None:
    provider.script.append(Answer(503, b""))
    owner = sit()
    assert log_in("outlook", config) == 1
    owner.look()
    assert (owner.out, owner.err) == ("", "relay: 127.0.0.1 answers with HTTP status 503\n")


def test_a_token_that_cannot_be_renewed_is_not_kept(config: Path, provider: OAuthServer, sit: Sit) -> None:
    provider.gives_refresh_token = False
    owner = sit()
    assert log_in("outlook", config) == 1
    owner.look()
    assert owner.err == "relay: the provider gave a token that cannot be renewed; see docs/oauth.md\n"
    assert not (config.parent / "tokens").exists()


def test_a_token_that_cannot_be_written_is_told(config: Path, provider: OAuthServer, sit: Sit) -> None:
    (config.parent / "tokens").write_text("in the way")
    owner = sit()
    assert log_in("outlook", config) == 1
    owner.look()
    assert owner.err.startswith("relay: [Errno 20] Not a directory")


# Code flow


def link(out: str) -> str:
    return re.findall(r"http://127\S+/authorize\S+", out)[-1]


async def test_an_address_brought_back_from_a_browser_gives_a_token(
    config: Path, provider: OAuthServer, sit: Sit
) -> None:
    owner = sit(lambda out: provider.agree_in_browser(link(out)))
    assert log_in("gmail", config) == 0
    owner.look()
    assert re.fullmatch(
        r"1\. On any computer, open this link in a browser:\n\nhttp\S+login_hint=me%40gmail.com\n\n"
        r"2\. Log in as me@gmail\.com and agree\.\n"
        rf"3\. The browser then fails to open a page at {re.escape(REDIRECT_URI)} - that is as it "
        r"should be\.\n"
        r"   Copy that page's whole address from the address bar, paste it here and press Enter\.\n"
        r"Address: Logged in: smarthost gmail has its token, in \S+/tokens/gmail\.json\.\n.*\n",
        owner.out,
    )
    assert owner.err == ""
    assert provider.accepts(await token_of("gmail", config))


def test_a_wrong_paste_may_be_mended(config: Path, provider: OAuthServer, sit: Sit) -> None:
    owner = sit(
        lambda _: "",
        lambda _: f"{REDIRECT_URI}?state=of-last-week&code=c",
        lambda out: provider.agree_in_browser(link(out)),
    )
    assert log_in("gmail", config) == 0
    owner.look()
    assert owner.err == (
        "relay: this is not the address that the browser ends at: it has no state= in it\n"
        "relay: this address belongs to another login; use the link above\n"
    )


def test_giving_up_is_told(config: Path, provider: OAuthServer, sit: Sit) -> None:
    owner = sit()
    assert log_in("gmail", config) == 1
    owner.look()
    assert owner.err == "relay: no address was given; in a container, use docker exec -it\n"


def test_an_address_that_says_no_ends_it(config: Path, provider: OAuthServer, sit: Sit) -> None:
    owner = sit(lambda out: provider.agree_in_browser(link(out)).replace("code=", "error=access_denied&x="))
    assert log_in("gmail", config) == 1
    owner.look()
    assert owner.err == "relay: you or the provider did not agree (access_denied)\n"


def test_an_address_that_is_used_twice_is_refused(config: Path, provider: OAuthServer, sit: Sit) -> None:
    provider.script.append(refusal("invalid_grant", "Already redeemed."))
    owner = sit(lambda out: provider.agree_in_browser(link(out)))
    assert log_in("gmail", config) == 1
    owner.look()
    assert owner.err == (
        "relay: the provider does not take the answer (invalid_grant: Already redeemed.); start again\n"
    )


# Configuration


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gmial", 'there is no [smarthost.gmial] in relay.toml; did you mean "gmail"?'),
        ("x", "there is no [smarthost.x] in relay.toml"),
        ("isp", '[smarthost.isp] does not use OAuth: set auth = "xoauth2" and a provider that has it'),
    ],
)
def test_a_smarthost_without_oauth_is_told(config: Path, sit: Sit, name: str, sentence: str) -> None:
    owner = sit()
    assert log_in(name, config) == 1
    owner.look()
    assert owner.err == f"relay: {sentence}\n"


def test_a_secret_that_cannot_be_read_is_told(config: Path, sit: Sit, tmp_path: Path) -> None:
    config.write_text(config.read_text() + f'client_secret_file = "{tmp_path}/none"\n')
    owner = sit()
    assert log_in("outlook", config) == 1
    owner.look()
    assert re.fullmatch(rf"relay: .*{tmp_path}/none.*\n", owner.err)


def test_a_configuration_error_comes_first(config: Path, sit: Sit) -> None:
    config.write_text('relayhots = "isp"\n')
    assert log_in("gmail", config) == EX_CONFIG


def test_no_secret_is_shown(config: Path, provider: OAuthServer, sit: Sit) -> None:
    shown = ""
    for name in ("outlook", "gmail"):
        owner = sit(lambda out: provider.agree_in_browser(link(out)))
        assert log_in(name, config) == 0
        owner.look()
        shown += owner.out + owner.err
        stored = read_token(config.parent / "tokens" / f"{name}.json")
        assert SECRET_MARK in stored.access_token
        assert SECRET_MARK in stored.refresh_token
    assert SECRET_MARK not in shown
    assert not find_flaw(shown)
