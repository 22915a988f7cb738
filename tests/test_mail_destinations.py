"""What becomes of an address: local domains, reserved users, the transport table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.mail.aliases import Aliases
from relay.mail.destinations import Destinations, Mailboxes, Turn
from relay.mail.reply import Reply
from relay.mail.rewrite import Home
from relay.mail.route import ByLocal, Mailbox, NextHop, Refuse, Route, Rule, TransportEntry

HUB = NextHop("hub.test")
RELAYHOST = NextHop("smarthost.test", 587, is_relayhost=True)
GONE = Refuse(Reply(550, "5.1.2", "This domain is gone"))
HOME = Home("isp.test", frozenset({"gw.test", "[127.0.0.1]", "straße.test".casefold()}), "+")
DESTINATIONS = Destinations(
    {
        "gone.test": TransportEntry(GONE),
        "office@gw.test": TransportEntry(HUB, internal=True),
        "root@gw.test": TransportEntry(HUB),
    },
    RELAYHOST,
    HOME,
    "owner@isp.test",
)


def refusal(address: str, destinations: Destinations = DESTINATIONS) -> str:
    via = destinations.route(address).via
    assert isinstance(via, Refuse)
    return str(via.reply)


class TestRoutes:
    def test_mail_for_others_takes_the_relayhost_or_their_mail_exchanger(self) -> None:
        assert DESTINATIONS.route("a@x.test") == Route(RELAYHOST)
        assert replace(DESTINATIONS, relayhost=None).route("a@x.test") == Route(
            NextHop("x.test", use_mx=True)
        )

    def test_the_transport_table_comes_before_the_local_domains(self) -> None:
        assert DESTINATIONS.route("Office@GW.test") == Route(HUB, internal=True)
        everything = replace(DESTINATIONS, transport={"*": TransportEntry(HUB)})
        assert everything.route("joe@gw.test") == Route(HUB)

    def test_the_transport_table_may_refuse(self) -> None:
        assert DESTINATIONS.route("a@gone.test") == Route(GONE)

    @pytest.mark.parametrize("address", ["joe@gw.test", "JOE@GW.TEST", "joe@[127.0.0.1]", "joe@STRASSE.test"])
    def test_local_mail_goes_to_nobody_else(self, address: str) -> None:
        assert refusal(address).startswith("550 5.1.1 there is no such user at ")

    def test_the_domain_that_completes_addresses_need_not_be_local(self) -> None:
        assert DESTINATIONS.route("joe@isp.test") == Route(RELAYHOST)

    def test_a_subdomain_of_a_local_domain_is_not_local(self) -> None:
        assert DESTINATIONS.route("joe@pc.gw.test") == Route(RELAYHOST)

    def test_a_reserved_user_without_a_postmaster_is_refused_with_the_remedy(self) -> None:
        assert refusal("Root@gw.test", Destinations({}, None, HOME, "")) == (
            "550 5.1.1 mail for Root goes to nobody yet. The owner of the relay can name somebody with "
            'postmaster = "you@example.org" in relay.toml.'
        )

    def test_a_postmaster_who_is_no_user_here_is_refused_as_such(self) -> None:
        destinations = Destinations({}, None, HOME, "root@gw.test")
        assert refusal(*destinations.expand("postmaster@gw.test"), destinations).startswith(
            "550 5.1.1 there is no such user at gw.test"
        )


class TestReservedUsers:
    @pytest.mark.parametrize(
        "address",
        [
            "postmaster@gw.test",
            "PostMaster@GW.test",
            "mailer-daemon@gw.test",
            "MAILER-DAEMON@gw.test",
            "root@[127.0.0.1]",
            "postmaster+cron@gw.test",
        ],
    )
    def test_of_local_domains_have_their_mail_sent_to_the_postmaster(self, address: str) -> None:
        assert DESTINATIONS.expand(address) == ("owner@isp.test",)

    @pytest.mark.parametrize(
        "address",
        ["postmaster@isp.test", "root@pc.gw.test", "root@gw.test", "joe@gw.test", "rooter@gw.test", ""],
    )
    def test_are_no_others(self, address: str) -> None:
        assert DESTINATIONS.expand(address) == (address,)

    def test_stay_where_there_is_no_postmaster(self) -> None:
        destinations = replace(DESTINATIONS, postmaster="")
        assert destinations.expand("postmaster@gw.test", "postmaster") == ("postmaster@gw.test",)


class TestAPostmasterWithoutADomain:
    @pytest.mark.parametrize("given", ["postmaster", "Postmaster"])
    def test_is_ours_wherever_the_domain_that_completes_addresses_is_hosted(self, given: str) -> None:
        assert DESTINATIONS.expand("postmaster@isp.test", given) == ("owner@isp.test",)

    @pytest.mark.parametrize("given", ["postmaster@isp.test", "postmaster%isp.test", "root"])
    def test_is_no_other_address(self, given: str) -> None:
        assert DESTINATIONS.expand("postmaster@isp.test", given) == ("postmaster@isp.test",)


@pytest.mark.parametrize(
    ("sender", "host"),
    [
        ("a@client.test", "exact.test"),
        ("A+x@Client.test", "exact.test"),
        ("b@client.test", "domain.test"),
        ("a@other.test", "relayhost.test"),
        ("", "relayhost.test"),
    ],
)
def test_the_sender_chooses_its_relayhost(sender: str, host: str) -> None:
    chosen = {"a@client.test": NextHop("exact.test"), "@client.test": NextHop("domain.test")}
    destinations = Destinations(
        {}, NextHop("relayhost.test"), Home("home.test", recipient_delimiter="+"), "", chosen
    )
    assert destinations.route("you@example.org", sender).via == NextHop(host)


def test_the_transport_table_comes_before_the_senders_relayhost() -> None:
    transport = {"example.org": TransportEntry(NextHop("table.test"))}
    destinations = Destinations(
        transport, None, Home("home.test"), "", {"@client.test": NextHop("domain.test")}
    )
    assert destinations.route("you@example.org", "a@client.test").via == NextHop("table.test")


USERS = {"chris": "Chris", "marc": "marc"}
LMTP = NextHop("/run/lmtp", 0, tls="none", is_lmtp=True)
MOVED = Refuse(Reply(550, "5.1.6", "has moved"))


def house(
    aliases: dict[str, tuple[str, ...] | Refuse] | None = None,
    *,
    users: dict[str, str] | None = None,
    lmtp: NextHop | None = None,
    is_open: bool = False,
    **options: Any,
) -> Destinations:
    """Return a house with mailboxes at gw.test and house.test; unfinished addresses are the provider's."""
    home = Home("isp.test", frozenset({"gw.test", "house.test", "[127.0.0.1]"}), "+")
    boxes = Mailboxes(USERS if users is None else users, "" if lmtp else "/var/mail/{user}", lmtp, is_open)
    destinations = Destinations(
        {}, None, home, "owner@isp.test", {}, Aliases(aliases or {}), boxes, "gw.test"
    )
    return replace(destinations, **options)


def mailbox(name: str) -> Route:
    return Route(Mailbox(name, Path("/var/mail") / name), internal=True)


class TestMailboxes:
    @pytest.mark.parametrize("address", ["chris@gw.test", "CHRIS@House.test", "chris+tag@[127.0.0.1]"])
    def test_belong_to_users_of_the_local_domains(self, address: str) -> None:
        assert house().expand(address) == (address,)
        assert house().route(address) == mailbox("Chris")

    def test_are_the_lmtp_servers_where_there_is_one(self) -> None:
        assert house(lmtp=LMTP).route("chris@gw.test") == Route(LMTP, internal=True)
        assert refusal("ann@gw.test", house(lmtp=LMTP)).startswith("550 5.1.1 there is no such user")

    def test_are_anybodys_where_the_lmtp_server_knows(self) -> None:
        destinations = house(lmtp=LMTP, users={}, is_open=True)
        assert destinations.route("ann@gw.test") == Route(LMTP, internal=True)
        assert destinations.expand("root@gw.test") == ("owner@isp.test",)

    def test_come_before_what_is_done_with_reserved_users(self) -> None:
        assert house(users={"root": "root"}).expand("root@gw.test") == ("root@gw.test",)

    def test_do_not_count_where_the_transport_table_says_otherwise(self) -> None:
        destinations = house(transport={"gw.test": TransportEntry(HUB)})
        assert destinations.route("chris@gw.test") == Route(HUB)
        assert destinations.route("chris@house.test") == mailbox("Chris")

    def test_count_where_the_transport_table_says_local(self) -> None:
        transport = {"gw.test": TransportEntry(ByLocal()), "*": TransportEntry(HUB)}
        destinations = house(transport=transport)
        assert destinations.route("chris@gw.test") == mailbox("Chris")
        assert destinations.route("chris@house.test") == Route(HUB)


class TestAliases:
    @pytest.mark.parametrize(
        ("address", "reached"),
        [
            ("root@gw.test", ["Chris@gw.test"]),
            ("family@house.test", ["Chris@gw.test", "marc@gw.test", "aunt@x.test"]),
            ("everybody@gw.test", ["Chris@gw.test", "marc@gw.test", "aunt@x.test", "uncle@x.test"]),
            ("marc@gw.test", ["marc@gw.test", "marc@work.test"]),
            ("marc@house.test", ["marc@gw.test", "marc@work.test"]),
            ("shop@sales.test", ["Chris@gw.test"]),
            ("sales@shop.test", ["sales@x.test"]),
            ("ping@gw.test", ["ping@gw.test"]),
            ("some@gw.test", ["marc@gw.test", "marc@work.test"]),
            ("postmaster@gw.test", ["owner@isp.test"]),
            ("abuse@gw.test", ["owner@isp.test"]),
            ("who@gw.test", ["who@gw.test"]),
            ("who@x.test", ["who@x.test"]),
            ("", [""]),
        ],
    )
    def test_lead_to_each_once(self, address: str, reached: list[str]) -> None:
        destinations = house(
            {
                "root": ("Chris",),
                "family": ("Chris", "marc@gw.test", "aunt@x.test"),
                "everybody": ("family", "uncle@x.test", "AUNT@x.test"),
                "marc": ("marc", "marc@work.test"),
                "shop@sales.test": ("chris@house.test", "Chris"),
                "@shop.test": ("@x.test",),
                "ping": ("pong",),
                "pong": ("ping",),
                "some": ("ping", "marc"),
            }
        )
        found = destinations.expand(address)
        if address == "family@house.test":
            reached = [*reached[:2], "marc@work.test", reached[2]]
        if address == "everybody@gw.test":
            reached = [*reached[:2], "marc@work.test", *reached[2:]]
        if address == "shop@sales.test":
            reached = ["chris@house.test"]
        assert list(found) == reached

    def test_take_anybody_only_where_there_is_nobody(self) -> None:
        destinations = house({"*": ("marc",)})
        assert destinations.expand("who+x@house.test") == ("marc@gw.test",)
        assert destinations.expand("chris@house.test") == ("chris@house.test",)
        assert destinations.expand("root@gw.test") == ("owner@isp.test",)
        assert destinations.expand("who@x.test") == ("who@x.test",)

    def test_of_a_whole_domain_take_everybody(self) -> None:
        destinations = house({"@house.test": ("marc",)})
        assert destinations.expand("chris@house.test") == ("marc@gw.test",)

    def test_may_refuse_with_words_of_their_own(self) -> None:
        destinations = house({"grandma": MOVED, "@old.test": MOVED, "all": ("grandma", "marc")})
        assert refusal("grandma@gw.test", destinations) == "550 5.1.6 has moved"
        assert refusal("who@old.test", destinations) == "550 5.1.6 has moved"
        assert destinations.expand("all@gw.test") == ("grandma@gw.test", "marc@gw.test")

    def test_may_refuse_whoever_there_is_not(self) -> None:
        destinations = house({"*": MOVED})
        assert destinations.expand("who@gw.test") == ("who@gw.test",)
        assert refusal("who@gw.test", destinations) == "550 5.1.6 has moved"

    def test_that_grow_end_all_the_same(self) -> None:
        destinations = house({"a@v.test": ("a+x@v.test", "b@x.test")})
        assert destinations.expand("a@v.test") == ("a@v.test",)

    def test_without_local_domains_complete_as_all_addresses_are(self) -> None:
        destinations = house({"a@v.test": ("b",)}, home=Home("isp.test"), user_domain="")
        assert destinations.expand("a@v.test") == ("b@isp.test",)


class TestANameWithoutADomain:
    @pytest.mark.parametrize(
        ("given", "reached"),
        [
            ("root", "Chris@gw.test"),
            ("MARC", "MARC@gw.test"),
            ("marc+x", "marc+x@gw.test"),
            ("postmaster", "owner@isp.test"),
            ("who", "who@isp.test"),
            ("marc@isp.test", "marc@isp.test"),
        ],
    )
    def test_is_a_users_or_an_aliases_first(self, given: str, reached: str) -> None:
        address = given if "@" in given else f"{given}@isp.test"
        assert house({"root": ("Chris",)}).expand(address, given) == (reached,)

    def test_that_was_rewritten_is_no_longer_alone(self) -> None:
        assert house().expand("other@x.test", "marc") == ("other@x.test",)


class TestOneCopy:
    def test_goes_to_a_mailbox_whatever_it_is_called(self) -> None:
        assert house().identity("Chris+a@gw.test") == house().identity("chris@HOUSE.test")
        assert house().identity("chris@gw.test") != house().identity("chris@x.test")

    def test_goes_to_each_extension_that_a_server_may_file_by(self) -> None:
        destinations = house(lmtp=LMTP)
        assert destinations.identity("chris+a@gw.test") == destinations.identity("CHRIS+A@house.test")
        assert destinations.identity("chris+a@gw.test") != destinations.identity("chris@gw.test")


class TestRules:
    @pytest.mark.parametrize(
        ("address", "rule"),
        [
            ("a@gone.test", ("transport", "gone.test")),
            ("Shop+x@hub.test", ("transport", "shop@hub.test")),
            ("a@pc.far.test", ("transport", ".far.test")),
            ("a@x.test", ("sender_relayhost", "@isp.test")),
            ("chris@gw.test", ("local", "users")),
            ("who@gw.test", ("local", "domains")),
            ("Moved@gw.test", ("aliases", "moved")),
        ],
    )
    def test_a_route_tells_what_decided(self, address: str, rule: Rule) -> None:
        hops = {key: TransportEntry(HUB) for key in ("shop@hub.test", ".far.test")}
        destinations = house(
            aliases={"moved": GONE},
            transport={"gone.test": TransportEntry(GONE), **hops},
            sender_relayhost={"@isp.test": RELAYHOST},
        )
        assert destinations.route(address, "me@isp.test").rule == rule

    def test_other_rules_decide_where_those_are_missing(self) -> None:
        assert house(relayhost=RELAYHOST).route("a@x.test").rule == ("relayhost",)
        assert house().route("a@x.test").rule == ()
        assert house(lmtp=LMTP).route("chris@gw.test").rule == ("local", "lmtp")
        assert house(aliases={"*": GONE}).route("who@gw.test").rule == ("aliases", "*")

    def test_routes_are_the_same_whatever_led_to_them(self) -> None:
        assert len({Route(HUB, rule=("relayhost",)), Route(HUB, rule=("transport", "*")), Route(HUB)}) == 1

    def test_an_expansion_tells_its_steps(self) -> None:
        destinations = house(aliases={"all": ("Chris", "team", "a@x.test"), "team": ("root",), "*": ("Ann",)})
        assert list(destinations.walk("ALL@gw.test")) == [
            Turn("ALL@gw.test", ("Chris@gw.test", "team@gw.test", "a@x.test"), ("aliases", "all")),
            Turn("Chris@gw.test", ("Chris@gw.test",), ()),
            Turn("team@gw.test", ("root@gw.test",), ("aliases", "team")),
            Turn("root@gw.test", ("owner@isp.test",), ("postmaster",)),
            Turn("owner@isp.test", ("owner@isp.test",), ()),
            Turn("a@x.test", ("a@x.test",), ()),
        ]
        assert next(destinations.walk("who@gw.test")).rule == ("aliases", "*")

    def test_the_first_step_leads_from_a_name_alone_to_somebody_here(self) -> None:
        assert list(house().walk("chris@isp.test", "chris")) == [
            Turn("", ("chris@gw.test",), ()),
            Turn("chris@gw.test", ("chris@gw.test",), ()),
        ]
        first = next(house(users={}).walk("postmaster@isp.test", "postmaster"))
        assert first == Turn("", ("owner@isp.test",), ("postmaster",))
