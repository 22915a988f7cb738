"""Which sender leaves the house, and the entry of relay.toml that would mend one that nobody could answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config.loading import parse_config
from relay.mail.rewrite import Canonical, Home
from relay.mail.sender import SenderRules

HOME = Home("gw1.maison.mrs", frozenset({"gw1.maison.mrs", "maison.mrs"}), "+")


def table(**entries: str) -> Canonical:
    return Canonical({key: (value, "") for key, value in entries.items()})


def rules(arrival: Canonical | None = None, departure: Canonical | None = None) -> SenderRules:
    return SenderRules(HOME, arrival or Canonical(), departure or Canonical())


class TestTheSender:
    def test_is_completed(self) -> None:
        assert rules().leave("chris") == "chris@gw1.maison.mrs"
        assert rules().leave("chris@Free.fr") == "chris@Free.fr"

    def test_is_rewritten_again_and_again_on_arrival(self) -> None:
        senders = table(root="chris@gw1.maison.mrs", chris="chris@free.fr")
        assert rules(arrival=senders).leave("root") == "chris@free.fr"

    def test_is_rewritten_once_on_departure(self) -> None:
        senders = table(root="chris@gw1.maison.mrs", chris="chris@free.fr")
        assert rules(departure=senders).leave("root") == "chris@gw1.maison.mrs"


class TestTheRefusal:
    @pytest.mark.parametrize(
        ("sender", "shown", "cure"),
        [
            ("chris@gw1.maison.mrs", "chris@gw1.maison.mrs", "In relay.toml, put chris = {}."),
            ("chris+cron@maison.mrs", "chris+cron@maison.mrs", "In relay.toml, put chris = {}."),
            ("a b", '"a b"@gw1.maison.mrs', r'In relay.toml, put "\"a b\"@gw1.maison.mrs" = {}.'),
            ("a@fre.fr", "a@fre.fr", 'Correct the address, or put "a@fre.fr" = {} in relay.toml.'),
        ],
    )
    def test_names_the_entry_that_is_missing(self, sender: str, shown: str, cure: str) -> None:
        reply = rules().refuse(sender)
        why = (
            f"<{shown}>: nobody outside could answer this sender,"
            f" as the domain {shown.rpartition('@')[2]} does not exist."
        )
        entry = cure.format('"your real address" under [sender_canonical]')
        assert (reply.code, reply.enhanced, reply.text) == (550, "5.1.8", f"{why} {entry}")

    @pytest.mark.parametrize("scope", ["arrival", "departure"])
    def test_names_the_entry_that_is_wrong(self, scope: str) -> None:
        senders = table(**{"@gw1.maison.mrs": "@nowhere.mrs", "root": "root@nowhere.mrs"})
        words = (
            "<{}@nowhere.mrs>: {}. In relay.toml, mend the entry {} under [sender_canonical], which makes it."
        )
        why = "nobody outside could answer this sender, as the domain nowhere.mrs does not exist"
        refuse = rules(**{scope: senders}).refuse
        assert refuse("root").text == words.format("root", why, "root")
        assert refuse("chris").text == words.format("chris", why, '"@gw1.maison.mrs"')

    @given(
        st.sampled_from(["gw1.maison.mrs", "maison.mrs", "fre.fr"]),
        st.text(
            st.characters(codec="utf-8", exclude_characters="\r\n", exclude_categories=["Cc"]), min_size=1
        ),
        st.sampled_from(["arrival", "departure"]),
    )
    def test_the_entry_mends_it_as_it_is_written(self, domain: str, local: str, scope: str) -> None:
        sender = f"{local}@{domain}"
        text = rules().refuse(sender).text
        entry = text.rpartition(" put ")[2].rpartition(" under [sender_canonical]")[0]
        entry = entry.replace("your real address", "chris@free.fr")
        senders = parse_config(f"[sender_canonical]\n{entry}", machine_name="gw1").sender_canonical
        assert rules(**{scope: senders}).leave(sender).endswith("@free.fr")
