"""Questions to DNS whose answers are told apart: found, no such record, no such name, no answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
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
from dns.rdtypes.txtbase import TXTBase

from relay.routing.resolver import make_stub

RecordType = Literal["A", "AAAA", "MX", "PTR", "TXT"]


class State(StrEnum):
    """What came of a question."""

    FOUND = "found"
    NO_DATA = "no record of this type"
    NO_NAME = "no such name"
    FAILED = "no answer"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question."""

    state: State
    records: tuple[str, ...] = ()
    """Addresses, names without final dot (MX: best first, "." for a null MX), or texts."""
    reason: str = ""
    """Why there is no answer."""


Ask = Callable[[str, RecordType], Awaitable[Answer]]
"""Asks for the records of an absolute name."""


class Lookup:
    """Asks name servers, given as (address, port); none: the system's. ``timeout`` is in seconds."""

    def __init__(
        self,
        nameservers: Sequence[tuple[str, int]] = (),
        *,
        timeout: float = 6.0,
        resolv_conf: Path = Path("/etc/resolv.conf"),
    ) -> None:
        self._nameservers = tuple(nameservers)
        self._timeout = timeout
        self._resolv_conf = resolv_conf

    async def ask(self, name: str, record_type: RecordType) -> Answer:
        """Return the records of an absolute name, or why there are none."""
        try:
            question = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return Answer(State.NO_NAME)
        try:
            result = await make_stub(self._nameservers, self._timeout, self._resolv_conf).resolve(
                question, record_type, search=False, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN:
            return Answer(State.NO_NAME)
        except dns.resolver.NoResolverConfiguration:
            return Answer(State.FAILED, reason="no name server is known")
        except dns.resolver.LifetimeTimeout:
            return Answer(State.FAILED, reason="the name server does not answer in time")
        except dns.resolver.NoNameservers:
            return Answer(State.FAILED, reason="the name server answers with an error")
        except (dns.exception.DNSException, OSError, ValueError) as error:
            return Answer(State.FAILED, reason=str(error))
        records = tuple(map(_text_of, sorted(result, key=_preference) if record_type == "MX" else result))
        return Answer(State.FOUND, records) if records else Answer(State.NO_DATA)


def reverse_name(address: str, zone: str = "") -> str:
    """Return the name of an address in a blocklist's zone (RFC 5782), or else that of its PTR records."""
    labels = [label.decode() for label in dns.reversename.from_address(address).labels if label]
    return ".".join([*labels[:-2], zone] if zone else labels)


def _preference(data: Rdata) -> int:
    assert isinstance(data, MX)
    return int(data.preference)


def _text_of(data: Rdata) -> str:
    match data:
        case MX():
            name = data.exchange.to_text()
            return name if name == "." else name.rstrip(".").lower()
        case PTR():
            return data.target.to_text(omit_final_dot=True)
        case TXTBase():
            return b"".join(data.strings).decode("utf-8", "replace")
        case _:
            return data.to_text()
