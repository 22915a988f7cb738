"""What happens to the header of a message, in words: on arrival, and in the copies that leave the house."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from relay.config.model import Config
from relay.explain.changes import find_changes
from relay.explain.words import Citing, Step
from relay.mail.address import complete
from relay.mail.dkim import author_domain
from relay.mail.fields import find_addresses
from relay.mail.header_checks import Action, Decision
from relay.mail.headers import header_name, split_content, unfold
from relay.mail.rewrite import SENDER_HEADERS, Canonical, Home
from relay.wiring import Wiring

LONGEST = 200
"""Characters of a header that are shown."""

_OUTSIDE = " in copies that leave the house"
_WORDS = {
    Action.REJECT: "makes the relay refuse the message",
    Action.DISCARD: "makes the relay throw the message away",
    Action.HOLD: "makes the relay hold the message back",
    Action.WARN: "is written to the log, as a warning",
    Action.INFO: "is written to the log",
    Action.DUNNO: "is left alone: no later check looks at it",
    Action.PASS: "ends the checks for this message",
}
"""What checks do that neither change a header nor name an address."""

Cite = Callable[[bytes], list[str]]
"""Says why the addresses in a header, given as it was, are others."""


def tell_arrival(
    wiring: Wiring, citing: Citing, content: bytes, kept: bytes, decisions: Sequence[Decision]
) -> Iterator[Step]:
    """Yield what is done to headers once, when the message arrives.

    ``kept`` is the header block that is queued; b"" where nothing is.
    """
    yield from _tell_checks(wiring.config, citing, decisions, "")
    if not kept:
        return
    rules = wiring.arrival

    def cite(header: bytes) -> list[str]:
        is_sender = header_name(header) in SENDER_HEADERS
        section = "sender_canonical" if is_sender else "recipient_canonical"
        table = rules.sender_canonical if is_sender else rules.recipient_canonical
        found = list(_matches(header, table, rules.home))
        cited = [str(citing.cite(section, key)) for key in found]
        return cited or [f"completed: {citing.cite_first(('domain',), ('hostname',))}"]

    yield from _tell_changes(citing, content, kept, decisions, cite, "")


def tell_departure(
    wiring: Wiring, citing: Citing, kept: bytes, sent: bytes, decisions: Sequence[Decision]
) -> Iterator[Step]:
    """Yield what is done to the headers of copies that leave the house."""
    rules = wiring.departure

    def cite(header: bytes) -> list[str]:
        matches = (rules.sender_canonical.match(a, rules.home) for a in find_addresses(header))
        return [str(citing.cite("sender_canonical", match[0])) for match in matches if match]

    yield from _tell_checks(wiring.config, citing, decisions, _OUTSIDE)
    yield from _tell_changes(citing, kept, sent, decisions, cite, _OUTSIDE)
    if rules.signers:
        yield _tell_signature(wiring, citing, sent)


def _tell_signature(wiring: Wiring, citing: Citing, sent: bytes) -> Step:
    name, signer = "DKIM-Signature", wiring.departure.find_signer(sent)
    if signer is not None:
        rule = citing.cite("dkim", signer.domain)
        what = f"added{_OUTSIDE}: the signature of {signer.domain}, with its key {signer.selector} ({rule})"
    elif domain := author_domain(split_content(sent)[0]):
        what = f"none{_OUTSIDE}: [dkim] has no key of {domain}, the domain of From"
    else:
        what = f"none{_OUTSIDE}: a signature is for one From with one address"
    return citing.step("headers", name, f"{name}: {what}")


def _matches(header: bytes, table: Canonical, home: Home) -> Iterator[str]:
    for address in find_addresses(header):
        for key, _, _ in table.steps(complete(address, home.domain), home):
            yield key


def _tell_checks(config: Config, citing: Citing, decisions: Iterable[Decision], where: str) -> Iterator[Step]:
    """Yield what the checks did, headers of one name together."""
    groups: dict[tuple[int, str], list[Decision]] = {}
    for decision in decisions:
        number = next(i for i, check in enumerate(config.header_checks) if check is decision.check)
        groups.setdefault((number, header_name(decision.header)), []).append(decision)
    for (number, _), them in groups.items():
        times = f" ({len(them)} times)" if len(them) > 1 else ""
        what = f"{_tell_check(them[0], where)}{times} ({citing.cite('header_checks', number)})"
        yield citing.step("headers", _name(them[0].header), what)


def _tell_check(decision: Decision, where: str) -> str:
    check, header, inspected, text = decision
    name = _name(header)
    if inspected.prepended:
        return f'above {name} stands "{_show(inspected.prepended[0])}"{where}'
    if inspected.header is None:
        return f"{name} is removed{where}"
    if inspected.header != header:
        return f'{name} becomes "{_show(inspected.header)}"{where}'
    if check.action in (Action.REDIRECT, Action.BCC):
        instead = "in the place of its recipients" if check.action is Action.REDIRECT else "too"
        return f"{name} makes the relay send the message to {text.decode('utf-8', 'replace')} {instead}"
    return f"{name} {_WORDS.get(check.action, 'stays as it is: what is to replace it is no header')}{where}"


def _tell_changes(
    citing: Citing, before: bytes, after: bytes, decisions: Sequence[Decision], cite: Cite, where: str
) -> Iterator[Step]:
    """Yield what is different otherwise."""
    changes = find_changes(split_content(before)[0], split_content(after)[0], decisions)
    for old, new in changes.edited:
        rules = ", ".join(dict.fromkeys(cite(old)))
        what = f'{_name(old)} "{_value(old)}" becomes "{_value(new)}"{where} ({rules})'
        yield citing.step("headers", _name(old), what)
    for headers, words in ((changes.dropped, "not kept, as with any message"), (changes.added, "added")):
        if headers:
            names = ", ".join(dict.fromkeys(map(_name, headers)))
            yield citing.step("headers", names, f"{names}: {words}{where}")


def _name(header: bytes) -> str:
    return header.partition(b":")[0].rstrip().decode("ascii", "replace")


def _value(header: bytes) -> str:
    return _show(header).partition(":")[2].strip()


def _show(header: bytes) -> str:
    text = unfold(header).decode("utf-8", "replace").strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
