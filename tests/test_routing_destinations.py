"""What becomes of an address: local domains, reserved users, the transport table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from relay.mail.reply import Reply
from relay.mail.rewrite import Home
from relay.mail.route import NextHop, Refuse, Route, TransportEntry
from relay.routing.destinations import Destinations

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
        assert refusal(destinations.expand("postmaster@gw.test"), destinations).startswith(
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
        assert DESTINATIONS.expand(address) == "owner@isp.test"

    @pytest.mark.parametrize(
        "address",
        ["postmaster@isp.test", "root@pc.gw.test", "root@gw.test", "joe@gw.test", "rooter@gw.test", ""],
    )
    def test_are_no_others(self, address: str) -> None:
        assert DESTINATIONS.expand(address) == address

    def test_stay_where_there_is_no_postmaster(self) -> None:
        destinations = replace(DESTINATIONS, postmaster="")
        assert destinations.expand("postmaster@gw.test", "postmaster") == "postmaster@gw.test"


class TestAPostmasterWithoutADomain:
    @pytest.mark.parametrize("given", ["postmaster", "Postmaster"])
    def test_is_ours_wherever_the_domain_that_completes_addresses_is_hosted(self, given: str) -> None:
        assert DESTINATIONS.expand("postmaster@isp.test", given) == "owner@isp.test"

    @pytest.mark.parametrize("given", ["postmaster@isp.test", "postmaster%isp.test", "root"])
    def test_is_no_other_address(self, given: str) -> None:
        assert DESTINATIONS.expand("postmaster@isp.test", given) == "postmaster@isp.test"


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
