"""Names, limits, the clock of the queue (postconf(5))."""

from __future__ import annotations

import re

from relay.config.values import format_duration, format_size
from relay.postfix.main_cf import Settings
from relay.postfix.source import Source

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_TIME = re.compile(r"(\d{1,9})([smhdw]?)")
_DEFAULT_FIRST, _DEFAULT_LAST = 300, 4000


def translate_names(source: Source, hostname: str) -> str:
    """Put hostname, helo_name and domain into the draft; return the domain."""
    settings, draft = source.settings, source.draft
    draft.put(hostname, "hostname")
    for name in ("mydomain", "compatibility_level"):  # they speak through others
        settings.get(name)
    if not settings.is_given("myhostname"):
        draft.remark("main.cf does not say; this is the name of the machine that read it.", "hostname")
    origin = settings.get("myorigin")
    if origin.startswith("/"):
        # Debian's: the first line of the file is the name.
        origin = source.read(origin, f"myorigin = {origin}").strip().partition("\n")[0].strip()
    domain = (origin or hostname).lower()
    helo = settings.get("smtp_helo_name")
    if helo and helo != hostname:
        draft.put(helo, "helo_name")
    if domain != hostname:
        draft.put(domain, "domain")
    return domain


def translate_limits(source: Source) -> None:
    """Put [queue] and [limits] into the draft."""
    settings = source.settings
    for name in ("message_size_limit", "smtpd_recipient_limit", "smtpd_client_connection_count_limit"):
        _put_limit(source, name)
    if rate := _number(settings, "smtpd_client_message_rate_limit"):
        unit = _seconds(settings, "anvil_rate_time_unit", "s") or 60
        source.draft.put(max(1, rate * 3600 // unit), "limits", "messages_per_hour")
    if settings.is_given("maximal_queue_lifetime") and (
        life := _seconds(settings, "maximal_queue_lifetime", "d")
    ):
        source.draft.put(format_duration(life), "queue", "lifetime")
    if settings.is_given("delay_warning_time"):
        late = _seconds(settings, "delay_warning_time", "h")
        if late is not None:
            source.draft.put(format_duration(late), "queue", "warn_after")
    first, last = (_seconds(settings, f"{name}_backoff_time", "s") for name in ("minimal", "maximal"))
    is_given = settings.is_given("minimal_backoff_time") or settings.is_given("maximal_backoff_time")
    if is_given and first and last:
        steps = [first]
        while steps[-1] * 2 < last and len(steps) < 20:
            steps.append(steps[-1] * 2)
        waits = steps if last <= first else [*steps, last]
        source.draft.put([format_duration(step) for step in waits], "queue", "retry")


def _put_limit(source: Source, name: str) -> None:
    """Put a limit that main.cf names; 0, which is none for Postfix, has no equivalent."""
    settings = source.settings
    number = _number(settings, name)
    if not settings.is_given(name) or number is None:
        return
    if not number:
        source.draft.lack(f"{name} = 0", "the relay always has a limit here: its own is taken")
    elif name == "message_size_limit":
        source.draft.put(format_size(number), "limits", "message_size")
    else:
        key = "recipients" if name == "smtpd_recipient_limit" else "connections_per_client"
        source.draft.put(number, "limits", key)


def _number(settings: Settings, name: str) -> int | None:
    text = settings.get(name)
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    settings.refuse(name, "is no number")
    return None


def _seconds(settings: Settings, name: str, unit: str) -> int | None:
    """Return the seconds of ``5d`` or ``4``, whose unit is then the parameter's own."""
    time = _TIME.fullmatch(settings.get(name))
    if time is None:
        settings.refuse(name, "is no time, such as 5d or 4h")
        return None
    return int(time[1]) * _SECONDS[time[2] or unit]
