"""DNS: the servers of a next hop in the order to try them, and the reverse names of clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Literal

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.resolver
import dns.reversename
from dns.rdata import Rdata
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.PTR import PTR

from relay.mail.attempt import Attempt, Scope
from relay.mail.reply import Reply
from relay.mail.route import Family, NextHop
from relay.routing.hosts_file import HostsFile
from relay.texts import is_ip

CACHE_SIZE = 2000
"""Answers kept at most."""
MAX_TTL = 86400
"""Seconds that an answer is kept at most, whatever its TTL."""
IPV6_SECONDS = 1.0
"""How long IPv6 addresses are waited for once IPv4 addresses are there (the resolution delay of RFC 8305)."""
MAX_EXCHANGERS = 10
"""Mail exchangers of one domain that are looked up at most."""

_RecordType = Literal["MX", "A", "AAAA", "PTR", "NS"]
_OF_SENDERS: Sequence[_RecordType] = ("MX", "A", "AAAA")
_Question = tuple[str, _RecordType]


@dataclass(frozen=True, slots=True)
class Host:
    """A server of a next hop."""

    name: str
    preference: int
    addresses: tuple[str, ...]
    """Those of the preferred family first."""


class _Problem(StrEnum):
    """Why there is no record, in the words of the system's resolver."""

    NOT_FOUND = "Host not found"
    NO_DATA = "Host found but no data record of requested type"
    TRY_AGAIN = "Host not found, try again"
    NO_NAMESERVER = "no name server is known; set nameservers under [dns], or mend /etc/resolv.conf"

    @property
    def is_temporary(self) -> bool:
        """Whether a later look-up may find what this one did not."""
        return self in {_Problem.TRY_AGAIN, _Problem.NO_NAMESERVER}


@dataclass(frozen=True, slots=True)
class _Answer:
    """The answer to one question, good until a point of the resolver's clock."""

    records: tuple[tuple[int, str], ...] = ()
    """Preference (0 but for MX) and name or address."""
    problem: _Problem = _Problem.NO_DATA
    """Why there is no record; meaningless where there is one."""
    expires_at: float = 0.0

    @property
    def texts(self) -> list[str]:
        """The names or addresses."""
        return [text for _, text in self.records]


class _UnresolvedError(Exception):
    """A next hop has no server to try: the reply says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Resolver:
    """Looks names up, /etc/hosts first, and remembers the answers as long as their TTL says.

    ``is_myself`` tells from name, addresses and port whether a server is this relay; ``prefer`` is the family
    of addresses that is to be tried first. Without ``nameservers`` resolv.conf counts, which is read anew for
    each question: networks come and go. ``timeout`` is in seconds and for one question, with all its
    repetitions.
    """

    def __init__(
        self,
        is_myself: Callable[[str, Sequence[str], int], bool],
        nameservers: Sequence[tuple[str, int]] = (),
        *,
        prefer: Family = "ipv6",
        timeout: float = 10.0,
        random: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        hosts_file: Path = Path("/etc/hosts"),
    ) -> None:
        self._is_myself = is_myself
        self._nameservers = tuple(nameservers)
        self._prefers_ipv4 = prefer == "ipv4"
        self._timeout = timeout
        self._random = random or Random()
        self._clock = clock
        self._resolv_conf = resolv_conf
        self._hosts_file = HostsFile(hosts_file)
        self._cache: dict[_Question, _Answer] = {}
        self._pending: dict[_Question, asyncio.Task[_Answer]] = {}

    async def hosts(self, next_hop: NextHop) -> tuple[Host, ...] | Attempt:
        """Return the servers of a next hop, best first, or why there is none.

        Servers of one preference come in random order. Where the relay itself is among them, it and all
        that are not better are left out (RFC 5321 section 5.1). A socket is its own and only address.
        """
        if not next_hop.port:
            return (Host(next_hop.host, 0, (next_hop.host,)),)
        try:
            if next_hop.use_mx and not is_ip(next_hop.host):
                found = await self._exchangers(next_hop.host)
            else:
                found = [await self._host(next_hop.host)]
            return tuple(found) if next_hop.is_lmtp else self._without_myself(found, next_hop)
        except _UnresolvedError as error:
            return _failure(error.reply, next_hop)

    async def addresses(self, name: str) -> list[str]:
        """Return the addresses of a name; none where the look-up fails."""
        return (await self._locate(name)).texts

    async def exists(self, domain: str) -> bool | None:
        """Return whether a domain of a sender is in the world's DNS; None where that is not known now.

        Its MX or addresses are asked for, and a null MX (RFC 7505) is one. /etc/hosts and a search list count
        for nothing: nobody else has them.
        """
        name = domain.lower() if "." in domain else f"{domain.lower()}."
        for record_type in _OF_SENDERS:
            answer = await self._ask(name, record_type)
            if answer.records:
                return True
            if answer.problem.is_temporary:
                return None
        return False

    async def knows_the_world(self, domain: str) -> bool:
        """Return whether a domain that the name servers deny may be taken for one that does not exist.

        So it is where the owner named them, or they know the root of the DNS or this other domain. A machine
        that is offline may be told of everything that it does not exist.
        """
        if self._nameservers:
            return True
        root = await self._ask(".", "NS")
        return bool(root.records) or bool(await self.exists(domain))

    async def ptr(self, address: str) -> list[str]:
        """Return the names that an address claims to have; none where the look-up fails."""
        if names := self._hosts_file.names(address):
            return names
        try:
            question = dns.reversename.from_address(address).to_text()
        except dns.exception.SyntaxError:
            return []
        return (await self._ask(question, "PTR")).texts

    async def _exchangers(self, domain: str) -> list[Host]:
        """Return the mail exchangers of a domain, best first; one without addresses is kept, with none."""
        answer = await self._ask(domain, "MX")
        if answer.problem.is_temporary:
            raise _UnresolvedError(_not_found(domain, "MX", answer.problem))
        if not answer.records:
            return [await self._host(domain)]
        exchangers = [(preference, name) for preference, name in answer.records if name != "."]
        if not exchangers:
            raise _UnresolvedError(Reply(556, "5.1.10", f"Domain {domain} does not accept mail (null MX)"))
        self._random.shuffle(exchangers)
        exchangers.sort(key=lambda exchanger: exchanger[0])
        del exchangers[MAX_EXCHANGERS:]
        located = await asyncio.gather(*(self._locate(name) for _, name in exchangers))
        if not any(answer.records for answer in located):
            problems = [(name, answer.problem) for (_, name), answer in zip(exchangers, located, strict=True)]
            name, problem = max(problems, key=lambda problem: problem[1].is_temporary)
            raise _UnresolvedError(_not_found(name, "A", problem))
        return [
            Host(name, preference, tuple(answer.texts))
            for (preference, name), answer in zip(exchangers, located, strict=True)
        ]

    async def _host(self, name: str) -> Host:
        if is_ip(name):
            return Host(name, 0, (name,))
        answer = await self._locate(name)
        if not answer.records:
            raise _UnresolvedError(_not_found(name, "A", answer.problem))
        return Host(name, 0, tuple(answer.texts))

    async def _locate(self, name: str) -> _Answer:
        """Return the addresses of a name, or the problem that is most worth a retry."""
        if listed := self._hosts_file.addresses(name):
            return self._sorted((0, address) for address in listed)
        asked = asyncio.create_task(self._ask(name, "AAAA"))
        ipv6 = _Answer(problem=_Problem.TRY_AGAIN)
        try:
            ipv4 = await self._ask(name, "A")
            async with asyncio.timeout(IPV6_SECONDS if ipv4.records else None):
                ipv6 = await asked
        except TimeoutError:
            pass  # it goes on, and the next one finds what comes of it in the cache
        finally:
            asked.cancel()
        if records := ipv6.records + ipv4.records:
            return self._sorted(self._random.sample(records, len(records)))
        return ipv6 if ipv6.problem.is_temporary else ipv4

    def _sorted(self, addresses: Iterable[tuple[int, str]]) -> _Answer:
        """Return addresses with those of the preferred family in front."""
        return _Answer(tuple(sorted(addresses, key=lambda found: (":" in found[1]) is self._prefers_ipv4)))

    def _without_myself(self, found: list[Host], next_hop: NextHop) -> tuple[Host, ...]:
        port = next_hop.port
        own = [host.preference for host in found if self._is_myself(host.name, host.addresses, port)]
        usable = tuple(host for host in found if host.addresses and (not own or host.preference < min(own)))
        if usable:
            return usable
        if found[0].preference < min(own):
            raise _UnresolvedError(Reply(451, "4.4.4", f"unable to find primary relay for {next_hop.host}"))
        raise _UnresolvedError(Reply(554, "5.4.6", f"mail for {next_hop.host} loops back to myself"))

    async def _ask(self, name: str, record_type: _RecordType) -> _Answer:
        """Return the answer to a question from the cache, or from DNS; one query serves all who wait."""
        question = (name, record_type)
        cached = self._cache.get(question)
        if cached is not None and self._clock() < cached.expires_at:
            return cached
        task = self._pending.get(question)
        if task is None:
            task = self._pending[question] = asyncio.create_task(self._query(question))
        return await asyncio.shield(task)

    async def _query(self, question: _Question) -> _Answer:
        try:
            answer = await self._resolve(*question)
        finally:
            del self._pending[question]
        self._cache.pop(question, None)
        if answer.expires_at:
            if len(self._cache) >= CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            self._cache[question] = answer
        return answer

    async def _resolve(self, name: str, record_type: _RecordType) -> _Answer:
        try:
            query_name = dns.name.from_text(name, dns.name.root if "." in name else None)
        except (dns.exception.DNSException, UnicodeError):
            return _Answer(problem=_Problem.NOT_FOUND)
        try:
            result = await make_stub(self._nameservers, self._timeout, self._resolv_conf).resolve(
                query_name, record_type, search=True, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN as error:
            responses = error.kwargs["responses"].values()
            ttl = min((response.resolve_chaining().minimum_ttl for response in responses), default=0)
            return _Answer((), _Problem.NOT_FOUND, self._expiry(ttl))
        except dns.resolver.NoResolverConfiguration:
            return _Answer(problem=_Problem.NO_NAMESERVER)
        except (dns.exception.DNSException, OSError, ValueError):
            return _Answer(problem=_Problem.TRY_AGAIN)
        records = tuple(map(_record, result))
        return _Answer(records, _Problem.NO_DATA, self._expiry(result.chaining_result.minimum_ttl))

    def _expiry(self, ttl: int) -> float:
        return self._clock() + min(ttl, MAX_TTL)


def make_stub(
    nameservers: Sequence[tuple[str, int]], timeout: float, resolv_conf: Path
) -> dns.asyncresolver.Resolver:
    """Return what asks these name servers, or those that resolv.conf names now; ``timeout`` is in seconds."""
    stub = dns.asyncresolver.Resolver(str(resolv_conf), configure=not nameservers)
    if nameservers:
        stub.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in nameservers]
    stub.lifetime = timeout
    return stub


def _record(data: Rdata) -> tuple[int, str]:
    """Return preference and name, or 0 and name or address, of a record."""
    match data:
        case MX():
            return data.preference, data.exchange.to_text(omit_final_dot=True).lower()
        case PTR():
            return 0, data.target.to_text(omit_final_dot=True)
        case _:
            return 0, data.to_text()


def _not_found(name: str, record_type: str, problem: _Problem) -> Reply:
    """Return the reply for a name without servers, in Postfix's words."""
    code, enhanced = (451, "4.4.3") if problem.is_temporary else (550, "5.4.4")
    words = f"Name service error for name={name} type={record_type}: {problem}"
    return Reply(code, enhanced, f"Host or domain name not found. {words}")


def _failure(reply: Reply, next_hop: NextHop) -> Attempt:
    """Return what an unusable next hop comes to; mail waits for the owner to mend what he set up."""
    if reply.is_permanent and (next_hop.is_relayhost or next_hop.is_lmtp):
        name = "lmtp" if next_hop.is_lmtp else "relayhost"
        reply = Reply(451, "4.3.5", f"{name} configuration problem: {reply.text}")
    scope = Scope.RECIPIENT if reply.is_permanent else Scope.SITE
    return Attempt(reply, scope, next_hop=next_hop.key)
