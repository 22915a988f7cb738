"""From answers to the text of relay.toml, explained section by section."""

from __future__ import annotations

from dataclasses import dataclass

from relay.config.model import PRIVATE_NETWORKS
from relay.config.providers import NO_PROVIDER
from relay.config.values import format_size
from relay.config.writing import write_block, write_comment
from relay.init.answers import Answers, Server, server_of, tables_of_owner

HEAD = (
    "Made by `relay init`. What else there is to set, and each default: relay.toml.example. After a change,"
    " `relay check` says whether all is well."
)
HOSTNAME = "The relay's own name: in greetings, and in what it adds to messages."
POSTMASTER = "Gets mail for root and other reserved names here, and reports that reach nobody else."
RELAYHOST = "Where mail goes that no other rule routes: the server that is described below."
DIRECT = (
    "Mail goes straight to the mail servers of its recipients. To send it through a server of your provider"
    ' instead, add relayhost = "isp" here, or fallback = "isp" for the sites alone that refuse mail from'
    " homes; and a section [smarthost.isp] below: relay.toml.example has one."
)
LISTEN = "Where devices and mail programs connect: all addresses of this machine (0.0.0.0), and the port."
ACCESS = "Who may send mail through this relay, to anywhere and without a login."
SMARTHOST = "The server that takes the mail, and the account there."
PRESET = "Host, port and TLS are those of the provider. What you write here yourself counts more."
PASSWORD = "The password stands in a file of its own; the path starts at the folder of this file."
OAUTH = "No password, but OAuth: the token comes from `relay login {name}`, see docs/oauth.md."
SENDERS = "Made-up senders, and the real address that takes their place in mail that leaves the house."
HOME = "Mail for {hostname} does not stay here: your mailbox is elsewhere."
SIZE = "The largest message. The server above takes none that are larger."
QUEUE = "The file that holds mail until it is delivered; beside this file, for want of rights elsewhere."


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What relay.toml says beside the answers."""

    hostname: str
    password_file: str = ""
    """As relay.toml names it; "" where no password is needed."""
    queue: str = ""
    """"" for the usual place."""
    message_size: int | None = None
    """The largest message in bytes; None for the usual limit."""


def write_toml(answers: Answers, around: Surroundings) -> str:
    """Return the text of relay.toml."""
    owner = tables_of_owner(answers.address, around.hostname)
    server = answers.server
    lines = write_block([HEAD], "", {})
    lines += write_block([HOSTNAME], "", {"hostname": around.hostname})
    lines += write_block([POSTMASTER], "", {"postmaster": owner["postmaster"]})
    lines += (
        write_block([RELAYHOST], "", {"relayhost": server.name}) if server else [*write_comment([DIRECT]), ""]
    )
    lines += write_block([LISTEN], "[[listen]]", {"address": answers.listen})
    lines += write_block([ACCESS], "[access]", {"networks": _networks(answers)})
    if server:
        sentences = [SMARTHOST, *_remarks(answers, server)]
        lines += write_block(
            sentences, f"[smarthost.{server.name}]", _smarthost(answers, server, around.password_file)
        )
    lines += write_block([SENDERS], "[sender_canonical]", _table(owner["sender_canonical"]))
    if "local" in owner:
        lines += write_block([HOME.format(hostname=around.hostname)], "[local]", _table(owner["local"]))
    if around.message_size:
        lines += write_block([SIZE], "[limits]", {"message_size": format_size(around.message_size)})
    if around.queue:
        lines += write_block([QUEUE], "[queue]", {"path": around.queue})
    return "\n".join(lines).rstrip() + "\n"


def _remarks(answers: Answers, server: Server) -> list[str]:
    remarks = [PRESET] if server.provider.name else []
    if answers.client_id:
        remarks.append(OAUTH.format(name=server.name))
    elif answers.username:
        remarks.append(PASSWORD)
    return remarks


def _smarthost(answers: Answers, server: Server, password_file: str) -> dict[str, object]:
    table: dict[str, object] = {}
    usual = server_of(server.provider)
    if server.provider != NO_PROVIDER:
        table["provider"] = server.provider.name
    for key in ("host", "port", "tls"):
        if server.provider == NO_PROVIDER or getattr(server, key) != getattr(usual, key):
            table[key] = getattr(server, key)
    if answers.username:
        table["username"] = answers.username
    if answers.client_id:
        table |= {"auth": "xoauth2", "client_id": answers.client_id}
    elif answers.username:
        table["password_file"] = password_file
    return table


def _networks(answers: Answers) -> list[str]:
    """Return the networks, and this machine, which may always send."""
    here = [str(network) for network in PRIVATE_NETWORKS if network.is_loopback]
    return list(dict.fromkeys([*here, *answers.networks]))


def _table(value: object) -> dict[str, object]:
    assert isinstance(value, dict)
    return value
