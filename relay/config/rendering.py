"""From a ``Config`` back to what relay.toml would say: every key, with defaults and names filled in.

Secrets that stand in the file itself are hidden; ``parse_config`` then asks for them.
"""

from __future__ import annotations

from relay.config.house import EVERYBODY
from relay.config.model import Access, Alerts, Config, Listen, ListenerTls, Local, Queue, Smarthost
from relay.config.secret_values import HIDDEN, render_secret
from relay.config.values import format_duration, format_rate, format_size
from relay.mail.address import quote_address, quote_local
from relay.mail.aliases import ANYBODY, Targets
from relay.mail.header_checks import HeaderCheck
from relay.mail.rewrite import Canonical
from relay.mail.route import ByLocal, ByMx, Discard, NextHop, Refuse, TransportEntry, Via
from relay.texts import join_port

Table = dict[str, object]


def render(config: Config) -> Table:
    """Return the table from which ``parse_config`` makes an equal configuration, hidden secrets apart."""
    return {
        "hostname": config.hostname,
        "helo_name": config.helo_name,
        "address_notice": config.address_notice,
        "domain": config.domain,
        **({"postmaster": quote_address(config.postmaster)} if config.postmaster else {}),
        **({"relayhost": _render_next_hop(config.relayhost)} if config.relayhost else {}),
        **({"fallback": _render_next_hop(config.fallback)} if config.fallback else {}),
        "prefer": config.prefer,
        "listen": [_render_listen(listen) for listen in config.listen],
        "access": _render_access(config.access),
        "tls": _render_listener_tls(config.tls),
        "users": dict.fromkeys(config.users, HIDDEN),
        "smarthost": {name: _render_smarthost(smarthost) for name, smarthost in config.smarthost.items()},
        "transport": {
            quote_address(key) if "@" in key else key: _render_transport(entry)
            for key, entry in config.transport.items()
        },
        "sender_relayhost": {
            _quote(key): _render_next_hop(hop) for key, hop in config.sender_relayhost.items()
        },
        "sender_canonical": _render_canonical(config.sender_canonical),
        "recipient_canonical": _render_canonical(config.recipient_canonical),
        "rewrite": {"scope": config.rewrite.scope},
        "header_checks": [_render_check(check) for check in config.header_checks],
        "aliases": {
            key if key == ANYBODY else _quote(key): _render_alias(alias)
            for key, alias in config.aliases.entries.items()
        },
        "local": _render_local(config.local),
        "queue": _render_queue(config.queue),
        "limits": {
            "message_size": format_size(config.limits.message_size),
            "recipients": config.limits.recipients,
            "connections": config.limits.connections,
            "connections_per_client": config.limits.connections_per_client,
            "messages_per_hour": config.limits.messages_per_hour,
        },
        "dkim": {
            domain: {"selector": dkim.selector, "key_file": str(dkim.key_file)}
            for domain, dkim in config.dkim.items()
        },
        "dns": {"nameservers": [join_port(address, port) for address, port in config.dns.nameservers]},
        "web": {
            "address": join_port(config.web.host, config.web.port) if config.web.host else "",
            **render_secret("password", config.web.password),
        },
        "alerts": _render_alerts(config.alerts),
        "log": {"format": config.log.format, "level": config.log.level},
    }


def _render_listen(listen: Listen) -> Table:
    return {
        "address": join_port(listen.host, listen.port),
        "tls": listen.tls,
        "tls_minimum": listen.tls_minimum,
        "auth": listen.auth,
        "clear_password": listen.clear_password,
    }


def _render_listener_tls(tls: ListenerTls) -> Table:
    files = {"certificate": tls.certificate, "key": tls.key}
    return {name: str(path) for name, path in files.items() if path}


def _render_smarthost(smarthost: Smarthost) -> Table:
    return {
        **({"provider": smarthost.provider} if smarthost.provider else {}),
        "host": smarthost.host,
        "port": smarthost.port,
        "tls": smarthost.tls,
        **({"username": smarthost.username} if smarthost.username else {}),
        **render_secret("password", smarthost.password),
        "auth": smarthost.auth,
        "clear_password": smarthost.clear_password,
        "connections": smarthost.connections,
        **({"rate": format_rate(smarthost.rate)} if smarthost.rate else {}),
        **(_render_oauth(smarthost) if smarthost.auth == "xoauth2" else {}),
    }


def _render_oauth(smarthost: Smarthost) -> Table:
    return {
        "client_id": smarthost.client_id,
        **render_secret("client_secret", smarthost.client_secret),
        "tenant": smarthost.tenant,
        "token_file": str(smarthost.token_file),
    }


def _render_access(access: Access) -> Table:
    return {"networks": [str(network) for network in access.networks], "open_relay": access.open_relay}


def _render_queue(queue: Queue) -> Table:
    return {
        "path": str(queue.path),
        "retry": [format_duration(seconds) for seconds in queue.retry],
        "lifetime": format_duration(queue.lifetime),
        "warn_after": format_duration(queue.warn_after),
        "history": format_duration(queue.history),
        "history_subjects": queue.history_subjects,
    }


def _render_alerts(alerts: Alerts) -> Table:
    form = {"form": alerts.form} if alerts.webhook else {}
    return {"command": list(alerts.command), **render_secret("webhook", alerts.webhook), **form}


def _render_transport(entry: TransportEntry) -> object:
    via = _render_via(entry.via)
    options = {**({"internal": True} if entry.internal else {}), **_render_tls(entry.via)}
    return {"via": via, **options} if options else via


def _render_tls(via: Via) -> Table:
    if not isinstance(via, ByMx | NextHop) or via.tls == "opportunistic":
        return {}
    if isinstance(via, NextHop) and via.smarthost:
        return {}
    return {"tls": "verify" if via.tls == "starttls" else via.tls}


def _render_via(via: Via) -> str:
    if isinstance(via, NextHop):
        return _render_next_hop(via)
    if isinstance(via, Refuse):
        return f"error:{via.reply.enhanced} {via.reply.text}"
    return {ByMx: "mx", ByLocal: "local", Discard: "discard"}[type(via)]


def _render_next_hop(hop: NextHop) -> str:
    if hop.smarthost:
        return hop.smarthost
    host = hop.host if hop.use_mx else f"[{hop.host}]"
    return host if hop.port == 25 else f"{host}:{hop.port}"


def _render_canonical(table: Canonical) -> Table:
    return {
        _quote(key) or '""': f"{quote_local(name)} <{_quote(address)}>" if name else _quote(address)
        for key, (address, name) in table.entries.items()
    }


def _render_alias(alias: Targets | Refuse) -> object:
    if isinstance(alias, Refuse):
        return _render_via(alias)
    targets = [_quote(target) for target in alias]
    return targets if len(targets) > 1 else targets[0]


def _render_local(local: Local) -> Table:
    lmtp = local.lmtp and (
        join_port(local.lmtp.host, local.lmtp.port) if local.lmtp.port else local.lmtp.host
    )
    return {
        "domains": list(local.domains),
        "users": "*" if local.users == EVERYBODY else list(map(quote_local, local.users)),
        "accept": local.accept,
        **({"maildir": local.maildir} if local.maildir else {}),
        **({"lmtp": lmtp} if lmtp else {}),
    }


def _render_check(check: HeaderCheck) -> Table:
    return {
        "pattern": check.pattern.pattern,
        "action": f"{check.action} {check.text}".rstrip(),
        "scope": check.scope,
    }


def _quote(address: str) -> str:
    return address if address.startswith("@") else quote_address(address)
