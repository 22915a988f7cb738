"""Where mail goes: relayhost, transport tables, accounts (postconf(5), transport(5), SASL_README)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from relay.config.providers import PROVIDERS
from relay.config.values import parse_ip
from relay.postfix.draft import Table
from relay.postfix.main_cf import Settings
from relay.postfix.master_cf import port_of
from relay.postfix.patterns import Rule
from relay.postfix.reasons import reason_for
from relay.postfix.source import Source
from relay.postfix.tables import parse_table_name

PASSWORDS = "smtp_sasl_password_maps"
FALLBACK = "smtp_fallback_relay"

_NEXT_HOP = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:\s]+))(?::([A-Za-z0-9]+))?")
_DOMAIN_RULE = re.compile(r"(?:\^?\(?\.[*+]\)?)?@((?:[A-Za-z0-9_-]|\\\.)+)\$")
_EVERYTHING = re.compile(r"\^?\(?\.[*+]\)?\$?|")
_POLICY_KEY = re.compile(r"\.?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+")
_POLICIES = {"none": "none", "verify": "verify", "secure": "verify"}
_MANDATORY = frozenset({"encrypt", "dane-only", "fingerprint", "verify", "secure"})
_PROVIDERS_BY_HOST = {provider.host: provider.name for provider in PROVIDERS.values() if provider.host}
_RESERVED = frozenset({"mx", "local", "discard", "error"})
_MECHANISMS = {"plain": "plain", "login": "login", "cram-md5": "cram-md5"}


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop as Postfix writes it."""

    text: str
    host: str
    port: int
    use_mx: bool

    @property
    def plain(self) -> str:
        """The next hop as relay.toml writes it."""
        host = self.host if self.use_mx else f"[{self.host}]"
        return host if self.port == 25 else f"{host}:{self.port}"


class _Login(NamedTuple):
    username: str
    password: str


def parse_hop(text: str) -> Hop | None:
    """Return the next hop of ``[host]:port`` or ``host:port``; None where it is none."""
    parts = _NEXT_HOP.fullmatch(text.strip())
    if parts is None:
        return None
    bracketed, bare, service = parts.groups()
    port = port_of(service) if service else 25
    host = (bracketed or bare).lower().removeprefix("ipv6:")
    return Hop(text.strip(), host, port, bare is not None and not parse_ip(host)) if port else None


class Routes:
    """Makes the routes, and the smarthosts that they need."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._settings = source.settings
        self._draft = source.draft
        self._passwords = _read_passwords(source, source.settings)
        self._policies = source.entries_alone("smtp_tls_policy_maps")
        self._made: dict[tuple[object, ...], str] = {}
        self._options: dict[str, Settings | None] = {}

    def translate(self) -> bool:
        """Put relayhost, fallback, sender_relayhost, transport and the smarthosts into the draft.

        Return whether all but local mail is refused or thrown away.
        """
        relayhost = self._settings.items("relayhost")
        hop = self._hop(relayhost[0], "relayhost") if relayhost else None
        for other in relayhost[1:]:
            self._draft.lack(
                f"relayhost = ... {other}", "the relay has one relayhost and no other in reserve"
            )
        if hop:
            self._draft.put(self._next_hop(hop), "relayhost")
        preference = self._settings.get("smtp_address_preference").lower()
        if preference == "ipv4" or self._settings.items("inet_protocols") == ["ipv4"]:
            self._draft.put("ipv4", "prefer")
        self._translate_senders(hop)
        self._translate_transport(relayhost=bool(hop))
        self._translate_policies(relayhost=bool(hop))
        nothing_leaves = self._translate_defaults(relayhost=bool(hop))
        self._translate_fallback()
        return nothing_leaves

    def _hop(self, text: str, what: str) -> Hop | None:
        hop = parse_hop(text)
        if hop is None:
            self._draft.lack(f"{what} = {text}", "is no host, such as [smtp.example.org]:587")
        return hop

    def _translate_senders(self, relayhost: Hop | None) -> None:
        by_sender = self._settings.is_on("smtp_sender_dependent_authentication")
        entries = self._source.entries("sender_dependent_relayhost_maps")
        for rule in self._source.rules("sender_dependent_relayhost_maps"):
            self._draft.lack(f"{rule.place}: {rule.result}", "senders are named, not matched")
        senders = {
            key: hop
            for key, text in entries.items()
            if text.upper() != "DUNNO" and (hop := self._hop(text, key))
        }
        if by_sender and relayhost:
            senders.update({key: relayhost for key in self._passwords if "@" in key and key not in senders})
        for sender, hop in senders.items():
            self._draft.put(self._next_hop(hop, sender if by_sender else ""), "sender_relayhost", sender)

    def _translate_transport(self, *, relayhost: bool) -> None:
        for key, value in self._source.entries("transport_maps").items():
            self._put_route(key, value, f"transport_maps: {key} {value}", relayhost=relayhost)
        for rule in self._source.rules("transport_maps"):
            key = _key_of(rule)
            what = f"{rule.place}: {rule.result}"
            if key:
                self._put_route(key, rule.result, what, relayhost=relayhost)
            else:
                self._draft.lack(what, rule.reason or "the relay's transport table has no patterns")

    def _translate_policies(self, *, relayhost: bool) -> None:
        """Put the TLS that the mail exchangers of a domain must have into its route."""
        routes = self._draft.table("transport")
        for key, policy in self._policies.items():
            level = policy.lower().partition(" ")[0]
            if not _POLICY_KEY.fullmatch(key) or routes.get(key, "" if relayhost else "mx") != "mx":
                continue
            if level in _POLICIES:
                self._draft.put({"via": "mx", "tls": _POLICIES[level]}, "transport", key)
            elif level != "may":
                what = f"smtp_tls_policy_maps: {key} {policy}"
                self._draft.lack(
                    what, 'tls = "verify" in [transport] asks for a certificate with the right name'
                )

    def _put_route(self, key: str, value: str, what: str, *, relayhost: bool) -> None:
        transport, _, next_hop = value.partition(":")
        transport, next_hop = transport.strip(), next_hop.strip()
        via = self._via(transport, next_hop, relayhost=relayhost)
        if via is None:
            self._draft.lack(
                what, f"the relay has no transport {transport}: it delivers by SMTP, LMTP or to Maildirs"
            )
        elif key not in self._draft.table("transport"):
            self._draft.put(via, "transport", key)

    def _via(self, transport: str, next_hop: str, *, relayhost: bool) -> str | None:
        """Return the right side of an entry of [transport]; None where there is none."""
        if transport in ("error", "discard", "local", "virtual"):
            return {"error": f"error:{next_hop}", "virtual": "local"}.get(transport, transport)
        if not transport and not next_hop:
            # Leaves all as it is (transport(5)), which is the relayhost for what is not local.
            return str(self._draft.document["relayhost"]) if relayhost else "mx"
        if transport not in self._options:
            self._options[transport] = self._options_of(transport)
        options = self._options[transport]
        if options is None:
            return None
        if not next_hop:
            return "mx"
        hop = self._hop(next_hop.partition(",")[0], f"{transport}:{next_hop}")
        return self._next_hop(hop, options=options) if hop else None

    def _options_of(self, transport: str) -> Settings | None:
        """Return the settings of a transport that speaks SMTP; None for one that does not."""
        services = (service for service in self._source.services if service.kind == "unix")
        service = next((service for service in services if service.name == transport), None)
        if service is None:
            return self._settings if transport in ("", "smtp", "relay") else None
        if service.command != "smtp":
            return None
        for name, value in service.options.items():
            if not name.startswith(("smtp_tls_", "smtp_sasl_", "syslog_")) and value:
                self._draft.lack(f"master.cf:{service.line}: {transport}: {name} = {value}", reason_for(name))
        return self._settings.with_options(service.options) if service.options else self._settings

    def _translate_defaults(self, *, relayhost: bool) -> bool:
        name = "default_transport"
        transport, _, next_hop = self._settings.get(name).partition(":")
        if transport in ("error", "discard"):
            words = next_hop or "5.0.0 This machine sends no mail to the outside"
            self._put_route("*", f"{transport}:{words}", name, relayhost=relayhost)
            self._draft.remark(f"{name} = {transport}: no mail leaves this machine.", "transport")
            return True
        if transport != "smtp":
            self._settings.leave(name)
        elif next_hop and not relayhost and (hop := self._hop(next_hop, name)):
            self._draft.put(self._next_hop(hop), "relayhost")
        return False

    def _translate_fallback(self) -> None:
        hosts = self._settings.items(FALLBACK)
        is_one = len(hosts) == 1 and "relayhost" not in self._draft.document
        if is_one and (hop := self._hop(hosts[0], FALLBACK)):
            self._draft.put(self._next_hop(hop), "fallback")
            self._draft.remark(
                "Postfix tried it for sites that it could not find or reach; the relay does for those that"
                " can't be reached, and for those that refuse mail because it comes from here.",
                "fallback",
            )
        elif hosts and not is_one:
            self._settings.leave(FALLBACK)

    def _next_hop(self, hop: Hop, sender: str = "", options: Settings | None = None) -> str:
        """Return how relay.toml names a next hop: a smarthost where there is a login or TLS is a must."""
        settings = options or self._settings
        login = self._find_login(hop, sender, settings)
        level = self._tls_level(hop, settings)
        is_wrapped = settings.is_on("smtp_tls_wrappermode")
        if not login and level not in _MANDATORY and not is_wrapped:
            return hop.plain
        identity = (hop.host, hop.port, login, level, is_wrapped)
        if identity not in self._made:
            name = self._choose_name(hop, login)
            self._made[identity] = name
            self._say(name, f"From {hop.text}.")
            self._draft.put(
                self._smarthost(name, hop, login, level, is_wrapped=is_wrapped), "smarthost", name
            )
        return self._made[identity]

    def _find_login(self, hop: Hop, sender: str, settings: Settings) -> _Login | None:
        """Return the account that Postfix would use (postconf(5), smtp_sasl_password_maps)."""
        passwords = self._passwords
        if settings.get(PASSWORDS) != self._settings.get(PASSWORDS):
            passwords = _read_passwords(self._source, settings)
        if not settings.is_on("smtp_sasl_auth_enable"):
            return None
        keys = (sender, f"@{sender.rpartition('@')[2]}" if sender else "", hop.text.lower(), hop.host, "*")
        found = next((passwords[key] for key in keys if key and key in passwords), None)
        username, colon, password = (found or "").partition(":")
        return _Login(username, password) if colon and username and password else None

    def _tls_level(self, hop: Hop, settings: Settings) -> str:
        keys = (hop.text.lower(), hop.host)
        policy = next((self._policies[key] for key in keys if key in self._policies), "")
        old_way = "may" if settings.is_on("smtp_use_tls") else "none"
        old_way = "encrypt" if settings.is_on("smtp_enforce_tls") else old_way
        level = policy or settings.get("smtp_tls_security_level").lower()
        return level.split()[0] if level else old_way

    def _choose_name(self, hop: Hop, login: _Login | None) -> str:
        """Return a name for a smarthost: the provider's, else what its host is called by."""
        labels = hop.host.split(".")
        name = _PROVIDERS_BY_HOST.get(hop.host) or (
            "host" if parse_ip(hop.host) or ":" in hop.host else labels[-2:][0]
        )
        name = re.sub(r"[^A-Za-z0-9_-]", "-", name) or "host"
        taken = self._draft.table("smarthost").keys() | _RESERVED
        if name in taken and login:
            name = f"{name}-{re.sub(r'[^A-Za-z0-9_-]', '-', login.username.partition('@')[0])}"
        names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
        return next(name for name in names if name not in taken)

    def _smarthost(self, name: str, hop: Hop, login: _Login | None, level: str, *, is_wrapped: bool) -> Table:
        provider = PROVIDERS.get(_PROVIDERS_BY_HOST.get(hop.host, ""))
        is_known = bool(provider and login)
        table: Table = {"provider": provider.name} if provider and is_known else {"host": hop.host}
        tls = "implicit" if is_wrapped or hop.port == 465 else "starttls"
        if (
            login
            and not is_wrapped
            and level in ("none", "may", "dane")
            and not is_known
            and hop.port not in (465, 587)
        ):
            tls = "none" if level == "none" else "opportunistic"
            table["clear_password"] = True
            self._say(
                name,
                "Postfix would send the password without TLS too. If the server has TLS, write tls ="
                ' "starttls" or "implicit" and take clear_password out.',
            )
        elif level not in ("verify", "secure", "dane-only", "fingerprint"):
            self._say(
                name, "The relay insists on TLS here and verifies the certificate, which Postfix did not."
            )
        if hop.use_mx:
            self._say(
                name, f"Postfix asked the DNS for the mail exchangers of {hop.host}; a smarthost is a host."
            )
        table |= {"port": hop.port, "tls": tls}
        if login:
            table |= {"username": login.username, "password": login.password}
            table |= self._mechanism()
        return table

    def _mechanism(self) -> Table:
        words = [word.lower() for word in self._settings.items("smtp_sasl_mechanism_filter")]
        mechanism = _MECHANISMS.get(words[0]) if len(words) == 1 else None
        return {"auth": mechanism} if mechanism else {}

    def _say(self, name: str, sentence: str) -> None:
        self._draft.remark(sentence, "smarthost", name)


def _read_passwords(source: Source, settings: Settings) -> dict[str, str]:
    """Return the accounts, ``user:password`` by next hop or sender; with "*" those for everywhere."""
    for item in settings.items(PASSWORDS):
        table = parse_table_name(item)
        if table.kind == "static":
            return {"*": table.path.strip("{} ")}
    return replace(source, settings=settings).entries_alone(PASSWORDS)


def _key_of(rule: Rule) -> str:
    """Return the key of the transport table that matches what a rule does; "" where there is none."""
    if rule.pattern is None or rule.conditions or rule.pattern.is_negated:
        return ""
    domain = _DOMAIN_RULE.fullmatch(rule.pattern.text)
    if domain:
        return domain[1].replace("\\", "")
    return "*" if _EVERYTHING.fullmatch(rule.pattern.text) else ""
