from __future__ import annotations

import pytest

from relay.config.loading import ConfigError, parse_config


def entries(text: str) -> dict[str, tuple[str, str]]:
    config = parse_config(f'hostname = "gw1.lan"\n[sender_canonical]\n{text}', machine_name="")
    return dict(config.sender_canonical.entries)


@pytest.mark.parametrize(
    ("key", "value", "entry"),
    [
        ("Root", "Chris@Free.fr", {"root": ("Chris@Free.fr", "")}),
        ("christian.caleca", "c@free.fr", {"christian.caleca": ("c@free.fr", "")}),
        ("A@GW1.lan", "chris@free.fr", {"a@gw1.lan": ("chris@free.fr", "")}),
        ('"john doe"@gw1.lan', "jd@free.fr", {"john doe@gw1.lan": ("jd@free.fr", "")}),
        ("@Old.test", "@New.test", {"@old.test": ("@New.test", "")}),
        ("@old.test", "catch@new.test", {"@old.test": ("catch@new.test", "")}),
        ("a@client.test", "pub", {"a@client.test": ("pub", "")}),
        ("a@client.test", "Chris <pub>", {"a@client.test": ("pub", "Chris")}),
        ("a@gw1.lan", "Chris (gw1) <chris@free.fr>", {"a@gw1.lan": ("chris@free.fr", "Chris (gw1)")}),
        ("a@gw1.lan", '"Caleca, Chris" <chris@free.fr>', {"a@gw1.lan": ("chris@free.fr", "Caleca, Chris")}),
        ("a@gw1.lan", "<chris@free.fr>", {"a@gw1.lan": ("chris@free.fr", "")}),
        ("a@gw1.lan", "x@new.test, y@new.test", {"a@gw1.lan": ("x@new.test", "")}),
        ("a@gw1.lan", '"x, y"@new.test', {"a@gw1.lan": ("x, y@new.test", "")}),
        ("@gw1.lan", "Everyone <@free.fr>", {"@gw1.lan": ("@free.fr", "Everyone")}),
        ('""', "null@new.test", {"": ("null@new.test", "")}),
        ("a@[127.0.0.1]", "a@[10.0.0.1]", {"a@[127.0.0.1]": ("a@[10.0.0.1]", "")}),
    ],
)
def test_entries(key: str, value: str, entry: dict[str, tuple[str, str]]) -> None:
    assert entries(f"'{key}' = '{value}'") == entry


@pytest.mark.parametrize("key", ["", ".old.test", "*", "@", "@.old.test", "a@.old.test", "*@", "a b"])
def test_keys_that_match_nothing_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"matches no address|before the"):
        entries(f"'{key}' = 'chris@free.fr'")


@pytest.mark.parametrize(
    "table",
    [
        '"a@old.test" = "a@old.test"',
        '"@old.test" = "@old.test"',
        '"@old.test" = "catch@old.test"',
        'root = "root"',
        'root = "root@gw1.lan"\n"root@gw1.lan" = "ROOT@gw1.lan"',
        '"a@old.test" = "b@old.test"\n"b@old.test" = "c@old.test"',
        '"a@old.test" = "a@new.test"\n"@new.test" = "@newer.test"',
        '"\\"\\"" = "root@gw1.lan"\nroot = "chris@free.fr"',
    ],
)
def test_an_entry_that_leads_to_itself_or_to_an_end_is_no_circle(table: str) -> None:
    assert entries(table)


@pytest.mark.parametrize(
    ("table", "way"),
    [
        ('"a@x.test" = "b@x.test"\n"b@x.test" = "a@x.test"', '"a@x.test" → "b@x.test" → "a@x.test"'),
        ('"A@x.test" = "b@x.test"\n"b@x.test" = "a@X.test"', '"a@x.test" → "b@x.test" → "a@x.test"'),
        ('"@x.test" = "@y.test"\n"@y.test" = "@x.test"', '"@x.test" → "@y.test" → "@x.test"'),
        ('"@x.test" = "@y.test"\n"joe@y.test" = "joe@x.test"', '"joe@x.test" → "joe@y.test" → "joe@x.test"'),
        ('"@x.test" = "a@y.test"\n"@y.test" = "b@x.test"', '"b@x.test" → "a@y.test" → "b@x.test"'),
        ('root = "a@x.test"\n"a@x.test" = "root"', '"root@gw1.lan" → "a@x.test" → "root@gw1.lan"'),
        ('"c@x.test" = "a"\na = "b"\nb = "a"', '"a@gw1.lan" → "b@gw1.lan" → "a@gw1.lan"'),
    ],
)
def test_a_circle_of_different_keys_is_refused_once(table: str, way: str) -> None:
    with pytest.raises(ConfigError) as caught:
        entries(table)
    (error,) = caught.value.errors
    assert error.endswith(f"goes round in a circle: {way}; take one of them out")


def test_the_two_tables_do_not_make_a_circle_together() -> None:
    text = '[sender_canonical]\n"a@x.test" = "b@x.test"\n[recipient_canonical]\n"b@x.test" = "a@x.test"'
    assert parse_config(text, machine_name="gw1").recipient_canonical.entries
