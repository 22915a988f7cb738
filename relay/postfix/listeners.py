"""Where clients connect, and who may relay: master.cf's smtpd services, mynetworks (postconf(5))."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv6Network, ip_network

from relay.config.values import parse_ip
from relay.postfix.draft import Table
from relay.postfix.logical_lines import logical_lines, split_list
from relay.postfix.main_cf import Settings
from relay.postfix.master_cf import Service
from relay.postfix.source import Source
from relay.postfix.tables import INDEXED, parse_table_name

LOOPBACK = ["127.0.0.0/8", "::1/128"]
_MAPPED = ip_network("::ffff:0:0/96")
_VERSIONS = ("1.0", "1.1", "1.2", "1.3")
_PROTOCOL = re.compile(r"(>=|!)?tlsv?(1(?:\.[123])?)", re.IGNORECASE)
_SMTPD = frozenset({"smtpd", "postscreen"})


def translate_listeners(source: Source) -> None:
    """Put [[listen]] and [tls] into the draft."""
    services = [
        service for service in source.services if service.kind == "inet" and service.command in _SMTPD
    ]
    if not source.services:
        services = [Service("smtp", "inet", "smtpd", {}, 0)]
    hosts = _hosts(source)
    seen = set()
    for service in services:
        if not service.port:
            source.draft.lack(f"master.cf:{service.line}: {service.name}", "is no port that is known here")
            continue
        for host in [service.host] if service.host else hosts:
            address = f"{host if parse_ip(host) else '127.0.0.1'}:{service.port}"
            if address not in seen:
                seen.add(address)
                _put_listener(source, service, address)
    if source.services and not services:
        source.draft.remark(
            "master.cf has no SMTP server; the relay always listens, so here only for this machine.",
            "listen",
            0,
        )
        source.draft.blocks("listen").append({"address": "127.0.0.1:25"})
    _put_certificate(source)


def translate_networks(source: Source) -> None:
    """Put [access] into the draft."""
    settings = source.settings
    style = settings.get("mynetworks_style").lower()
    if settings.is_given("mynetworks"):
        written = [network for item in settings.items("mynetworks") for network in _networks(item, source)]
        source.draft.put([*dict.fromkeys(written)], "access", "networks")
        return
    if style == "host":
        source.draft.put(LOOPBACK, "access", "networks")
        source.draft.remark(
            "main.cf names no networks, so only this machine may send. Add your own, such as 192.168.0.0/24.",
            "access",
        )
        return
    source.draft.remark(
        f"Postfix took the networks of this machine (mynetworks_style = {style}). Without a line here the"
        " relay takes all private networks.",
        "access",
    )
    source.draft.put({}, "access")


def _hosts(source: Source) -> list[str]:
    """Return the addresses to listen on, IPv6 in brackets (postconf(5), inet_interfaces)."""
    protocols = source.settings.items("inet_protocols")
    hosts: dict[str, None] = {}
    for word in source.settings.items("inet_interfaces") or ["all"]:
        if word in ("all", "loopback-only", "localhost"):
            four, six = ("0.0.0.0", "[::]") if word == "all" else ("127.0.0.1", "[::1]")
            hosts[six if protocols == ["ipv6"] else four] = None
            if protocols != ["ipv4"] and protocols != ["ipv6"]:
                source.draft.remark(f'For IPv6 too, add a block with address = "{six}:25".', "listen", 0)
        elif address := parse_ip(word) or parse_ip(f"[{word}]"):
            hosts[f"[{address}]" if ":" in address else address] = None
        else:
            source.draft.lack(
                f"inet_interfaces = ... {word}",
                "the relay listens on IP addresses: here on all of the machine's",
            )
            return ["0.0.0.0"]
    return [*hosts]


def _put_listener(source: Source, service: Service, address: str) -> None:
    settings = source.settings.with_options(service.options) if service.options else source.settings
    blocks = source.draft.blocks("listen")
    place = len(blocks)
    block: Table = {"address": address}
    blocks.append(block)
    if service.line:
        source.draft.remark(f'master.cf:{service.line}: "{service.name}".', "listen", place)
    tls = _tls(settings)
    if tls != "none":
        block["tls"] = tls
        if minimum := _minimum(settings, tls):
            block["tls_minimum"] = minimum
    if settings.get("smtpd_tls_security_level").lower() == "encrypt" and tls == "starttls":
        source.draft.remark("Postfix insisted on TLS here; the relay offers it.", "listen", place)
    if settings.is_on("smtpd_sasl_auth_enable"):
        _offer_login(source, settings, place, tls)


def _tls(settings: Settings) -> str:
    if settings.is_on("smtpd_tls_wrappermode"):
        return "implicit"
    level = settings.get("smtpd_tls_security_level").lower()
    is_old_way = settings.is_on("smtpd_use_tls") or settings.is_on("smtpd_enforce_tls")
    return "starttls" if level in ("may", "encrypt") or (not level and is_old_way) else "none"


def _minimum(settings: Settings, tls: str) -> str:
    """Return the oldest version of TLS that main.cf names; "" where it leaves that to the program."""
    is_mandatory = tls == "implicit" or settings.get("smtpd_tls_security_level").lower() == "encrypt"
    name = "smtpd_tls_mandatory_protocols" if is_mandatory else "smtpd_tls_protocols"
    if not settings.is_given(name):
        return ""
    found = [_PROTOCOL.fullmatch(item) for item in re.split(r"[,:\s]+", settings.get(name))]
    named = [(match[1] or "", match[2] if "." in match[2] else "1.0") for match in found if match]
    if at_least := [version for sign, version in named if sign == ">="]:
        return at_least[0]
    if named and not any(sign for sign, _ in named):
        return min(version for _, version in named)
    return next((version for version in _VERSIONS if ("!", version) not in named), "1.3")


def _offer_login(source: Source, settings: Settings, place: int, tls: str) -> None:
    """Say how to let people log in: their passwords are not in Postfix's files."""
    draft = source.draft
    draft.remark(
        "Who may log in is not in Postfix's files: name them with `relay passwd` under [users].",
        "listen",
        place,
    )
    settings.get("smtpd_tls_auth_only")  # the relay's own rule
    lists = [settings.items(f"smtpd_{kind}_restrictions") for kind in ("client", "relay", "recipient")]
    is_required = ["permit_sasl_authenticated", "reject"] in lists
    draft.offer(f'auth = "{"required" if is_required else "optional"}"', "listen", place)
    if tls == "none":
        draft.offer("clear_password = true", "listen", place)


def _put_certificate(source: Source) -> None:
    settings = source.settings
    chain = settings.items("smtpd_tls_chain_files")
    certificate = chain[-1] if chain else settings.get("smtpd_tls_cert_file")
    key = chain[0] if chain else settings.get("smtpd_tls_key_file")
    if len(chain) > 2:
        source.draft.lack(
            "smtpd_tls_chain_files",
            "the relay has one certificate; the first key and the last file are taken",
        )
    if certificate and certificate != "none":
        source.draft.put({"certificate": certificate, "key": key}, "tls")


def _networks(item: str, source: Source) -> Iterator[str]:
    """Yield the networks that an item of mynetworks stands for (postconf(5), mynetworks)."""
    what = f"mynetworks = ... {item}"
    if item.startswith("!"):
        source.draft.lack(what, "the relay leaves no part of a network out; name what is left")
        return
    if item.startswith("/"):
        for _, line in logical_lines(source.read(item, what)):
            for inner in split_list(line):
                yield from _networks(inner, source) if not inner.startswith("/") else ()
        return
    table = parse_table_name(item)
    if table.kind in {*INDEXED, "cidr"} and table.path.startswith("/"):
        # In such a table the keys are the networks, whatever is on the right.
        for _, line in logical_lines(source.read(table.path, what)):
            key, _, result = line.strip().partition(" ")
            if table.kind == "cidr" and (
                key.startswith("!") or key in ("if", "endif") or result.strip() == "DUNNO"
            ):
                source.draft.lack(f"{what}: {line.strip()}", "the relay leaves no part of a network out")
            else:
                yield from _networks(key.split("\t")[0], source)
        return
    network = _parse_network(item)
    if not network:
        source.draft.lack(what, "is no network that is known here, such as 192.168.0.0/24")
    elif network.endswith("/0"):
        source.draft.lack(what, "would let the whole internet send mail through the relay")
    else:
        yield network


def _parse_network(text: str) -> str:
    """Return the network of ``192.168.0.0/24``, ``[fd00::]/8`` or a host; "" for anything else."""
    try:
        network = ip_network(re.sub(r"%\w*|[\[\]]", "", text), strict=False)
    except ValueError:
        return ""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.subnet_of(_MAPPED):  # type: ignore[arg-type]
        mapped = network.network_address.ipv4_mapped
        return f"{mapped}/{network.prefixlen - 96}"
    return str(network)
