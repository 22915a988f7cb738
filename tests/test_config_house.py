"""``[local]`` and ``[aliases]``: mailboxes, aliases, and whether mail for them reaches somebody."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.house import destinations_of
from relay.config.loading import parse_config
from relay.config.model import Config, Local
from relay.mail.reply import Reply
from relay.mail.route import ByLocal, Mailbox, NextHop, Refuse, TransportEntry

HOUSE = """
hostname = "gw1.maison.mrs"
[local]
domains = ["gw1.maison.mrs", "maison.mrs"]
users = ["Chris", "marc"]
maildir = "mail/{user}/"
"""


def parse(text: str) -> Config:
    return parse_config(text, machine_name="gw1", folder=Path("/etc/relay"))


class TestLocal:
    def test_has_no_mailboxes_unless_asked_for(self) -> None:
        assert parse('hostname = "gw.test"').local == Local(("gw.test", "localhost"))

    def test_names_users_and_the_folders_of_their_mail(self) -> None:
        local = parse(HOUSE).local
        assert local.users == ("Chris", "marc")
        assert local.maildir == "/etc/relay/mail/{user}"
        assert local.accept == "networks"
        via = destinations_of(parse(HOUSE)).route("chris@maison.mrs").via
        assert via == Mailbox("Chris", Path("/etc/relay/mail/Chris"))

    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            ("/run/dovecot/lmtp", "/run/dovecot/lmtp", 0),
            ("unix:/run/dovecot/lmtp", "/run/dovecot/lmtp", 0),
            ("dovecot:2424", "dovecot", 2424),
            ("dovecot", "dovecot", 24),
            ("inet:192.168.0.9:24", "192.168.0.9", 24),
            ("[::1]:2424", "::1", 2424),
            ("[::1]", "::1", 24),
        ],
    )
    def test_may_leave_the_mailboxes_to_an_lmtp_server(self, text: str, host: str, port: int) -> None:
        local = parse(f'[local]\nlmtp = "{text}"').local
        assert local.lmtp == NextHop(host, port, tls="none", is_lmtp=True)
        assert local.users == ("*",)

    def test_localhost_is_always_local(self) -> None:
        assert isinstance(destinations_of(parse(HOUSE)).route("chris@LocalHost").via, Mailbox)
        assert not isinstance(destinations_of(parse(HOUSE)).route("chris@localhost.test").via, Mailbox)

    def test_may_be_written_to_by_anyone(self) -> None:
        assert parse('[local]\naccept = "anyone"').local.accept == "anyone"

    def test_stays_local_beside_a_transport_for_all(self) -> None:
        config = parse(HOUSE + '[transport]\n"*" = "[hub]"\n"maison.mrs" = "local"\n')
        assert config.transport["maison.mrs"] == TransportEntry(ByLocal())
        assert isinstance(destinations_of(config).route("marc@maison.mrs").via, Mailbox)


class TestThePostmaster:
    def test_is_the_first_user_where_nobody_is_named(self) -> None:
        assert parse(HOUSE).postmaster == "Chris@gw1.maison.mrs"
        assert parse('domain = "free.fr"' + HOUSE).postmaster == "Chris@gw1.maison.mrs"
        assert parse('domain = "maison.mrs"' + HOUSE).postmaster == "Chris@maison.mrs"

    def test_is_nobody_where_the_server_knows_the_users(self) -> None:
        assert parse('[local]\nlmtp = "/run/lmtp"').postmaster == ""

    @pytest.mark.parametrize("name", ["marc@maison.mrs", "family@gw1.maison.mrs", "chris@free.fr"])
    def test_may_be_whoever_gets_mail(self, name: str) -> None:
        text = f'postmaster = "{name}"{HOUSE}[aliases]\nfamily = ["chris", "marc"]\n'
        assert parse(text).postmaster == name


class TestAliases:
    def test_are_users_addresses_lists_and_refusals(self) -> None:
        text = r"""
            [aliases]
            Root = "chris"
            family = ["chris", "Aunt Ann <ann@x.test>", '"Uncle Bob"@x.test']
            "Old@Shop.test" = "marc@maison.mrs"
            "@old.test" = "@new.test"
            '"odd name"' = "chris+odd"
            grandma = "error:5.1.6 has moved"
            "*" = "chris"
        """
        assert dict(parse(HOUSE + text).aliases.entries) == {
            "root": ("chris",),
            "family": ("chris", "ann@x.test", "Uncle Bob@x.test"),
            "old@shop.test": ("marc@maison.mrs",),
            "@old.test": ("@new.test",),
            "odd name": ("chris+odd",),
            "grandma": Refuse(Reply(550, "5.1.6", "has moved")),
            "*": ("chris",),
        }

    @pytest.mark.parametrize(
        "text",
        [
            'chris = ["chris", "chris@work.test"]',
            'a = ["a@x.test", "b"]\nb = ["a", "b@x.test"]',
            'root = "postmaster"',
            '"chris@maison.mrs" = "chris@gw1.maison.mrs"',
            '"*" = "error:no such user"\nold = "marc"',
            '"@maison.mrs" = "chris"',
            '"@old.example" = "@maison.mrs"',
            '"list@v.example" = "list@v.example"',
        ],
    )
    def test_may_lead_anywhere_but_to_nobody(self, text: str) -> None:
        assert parse(f"{HOUSE}[aliases]\n{text}\n").aliases.entries

    def test_may_lead_to_whom_the_server_knows(self) -> None:
        assert parse('[local]\nlmtp = "/run/lmtp"\n[aliases]\nroot = "whoever"\n').aliases.entries

    def test_are_not_judged_by_wrong_users(self) -> None:
        with pytest.raises(Exception, match="twice") as caught:
            parse(HOUSE.replace('"marc"', '"chris", "marc"') + '[aliases]\nroot = "marc"\n')
        assert str(caught.value).count("\n") == 0
