"""The whole examination: every check at once, each on its own, and none that could end in a traceback."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import relay
from relay.config.model import AUTO, Config
from relay.delivery.client import ClientSettings
from relay.doctor import (
    address,
    blocklists,
    dkim,
    expiry,
    machine,
    nameservers,
    port25,
    senders,
    service,
    smarthosts,
)
from relay.doctor.finding import UNCHECKED, Finding
from relay.doctor.service import Waiting
from relay.doctor.trial import TIMEOUTS, opener
from relay.doctor.ways import domains_of, goes_direct, hops_of
from relay.mail.public_address import Known, choose_name, parse_echo
from relay.mail.reply import Reply
from relay.oauth.account import OAuthAccount
from relay.oauth.tokens import Tokens
from relay.reception.access import default_gateway
from relay.routing.lookup import Ask, Lookup
from relay.routing.myself import Myself
from relay.routing.public_address import INSIDE, Seen, ask_mirrors, find_reverse
from relay.routing.public_name import last_helo_name
from relay.routing.resolver import Resolver
from relay.threads import in_thread
from relay.wiring import account_of, accounts_of, locate_by

LIMIT_SECONDS = 60.0
"""How long one check may take."""
DNS_SECONDS = 6.0
"""How long one question to DNS may take."""

Check = Coroutine[object, object, list[Finding]]
Progress = Callable[[Sequence[str]], None]
"""Is told the titles of the checks that are not done yet, whenever that changes."""


@dataclass(frozen=True, slots=True)
class Section:
    """What was found about one thing."""

    title: str
    findings: tuple[Finding, ...]


async def examine(config: Config, progress: Progress, *, root: Path = Path("/")) -> list[Section]:
    """Return what there is to say about the ways of mail under a configuration; sends and changes nothing.

    ``root`` is where the marks of a container are looked for.
    """
    examination = _Examination(config, root)
    sections = await run_checks(examination.first_checks(), progress)
    sections += await run_checks(await examination.second_checks(), progress)
    return [section for section in sections if section.findings]


class _Examination:
    """The checks, in two rounds: those of the second need what the first learns along the way."""

    def __init__(self, config: Config, root: Path) -> None:
        self._config = config
        self._root = root
        self._ask = Lookup(config.dns.nameservers, timeout=DNS_SECONDS).ask
        self._accounts = accounts_of(config)
        self._is_direct = goes_direct(config)
        self._now = time.time()
        self._heard: set[str] = set()
        """The public addresses that mail servers showed us."""
        self._seen = Seen()
        """What name servers see of us."""
        self._waiting = Waiting()

    def first_checks(self) -> dict[str, Check]:
        """Return the checks that need nothing but the configuration, by title."""
        config, ask, now = self._config, self._ask, self._now
        myself = Myself(config.hostname, config.listen)
        resolver = Resolver(myself.is_at, config.dns.nameservers, timeout=DNS_SECONDS)
        settings = ClientSettings(
            last_helo_name(config),
            config.hostname,
            TIMEOUTS,
            account_of(config, Tokens(self._accounts)),
            self._note,
        )
        open_trial = opener(locate_by(resolver), settings)
        return {
            "DNS": _together(
                nameservers.check_works(ask), nameservers.check_honesty(ask, secrets.token_hex(6))
            ),
            "port 25": port25.check_port25(open_trial, is_direct=self._is_direct),
            **{
                title: smarthosts.check_smarthost(config, hop, open_trial, now=now)
                for title, hop in hops_of(config).items()
            },
            **{f"DKIM of {domain}": dkim.check_key(domain, key, ask) for domain, key in config.dkim.items()},
            "service": self._look_at_service(),
            "certificates and tokens": in_thread(lambda: _check_expiry(config, self._accounts, now)),
            "disk": in_thread(lambda: _check_disk(config)),
            "public address": self._ask_for_address(),
        }

    async def second_checks(self) -> dict[str, Check]:
        """Return the checks that need the public address, or what the running relay said."""
        ask, waiting = self._ask, self._waiting
        addresses, about_address = address.judge_addresses(self._seen, sorted(self._heard))
        config = await self._name_relay(addresses)
        evidence = partial(_gather_evidence, config, self._accounts, waiting)
        return {
            "public address": _given(about_address),
            "clock": in_thread(lambda: machine.check_clock(self._now, evidence())),
            "clients": in_thread(
                lambda: service.judge_clients(
                    default_gateway(self._root), config.access.networks, waiting.clients
                )
            ),
            **_checks_of_addresses(config, addresses, ask, is_direct=self._is_direct),
            **{
                f"sender domain {domain}": senders.check_sender(sender, hop, addresses, config, ask)
                for domain, sender, hop in domains_of(config)
            },
        }

    def _note(self, server: str, hello: Reply) -> None:
        if shown := parse_echo(hello.text, INSIDE, server):
            self._heard.add(shown)

    async def _look_at_service(self) -> list[Finding]:
        findings, self._waiting = await in_thread(lambda: service.ask_service(self._config.queue.path))
        return findings

    async def _ask_for_address(self) -> list[Finding]:
        self._seen = await ask_mirrors(self._ask)
        return []  # what mail servers showed is known only after this round

    async def _name_relay(self, addresses: Sequence[str]) -> Config:
        """Return the configuration with the EHLO name that ``"auto"`` comes to."""
        config = self._config
        if config.helo_name != AUTO or not addresses:
            return replace(config, helo_name=last_helo_name(config))
        reverse = await find_reverse(addresses[0], self._ask)
        name = choose_name(reverse.confirmed, last_helo_name(config), config.hostname)
        return replace(config, helo_name=Known(addresses[0], name=name).helo_name(config.hostname))


def _checks_of_addresses(
    config: Config, addresses: Iterable[str], ask: Ask, *, is_direct: bool
) -> dict[str, Check]:
    checks: dict[str, Check] = {}
    for each in addresses:
        checks[f"reverse name of {each}"] = address.check_reverse(
            each, config.helo_name, ask, is_direct=is_direct
        )
        checks[f"blocklists about {each}"] = _together(
            *(
                blocklists.check_blocklist(blocklist, each, ask, is_direct=is_direct)
                for blocklist in blocklists.BLOCKLISTS
            )
        )
    return checks


def _check_disk(config: Config) -> list[Finding]:
    disk = machine.measure_disk(config.queue.path.parent)
    return machine.judge_disk(disk, config.limits.message_size)


def _check_expiry(config: Config, accounts: Mapping[str, OAuthAccount], now: float) -> list[Finding]:
    findings = expiry.check_certificate(config.tls.certificate, now) if config.tls.certificate else []
    return [*findings, *chain.from_iterable(expiry.check_token(each, now) for each in accounts.values())]


def _gather_evidence(
    config: Config, accounts: Mapping[str, OAuthAccount], waiting: Waiting
) -> dict[str, float]:
    """Return what has happened for sure, with when that was."""
    files = {
        "this program was installed": Path(relay.__file__),
        "the queue was written": config.queue.path,
        **{f"the token of {name} was renewed": each.token_file for name, each in accounts.items()},
    }
    evidence = {event: _written_at(path) for event, path in files.items()}
    return {**evidence, "a message was received": waiting.newest}


def _written_at(path: Path) -> float:
    """Return when a file was written, in epoch seconds; 0 where that can't be seen."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


# How checks run


async def run_checks(
    checks: Mapping[str, Check], progress: Progress, *, limit: float = LIMIT_SECONDS
) -> list[Section]:
    """Run checks at once, and return what each found under its title.

    One that fails, or takes more than ``limit`` seconds, has found that it could not be done.
    """
    pending = list(checks)
    progress(pending)

    async def run(title: str, check: Check) -> Section:
        findings = await _guard(check, limit)
        pending.remove(title)
        progress(pending)
        return Section(title, tuple(findings))

    return await asyncio.gather(*(run(title, check) for title, check in checks.items()))


async def _guard(check: Check, limit: float) -> list[Finding]:
    try:
        async with asyncio.timeout(limit):
            return await check
    except TimeoutError:
        return [UNCHECKED.found(reason=f"it took more than {limit:.0f} s")]
    except Exception as error:  # one check's defect must not hide what the others found
        return [UNCHECKED.found(reason=f"{type(error).__name__}: {error}")]


async def _together(*checks: Check) -> list[Finding]:
    return [*chain.from_iterable(await asyncio.gather(*checks))]


async def _given(findings: list[Finding]) -> list[Finding]:
    return findings
