"""From the settings of a Postfix to those of the relay: each by itself, the odd and the hostile ones too."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.config.loading import parse_config
from relay.config.model import PRIVATE_NETWORKS, Config, Listen
from relay.mail.route import ByMx, NextHop
from relay.postfix.draft import Draft
from relay.postfix.translation import settle
from relay.postfix.writing import write_toml
from tests.support.postfix_import import MACHINE, assert_written, draft_of, import_files, lacks_of

MODERN = "compatibility_level = 3.6\nmyhostname = gw1.maison.example\nmynetworks = 127.0.0.1\n"
VIRTUAL = "virtual_alias_maps = hash:/etc/postfix/map\n"
SASL = "smtp_sasl_auth_enable = yes\nsmtp_sasl_password_maps = hash:/etc/postfix/sasl\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "postfix"


def config_of(folder: Path, main_cf: str, **files: str) -> Config:
    names = {name.replace("_cf", ".cf"): text for name, text in files.items()}
    return import_files(folder, MODERN + main_cf, names)[0]


def lacks_from(folder: Path, main_cf: str, **files: str) -> dict[str, str]:
    names = {name.replace("_cf", ".cf"): text for name, text in files.items()}
    return lacks_of(import_files(folder, MODERN + main_cf, names)[1])


@pytest.mark.parametrize(
    ("main_cf", "shown"),
    [
        ("relayhost = [mail.isp.example]", "isp none"),
        ("relayhost = smtp.isp.example:25", "isp none mx"),
        ("relayhost = [smtp.isp.example]:587", "isp starttls"),
        ("relayhost = [smtp.isp.example]:submissions", "isp implicit"),
        ("relayhost = [smtp.isp.example]:2525\nsmtp_tls_security_level = may", "isp opportunistic"),
        ("relayhost = [smtp.isp.example]:2525\nsmtp_use_tls = yes", "isp opportunistic"),
        ("relayhost = [smtp.isp.example]:2525\nsmtp_enforce_tls = yes", "isp starttls"),
        ("relayhost = [smtp.isp.example]\nsmtp_tls_wrappermode = yes", "isp implicit"),
        ("relayhost = [smtp.isp.example]\nsmtp_tls_security_level = secure", "isp starttls"),
        ("relayhost = [192.168.0.9]\nsmtp_tls_security_level = encrypt", "host starttls"),
        ("relayhost = [local]:587", "local-me starttls"),
    ],
)
def test_how_a_password_goes_out(main_cf: str, shown: str, folder: Path) -> None:
    sasl = "".join(
        f"{host} me:word\n"
        for host in (
            "mail.isp.example",
            "smtp.isp.example",
            "smtp.isp.example:25",
            "[smtp.isp.example]:587",
            "[192.168.0.9]",
            "[local]:587",
        )
    )
    name, tls, *_ = shown.split()
    config = config_of(folder, SASL + main_cf, sasl=sasl)
    smarthost = config.smarthost[name]
    assert (smarthost.username, smarthost.tls) == ("me", tls)
    assert smarthost.clear_password == (tls in ("none", "opportunistic"))
    assert config.relayhost
    assert config.relayhost.smarthost == name
    text = write_toml(draft_of(folder)[0], "x")
    assert ("asked the DNS" in text) == shown.endswith("mx")


@pytest.mark.parametrize("entry", ["", "[smtp.isp.example] nocolon\n", "[smtp.isp.example] :x\n"])
def test_a_relayhost_without_an_account(entry: str, folder: Path) -> None:
    config = config_of(folder, SASL + "relayhost = [smtp.isp.example]", sasl=entry)
    assert config.relayhost == NextHop("smtp.isp.example", 25, is_relayhost=True)
    assert not config.smarthost


def test_names_of_smarthosts_are_one_each(folder: Path) -> None:
    transport = "".join(
        f"d{n}.example smtp:[mx.isp.example]:{port}\n" for n, port in enumerate((1025, 2025, 3025))
    )
    sasl = "mx.isp.example me@isp:word\n"
    config = config_of(
        folder, SASL + "transport_maps = hash:/etc/postfix/transport", transport=transport, sasl=sasl
    )
    assert [*config.smarthost] == ["isp", "isp-me", "isp-me-2"]
    plain = SASL.replace("yes", "no") + "smtp_tls_security_level = encrypt\n"
    config = config_of(folder, plain + "transport_maps = hash:/etc/postfix/transport", transport=transport)
    assert [*config.smarthost] == ["isp", "isp-2", "isp-3"]


def test_passwords_never_stand_in_comments(folder: Path) -> None:
    _, draft = import_files(
        folder,
        f"{MODERN}smtp_sasl_password_maps = inline:{{ [a.example] = me:s3cret }}, static:me:s3cret\n"
        "lmtp_sasl_password_maps = static:me:s3cret!\n",
    )
    assert "s3cret" not in write_toml(draft, "x")
    _, draft = import_files(folder, f"{MODERN}{SASL}smtp_sasl_password_maps = cdbx:me:s3cret\n")
    assert "s3cret" not in write_toml(draft, "x")


def test_the_tls_of_mail_exchangers(folder: Path) -> None:
    policies = (
        "bank.example secure match=nexthop\n.bank.example verify\nold.example none\nmay.example may\n"
        "must.example encrypt\nroute.example verify\nhub.example verify\n[mx.bank.example]:587 secure\n"
    )
    tables = "smtp_tls_policy_maps = hash:/etc/postfix/policy\ntransport_maps = hash:/etc/postfix/transport\n"
    transport = "route.example smtp:\nhub.example smtp:[192.168.0.9]\n"
    config = config_of(folder, tables, policy=policies, transport=transport)
    assert {key: entry.via for key, entry in config.transport.items()} == {
        "route.example": ByMx("starttls"),
        "hub.example": NextHop("192.168.0.9"),
        "bank.example": ByMx("starttls"),
        ".bank.example": ByMx("starttls"),
        "old.example": ByMx("none"),
    }
    reason = 'tls = "verify" in [transport] asks for a certificate with the right name'
    lacks = lacks_from(folder, tables, policy=policies, transport=transport)
    assert lacks["smtp_tls_policy_maps: must.example encrypt"] == reason
    tables = f"relayhost = [10.0.0.1]\n{tables}"
    config = config_of(folder, tables, policy=policies, transport=transport)
    assert [key for key, entry in config.transport.items() if isinstance(entry.via, ByMx)] == [
        "route.example"
    ]


@pytest.mark.parametrize(
    ("main_cf", "prefer"),
    [
        ("inet_protocols = ipv4\n", "ipv4"),
        ("inet_protocols = ipv4, ipv6\n", "ipv6"),
        ("smtp_address_preference = IPv4\n", "ipv4"),
        ("smtp_address_preference = any\n", "ipv6"),
    ],
)
def test_which_addresses_are_tried_first(main_cf: str, prefer: str, folder: Path) -> None:
    assert config_of(folder, main_cf).prefer == prefer


def test_default_transport(folder: Path) -> None:
    config = config_of(folder, "default_transport = smtp:[out.example]\n")
    assert config.relayhost == NextHop("out.example", 25, is_relayhost=True)
    config = config_of(folder, "default_transport = discard:\n")
    assert {*config.transport} == {"*", "gw1.maison.example", "localhost.maison.example", "localhost"}
    assert "default_transport = uucp:x" in lacks_from(folder, "default_transport = uucp:x\n")
    assert "default_transport = [x" in lacks_from(folder, "default_transport = smtp:[x\n")


def test_a_fallback(folder: Path) -> None:
    config = config_of(folder, "smtp_fallback_relay = [out.example]:2525\n")
    assert config.fallback == NextHop("out.example", 2525, is_relayhost=True)
    config = config_of(
        folder,
        SASL + "fallback_relay = [smtp.isp.example]:587\n",
        sasl="[smtp.isp.example]:587 me:word\n",
    )
    assert config.fallback
    assert config.fallback.smarthost == "isp"
    assert config.smarthost["isp"].username == "me"


@pytest.mark.parametrize(
    "main_cf",
    [
        "smtp_fallback_relay = [a.example], [b.example]",
        "relayhost = [isp.example]\nsmtp_fallback_relay = [b.example]",
        "default_transport = smtp:[isp.example]\nsmtp_fallback_relay = [b.example]",
    ],
)
def test_what_is_no_fallback_here(main_cf: str, folder: Path) -> None:
    lacks = lacks_from(folder, main_cf)
    assert "fallback is one host" in lacks[main_cf.splitlines()[-1]]
    assert draft_of(folder)[0].find("fallback") is None


def test_a_fallback_that_is_no_host(folder: Path) -> None:
    lacks = lacks_from(folder, "smtp_fallback_relay = [x")
    assert lacks == {"smtp_fallback_relay = [x": "is no host, such as [smtp.example.org]:587"}


def test_senders_by_pattern_and_wrong_hosts(folder: Path) -> None:
    lacks = lacks_from(
        folder,
        "relayhost = [x\nsender_dependent_relayhost_maps = hash:/etc/postfix/map, regexp:/etc/postfix/re\n",
        map="a@b.example [y\n",
        re="/x/ [z]\n",
    )
    assert lacks["relayhost = [x"] == "is no host, such as [smtp.example.org]:587"
    assert lacks["a@b.example = [y"] == "is no host, such as [smtp.example.org]:587"
    assert lacks["/etc/postfix/re:1: [z]"] == "senders are named, not matched"


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("/.*/", "*"),
        ("//", "*"),
        (r"/@b\.example$/", "b.example"),
        (r"/^(.*)@b\.example$/", "b.example"),
        ("/^a@b$/", ""),
        ("!/x/", ""),
    ],
)
def test_patterns_in_the_transport_table(pattern: str, key: str, folder: Path) -> None:
    config = config_of(folder, "transport_maps = regexp:/etc/postfix/re", re=f"{pattern} smtp:[x.example]\n")
    assert [*config.transport] == ([key] if key else [])


@pytest.mark.parametrize(
    ("main_cf", "minimum"),
    [
        ("smtpd_tls_protocols = >=TLSv1.3", "1.3"),
        ("smtpd_tls_protocols = !SSLv2, !SSLv3", "1.0"),
        ("smtpd_tls_protocols = !SSLv3 !TLSv1 !TLSv1.1 !TLSv1.2 !TLSv1.3", "1.3"),
        ("smtpd_tls_protocols = TLSv1.2, TLSv1.1", "1.1"),
        ("smtpd_tls_protocols = odd", "1.0"),
        ("smtpd_tls_mandatory_protocols = >=TLSv1.3", "1.2"),
        ("smtpd_tls_mandatory_protocols = >=TLSv1.3\nsmtpd_tls_security_level = encrypt", "1.3"),
        ("", "1.2"),
    ],
)
def test_versions_of_tls(main_cf: str, minimum: str, certificate: str, folder: Path) -> None:
    config = config_of(folder, f"{certificate}smtpd_tls_security_level = may\n{main_cf}\n")
    assert config.listen == (Listen("0.0.0.0", 25, tls="starttls", tls_minimum=minimum),)  # type: ignore[arg-type]


@pytest.fixture
def certificate(tmp_path: Path) -> str:
    """Return the lines of main.cf that name a certificate that is there."""
    made = trustme.CA().issue_cert("gw1.maison.example")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    made.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return f"smtpd_tls_cert_file = {tmp_path}/cert.pem\nsmtpd_tls_key_file = {tmp_path}/key.pem\n"


def test_submission_with_a_certificate(certificate: str, folder: Path, tmp_path: Path) -> None:
    master_cf = (
        "smtp inet n - y - - postscreen\n"
        "submission inet n - y - - smtpd\n  -o smtpd_tls_security_level=encrypt\n"
        "  -o smtpd_sasl_auth_enable=yes -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\n"
        "  -o smtpd_sender_restrictions=check_sender_access,hash:/x -o smtpd_helo_restrictions=${odd\n"
        "smtps inet n - y - - smtpd -o smtpd_tls_wrappermode=yes\n"
        "127.0.0.1:smtps inet n - y - - smtpd -o smtpd_use_tls=yes\n"
        "submission inet n - y - - smtpd\n"
    )
    config, draft = import_files(folder, MODERN + certificate, {"master.cf": master_cf})
    assert config.listen == (
        Listen("0.0.0.0", 25),
        Listen("0.0.0.0", 587, tls="starttls"),
        Listen("0.0.0.0", 465, tls="implicit"),
        Listen("127.0.0.1", 465, tls="starttls"),
    )
    assert config.tls.key == tmp_path / "key.pem"
    assert draft.offers["listen", 1] == ['auth = "required"']
    lacks = lacks_of(draft)
    assert "master.cf:2: submission: smtpd_sender_restrictions = ... check_sender_access hash:/x" in lacks
    assert "master.cf:2: submission: smtpd_helo_restrictions = ${odd" in lacks


def test_certificates_in_a_chain(certificate: str, folder: Path, tmp_path: Path) -> None:
    files = f"{tmp_path}/key.pem, {tmp_path}/x.pem {tmp_path}/cert.pem"
    config, draft = import_files(folder, f"{MODERN}smtpd_tls_chain_files = {files}\n")
    assert (config.tls.key, config.tls.certificate) == (tmp_path / "key.pem", tmp_path / "cert.pem")
    assert "smtpd_tls_chain_files" in lacks_of(draft)
    assert not config_of(folder, "smtpd_tls_cert_file = none\n").tls.key


def test_a_mail_server_without_smtpd_listens_for_this_machine(folder: Path) -> None:
    config = config_of(folder, "", master_cf="pickup unix n - y 60 1 pickup\n")
    assert config.listen == (Listen("127.0.0.1", 25),)


@pytest.mark.parametrize(
    ("main_cf", "hosts"),
    [
        ("inet_interfaces = loopback-only\n", ["127.0.0.1"]),
        ("inet_interfaces = loopback-only\ninet_protocols = ipv6\n", ["::1"]),
        ("inet_interfaces = all\ninet_protocols = ipv6\n", ["::"]),
        ("inet_interfaces = [fd00::1], 10.0.0.1\n", ["fd00::1", "10.0.0.1"]),
        ("inet_interfaces =\n", ["0.0.0.0"]),
        ("inet_interfaces = 10.0.0.1 $myhostname\n", ["0.0.0.0"]),
    ],
)
def test_addresses_to_listen_on(main_cf: str, hosts: list[str], folder: Path) -> None:
    assert [listen.host for listen in config_of(folder, main_cf).listen] == hosts


def test_networks_that_are_not_named(folder: Path) -> None:
    config, _ = import_files(folder, "compatibility_level = 3.6\n")
    assert [str(network) for network in config.access.networks] == ["127.0.0.0/8", "::1/128"]
    config, _ = import_files(folder, "mynetworks_style = subnet\n")
    assert config.access.networks == PRIVATE_NETWORKS


def test_whole_internets_in_parts_are_no_networks(folder: Path) -> None:
    config, draft = import_files(folder, f"{MODERN}mynetworks = 0.0.0.0/1, 128.0.0.0/1\n")
    assert config.access.networks == PRIVATE_NETWORKS
    assert "would let the whole internet" in "".join(lacks_of(draft).values())


@pytest.mark.parametrize(
    ("main_cf", "file", "aliases"),
    [
        ("luser_relay = $user@x.example\n", "", {}),
        ("luser_relay = a@x.example\n", "", {"*": ("a@x.example",)}),
        (VIRTUAL, "a@x.example |prog\nb@x.example c@y.example\n", {"b@x.example": ("c@y.example",)}),
        (VIRTUAL, "first.last c@y.example\n", {"first.last": ("c@y.example",)}),
        (
            "alias_maps = hash:/etc/postfix/map\n",
            "a: :include:/etc/postfix/map\nb: nobody@gw1.maison.example\n",
            {"b": ("nobody@gw1.maison.example",)},
        ),
    ],
)
def test_aliases(main_cf: str, file: str, aliases: dict[str, tuple[str, ...]], folder: Path) -> None:
    assert config_of(folder, main_cf, map=file).aliases.entries == aliases


def test_an_address_with_parts_of_the_recipient_is_told_as_it_stands(folder: Path) -> None:
    lacks = lacks_from(folder, "luser_relay = $user@x.example")
    assert lacks == {"luser_relay = $user@x.example": 'the relay has one address for all: [aliases] "*"'}


@pytest.mark.parametrize(
    "name",
    [
        "smtp_sasl_password_maps",
        "smtp_tls_policy_maps",
        "virtual_alias_maps",
        "virtual_mailbox_maps",
        "relocated_maps",
    ],
)
def test_no_pattern_is_left_out_in_silence(name: str, folder: Path) -> None:
    lacks = lacks_from(folder, f"{name} = regexp:/etc/postfix/re\n", re="/x/ me:word\n")
    [what] = [what for what, reason in lacks.items() if reason == "the relay has no patterns here: name each"]
    assert what.startswith(name)
    assert what.endswith("(/etc/postfix/re:1)")
    assert ("me:word" in str(lacks)) == (name != "smtp_sasl_password_maps")


def test_tls_that_a_route_can_not_say(folder: Path) -> None:
    lacks = lacks_from(
        folder,
        "smtp_tls_policy_maps = hash:/etc/postfix/map\n",
        map="a.example dane\nb.example may\nc.example encrypt\n",
    )
    assert {*lacks} == {"smtp_tls_policy_maps: a.example dane", "smtp_tls_policy_maps: c.example encrypt"}


@pytest.mark.parametrize(
    ("main_cf", "maildir"),
    [
        ("home_mailbox = Mail/\n", "/home/{user}/Mail"),
        ("mail_spool_directory = /var/mail/\n", "/var/mail/{user}"),
        ("home_mailbox = mbox\n", "/home/{user}/Maildir"),
    ],
)
def test_mailboxes(main_cf: str, maildir: str, folder: Path) -> None:
    config = config_of(folder, f"{main_cf}alias_maps = hash:/etc/postfix/a\n", a="root: chris\n")
    assert (config.local.users, config.local.maildir) == (("chris",), maildir)


@pytest.mark.parametrize(
    ("main_cf", "lmtp"),
    [
        ("mailbox_transport = lmtp:unix:/run/dovecot/lmtp\n", "/run/dovecot/lmtp"),
        ("local_transport = lmtp:inet:10.0.0.1:24\n", "10.0.0.1"),
        ("virtual_transport = lmtp:10.0.0.1\nmailbox_transport = lmtp:unix:/x\n", "/x"),
        ("mailbox_transport = dovecot\n", ""),
    ],
)
def test_mailbox_servers(main_cf: str, lmtp: str, folder: Path) -> None:
    config = config_of(folder, main_cf)
    assert (config.local.lmtp.host if config.local.lmtp else "") == lmtp


def test_mailboxes_that_have_no_pattern(folder: Path) -> None:
    main_cf = "virtual_mailbox_maps = hash:/etc/postfix/map\nmydestination =\n"
    lacks = lacks_from(folder, main_cf, map="a@x.example one/\nb@x.example two/\n@x.example c/\n")
    assert "virtual_mailbox_maps: 3 mailboxes" in lacks


def test_limits(folder: Path) -> None:
    main_cf = (
        "message_size_limit = 0\nsmtpd_recipient_limit = 50\nsmtpd_client_connection_count_limit = 7\n"
        "minimal_backoff_time = 1h\nmaximal_backoff_time = 30m\nsmtp_helo_name = mail.maison.example\n"
        "delay_warning_time = 0\nsmtpd_client_message_rate_limit = 1\nanvil_rate_time_unit = 1d\n"
        "always_bcc = x@y.example\nslip = 1\n"
    )
    config, draft = import_files(folder, MODERN + main_cf)
    assert (config.limits.recipients, config.limits.connections_per_client) == (50, 7)
    assert config.limits.messages_per_hour == 1
    assert (config.queue.retry, config.queue.warn_after) == ((3600,), 0)
    assert config.helo_name == "mail.maison.example"
    lacks = lacks_of(draft)
    assert lacks["message_size_limit = 0"] == "the relay always has a limit here: its own is taken"
    assert lacks["slip = 1"] == "Postfix has no parameter of that name"


def test_rules_of_the_client_end(folder: Path) -> None:
    main_cf = (
        "alias_maps = hash:/etc/postfix/a\n"
        "smtpd_recipient_restrictions = permit_mynetworks, reject\n"
        "smtpd_client_restrictions = warn_if_reject reject_unknown_client_hostname,\n"
        "  check_client_access cidr:/x\n"
        "relocated_maps = static:x, cidr:/y\nvirtual_alias_domains = ldap:/z\n"
        "header_checks = hash:/etc/postfix/h\n"
    )
    config, draft = import_files(folder, MODERN + main_cf, {"a": "root: chris\n", "h": "a b\n"})
    assert config.local.accept == "networks"
    lacks = lacks_of(draft)
    assert lacks["smtpd_client_restrictions = ... check_client_access cidr:/x"].startswith(
        "the relay has no access"
    )
    assert "smtpd_client_restrictions = ... warn_if_reject reject_unknown_client_hostname" in lacks
    assert lacks["relocated_maps = static:x"] == "the relay has no entry for everything"
    assert lacks["relocated_maps = cidr:/y"] == "the relay has no tables of networks"
    assert "virtual_alias_domains = ... ldap:/z" in lacks
    assert lacks["header_checks: 1 entries with keys"] == "header checks are regular expressions"


def test_canonical_patterns_that_have_no_equivalent(folder: Path) -> None:
    patterns = ("/^(.+)@a\\.example$/ $2", "/@b\\.example$/ $1", "/^r$/ $1", "!/x/ y", "/odd./ y")
    rules = "".join(f"{pattern}@x.example\n" for pattern in patterns)
    lacks = lacks_from(folder, "canonical_maps = pcre:/etc/postfix/re\n", re=rules)
    assert {what.partition(": ")[0] for what in lacks} == {f"/etc/postfix/re:{n}" for n in range(1, 6)}


def test_tables_that_lose_too_much_are_left_out() -> None:
    draft = Draft()
    draft.put(5, "limits", "recipients")
    with pytest.raises(TypeError):
        draft.put(1, "limits", "recipients", "more")
    with pytest.raises(TypeError):
        draft.blocks("limits")
    assert draft.find("limits", "recipients", "more") is None
    assert draft.table("nothing") == {}
    draft.drop("nothing", "at all")
    draft.drop("limits", "recipients")
    assert draft.document == {}


def test_long_values_and_lines(folder: Path) -> None:
    main_cf = "always_bcc = " + "x" * 1_000_000 + "\nmydestination = " + "a.example " * 50_000 + "\n"
    config, draft = import_files(folder, MODERN + main_cf)
    assert config.local.domains == ("a.example",)
    assert max(map(len, write_toml(draft, "x").splitlines())) < 300


def test_too_many_mistakes_after_each_other_end_too() -> None:
    draft = Draft({"limits": {"message_size": 0}, "aliases": {"a": "b@x.example"}})
    settle(draft, MACHINE, lambda what: None, rounds=0)
    assert draft.document == {"aliases": {"a": "b@x.example"}}
    assert lacks_of(draft) == {"limits": "too much of it is not accepted"}


TABLES = "alias_maps header_checks virtual_alias_maps transport_maps smtp_generic_maps sender_canonical_maps"
STARTS = st.sampled_from(
    [
        "",
        *(f"{name} = regexp:/etc/postfix/t\n" for name in TABLES.split()),
        *(f"{name} = hash:/etc/postfix/t\n" for name in TABLES.split()),
        *(
            f"{name} = "
            for name in ["myhostname", "mydestination", "mynetworks", "relayhost", "inet_interfaces"]
        ),
        *(f"{name} = " for name in ["myorigin", "luser_relay", "home_mailbox", "delay_warning_time"]),
        "mailbox_transport = lmtp:",
        "smtpd_tls_chain_files = ",
        f"{SASL}relayhost = [x.example]\nsmtp_tls_wrappermode = yes\nsmtp_sasl_password_maps = static:",
    ]
)


@settings(max_examples=60)
@given(STARTS, st.text(), st.text(), st.text())
def test_whatever_is_given_the_relay_accepts_what_comes_of_it(
    start: str, end: str, table: str, master: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in (("main.cf", start + end), ("t", table), ("master.cf", master)):
            (folder / file).write_bytes(text.encode("utf-8", "surrogatepass"))
        draft, _ = draft_of(folder)
        text = write_toml(draft, "/etc/postfix")
    assert_written(text, draft)
    parse_config(text, machine_name=MACHINE)
