"""How a copy goes out, in words: the route, the servers that DNS names, TLS, login."""

from __future__ import annotations

import time
from collections.abc import Sequence

from relay.config.model import AUTO, Config
from relay.config.secrets import SecretError
from relay.delivery.login import Account
from relay.explain.passage import Copy, Servers
from relay.explain.words import Citing, Step, show
from relay.mail.attempt import Attempt
from relay.mail.fallback import UNREACHED
from relay.mail.learned import ANYWHERE, Learned, find_learned, may_detour
from relay.mail.route import Discard, Mailbox, NextHop, Refuse
from relay.oauth.tokens import Tokens
from relay.routing.public_name import recall
from relay.routing.resolver import Host
from relay.wiring import account_of

_TLS = {
    "implicit": "TLS from the start, certificate verified",
    "starttls": "TLS after STARTTLS or not at all, certificate verified",
    "opportunistic": "TLS where the server offers it, certificate not verified",
    "none": "no TLS",
}


class Ways:
    """Tells the ways of copies under one configuration."""

    def __init__(self, config: Config, tokens: Tokens, citing: Citing) -> None:
        self._config = config
        self._tokens = tokens
        self._citing = citing
        self._account_of = account_of(config, tokens)

    def tell(self, copy: Copy, servers: Servers, learned: Learned) -> Step:
        """Return where a copy goes; ``servers`` are those of its next hop, () where it has none."""
        via, rule = copy.route.via, copy.route.rule
        address = copy.recipient.address
        decided = str(self._citing.cite(*rule)) if rule else "no line of relay.toml names another way"
        if copy.route.instead_of is not None:
            decided += _tell_reason(copy.route.instead_of.host, learned)
        elif self._config.fallback is not None and may_detour(copy.route):
            decided += f"; {self._citing.cite('fallback')}, takes over where the site refuses mail from here"
        is_obstacle = False
        match via:
            case Mailbox():
                what = f"goes into the mailbox {via.folder} ({decided})"
            case Discard():
                what = f"is accepted and forgotten ({decided})"
            case Refuse():
                what = f"comes back to the sender: {via.reply} ({decided})"
                is_obstacle = True
            case NextHop():
                is_obstacle, how = self._tell_hop(via, servers)
                inside = (
                    ", with the addresses of the house" if copy.route.internal and not via.is_lmtp else ""
                )
                renamed = f" as {show(copy.address)}" if copy.address != address else ""
                what = f"goes{renamed} to {_title(via)} ({decided}){inside}{how}"
        return self._citing.step(
            "delivery", show(address), f"{show(address)} {what}", is_obstacle=is_obstacle
        )

    def _tell_hop(self, hop: NextHop, servers: Servers) -> tuple[bool, str]:
        """Return whether mail does not get there, and the words for it."""
        if isinstance(servers, Attempt):
            reply = servers.reply
            fate = "comes back to the sender" if reply.is_permanent else "waits, and is tried again"
            return True, f", but {fate}: {servers.explain()}"
        if hop.is_lmtp:
            return False, f": {_list(hop, servers)}" if hop.port else ""
        words = f": {_list(hop, servers)}, {_TLS[hop.tls]}{self._cite_tls(hop.smarthost)}"
        words += self._tell_name()
        account = self._account_of(hop)
        if account is None:
            return False, words
        words += f", login as {account.username}{self._cite_login(hop.smarthost, account)}"
        problem = self._find_login_problem(hop.smarthost, account)
        return bool(problem), f"{words}, but waits, as there is no login: {problem}" if problem else words

    def _tell_name(self) -> str:
        """Return the EHLO name where it isn't one of relay.toml."""
        if self._config.helo_name != AUTO:
            return ""
        known = recall(self._config)
        if known.name:
            why = f"the name of {known.address}"
        elif known.address:
            why = f"{known.address} has no name that leads back to it"
        else:
            why = "the public address is not known yet"
        name = known.helo_name(self._config.hostname)
        return f", with EHLO {name} ({self._citing.cite('helo_name')}: {why})"

    def _cite_tls(self, smarthost: str) -> str:
        """Name what decided about TLS, where that stands in the file."""
        return self._cite_first(smarthost, ("tls", "provider")) if smarthost else ""

    def _cite_login(self, smarthost: str, account: Account) -> str:
        if account.method == "xoauth2":
            return f" with an OAuth token{self._cite_first(smarthost, ('auth', 'provider'))}"
        return self._cite_first(smarthost, ("password", "password_file", "password_env"))

    def _cite_first(self, smarthost: str, keys: Sequence[str]) -> str:
        """Return the first of the keys that stands in the file, in brackets."""
        paths = (("smarthost", smarthost, key) for key in keys)
        known = next((path for path in paths if self._citing.has(*path)), None)
        return f" ({self._citing.cite(*known)})" if known else ""

    def _find_login_problem(self, smarthost: str, account: Account) -> str:
        """Return why there can't be a login, as far as is known here."""
        try:
            if account.method == "xoauth2":
                self._tokens.check(smarthost)
            elif account.password:
                account.password()
        except SecretError as error:
            return str(error)
        return ""


def _tell_reason(domain: str, learned: Learned) -> str:
    """Return why mail for a domain goes over the fallback."""
    route = find_learned(learned, domain)
    assert route is not None
    if route.reason != UNREACHED:
        why = f"{domain} refuses mail from here ({route.reason})"
    elif route.domain == ANYWHERE:
        why = "no site was reached at port 25"
    else:
        why = f"no server of {domain} was reached at port 25"
    if route.is_pinned:
        end = ", pinned"
    elif route.is_expired(time.time()):
        end = "; the next message tries it directly"
    else:
        end = f", until {_day(route.expires_at)}"
    return f"; learned on {_day(route.learned_at)}{end}: {why}: {route.reply}"


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))


def _title(hop: NextHop) -> str:
    if hop.is_lmtp:
        return f"the mailbox server {hop.host}"
    if hop.smarthost:
        return f"smarthost {hop.smarthost}"
    return f"the mail exchangers of {hop.host}" if hop.use_mx else hop.host


def _list(hop: NextHop, servers: Sequence[Host]) -> str:
    return ", then ".join(
        f"[{host.name}]:{hop.port}"
        if host.addresses == (host.name,)
        else f"{host.name} [{', '.join(host.addresses)}]:{hop.port}"
        for host in servers
    )
