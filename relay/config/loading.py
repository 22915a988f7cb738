"""From relay.toml to a ``Config``: finding the file, reading it, filling in what depends on the machine."""

from __future__ import annotations

import re
import socket
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from pathlib import Path

from relay.config.alerts import read_alerts
from relay.config.canonical import read_canonical
from relay.config.dkim import read_dkim, read_places
from relay.config.header_checks import read_header_checks
from relay.config.house import (
    EVERYBODY,
    choose_user_domain,
    find_dead_ends,
    is_deliverable,
    read_aliases,
    read_local,
)
from relay.config.listeners import read_listener_tls, read_listeners, read_users
from relay.config.model import AUTO, Access, Config, Dns, Limits, Local, Log, Network, Queue, Rewrite, Web
from relay.config.places import Places
from relay.config.problems import ConfigError, KeyPath, Problems, describe_toml_error
from relay.config.routes import parse_relayhost, read_sender_relayhost, read_transport
from relay.config.secret_values import read_secret
from relay.config.sections import Section
from relay.config.smarthosts import read_smarthosts
from relay.config.values import (
    count_from,
    one_of,
    parse_domain,
    parse_duration,
    parse_flag,
    parse_listen_address,
    parse_mail_address,
    parse_nameserver,
    parse_network,
    parse_positive_duration,
    parse_size,
)
from relay.mail.address import join_address
from relay.mail.public_address import FALLBACK_HOSTNAME
from relay.mail.rewrite import Home

__all__ = ["ConfigError", "find_config", "find_problems", "load_config", "parse_config"]

USUAL_PATHS = (Path("relay.toml"), Path("/etc/relay/relay.toml"))

_CONTAINER_ID = re.compile(r"[0-9a-f]{12}|[0-9a-f]{64}")


def find_config(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file given, else $RELAY_CONFIG, else the first usual one that exists, else None."""
    if path is not None:
        return path
    if environ.get("RELAY_CONFIG"):
        return Path(environ["RELAY_CONFIG"])
    return next((usual for usual in USUAL_PATHS if usual.exists()), None)


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of the file that ``find_config`` finds; without one, all defaults.

    Relative paths in it start at its folder, wherever a command is run. Raises ConfigError.
    """
    found = find_config(path, environ)
    return _parse(found, _read_text(found) if found else "")


def load_with_places(path: Path | None, environ: Mapping[str, str]) -> tuple[Config, Places]:
    """Return what ``load_config`` does, and where its rules stand in the file."""
    found = find_config(path, environ)
    text = _read_text(found) if found else ""
    config = _parse(found, text)  # before the places: these need a valid text
    return config, Places.of(str(found or ""), text)


def parse_config(text: str, *, machine_name: str, file: str = "relay.toml", folder: Path = Path()) -> Config:
    """Return the configuration that a TOML text says; ``file`` is its name in errors, ``folder`` its place.

    The certificate that it names, if a listener needs it, must be there. Raises ConfigError.
    """
    problems = Problems(file, text, folder)
    config = _read_config(Section(problems, (), _parse_toml(file, text)), machine_name)
    problems.raise_any()
    return config


def load_dkim_places(path: Path | None, environ: Mapping[str, str]) -> dict[str, tuple[str, Path]]:
    """Return selector and key file by domain, whether or not the keys are there. Raises ConfigError.

    What else is wrong with the file does not matter.
    """
    found = find_config(path, environ)
    text = _read_text(found) if found else ""
    file, folder = _name_file(found)
    problems = Problems(file, text, folder)
    section = Section(problems, (), _parse_toml(file, text)).table("dkim")
    places = {domain: (selector, key_file) for domain, _, selector, key_file in read_places(section)}
    problems.raise_any()
    return places


def find_problems(
    document: Mapping[str, object], *, machine_name: str, folder: Path = Path()
) -> tuple[tuple[KeyPath, str], ...]:
    """Return the path of each wrong value of a TOML document that is not written yet, and why it is wrong."""
    problems = Problems("relay.toml", "", folder)
    _read_config(Section(problems, (), document), machine_name)
    return problems.found


def choose_hostname(machine_name: str) -> str:
    """Return the name to go by: the machine's, unless that is a container's id or no domain name."""
    try:
        name = parse_domain(machine_name)
    except ValueError:
        return FALLBACK_HOSTNAME
    return FALLBACK_HOSTNAME if _CONTAINER_ID.fullmatch(name) else name


def _parse(file: Path | None, text: str) -> Config:
    name, folder = _name_file(file)
    return parse_config(text, machine_name=socket.gethostname(), file=name, folder=folder)


def _name_file(file: Path | None) -> tuple[str, Path]:
    """Return the name of a file in errors, and where relative paths in it start."""
    return str(file or USUAL_PATHS[0]), file.absolute().parent if file else Path()


def _parse_toml(file: str, text: str) -> dict[str, object]:
    try:
        # With a line end, tomllib tells the line of an error at the end.
        return tomllib.loads(text + "\n")
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([describe_toml_error(file, text, error)]) from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path}:{line}: is not UTF-8 text; save the file as UTF-8"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from None


def _read_config(top: Section, machine_name: str) -> Config:
    hostname = top.read("hostname", parse_domain, choose_hostname(machine_name))
    helo_name = top.read("helo_name", parse_domain, hostname)
    address_notice = top.read("address_notice", parse_flag, False)
    domain = top.read("domain", parse_domain, hostname)
    queue = _read_queue(top.table("queue"))
    smarthosts = read_smarthosts(top.table("smarthost"), queue.path.parent / "tokens")
    users = read_users(top.table("users"))
    listeners = read_listeners(top.tables("listen"), users)
    local = read_local(local_section := top.table("local"), hostname)
    aliases, written_as = read_aliases(alias_section := top.table("aliases"))
    home = Home(domain, frozenset({*local.domains, "localhost"}))
    config = Config(
        hostname=hostname,
        helo_name=helo_name,
        address_notice=address_notice,
        domain=domain,
        postmaster=top.read("postmaster", parse_mail_address, _first_user(domain, local)),
        relayhost=top.read("relayhost", parse_relayhost(smarthosts), None),
        fallback=top.read("fallback", parse_relayhost(smarthosts), None),
        prefer=top.read("prefer", one_of("ipv4", "ipv6"), "ipv6"),
        listen=listeners,
        access=_read_access(top.table("access")),
        tls=read_listener_tls(top.table("tls"), is_needed=any(listen.tls != "none" for listen in listeners)),
        users=users,
        smarthost=smarthosts,
        transport=read_transport(top.table("transport"), smarthosts, home.local_domains),
        sender_relayhost=read_sender_relayhost(top.table("sender_relayhost"), smarthosts),
        sender_canonical=read_canonical(top.table("sender_canonical"), home),
        recipient_canonical=read_canonical(top.table("recipient_canonical"), home),
        rewrite=_read_rewrite(top.table("rewrite")),
        header_checks=read_header_checks(top.tables("header_checks")),
        aliases=aliases,
        local=local,
        queue=queue,
        limits=_read_limits(top.table("limits")),
        dkim=read_dkim(top.table("dkim")),
        dns=_read_dns(top.table("dns")),
        web=_read_web(top.table("web")),
        alerts=read_alerts(top.table("alerts")),
        log=_read_log(top.table("log")),
    )
    if not (local_section.has_wrong_values or alias_section.has_wrong_values):
        for key, reason in find_dead_ends(config):
            alias_section.reject(reason, written_as[key])
        if config.postmaster and not is_deliverable(config.postmaster, config):
            top.reject("is in a domain whose mail stays here, where nobody has that name", "postmaster")
    _check_address_notice(top, config)
    top.reject_unknown()
    return config


def _first_user(domain: str, local: Local) -> str:
    """Return who is postmaster where nobody is named: the first who has a mailbox."""
    if not local.users or local.users == EVERYBODY:
        return ""
    return join_address(local.users[0], choose_user_domain(domain, local))


def _check_address_notice(top: Section, config: Config) -> None:
    if not config.address_notice or top.has_wrong_values:
        return
    if config.helo_name != AUTO:
        top.reject('needs helo_name = "auto", which finds the address out', "address_notice")
    elif not config.postmaster:
        top.reject('needs somebody to write to: postmaster = "chris@example.org"', "address_notice")


def _read_access(section: Section) -> Access:
    default = Access()
    access = Access(
        networks=section.read_list("networks", parse_network, default.networks),
        open_relay=section.read("open_relay", parse_flag, default.open_relay),
    )
    section.reject_unknown()
    if _covers_everything(access.networks) and not access.open_relay:
        section.reject(
            "would let the whole internet send mail through this relay; name your own networks"
            " (or say open_relay = true if you really mean it)",
            "networks",
        )
    return access


def _covers_everything(networks: tuple[Network, ...]) -> bool:
    whole_v4 = collapse_addresses(network for network in networks if isinstance(network, IPv4Network))
    whole_v6 = collapse_addresses(network for network in networks if isinstance(network, IPv6Network))
    return any(whole.prefixlen == 0 for whole in whole_v4) or any(whole.prefixlen == 0 for whole in whole_v6)


def _read_rewrite(section: Section) -> Rewrite:
    default = Rewrite()
    rewrite = Rewrite(scope=section.read("scope", one_of("external", "all"), default.scope))
    section.reject_unknown()
    return rewrite


def _read_queue(section: Section) -> Queue:
    default = Queue()
    queue = Queue(
        path=section.read_path("path", default.path),
        retry=section.read_list("retry", parse_positive_duration, default.retry, may_be_empty=False),
        lifetime=section.read("lifetime", parse_positive_duration, default.lifetime),
        warn_after=section.read("warn_after", parse_duration, default.warn_after),
        history=section.read("history", parse_duration, default.history),
        history_subjects=section.read("history_subjects", parse_flag, default.history_subjects),
    )
    section.reject_unknown()
    return queue


def _read_limits(section: Section) -> Limits:
    default = Limits()
    limits = Limits(
        message_size=section.read("message_size", parse_size, default.message_size),
        recipients=section.read("recipients", count_from(1), default.recipients),
        connections=section.read("connections", count_from(1), default.connections),
        connections_per_client=section.read(
            "connections_per_client", count_from(1), default.connections_per_client
        ),
        messages_per_hour=section.read("messages_per_hour", count_from(0), default.messages_per_hour),
    )
    section.reject_unknown()
    return limits


def _read_dns(section: Section) -> Dns:
    default = Dns()
    dns = Dns(nameservers=section.read_list("nameservers", parse_nameserver, default.nameservers))
    section.reject_unknown()
    return dns


def _read_web(section: Section) -> Web:
    default = Web()
    host, port = section.read("address", _parse_web_address, (default.host, default.port))
    web = Web(host, port, password=read_secret(section, "password"))
    section.reject_unknown()
    if host and not ip_address(host).is_loopback and not web.password and not section.has_wrong_values:
        section.reject(
            "others than this machine could reach the page: give it a password (password, password_file or"
            ' password_env), or keep it on this machine, "127.0.0.1:8025"',
            "address",
        )
    return web


def _parse_web_address(value: object) -> tuple[str, int]:
    return ("", 0) if value == "" else parse_listen_address(value)


def _read_log(section: Section) -> Log:
    default = Log()
    log = Log(
        format=section.read("format", one_of("text", "json"), default.format),
        level=section.read("level", one_of("debug", "info", "warning", "error"), default.level),
    )
    section.reject_unknown()
    return log
