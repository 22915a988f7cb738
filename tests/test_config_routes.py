from __future__ import annotations

import pytest

from relay.config.loading import parse_config
from relay.config.model import Config
from relay.mail.reply import Reply
from relay.mail.route import ByMx, Discard, NextHop, Refuse, TransportEntry, Via

ISP = '[smarthost.isp]\nhost = "smtp.Example.com"\nport = 587\ntls = "none"\n'


def parse(text: str) -> Config:
    return parse_config(text, machine_name="gw1.lan")


def via(value: str) -> Via:
    return parse(f"{ISP}[transport]\n'x.test' = '{value}'").transport["x.test"].via


BY_ISP = NextHop("smtp.example.com", 587, tls="none", is_relayhost=True, smarthost="isp", connections=4)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("isp", BY_ISP),
        ("[a.Sink.test]", NextHop("a.sink.test")),
        ("[a.sink.test]:2525", NextHop("a.sink.test", 2525)),
        ("[nas]", NextHop("nas")),
        ("[127.0.0.12]", NextHop("127.0.0.12")),
        ("[fd00::25]:2525", NextHop("fd00::25", 2525)),
        ("hub.test", NextHop("hub.test", use_mx=True)),
        ("hub.test:2525", NextHop("hub.test", 2525, use_mx=True)),
        ("localhost:2525", NextHop("localhost", 2525, use_mx=True)),
        ("smtp:2525", NextHop("smtp", 2525, use_mx=True)),
        ("127.0.0.13", NextHop("127.0.0.13")),
        ("127.0.0.13:2525", NextHop("127.0.0.13", 2525)),
        ("fd00::25", NextHop("fd00::25")),
        ("mx", ByMx()),
        ("discard", Discard()),
        ("error:5.1.2 This domain is gone", Refuse(Reply(550, "5.1.2", "This domain is gone"))),
        ("error:mail is not accepted", Refuse(Reply(550, "5.1.1", "mail is not accepted"))),
        ("error:4.2.0 come back later", Refuse(Reply(550, "5.2.0", "come back later"))),
        ("error:", Refuse(Reply(550, "5.1.1", "Mail for this address is not accepted here"))),
        ("error: 5.7.1", Refuse(Reply(550, "5.7.1", "Mail for this address is not accepted here"))),
        ("error:5.7.1no", Refuse(Reply(550, "5.1.1", "5.7.1no"))),
    ],
)
def test_values_of_the_transport_table(value: str, expected: Via) -> None:
    assert via(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("isp", BY_ISP),
        ("[hub.test]:2525", NextHop("hub.test", 2525, is_relayhost=True)),
        ("hub.test", NextHop("hub.test", use_mx=True, is_relayhost=True)),
        ("127.0.0.11", NextHop("127.0.0.11", is_relayhost=True)),
    ],
)
def test_forms_of_relayhost_and_sender_relayhost(value: str, expected: NextHop) -> None:
    assert parse(f'relayhost = "{value}"\n{ISP}').relayhost == expected
    by_sender = parse(f'{ISP}[sender_relayhost]\n"@example.org" = "{value}"').sender_relayhost
    assert by_sender == {"@example.org": expected}


@pytest.mark.parametrize(
    ("key", "looked_up"),
    [
        ("@Gmail.com", "@gmail.com"),
        ("Chris@Gmail.com", "chris@gmail.com"),
        ('"a b"@gmail.com', "a b@gmail.com"),
        ("@bücher.example", "@bücher.example"),
    ],
)
def test_keys_of_sender_relayhost_are_folded(key: str, looked_up: str) -> None:
    assert list(parse(f"[sender_relayhost]\n'{key}' = '[10.0.0.9]'").sender_relayhost) == [looked_up]


@pytest.mark.parametrize(
    ("key", "looked_up"),
    [
        ("*", "*"),
        ("AOL.com", "aol.com"),
        (".AOL.com", ".aol.com"),
        ("localhost", "localhost"),
        ("NAS", "nas"),
        (".lan", ".lan"),
        ("Joe@Example.test", "joe@example.test"),
        ('"a b"@example.test', "a b@example.test"),
        ("[127.0.0.12]", "[127.0.0.12]"),
        ("[IPv6:fd00::1]", "[ipv6:fd00::1]"),
        ("u@[127.0.0.12]", "u@[127.0.0.12]"),
        ("bücher.example", "bücher.example"),
    ],
)
def test_keys_of_the_transport_table_are_folded(key: str, looked_up: str) -> None:
    assert list(parse(f"[transport]\n'{key}' = 'mx'").transport) == [looked_up]


@pytest.mark.parametrize(
    "key",
    ["@dom.test", "user@.dom.test", "user@", "", ".", "*.dom.test@", "*@", "a b.test", "a b@x.test"],
)
def test_keys_that_match_nothing_are_refused(key: str) -> None:
    with pytest.raises(Exception, match=r"matches no recipient|before the"):
        parse(f"[transport]\n'{key}' = 'mx'")


def test_recipients_may_count_as_inside() -> None:
    config = parse(
        '[transport]\n"office.lan" = { via = "[10.0.0.9]", internal = true }\n"b.lan" = { via = "mx" }'
    )
    assert config.transport == {
        "office.lan": TransportEntry(NextHop("10.0.0.9"), internal=True),
        "b.lan": TransportEntry(ByMx()),
    }


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ('via = "mx", tls = "verify"', ByMx("starttls")),
        ('via = "mx", tls = "starttls"', ByMx("starttls")),
        ('via = "mx", tls = "none"', ByMx("none")),
        ('via = "mx", tls = "opportunistic"', ByMx()),
        ('via = "hub.test", tls = "verify"', NextHop("hub.test", use_mx=True, tls="starttls")),
        ('via = "[hub.test]:465", tls = "implicit"', NextHop("hub.test", 465, tls="implicit")),
    ],
)
def test_an_entry_may_say_what_tls_its_servers_must_have(entry: str, expected: Via) -> None:
    assert parse(f"[transport]\n'x.test' = {{ {entry} }}").transport["x.test"].via == expected
