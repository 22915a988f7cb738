from __future__ import annotations

import re
import socket
import tomllib
from dataclasses import fields, is_dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.config import loading, model
from relay.config.loading import ConfigError, find_config, load_config, parse_config
from relay.config.model import AUTO, Access, Alerts, Config, Dns, Limits, Listen, Log, Queue, Rewrite, Web
from relay.config.secrets import Secret
from tests.support.dkim import write_key

EXAMPLE = (Path(__file__).parent.parent / "relay.toml.example").read_text(encoding="utf-8")


def parse(text: str, machine_name: str = "gw1.lan") -> Config:
    return parse_config(text, machine_name=machine_name)


def uncomment(text: str) -> str:
    """Take the "#" from lines that hold settings: those in which no space follows it."""
    return re.sub(r"(?m)^#(?=\S)", "", text)


def test_an_empty_file_gives_safe_defaults() -> None:
    config = parse("")
    assert config.hostname == config.helo_name == config.domain == "gw1.lan"
    assert config.local.domains == ("gw1.lan", "localhost")
    assert config.listen == (Listen("0.0.0.0", 25),)
    assert config.relayhost is None
    assert config.postmaster == ""
    assert all(network.is_private for network in config.access.networks)
    assert not config.access.open_relay
    assert config.queue == Queue()
    assert config.limits == Limits()


@pytest.mark.parametrize(
    ("machine_name", "hostname"),
    [
        ("GW1.lan", "gw1.lan"),
        ("gw1", "gw1"),
        ("0123456789ab", "relay.localdomain"),
        ("0123456789abcdef" * 4, "relay.localdomain"),
        ("0123456789abcdef", "0123456789abcdef"),
        ("", "relay.localdomain"),
        ("my gateway", "relay.localdomain"),
    ],
)
def test_the_hostname_is_the_machines_but_never_a_container_id(machine_name: str, hostname: str) -> None:
    assert parse("", machine_name).hostname == hostname


def test_the_other_names_follow_the_hostname() -> None:
    config = parse('hostname = "Mail.Example.org"')
    assert (config.helo_name, config.domain) == ("mail.example.org", "mail.example.org")
    assert config.local.domains == ("mail.example.org", "localhost")


def test_the_ehlo_name_may_follow_the_public_address() -> None:
    config = parse('helo_name = "auto"\naddress_notice = true\npostmaster = "chris@free.fr"')
    assert (config.helo_name, config.address_notice, config.hostname) == (AUTO, True, "gw1.lan")
    assert not parse('helo_name = "auto"').address_notice


def test_a_machine_named_localhost_has_one_local_domain() -> None:
    assert parse("", "localhost").local.domains == ("localhost",)


def test_the_domain_is_not_local_by_itself() -> None:
    assert parse('domain = "maison.mrs"').local.domains == ("gw1.lan", "localhost")


def test_everything_can_be_set() -> None:
    config = parse(
        """
        helo_name = "out.example.org"
        domain = "maison.mrs"
        postmaster = '"chris home"@free.fr'
        [[listen]]
        address = "127.0.0.1:2525"
        [[listen]]
        address = "[::1]:2525"
        [access]
        networks = ["192.168.0.7/24"]
        [rewrite]
        scope = "all"
        [local]
        domains = ["Maison.MRS"]
        [queue]
        path = "/tmp/q.db"
        retry = ["500ms", "2s"]
        lifetime = "1h"
        warn_after = "0s"
        history = "0s"
        history_subjects = true
        [limits]
        message_size = "10 MiB"
        recipients = 5
        connections = 6
        connections_per_client = 7
        messages_per_hour = 8
        [dns]
        nameservers = ["127.0.0.1:5353", "::1"]
        [log]
        format = "json"
        level = "debug"
        """
    )
    assert (config.helo_name, config.domain, config.postmaster) == (
        "out.example.org",
        "maison.mrs",
        "chris home@free.fr",
    )
    assert config.listen == (Listen("127.0.0.1", 2525), Listen("::1", 2525))
    assert config.access == Access((ip_network("192.168.0.0/24"),))
    assert config.rewrite == Rewrite("all")
    assert config.local.domains == ("maison.mrs",)
    assert config.queue == Queue(Path("/tmp/q.db"), (0.5, 2), 3600, 0, 0, history_subjects=True)
    assert config.limits == Limits(10 * 2**20, 5, 6, 7, 8)
    assert config.dns == Dns((("127.0.0.1", 5353), ("::1", 53)))
    assert config.log == Log("json", "debug")


def test_an_open_relay_must_be_asked_for() -> None:
    config = parse('[access]\nnetworks = ["0.0.0.0/0", "::/0"]\nopen_relay = true')
    assert config.access == Access((ip_network("0.0.0.0/0"), ip_network("::/0")), open_relay=True)


def test_where_the_status_page_is() -> None:
    assert parse("").web == Web("127.0.0.1", 8025)
    assert parse('[web]\naddress = ""').web == Web("", 0)
    assert parse('[web]\naddress = "[::1]:0"').web == Web("::1", 0)
    assert parse('[web]\naddress = "0.0.0.0:80"\npassword = "p"').web == Web("0.0.0.0", 80, Secret("p"))


def test_who_gets_alerts() -> None:
    assert parse("").alerts == Alerts()
    assert parse('[alerts]\ncommand = ["notify", "-x y"]').alerts == Alerts(("notify", "-x y"))
    assert parse('[alerts]\nwebhook = "https://ntfy.sh/a"').alerts == Alerts(
        webhook=Secret("https://ntfy.sh/a")
    )
    assert parse('[alerts]\nwebhook_env = "HOOK"\nform = "json"').alerts == Alerts(
        webhook=Secret(variable="HOOK"), form="json"
    )


def test_nobody_may_be_allowed_to_relay() -> None:
    assert parse("[access]\nnetworks = []").access.networks == ()


def test_the_example_as_it_is_changes_nothing() -> None:
    assert parse(EXAMPLE) == parse("")


def test_the_example_without_comment_signs_shows_the_defaults(tmp_path: Path) -> None:
    config = parse(uncomment(EXAMPLE).replace("/etc/relay/dkim.pem", str(write_key(tmp_path / "dkim.pem"))))
    defaults = parse("")
    for name in ("listen", "access", "rewrite", "queue", "limits", "log"):
        assert getattr(config, name) == getattr(defaults, name)
    assert config.helo_name == config.domain == config.hostname
    assert config.local.domains == (config.hostname, "localhost")


def test_the_example_without_comment_signs_has_every_key() -> None:
    def missing(cls: type, table: object) -> list[str]:
        assert isinstance(table, dict)
        names = [field.name for field in fields(cls)]
        return [f"{cls.__name__}.{name}" for name in names if name not in table]

    document = tomllib.loads(uncomment(EXAMPLE))
    assert missing(Config, document) == []
    document["local"]["lmtp"] = ""  # it cannot stand beside maildir
    for field in fields(Config):
        cls = getattr(model, field.name.capitalize(), None)
        if is_dataclass(cls) and cls not in (
            Listen,
            model.Smarthost,
            model.Aliases,
            model.Web,
            model.Alerts,
            model.Dkim,
        ):
            assert missing(cls, document[field.name]) == []
    shown = {key: None for smarthost in document["smarthost"].values() for key in smarthost}
    forms = {key.removesuffix("_file").removesuffix("_env"): None for key in shown}
    assert missing(model.Smarthost, shown | forms) == []
    assert missing(model.ListenerTls, document["tls"]) == []
    assert missing(Listen, document["listen"][0] | {"host": "", "port": 0}) == []
    assert document["web"].keys() == {"address", "password_file"}
    assert document["alerts"].keys() == {"command", "webhook_file", "form"}
    assert document["dkim"]["example.org"].keys() == {"selector", "key_file"}
    assert document["header_checks"][0].keys() == {"pattern", "action", "scope"}


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of our own, without any of the usual files."""
    (tmp_path / "etc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "USUAL_PATHS", (Path("relay.toml"), tmp_path / "etc" / "relay.toml"))
    return tmp_path


def write(path: Path, hostname: str) -> Path:
    path.write_text(f'hostname = "{hostname}"\n', encoding="utf-8")
    return path


def test_the_file_is_searched_in_order(somewhere: Path) -> None:
    assert find_config(None, {}) is None
    write(somewhere / "etc" / "relay.toml", "etc.lan")
    assert load_config(None, {}).hostname == "etc.lan"
    write(somewhere / "relay.toml", "here.lan")
    assert load_config(None, {}).hostname == "here.lan"
    environ = {"RELAY_CONFIG": str(write(somewhere / "environ.toml", "environ.lan"))}
    assert load_config(None, environ).hostname == "environ.lan"
    option = write(somewhere / "option.toml", "option.lan")
    assert load_config(option, environ).hostname == "option.lan"


def test_without_a_file_all_is_default(somewhere: Path) -> None:
    assert load_config(None, {"RELAY_CONFIG": ""}) == parse_config("", machine_name=socket.gethostname())


def test_a_relative_queue_path_starts_at_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "relay.toml").write_text('[queue]\npath = "state/queue.db"')
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "relay.toml", {}).queue.path == tmp_path / "state/queue.db"
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("relay.toml"), {}).queue.path == tmp_path / "state/queue.db"


def test_all_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "relay.toml").write_text(
        '[tls]\ncertificate = "c.pem"\nkey = "/k.pem"\n[smarthost.isp]\nhost = "isp.test"\n'
        'username = "me"\npassword_file = "secret"\n'
    )
    config = load_config(tmp_path / "relay.toml", {})
    assert (config.tls.certificate, config.tls.key) == (tmp_path / "c.pem", Path("/k.pem"))
    assert config.smarthost["isp"].password == Secret(file=tmp_path / "secret")


@pytest.mark.parametrize("postmaster", ["me@gw.test", "me@GW.test"])
@pytest.mark.parametrize("key", ["*", "gw.test", "me@gw.test", ".test"])
def test_a_postmaster_in_a_local_domain_needs_a_way_out(postmaster: str, key: str) -> None:
    text = f'hostname = "gw.test"\npostmaster = "{postmaster}"\n[transport]\n"{key}" = "[hub.test]"'
    assert parse_config(text, machine_name="x").postmaster == postmaster


@pytest.mark.parametrize("environ", [{}, {"RELAY_CONFIG": "missing.toml"}])
def test_a_file_that_was_asked_for_must_exist(somewhere: Path, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None if environ else Path("missing.toml"), environ)
    assert caught.value.errors == ("missing.toml: can't be read: No such file or directory",)


def test_a_folder_is_no_configuration(somewhere: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(somewhere, {})
    assert caught.value.errors == (f"{somewhere}: can't be read: Is a directory",)


def test_errors_name_the_file(somewhere: Path) -> None:
    (somewhere / "mine.toml").write_text("hostname = 1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Path("mine.toml"), {})
    assert caught.value.errors == ("mine.toml:1: hostname: must be a name in quotes, not a number",)


def test_a_file_in_another_encoding_is_told_with_its_line(somewhere: Path) -> None:
    (somewhere / "relay.toml").write_bytes('domain = "lan"\n# Müller\n'.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        load_config(None, {})
    assert caught.value.errors == ("relay.toml:2: is not UTF-8 text; save the file as UTF-8",)


def test_a_file_from_a_windows_editor_is_read(somewhere: Path) -> None:
    (somewhere / "relay.toml").write_bytes(
        b'\xef\xbb\xbfhostname = "gw1.lan"\r\n\r\n[log]\r\nlevel = "debug"\r\n'
    )
    assert load_config(None, {}).log.level == "debug"
