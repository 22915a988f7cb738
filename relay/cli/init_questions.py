"""The questions of ``relay init``, in order; what a flag has answered is not asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from relay.cli.interview import Interview
from relay.config.providers import DOMAINS, NO_PROVIDER, PROVIDERS, Provider
from relay.config.values import parse_listen_address, parse_port
from relay.init.answers import (
    PRIVATE,
    UNVERIFIED,
    USUAL_TLS,
    Answers,
    Server,
    find_provider,
    parse_address,
    parse_client_id,
    parse_listen,
    parse_networks,
    parse_password,
    parse_server_name,
    parse_tls,
    parse_username,
    parse_way,
    server_of,
    usual_username,
)
from relay.init.machine import find_networks, is_private, why_closed
from relay.mail.route import Tls

Given = Mapping[str, Any]
"""What flags have answered, parsed, by the names of the flags; None or nothing where there was no flag."""

NOTHING: Given = {}
USUAL_PORT = 25
PORT_FOR_ANYBODY = 2525
_EVERYWHERE = "0.0.0.0"


def ask_all(interview: Interview, given: Given, hostname: str) -> Answers:
    """Return the answers to all questions."""
    address = ask_address(interview, given, hostname)
    server = ask_server(interview, given, address)
    answers = Answers(address, server, networks=(), listen="")
    if server:
        answers = ask_login(interview, given, answers, server)
    return replace(answers, networks=_ask_networks(interview, given), listen=_ask_listen(interview, given))


def ask_address(interview: Interview, given: Given, hostname: str, default: str = "") -> str:
    """Return the owner's address."""
    if given.get("address"):
        return str(given["address"])
    interview.explain(
        "Your e-mail address",
        "It gets the mail for root and reports about lost mail, and takes the place of made-up",
        f"senders such as root@{hostname} in mail that leaves the house.",
    )
    return interview.ask("Address", "--address", partial(parse_address, hostname=hostname), default)


# The server


def ask_server(interview: Interview, given: Given, address: str) -> Server | None:
    """Return the server that takes the mail; None where it goes directly."""
    if given.get("direct"):
        return None
    if given.get("provider"):
        server: Server | None = server_of(given["provider"])
    elif given.get("host"):
        server = Server(NO_PROVIDER, given["host"], 0)
    else:
        server = _ask_way(interview, address)
    if server is None:
        return None
    if given.get("host"):
        server = replace(server, host=given["host"])
    if not server.host:
        host = interview.ask(f"Server ({server.provider.note})", "--host", parse_server_name)
        server = replace(server, host=host)
    return _ask_port_and_tls(interview, given, server)


def _ask_way(interview: Interview, address: str) -> Server | None:
    provider = find_provider(address)
    interview.explain(
        "How mail leaves the house",
        'Through your provider: its name, or its number in the list that "list" shows. Through',
        'another server: its name, such as smtp.example.net. Or "direct", to the recipients\' own',
        "servers: from a home connection many of these refuse mail, or port 25 is closed.",
    )

    def ask() -> Server | None:
        usual = provider.name if provider else ""
        return interview.ask("Way", "--provider, --host or --direct", parse, usual)

    def parse(text: str) -> Server | None:
        if text.lower() != "list":
            return parse_way(text)
        _show_providers()
        return ask()

    return ask()


def _show_providers() -> None:
    for number, row in enumerate(PROVIDERS.values(), 1):
        domains = [domain for domain, its in DOMAINS.items() if its is row][:3]
        print(f"  {number:2}  {row.name:<12}{', '.join(domains)}".rstrip())


def _ask_port_and_tls(interview: Interview, given: Given, server: Server) -> Server:
    port = given.get("port") or server.port or interview.ask("Port", "--port", parse_port, "465")
    if given.get("tls"):
        return replace(server, port=port, tls=given["tls"])
    if port == server.port and server.provider != NO_PROVIDER:
        return server
    return replace(server, port=port, tls=USUAL_TLS.get(port) or _ask_tls(interview, port))


def _ask_tls(interview: Interview, port: int) -> Tls:
    interview.explain(
        "Encryption",
        '"implicit" (from the first byte) or "starttls"; "opportunistic" where the server is one',
        "of the house that can't prove its name, or offers none, and wants no password.",
    )
    usual = "opportunistic" if port == USUAL_PORT else "starttls"
    return interview.ask("Encryption", "--tls", parse_tls, usual)


# The login


def ask_login(
    interview: Interview, given: Given, answers: Answers, server: Server, *, is_correction: bool = False
) -> Answers:
    """Return the answers with an account at the server."""
    username = _ask_username(interview, given, answers, server, is_correction=is_correction)
    answers = replace(answers, username=username, password="", password_file=None, client_id="")
    if not username:
        return answers
    if given.get("password_file"):
        return replace(answers, password_file=Path(given["password_file"]))
    if server.provider.auth == "xoauth2":
        return replace(answers, client_id=_ask_client_id(interview, given, server.provider))
    if server.provider.note:
        interview.explain(f"About {server.provider.name}", f"{server.provider.note}.")
    else:
        interview.explain("The password", "It is kept in a file of its own, which only you may read.")
    prompt = f"Password of {username} at {server.host} (not shown)"
    return replace(answers, password=interview.ask_secretly(prompt, "--password-file", parse_password))


def _ask_username(
    interview: Interview, given: Given, answers: Answers, server: Server, *, is_correction: bool
) -> str:
    if given.get("username") is not None:
        return str(given["username"])
    if server.tls in UNVERIFIED:
        return ""
    provider = server.provider
    usual = usual_username(provider, answers.address)
    is_known = provider.fixed_username or find_provider(answers.address) is provider
    if is_known and not is_correction:
        return usual
    prompt = "User name there" if provider.name else 'User name there ("-": it wants no login)'
    return interview.ask(prompt, "--username", _parse_needed_username, answers.username or usual)


def _parse_needed_username(text: str) -> str:
    if not text:
        raise ValueError("a user name is needed")
    return parse_username(text)


def _ask_client_id(interview: Interview, given: Given, provider: Provider) -> str:
    if given.get("client_id"):
        return str(given["client_id"])
    interview.explain(
        f"A client id for {provider.name}",
        f"{provider.name} takes no passwords from programs, only OAuth. That needs a client id, which",
        "costs nothing and a quarter of an hour: docs/oauth.md tells how to get one.",
    )
    return interview.ask("Client id", "--client-id", parse_client_id)


# Devices of the house


def _ask_networks(interview: Interview, given: Given) -> tuple[str, ...]:
    if given.get("networks"):
        networks: tuple[str, ...] = given["networks"]
        return networks
    found = [f"{each}{'' if is_private(each) else ' (which is not private)'}" for each in find_networks()]
    here = f"This machine is in {', '.join(found)}." if found else ""
    interview.explain(
        "Who may send",
        '"private" is this machine and all devices with private addresses, as in nearly every',
        "house. Or name networks, such as 192.168.0.0/24.",
        *filter(None, [here]),
    )
    return interview.ask("Networks", "--networks", parse_networks, PRIVATE)


def _ask_listen(interview: Interview, given: Given) -> str:
    if given.get("listen"):
        return str(given["listen"])
    reason = why_closed(_EVERYWHERE, USUAL_PORT)
    interview.explain(
        "The port that devices send to",
        f"{USUAL_PORT} is what they expect, but it can't be opened here: {reason}"
        if reason
        else f"{USUAL_PORT} is what they expect. Any other will do if you tell them.",
    )
    usual = PORT_FOR_ANYBODY if reason else USUAL_PORT
    listen = interview.ask("Port", "--listen", parse_listen, str(usual))
    if interview.may_ask and (reason := why_closed(*parse_listen_address(listen))):
        print(f"  Note: {listen} can't be opened here just now: {reason}")
    return listen
