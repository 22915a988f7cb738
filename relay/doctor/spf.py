"""Whether a domain's SPF record lets an address send its mail (RFC 7208).

DNS is asked through a callable; nothing else here is of the outside world. ``exp`` is read and not followed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote

from relay.routing.lookup import Answer, Ask, RecordType, State, reverse_name

MOST_LOOKUPS = 10
"""Terms that ask DNS, in a record and all that it includes (section 4.6.4)."""
MOST_VOID_LOOKUPS = 2
"""Questions that may find nothing (section 4.6.4)."""
MOST_NAMES = 10
"""Mail exchangers of one ``mx``, and reverse names, that are looked at (section 4.6.4)."""
LONGEST_NAME = 253
LONGEST_RECORD = 4096
"""Characters. Section 3.4 wants far shorter ones: what is too long for a packet may never be seen."""

Address = IPv4Address | IPv6Address


class Result(StrEnum):
    """What a record says of an address (section 2.6)."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result, with the record that it comes from ("" where there is none) and the reason of an error."""

    result: Result
    record: str = ""
    reason: str = ""


async def check_host(ask: Ask, address: str, domain: str, sender: str, helo: str) -> Verdict:
    """Return what the domain's record says of mail from ``sender`` that comes from an address (section 4)."""
    peer = ip_address(address)
    if isinstance(peer, IPv6Address) and peer.ipv4_mapped:
        peer = peer.ipv4_mapped
    local, _, sender_domain = sender.rpartition("@")
    evaluation = _Evaluation(ask, peer, local or "postmaster", sender_domain or domain, helo)
    try:
        return await evaluation.check(domain)
    except _SpfError as error:
        return Verdict(error.result, evaluation.record, str(error))


class _SpfError(Exception):
    def __init__(self, result: Result, reason: str) -> None:
        super().__init__(reason)
        self.result = result


_QUALIFIERS = {"+": Result.PASS, "-": Result.FAIL, "~": Result.SOFTFAIL, "?": Result.NEUTRAL}
_MACRO = r"%\{[slodiphvSLODIPHV](?:0*[1-9][0-9]*)?[rR]?[.\-+,/_=]*\}"
_ANY_MACRO = _MACRO.replace("slodiphvSLODIPHV", "A-Za-z")
_TOP_LABEL = r"(?=[0-9]*[A-Za-z-])[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_MACRO_STRING = re.compile(rf"(?:{_ANY_MACRO}|%[%_-]|[!-$&-~])*")
_DOMAIN_SPEC = re.compile(rf"(?:{_MACRO}|%[%_-]|[!-$&-~])*(?:\.{_TOP_LABEL}\.?|{_MACRO}|%[%_-])")
_EXPANSION = re.compile(r"%(?:\{([A-Za-z])([0-9]*)([rR]?)([.\-+,/_=]*)\}|([%_-]))")
_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)")
_DIRECTIVE = re.compile(r"([+\-~?]?)(all|include|a|mx|ptr|ip4|ip6|exists)((?:[:/].*)?)", re.IGNORECASE)
_TARGET = re.compile(r"(?::(.+?))?(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?")
_LABEL = re.compile(r"[^.]{1,63}")


@dataclass(frozen=True, slots=True)
class _Directive:
    result: Result
    mechanism: str
    argument: str = ""
    """A domain-spec, or a network."""
    prefixes: tuple[int, int] = (32, 128)


@dataclass(slots=True)
class _Record:
    directives: list[_Directive] = field(default_factory=list)
    modifiers: dict[str, str] = field(default_factory=dict)


def _parse(text: str) -> _Record:
    """Return the terms of a record (section 4.6). Raises _SpfError."""
    record = _Record()
    for term in text.split(" ")[1:]:
        if not term:
            continue
        if directive := _DIRECTIVE.fullmatch(term):
            qualifier, mechanism, rest = directive.groups()
            record.directives.append(_parse_directive(qualifier, mechanism.lower(), rest, term))
        elif modifier := _MODIFIER.fullmatch(term):
            name, value = modifier[1].lower(), modifier[2]
            pattern = _DOMAIN_SPEC if name in {"redirect", "exp"} else _MACRO_STRING
            if name in record.modifiers or not pattern.fullmatch(value):
                raise _syntax_error(term)
            if name in {"redirect", "exp"}:
                record.modifiers[name] = value
        else:
            raise _syntax_error(term)
    return record


def _parse_directive(qualifier: str, mechanism: str, rest: str, term: str) -> _Directive:
    result = _QUALIFIERS[qualifier or "+"]
    argument, prefixes = rest[1:], (32, 128)
    match mechanism:
        case "all":
            is_right = not rest
        case "ip4" | "ip6":
            is_right = rest.startswith(":") and _is_network(argument, int(mechanism[2]))
        case "a" | "mx":
            target = _TARGET.fullmatch(rest)
            if target is None:
                raise _syntax_error(term)
            argument, prefixes = target[1] or "", (int(target[2] or 32), int(target[3] or 128))
            is_right = prefixes[0] <= 32 and prefixes[1] <= 128
            is_right = is_right and (not argument or _DOMAIN_SPEC.fullmatch(argument) is not None)
        case _:
            is_optional = mechanism == "ptr" and not rest
            is_right = is_optional or (rest[:1] == ":" and _DOMAIN_SPEC.fullmatch(argument) is not None)
    if not is_right:
        raise _syntax_error(term)
    return _Directive(result, mechanism, argument, prefixes)


def _is_network(text: str, version: int) -> bool:
    address, slash, prefix = text.partition("/")
    try:
        longest = ip_address(address).max_prefixlen
        is_known = ip_address(address).version == version
    except ValueError:
        return False
    if not slash:
        return is_known
    return is_known and re.fullmatch("0|[1-9][0-9]{0,2}", prefix) is not None and int(prefix) <= longest


def _syntax_error(term: str) -> _SpfError:
    return _SpfError(Result.PERMERROR, f'"{term}" in it has a mistake')


class _Evaluation:
    """One message's check; counts what it asks."""

    def __init__(self, ask: Ask, peer: Address, local: str, sender_domain: str, helo: str) -> None:
        self.record = ""
        """The first record that was read."""
        self._ask = ask
        self._peer = peer
        self._family: RecordType = "A" if peer.version == 4 else "AAAA"
        self._local = local
        self._sender_domain = sender_domain
        self._helo = helo
        self._lookups = 0
        self._void_lookups = 0

    async def check(self, domain: str) -> Verdict:
        text = await self._read(domain)
        if not text:
            return Verdict(Result.NONE)
        self.record = self.record or text
        record = _parse(text)
        for directive in record.directives:
            if await self._matches(directive, domain):
                return Verdict(directive.result, text)
        redirect = record.modifiers.get("redirect")
        if redirect is None:
            return Verdict(Result.NEUTRAL, text)
        self._count_lookup()
        verdict = await self.check(await self._expand(redirect, domain))
        if verdict.result is Result.NONE:
            raise _SpfError(Result.PERMERROR, f'"redirect={redirect}" leads to no record')
        return verdict

    async def _read(self, domain: str) -> str:
        """Return the record of a domain, "" where it has none (sections 4.4 and 4.5)."""
        labels = domain.removesuffix(".").split(".")
        if len(labels) < 2 or len(domain) > LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
            return ""
        answer = await self._ask(domain, "TXT")
        if answer.state is State.FAILED:
            raise _SpfError(Result.TEMPERROR, f"the look-up of {domain} failed: {answer.reason}")
        found = [text for text in answer.records if text.split(" ")[0].lower() == "v=spf1"]
        if len(found) > 1:
            raise _SpfError(Result.PERMERROR, f"{domain} has {len(found)} SPF records")
        if not found:
            return ""
        if len(found[0]) > LONGEST_RECORD:
            raise _SpfError(
                Result.PERMERROR, f"the record of {domain} has more than {LONGEST_RECORD} characters"
            )
        return found[0]

    async def _matches(self, directive: _Directive, domain: str) -> bool:
        argument = directive.argument
        match directive.mechanism:
            case "all":
                return True
            case "ip4" | "ip6":
                network = ip_network(argument, strict=False)
                return self._peer.version == network.version and self._peer in network
        self._count_lookup()
        target = await self._expand(argument, domain) if argument else domain
        match directive.mechanism:
            case "include":
                return await self._includes(target)
            case "a":
                return self._is_among(await self._addresses(target), directive)
            case "mx":
                return await self._is_exchanger(target, directive)
            case "exists":
                return bool((await self._query(target, "A")).records)
            case _:
                names = await self._reverse_names()
                return any(f".{name}".endswith(f".{target.lower()}") for name in names)

    async def _includes(self, domain: str) -> bool:
        verdict = await self.check(domain)
        if verdict.result is Result.NONE:
            raise _SpfError(Result.PERMERROR, f'"include:{domain}" leads to no record')
        return verdict.result is Result.PASS

    async def _is_exchanger(self, domain: str, directive: _Directive) -> bool:
        exchangers = (await self._query(domain, "MX")).records
        if len(exchangers) > MOST_NAMES:
            raise _SpfError(Result.PERMERROR, f"{domain} has more than {MOST_NAMES} mail exchangers")
        for exchanger in exchangers:
            if exchanger != "." and self._is_among(await self._addresses(exchanger), directive):
                return True
        return False

    def _is_among(self, addresses: tuple[str, ...], directive: _Directive) -> bool:
        prefix = directive.prefixes[0 if self._peer.version == 4 else 1]
        return any(self._peer in ip_network(f"{address}/{prefix}", strict=False) for address in addresses)

    async def _addresses(self, domain: str) -> tuple[str, ...]:
        return (await self._query(domain, self._family)).records

    async def _reverse_names(self) -> list[str]:
        """Return the names of the peer that lead back to it (section 5.5)."""
        answer = await self._query(reverse_name(str(self._peer)), "PTR", tolerant=True)
        confirmed = []
        for name in answer.records[:MOST_NAMES]:
            addresses = (await self._ask(name, self._family)).records
            if self._peer in map(ip_address, addresses):
                confirmed.append(name.lower())
        return confirmed

    async def _query(self, name: str, record_type: RecordType, *, tolerant: bool = False) -> Answer:
        """Return an answer. Raises _SpfError where there is none and that counts, or one too many is void."""
        answer = await self._ask(name, record_type)
        if answer.state is State.FAILED:
            if tolerant:
                return answer
            raise _SpfError(Result.TEMPERROR, f"the look-up of {name} failed: {answer.reason}")
        if not answer.records:
            self._void_lookups += 1
            if self._void_lookups > MOST_VOID_LOOKUPS:
                raise _SpfError(
                    Result.PERMERROR, f"more than {MOST_VOID_LOOKUPS} names in it do not exist ({name})"
                )
        return answer

    def _count_lookup(self) -> None:
        self._lookups += 1
        if self._lookups > MOST_LOOKUPS:
            raise _SpfError(Result.PERMERROR, f"it needs more than {MOST_LOOKUPS} look-ups")

    # Macros (section 7)

    async def _expand(self, spec: str, domain: str) -> str:
        """Return the domain that a domain-spec stands for."""
        names = await self._reverse_names() if "%{p" in spec.lower() else []
        values = {
            "s": f"{self._local}@{self._sender_domain}",
            "l": self._local,
            "o": self._sender_domain,
            "d": domain,
            "i": self._dotted(),
            "p": names[0] if names else "unknown",
            "v": "in-addr" if self._peer.version == 4 else "ip6",
            "h": self._helo,
        }

        def replace(match: re.Match[str]) -> str:
            letter, digits, reverse, delimiters, escaped = match.groups()
            if escaped:
                return {"%": "%", "_": " ", "-": "%20"}[escaped]
            first, *others = set(delimiters or ".")
            value = values[letter.lower()]
            for other in others:
                value = value.replace(other, first)
            parts = value.split(first)
            if reverse:
                parts.reverse()
            text = ".".join(parts[-int(digits) :] if digits else parts)
            return quote(text, safe="-._~") if letter.isupper() else text

        expanded = _EXPANSION.sub(replace, spec).removesuffix(".")
        if len(expanded) <= LONGEST_NAME:
            return expanded
        end = expanded[-LONGEST_NAME - 1 :]
        return end.partition(".")[2] or end

    def _dotted(self) -> str:
        if isinstance(self._peer, IPv4Address):
            return str(self._peer)
        return ".".join(self._peer.exploded.replace(":", ""))
