"""The product: whatever can go wrong, at every point of the dialogue, with one recipient and with five."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

from tests.support.smtp_server import DROP, EHLO, HANG, NO_PIPELINING, OK, RESET, Endless, Script, Step
from tests.torture.next_hop_case import BOUNCED, DEFERRED, HANGING, SENT, Case, Fate
from tests.torture.next_hop_cases import GO_AHEAD, NOBODY, ODD, PADDING, QUEUED, RESET_AT_ONCE

POINTS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "DOT", "QUIT")
GOOD: Mapping[str, bytes] = {
    "greeting": b"220 mx.test\r\n",
    "MAIL": OK,
    "RCPT": OK,
    "DATA": GO_AHEAD,
    "DOT": QUEUED,
    "QUIT": b"221 2.0.0 Bye\r\n",
}
LOST = "4.4.2 lost connection"
WORDS: Mapping[str, str] = {
    "drop": LOST,
    "reset": f"{LOST}|{RESET_AT_ONCE}",
    "hang": "",
    "4xx": "450 4.7.1 later",
    "5xx": "550 5.7.1 never",
    "421": "421 4.3.2 bye",
    "garbage": "4.5.0 host .* gave no valid reply",
    "endless": LOST,
    "nul": "",
    "100k": "",
}
"""What can go wrong, and how the log puts it."""


def all_pairs() -> Iterator[Case]:
    """Yield each point with each misbehaviour, one and five recipients, pipelined or not."""
    for point, act, count, is_pipelined in product(POINTS, WORDS, (1, 5), (False, True)):
        name = f"{point.lower()}-{act}-{count}{'-piped' if is_pipelined else ''}"
        ehlo = EHLO if is_pipelined else NO_PIPELINING
        fates = [*[_fate_of_others(point, act)] * (count - 1), _fate(point, act)]
        repeats = int(point == "DOT" and act in {"drop", "reset", "hang", "4xx", "5xx", "421", "garbage"})
        steps = {"EHLO": ehlo, **_steps(point, act, count, {**GOOD, "EHLO": ehlo}[point])}
        yield Case(name, Script().but(**steps), fates, WORDS[act], at=point, repeats=repeats)


def _steps(point: str, act: str, count: int, good: bytes) -> dict[str, Step]:
    code = good[:3]
    acts: dict[str, Step] = {
        "drop": DROP,
        "reset": RESET,
        "hang": HANG,
        "4xx": b"450 4.7.1 later\r\n",
        "5xx": b"550 5.7.1 never\r\n",
        "421": (b"421 4.3.2 bye\r\n", DROP),
        "garbage": b"what is this?\r\n",
        "endless": Endless(code + b"-on and on\r\n"),
        "nul": code + b"-" + ODD + b"\r\n" + good,
        "100k": code + b"-" + PADDING + b"\r\n" + good,
    }
    step = acts[act]
    if act in {"4xx", "5xx"} and point == "MAIL":
        return {point: step, "RCPT": NOBODY, "DATA": NOBODY}
    if point != "RCPT":
        return {point: step}
    if act in {"4xx", "5xx"} and count == 1:
        return {point: step, "DATA": NOBODY}
    return {point: [*[OK] * (count - 1), step]}


def _fate(point: str, act: str) -> Fate:
    """Return what becomes of the last recipient."""
    match point, act:
        case ("QUIT", _) | (_, "nul" | "100k") | ("EHLO", "4xx" | "5xx") | ("DOT", "endless"):
            return SENT
        case _, "hang":
            return HANGING
        case (("MAIL" | "RCPT" | "DATA" | "DOT"), "5xx"):
            return BOUNCED
    return DEFERRED


def _fate_of_others(point: str, act: str) -> Fate:
    """Return what becomes of the recipients before it."""
    return SENT if point == "RCPT" and act in {"4xx", "5xx"} else _fate(point, act)
