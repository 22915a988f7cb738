"""Mailbox servers that misbehave: with LMTP, each recipient has a reply of its own (RFC 2033 section 4.2)."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.smtp_server import DROP, EHLO, NO_PIPELINING, OK, RESET, Endless, Script, Step
from tests.torture.next_hop_case import BOUNCED, DEFERRED, SENT, Case
from tests.torture.next_hop_cases import BYE, NOBODY, ODD, PADDING, QUEUED

TWICE = "may be sent more than once"
LATER = b"451 4.2.0 later\r\n"
FULL = b"552 5.2.2 mailbox full\r\n"


def all_cases(*, is_whole: bool) -> Iterator[Case]:
    """Yield cases of three recipients whose server misbehaves once, and then no more.

    The whole trial has each with a server that doesn't pipeline too.
    """
    one, none, some = [SENT, DEFERRED, DEFERRED], [DEFERRED] * 3, [SENT, DEFERRED, BOUNCED]
    two = [SENT, SENT, DEFERRED]
    both = "451 4.2.0 later|552 5.2.2 mailbox full"
    long = b"250 " + PADDING * 2 + b"\r\n"
    for kind, ehlo in (("", EHLO), ("-plain", NO_PIPELINING))[: 1 + is_whole]:
        made = Script().but(LHLO=ehlo)
        nobody = made.but(RCPT=[FULL] * 3)
        odd = b"451 4.2.0 " + ODD + b"\r\n"
        yield Case(f"each-its-own{kind}", made.but(DOT=[QUEUED, LATER, FULL, QUEUED]), some, both)
        yield Case(f"drop{kind}", made.but(DOT=[QUEUED, DROP, QUEUED]), one, TWICE)
        yield Case(f"reset{kind}", made.but(DOT=[QUEUED, RESET, QUEUED]), one, TWICE)
        yield Case(f"drop-before{kind}", made.but(DOT=[DROP, QUEUED]), none, TWICE, repeats=1)
        yield Case(f"half{kind}", made.but(DOT=[QUEUED, (b"250 2.0.0 O", DROP), QUEUED]), one, TWICE)
        yield Case(
            f"codeless{kind}", made.but(DOT=[QUEUED, (b"Ok\r\n", DROP), QUEUED]), one, "no valid reply"
        )
        yield Case(f"421{kind}", made.but(DOT=[QUEUED, (BYE, DROP), QUEUED]), one, "421 4.3.2 closing")
        yield Case(f"100k{kind}", made.but(DOT=[QUEUED, b"250 " + PADDING + b"\r\n", QUEUED]), [SENT] * 3)
        yield Case(f"200k{kind}", made.but(DOT=[QUEUED, (long, DROP), QUEUED]), two, TWICE)
        yield Case(f"endless{kind}", made.but(DOT=[QUEUED, Endless(b"250-Ok\r\n"), QUEUED]), two, TWICE)
        yield Case(f"odd{kind}", made.but(DOT=[QUEUED, odd, QUEUED]), [SENT, DEFERRED, SENT], "451 4.2.0 gr")
        yield Case(f"rcpt-mixed{kind}", made.but(RCPT=[OK, LATER, FULL, OK]), some, both)
        yield Case(f"nobody{kind}", nobody.but(DATA=NOBODY), [BOUNCED] * 3, "552 5.2.2 mailbox full")
        yield Case(f"nobody-but-data{kind}", nobody, [BOUNCED] * 3, "552 5.2.2 mailbox full")
    steps: dict[str, tuple[Step, str]] = {
        "drop": (DROP, "4.4.2 lost connection"),
        "421": ((BYE, DROP), "421 4.3.2 closing"),
        "garbage": (b"hello\r\n", "4.5.0 .* no valid reply"),
        "5xx": (b"554 no\r\n", "554 no"),
    }
    for name, (step, words) in steps.items():
        yield Case(f"greeting-{name}", Script(greeting=[step, b"220 here\r\n"]), none, words)
        yield Case(f"lhlo-{name}", Script().but(LHLO=[step, EHLO]), none, words)
