"""The table of aliases: which key is for an address, and what becomes of extensions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import fold
from relay.mail.aliases import Aliases
from relay.mail.reply import Reply
from relay.mail.rewrite import Home
from relay.mail.route import Refuse

HOME = Home("gw.test", frozenset({"gw.test", "house.test"}), "+")
MOVED = Refuse(Reply(550, "5.1.6", "has moved"))
TABLE = Aliases(
    {
        "joe+x@v.test": ("exact@d.test",),
        "joe@v.test": ("joe@d.test", "joe@e.test"),
        "@v.test": ("all@d.test",),
        "@w.test": ("@d.test",),
        "@both.test": ("@d.test", "copy"),
        "root": ("chris",),
        "root+cron": ("cron@d.test",),
        "chris@house.test": ("here@d.test",),
        "gone": MOVED,
        "*": ("chris",),
    }
)


@pytest.mark.parametrize(
    ("address", "targets"),
    [
        ("joe+x@v.test", ("exact@d.test",)),
        ("Joe+Y@V.test", ("joe+Y@d.test", "joe+Y@e.test")),
        ("joe@v.test", ("joe@d.test", "joe@e.test")),
        ("ann+y@v.test", ("all@d.test",)),
        ("Ann+Y@w.test", ("Ann+Y@d.test",)),
        ("Ann@both.test", ("Ann@d.test", "copy")),
        ("ROOT@gw.test", ("chris",)),
        ("root+cron@house.test", ("cron@d.test",)),
        ("root+disk@house.test", ("chris",)),
        ("chris@house.test", ("here@d.test",)),
        ("gone@gw.test", MOVED),
        ("chris@gw.test", None),
        ("root@elsewhere.test", None),
        ("root@pc.gw.test", None),
        ("", None),
    ],
)
def test_the_most_exact_key_counts(address: str, targets: object) -> None:
    assert TABLE.find(address, HOME) == targets


def test_whom_there_is_not_has_a_key_of_its_own() -> None:
    assert TABLE.of_anybody == ("chris",)
    assert Aliases().of_anybody is None
    assert Aliases({"*": MOVED}).of_anybody == MOVED


@given(st.text(alphabet="ab+@.", max_size=12))
def test_whatever_is_looked_up_a_key_of_the_address_itself_comes_first(address: str) -> None:
    assert Aliases({fold(address): ("here@d.test",)}).find(address, HOME) == ("here@d.test",)
    assert Aliases().find(address, HOME) is None
