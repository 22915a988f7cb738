"""Who is told what mail cannot tell: ``[alerts]``."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from relay.config.model import Alerts
from relay.config.secret_values import read_secret
from relay.config.sections import Section
from relay.config.values import one_of, parse_text

_NO_ADDRESS = "is not an address such as https://ntfy.sh/topic"


def read_alerts(section: Section) -> Alerts:
    """Return who is told, and how."""
    alerts = Alerts(
        command=section.read_list("command", _parse_word, ()),
        webhook=read_secret(section, "webhook"),
        form=section.read("form", one_of("auto", "ntfy", "gotify", "json"), "auto"),
    )
    section.reject_unknown()
    program = alerts.command[0] if alerts.command else ""
    if "/" in program and not program.startswith("/"):
        section.reject("must be the name of a program, or its full path", "command", 0)
    if alerts.webhook is None and section.has("form"):
        section.reject("is of use only with a webhook", "form")
    if alerts.webhook and alerts.webhook.value:
        try:
            split_webhook(alerts.webhook.value)
        except ValueError as error:
            section.reject(str(error), "webhook")
    return alerts


def split_webhook(url: str) -> SplitResult:
    """Return the parts of the address of a webhook; raises ValueError, whose words do not hold it."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(_NO_ADDRESS)
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(_NO_ADDRESS) from None
    if not is_complete:
        raise ValueError(_NO_ADDRESS)
    return parts


def _parse_word(value: object) -> str:
    text = parse_text(value)
    if "\0" in text:
        raise ValueError("must not hold a null character")
    return text
