from __future__ import annotations

import pytest

from relay.config.loading import ConfigError, parse_config
from relay.mail.header_checks import Action, HeaderCheck


def parse(text: str) -> tuple[HeaderCheck, ...]:
    return parse_config(text, machine_name="gw1").header_checks


def check(action: str, pattern: str = "^X-(One): (.*)", scope: str = "all") -> HeaderCheck:
    (only,) = parse(f"[[header_checks]]\npattern = '{pattern}'\naction = '{action}'\nscope = '{scope}'")
    return only


@pytest.mark.parametrize(
    ("text", "action", "rest"),
    [
        ("IGNORE", Action.IGNORE, ""),
        ("iGnOrE", Action.IGNORE, ""),
        ("IGNORE because", Action.IGNORE, "because"),
        ("REJECT  5.7.9 No pills please ", Action.REJECT, "5.7.9 No pills please"),
        ("Prepend X-Added: yes", Action.PREPEND, "X-Added: yes"),
        ("REPLACE $1: ${2} $(1) $$5", Action.REPLACE, "$1: ${2} $(1) $$5"),
        ("REDIRECT one@hold.test", Action.REDIRECT, "one@hold.test"),
        ("BCC ${1}@arch.test", Action.BCC, "${1}@arch.test"),
        ("REJECT\tno", Action.REJECT, "no"),
        ("DUNNO", Action.DUNNO, ""),
    ],
)
def test_actions(text: str, action: Action, rest: str) -> None:
    assert (check(text).action, check(text).text) == (action, rest)


@pytest.mark.parametrize("action", ["IGNORE", "STRIP private", "REPLACE X-Uno: 1", "PREPEND X-Uno: 1"])
def test_these_actions_may_act_only_outside(action: str) -> None:
    assert check(action, scope="external").scope == "external"


def test_case_does_not_count_unless_the_pattern_says_so() -> None:
    assert check("IGNORE", "^subject: buy").pattern.search("Subject: Buy")
    assert not check("IGNORE", "(?-i)^subject: buy").pattern.search("Subject: Buy")
    assert check("IGNORE", "(?-i)^Subject: Buy").pattern.search("Subject: Buy")


def test_a_folded_header_is_one_string() -> None:
    pattern = check("IGNORE", "^X-Fold: first.*third line$").pattern
    assert pattern.search("X-Fold: first\n\tsecond\n third line")
    assert not check("IGNORE", "^second").pattern.search("X-Fold: first\nsecond")


def test_the_same_pattern_may_act_on_arrival_and_outside() -> None:
    both = """
    [[header_checks]]
    pattern = '^X-One:'
    action = "WARN"
    [[header_checks]]
    pattern = '^X-One:'
    action = "IGNORE"
    scope = "external"
    """
    assert [check.scope for check in parse(both)] == ["all", "external"]


def test_checks_keep_their_order() -> None:
    text = "".join(f"[[header_checks]]\npattern = '^X-{n}:'\naction = 'IGNORE'\n" for n in (2, 3, 1))
    assert [check.pattern.pattern for check in parse(text)] == ["^X-2:", "^X-3:", "^X-1:"]


def test_a_wrong_check_does_not_hide_another() -> None:
    text = (
        "[[header_checks]]\npattern = '('\naction = 'IGNORE'\n[[header_checks]]\npattern = ')'\naction = 'X'"
    )
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(caught.value.errors) == 3
