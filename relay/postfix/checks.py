"""Header checks (header_checks(5))."""

from __future__ import annotations

from relay.mail.header_checks import Action
from relay.postfix.draft import Table
from relay.postfix.patterns import Rule
from relay.postfix.source import Source

_KNOWN = frozenset(action.value for action in Action)
_EXTERNAL = frozenset({"IGNORE", "REPLACE", "PREPEND", "STRIP"})


def translate_header_checks(source: Source) -> None:
    """Put [[header_checks]] into the draft, in the order in which Postfix looks at them."""
    on_arrival = ["header_checks"]
    for name in ("mime_header_checks", "nested_header_checks"):
        if not source.settings.is_default(name) and source.settings.get(name):
            on_arrival.append(name)
        source.settings.get(name)
    for name in on_arrival:
        for rule in source.rules(name):
            _put_rule(source, rule, name, is_external=False)
        _refuse_keys(source, name)
    for rule in source.rules("smtp_header_checks"):
        _put_rule(source, rule, "smtp_header_checks", is_external=True)
    _refuse_keys(source, "smtp_header_checks")


def _put_rule(source: Source, rule: Rule, name: str, *, is_external: bool) -> None:
    draft = source.draft
    what = f"{rule.place}: {rule.result}"
    word, _, text = rule.result.partition(" ")
    action = word.upper()
    if rule.pattern is None:
        draft.lack(what, rule.reason)
        return
    if action not in _KNOWN or (is_external and action not in _EXTERNAL):
        reason = (
            "is no action of the relay"
            if action not in _KNOWN
            else "is nothing that a check does when mail leaves"
        )
        if is_external:
            draft.lack(what, f"{action} {reason}")
            return
        draft.lack(what, f"{action or 'an empty result'} {reason}; what it matches is left as it is")
        action, text = "DUNNO", ""
    check: Table = {"pattern": rule.whole, "action": f"{action} {text.strip()}".strip()}
    if is_external:
        check["scope"] = "external"
    blocks = draft.blocks("header_checks")
    if rule.conditions and not rule.pattern.is_negated:
        draft.remark(
            f"{rule.place}: the pattern first, then that of its if.",
            "header_checks",
            len(blocks),
        )
    if name in ("mime_header_checks", "nested_header_checks"):
        draft.remark(f"From {name}; the relay looks at all headers.", "header_checks", len(blocks))
    blocks.append(check)


def _refuse_keys(source: Source, name: str) -> None:
    """Note tables that are none of patterns."""
    if entries := source.entries(name):
        source.draft.lack(
            f"{name}: {len(entries)} entries with keys", "header checks are regular expressions"
        )
