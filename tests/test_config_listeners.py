from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.loading import ConfigError, parse_config
from relay.config.model import Config, Listen, ListenerTls

HASH = "$scrypt$ln=14,r=8,p=1$AAECAwQFBgcICQoLDA0ODw$ca+UNSvPUNsDvh2I8ijnHGGJJAVw6AORKGaw/11W0N0"
USERS = f'[users]\nscanner = "{HASH}"\n"Chris Home" = "{HASH}"\n'


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """The [tls] table for files that are there; what they hold is for the listeners to judge."""
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()
    return f'[tls]\ncertificate = "{tmp_path}/cert.pem"\nkey = "{tmp_path}/key.pem"\n'


def parse(text: str) -> Config:
    return parse_config(text, machine_name="gw1.lan")


def test_listeners_have_no_tls_and_no_login_by_default() -> None:
    assert parse("[[listen]]").listen == (Listen("0.0.0.0", 25, "none", "1.2", "none", clear_password=False),)
    assert parse("").tls == ListenerTls(None, None)
    assert parse("").users == {}


def test_each_listener_has_its_own_settings(certificate: str, tmp_path: Path) -> None:
    config = parse(
        f"""
        [[listen]]
        address = "0.0.0.0:25"
        tls = "starttls"
        auth = "optional"
        [[listen]]
        address = "0.0.0.0:465"
        tls = "implicit"
        tls_minimum = "1.0"
        auth = "required"
        [[listen]]
        address = "0.0.0.0:2525"
        auth = "any"
        clear_password = true
        {certificate}
        {USERS}
        """
    )
    assert config.listen == (
        Listen("0.0.0.0", 25, "starttls", auth="optional"),
        Listen("0.0.0.0", 465, "implicit", "1.0", "required"),
        Listen("0.0.0.0", 2525, auth="any", clear_password=True),
    )
    assert config.tls == ListenerTls(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert config.users == {"scanner": HASH, "Chris Home": HASH}


@pytest.mark.parametrize("auth", ["optional", "required"])
def test_passwords_in_clear_must_be_asked_for(auth: str) -> None:
    listen = f'[[listen]]\nauth = "{auth}"\n'
    with pytest.raises(ConfigError, match="never taken without TLS"):
        parse(listen + USERS)
    assert parse(f"{listen}clear_password = true\n{USERS}").listen[0].clear_password


def test_where_any_password_will_do_no_user_is_needed(certificate: str) -> None:
    assert parse(f'[[listen]]\ntls = "starttls"\nauth = "any"\n{certificate}').users == {}


def test_a_certificate_is_needed_only_where_a_listener_shows_it() -> None:
    tls = '[tls]\ncertificate = "/nowhere/cert.pem"\nkey = "/nowhere/key.pem"\n'
    assert parse(tls).tls.key == Path("/nowhere/key.pem")
    with pytest.raises(ConfigError) as caught:
        parse(f'{tls}[[listen]]\ntls = "implicit"')
    assert [error.split(":")[2] for error in caught.value.errors] == [" tls.certificate", " tls.key"]


@pytest.mark.parametrize("value", ["hunter2", "$scrypt$hunter2", f"{HASH} hunter2", "$6$hunter2$abc"])
def test_what_is_no_hash_is_not_shown_again(value: str) -> None:
    with pytest.raises(ConfigError, match="relay passwd") as caught:
        parse(f'[users]\nscanner = "{value}"')
    assert "hunter2" not in str(caught.value)


def test_hashes_do_not_show_in_the_representation() -> None:
    assert "scrypt" not in repr(parse(USERS))
