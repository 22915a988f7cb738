"""What is different between two header blocks, once it is known what the header checks did."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from relay.mail.header_checks import Decision
from relay.mail.headers import header_name


@dataclass(frozen=True, slots=True)
class Changes:
    """The differences that are not the work of header checks."""

    edited: tuple[tuple[bytes, bytes], ...]
    """Headers before and after."""
    dropped: tuple[bytes, ...]
    added: tuple[bytes, ...]


def find_changes(before: Sequence[bytes], after: Sequence[bytes], decisions: Iterable[Decision]) -> Changes:
    """Return what became of the headers of a message."""
    checked = list(_replay(before, decisions))
    new: dict[str, deque[bytes]] = {}
    for header in _without(after, checked):
        new.setdefault(header_name(header), deque()).append(header)
    edited: list[tuple[bytes, bytes]] = []
    dropped: list[bytes] = []
    for header in _without(checked, after):
        if twins := new.get(header_name(header)):
            edited.append((header, twins.popleft()))
        else:
            dropped.append(header)
    return Changes(tuple(edited), tuple(dropped), tuple(header for them in new.values() for header in them))


def _replay(headers: Iterable[bytes], decisions: Iterable[Decision]) -> Iterator[bytes]:
    """Yield headers as the checks left them."""
    pending = list(decisions)
    for header in headers:
        decision = next((each for each in pending if each.header == header), None)
        if decision is None:
            yield header
            continue
        pending.remove(decision)
        yield from decision.inspected.prepended
        if decision.inspected.header is not None:
            yield decision.inspected.header


def _without(headers: Iterable[bytes], others: Iterable[bytes]) -> list[bytes]:
    """Return the headers that are not among the others, one for one."""
    left = Counter(others)
    found = []
    for header in headers:
        if left[header]:
            left[header] -= 1
        else:
            found.append(header)
    return found
