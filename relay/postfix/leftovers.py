"""What has no equivalent, and why: the settings that nothing was made of."""

from __future__ import annotations

import re
from collections.abc import Iterator

from relay.postfix.logical_lines import split_list
from relay.postfix.main_cf import Parameter, read_defaults
from relay.postfix.reasons import RULES_FOR_CLIENTS, reason_for
from relay.postfix.source import SECRET_TABLES, Source

LONGEST_VALUE = 200
"""Characters of a value that are shown."""

_RESTRICTIONS = re.compile(r"smtpd_(client|helo|sender|recipient|relay|data|end_of_data|etrn)_restrictions")
_ALWAYS_SO = frozenset(
    {
        "permit_mynetworks",
        "permit_sasl_authenticated",
        "reject_unauth_destination",
        "defer_unauth_destination",
        "permit_auth_destination",
        "reject_unlisted_recipient",
        "reject_unknown_recipient_domain",
        "reject_non_fqdn_recipient",
        "permit",
        "reject",
        "defer",
    }
)
_WORDS = (
    ("reject_rbl", "the relay asks no blocklists"),
    ("reject_rhsbl", "the relay asks no blocklists"),
    ("check_policy_service", "the relay asks no policy server (greylisting, SPF)"),
    ("check_", "the relay has no access tables; header_checks and [transport] can refuse some mail"),
    ("warn_if_reject", "the relay has no trial of rules"),
)
_LIKE_OURS = {
    "recipient_delimiter": "+",
    "smtp_tls_CApath": "/etc/ssl/certs",
    "smtp_tls_CAfile": "/etc/ssl/certs/ca-certificates.crt",
    "mailbox_size_limit": "0",
    "smtp_tls_security_level": "may",
    "relay_transport": "error",
}
"""Values that say what the relay does in any case."""
_QUIET_OPTIONS = frozenset({"syslog_name", "smtpd_tls_wrappermode", "smtpd_reject_unlisted_recipient"})


def note_leftovers(source: Source) -> None:
    """Note every setting that nothing was made of, and every restriction that the relay does not know."""
    settings = source.settings
    for name in _names_of_restrictions():
        value = settings.get(name)
        if settings.is_given(name) and not settings.is_default(name):
            _note_restrictions(source, name, value)
    for name in _LIKE_OURS.keys() - set(settings.taken):
        if settings.get(name) != _LIKE_OURS[name]:
            settings.leave(name)
    for parameter in settings.left_over():
        source.draft.lack(_show(parameter), reason_for(parameter.name))
    for service in source.services:
        if service.kind == "inet" and service.command not in ("smtpd", "postscreen"):
            source.draft.lack(
                f"master.cf:{service.line}: {service.name} {service.command}", "no such server in the relay"
            )
        if service.kind == "inet" and service.command == "smtpd":
            for name, value in service.options.items():
                _note_option(source, f"master.cf:{service.line}: {service.name}: ", name, value)


def _names_of_restrictions() -> Iterator[str]:
    return (name for name in read_defaults() if _RESTRICTIONS.fullmatch(name))


def _note_option(source: Source, where: str, name: str, value: str) -> None:
    """Note an option of a listener, unless something was made of it or it says what the relay does anyway."""
    if name in _QUIET_OPTIONS or name in source.settings.used_by_services or not value:
        return
    if _RESTRICTIONS.fullmatch(name):
        try:
            _note_restrictions(source, where + name, source.settings.expand(value))
        except ValueError as error:
            source.draft.lack(f"{where}{name} = {value}", str(error))
        return
    source.draft.lack(_shorten(f"{where}{name} = {value}"), reason_for(name))


def _note_restrictions(source: Source, name: str, value: str) -> None:
    words = iter(split_list(value))
    for word in words:
        rule = word.lower()
        if rule in _ALWAYS_SO:
            continue
        takes_more = rule.startswith(("check_", "reject_rbl", "reject_rhsbl")) or rule == "warn_if_reject"
        shown = f"{name} = ... {word} {next(words, '')}" if takes_more else f"{name} = ... {word}"
        reason = next((reason for start, reason in _WORDS if rule.startswith(start)), RULES_FOR_CLIENTS)
        source.draft.lack(_shorten(shown.strip()), reason)


def _show(parameter: Parameter) -> str:
    if parameter.name in SECRET_TABLES and not re.fullmatch(r"[\w:/.,\s-]*", parameter.value):
        return f"{parameter.name} = (hidden)"
    return _shorten(f"{parameter.name} = {' '.join(parameter.value.split())}")


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
