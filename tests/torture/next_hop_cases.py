"""The table: what servers do wrong, and what must come of it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Iterator
from functools import partial

from tests.support.authority import Authority
from tests.support.smtp_server import (
    DROP,
    EHLO,
    HANG,
    LISTEN,
    NO_PIPELINING,
    OK,
    RESET,
    TLS,
    Endless,
    Script,
    Step,
    Wait,
    offer,
)
from tests.torture.next_hop_case import BOUNCED, DEFERRED, HANGING, SENT, SLOW, Case, Fate

QUEUED = b"250 2.0.0 Ok: queued as SINK\r\n"
LATER = b"451 4.3.0 later\r\n"
NEVER = b"550 5.7.1 never\r\n"
GO_AHEAD = b"354 Go ahead\r\n"
BYE = b"421 4.3.2 closing\r\n"
TOO_MANY = b"452 4.5.3 too many recipients\r\n"
NOBODY = b"554 5.5.1 no valid recipients\r\n"
ODD = b"gr\xc3\xbc\xdfe \x00\x07\x1b[2J \xff"
"""8-bit text, valid UTF-8 and not, NUL and other control characters."""
RESET_AT_ONCE = "4.4.1 connect to .*: Connection reset by peer"
"""What is said of a reset that overtakes the news that there is a connection."""
PADDING = b"x" * 100_000
LINES = b"250-" + b"x" * 1000 + b"\r\n"
PRIVATE = b"\r\nna\xc3\xafve\r\n"
"""A message with 8-bit text."""
MEGABYTE = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 12_000


def script(**steps: Step) -> Script:
    """Return a script that pipelines, but for these steps."""
    return Script().but(**steps)


def plain(**steps: Step) -> Script:
    """Return a script without pipelining, but for these steps."""
    return Script().but(**{"EHLO": NO_PIPELINING, **steps})


def greetings() -> Iterator[Case]:
    """What goes wrong before the first transaction."""
    refused = "4.3.2 host .* refused to talk to me: 421 4.3.2 closing"
    lost = "4.4.2 lost connection with .* while receiving the initial server greeting"
    nonsense = "4.5.0 host .* gave no valid reply while receiving the initial server greeting"
    yield Case("no-server", script(), [DEFERRED], "4.4.1 connect to .*: Connection refused", is_up=False)
    yield Case("greeting-absent", script(greeting=HANG), [HANGING], at="greeting")
    yield Case("greeting-drop", script(greeting=DROP), [DEFERRED], lost)
    yield Case("greeting-reset", script(greeting=RESET), [DEFERRED], f"{lost}|{RESET_AT_ONCE}")
    yield Case("greeting-half", script(greeting=(b"220 mx.te", DROP)), [DEFERRED], lost)
    yield Case("greeting-never-whole", script(greeting=(b"220-mx\r\n220-mx", HANG)), [HANGING], at="greeting")
    yield Case("greeting-garbage", script(greeting=b"SSH-2.0-OpenSSH_9.2\r\n"), [DEFERRED], nonsense)
    yield Case("greeting-web", script(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n"), [DEFERRED], nonsense)
    yield Case("greeting-binary", script(greeting=bytes(range(256)) + b"\r\n"), [DEFERRED], nonsense)
    yield Case("greeting-421", script(greeting=(BYE, DROP)), [DEFERRED], refused)
    yield Case("greeting-4xx", script(greeting=b"450 4.7.1 later\r\n"), [DEFERRED], "4.7.1 .*450 4.7.1 later")
    yield Case("greeting-5xx", script(greeting=b"554 5.7.1 no\r\n"), [DEFERRED], "4.7.1 .*554 5.7.1 no")
    yield Case("greeting-3xx", script(greeting=b"354 go ahead\r\n"), [DEFERRED], "refused to talk to me: 354")
    yield Case("greeting-contradicts", script(greeting=b"220-mx\r\n554 no\r\n"), [DEFERRED], nonsense)
    yield Case(
        "greeting-endless", script(greeting=Endless(b"220-mx\r\n")), [DEFERRED], "4.4.2 lost connection"
    )
    yield Case("greeting-100k", script(greeting=b"220 " + PADDING + b"\r\n"), [SENT])
    yield Case("greeting-odd", script(greeting=b"220 " + ODD + b"\r\n"), [SENT])
    yield Case("greeting-byte-by-byte", script(greeting=_bytes(b"220-mx.test\r\n220 ESMTP\r\n")), [SENT])
    yield Case("greeting-bare-lf", script(greeting=b"220-mx.test\n220 ESMTP\n"), [SENT])
    yield Case("ehlo-refused", script(EHLO=b"502 5.5.1 what?\r\n"), [SENT])
    yield Case(
        "helo-refused", script(EHLO=b"502 no\r\n", HELO=b"550 5.7.1 no\r\n"), [DEFERRED], "550 5.7.1 no"
    )
    yield Case(
        "ehlo-closed", script(EHLO=(b"502 5.5.1 what?\r\n", DROP)), [DEFERRED], "4.4.2 lost connection"
    )
    yield Case("ehlo-4xx", script(EHLO=LATER), [SENT])
    yield Case("helo-4xx", script(EHLO=LATER, HELO=LATER), [DEFERRED], "refused to talk to me: 451 4.3.0")
    yield Case(
        "ehlo-contradicts", script(EHLO=b"250-mx\r\n550 no\r\n"), [DEFERRED], "4.5.0 .* EHLO handshake"
    )
    yield Case("ehlo-endless", script(EHLO=Endless(b"250-X\r\n")), [DEFERRED], "4.4.2 lost connection")
    yield Case("ehlo-odd", script(EHLO=b"250-mx.test\r\n250-" + ODD + b"\r\n250 SIZE\r\n"), [SENT])
    yield Case("ehlo-many", script(EHLO=b"250-mx.test\r\n" + b"250-X\r\n" * 9000 + b"250 DSN\r\n"), [SENT])
    more = "4.5.0 .* sent more than it was asked for"
    yield Case("ehlo-one-too-many", script(EHLO=EHLO + OK, RCPT=[NEVER, OK]), [DEFERRED] * 2, more)


def transactions() -> Iterator[Case]:
    """What goes wrong between MAIL and the final dot."""
    five = [SENT, SENT, DEFERRED, DEFERRED, DEFERRED]
    invalid = "4.5.0 host .* gave no valid reply while sending end of data: .*may be sent more than once"
    lost = "4.4.2 lost connection with .* while sending end of data -- message may be sent more than once"
    for kind, make in (("", plain), ("-piped", script)):
        refused = make(RCPT=NOBODY, DATA=NOBODY)
        yield Case(f"mail-4xx{kind}", refused.but(MAIL=LATER), [DEFERRED] * 2, "451 4.3.0 later .*MAIL FROM")
        yield Case(f"mail-5xx{kind}", refused.but(MAIL=NEVER), [BOUNCED] * 2, "550 5.7.1 never")
        mixed = [SENT, DEFERRED, BOUNCED, SENT]
        words = "451 4.3.0 later|550 5.7.1 never"
        yield Case(f"rcpt-mixed{kind}", make(RCPT=[OK, LATER, NEVER, OK]), mixed, words)
        yield Case(f"rcpt-452{kind}", make(RCPT=[OK, OK, TOO_MANY]), five, "452 4.5.3 too many")
        yield Case(f"rcpt-552{kind}", make(RCPT=[OK, OK, b"552 too many\r\n"]), five, "452 4.5.3 too many")
        yield Case(f"rcpt-dropped{kind}", make(RCPT=[OK, OK, DROP]), [DEFERRED] * 5, "4.4.2 .*RCPT TO")
        mixed = [BOUNCED, DEFERRED, DEFERRED]
        words = "550 5.7.1 never|4.4.2 .*RCPT TO"
        yield Case(f"rcpt-refused-then-dropped{kind}", make(RCPT=[NEVER, OK, DROP]), mixed, words)
        yield Case(f"data-4xx{kind}", make(DATA=LATER), [DEFERRED], "451 4.3.0 later")
        yield Case(f"data-5xx{kind}", make(DATA=NOBODY), [BOUNCED], "554 5.5.1 no valid recipients")
        yield Case(f"data-250{kind}", make(DATA=OK), [DEFERRED], "4.5.0 .* no valid reply while sending DATA")
        yield Case(f"data-silence{kind}", make(DATA=(GO_AHEAD, HANG)), [HANGING], at="DATA")
        yield Case(f"dot-hang{kind}", make(DOT=HANG), [HANGING], at="DOT", repeats=1)
        yield Case(f"dot-drop{kind}", make(DOT=DROP), [DEFERRED], lost, repeats=1)
        yield Case(f"dot-reset{kind}", make(DOT=RESET), [DEFERRED], lost, repeats=1)
        yield Case(f"dot-4xx{kind}", make(DOT=LATER), [DEFERRED], "451 4.3.0 later", repeats=1)
        yield Case(f"dot-5xx{kind}", make(DOT=NEVER), [BOUNCED], "550 5.7.1 never", repeats=1)
        yield Case(f"dot-codeless{kind}", make(DOT=b"Ok: queued\r\n"), [DEFERRED], invalid, repeats=1)
        yield Case(f"dot-then-drop{kind}", make(DOT=(QUEUED, DROP)), [SENT])
        yield Case(f"dot-then-reset{kind}", make(DOT=(QUEUED, RESET)), [SENT])
        yield Case(f"quit-hang{kind}", make(QUIT=HANG), [SENT])
        yield Case(f"quit-drop{kind}", make(QUIT=DROP), [SENT])
    yield Case("dot-421", script(DOT=(BYE, DROP)), [DEFERRED], "421 4.3.2 closing", repeats=1)
    yield Case("dot-354", script(DOT=GO_AHEAD), [DEFERRED], invalid, repeats=1)
    yield Case("dot-half", script(DOT=(b"250 2.0.0 O", DROP)), [DEFERRED], lost, repeats=1)
    yield Case("dot-empty-line", script(DOT=b"\r\n" + QUEUED), [DEFERRED], invalid, copies=2)
    yield Case("dot-contradicts-250", script(DOT=b"550-no\r\n" + QUEUED), [DEFERRED], invalid, copies=2)
    yield Case("dot-contradicts", script(DOT=b"250-2.0.0 Ok\r\n554 no\r\n"), [DEFERRED], invalid, repeats=1)
    yield Case("dot-100k", script(DOT=b"250 " + PADDING + b"\r\n"), [SENT])
    yield Case("dot-200k", script(DOT=b"250 " + PADDING * 2 + b"\r\n"), [SENT])
    yield Case("dot-100k-lines", script(DOT=LINES * 100 + QUEUED), [SENT])
    yield Case("dot-100k-4xx", script(DOT=b"451 " + PADDING * 2 + b"\r\n"), [DEFERRED], "451 x", repeats=1)
    yield Case("dot-100k-5xx", script(DOT=b"554 " + PADDING * 2 + b"\r\n"), [BOUNCED], "554", repeats=1)
    yield Case("dot-100k-codeless", script(DOT=PADDING * 2), [DEFERRED], invalid, repeats=1)
    yield Case("dot-endless", script(DOT=Endless(b"250-Ok\r\n")), [SENT])
    yield Case("dot-odd", script(DOT=b"250 2.0.0 " + ODD + b"\r\n"), [SENT])
    yield Case(
        "dot-odd-4xx", script(DOT=b"451 4.3.0 " + ODD + b"\r\n"), [DEFERRED], "451 4.3.0 gr", repeats=1
    )
    yield Case("dot-odd-5xx", script(DOT=b"554 5.7.1 " + ODD + b"\r\n"), [BOUNCED], "554 5.7.1 ", repeats=1)
    yield Case("dot-without-text", script(DOT=b"250\r\n"), [SENT])
    yield Case("rcpt-251", script(RCPT=b"251 2.1.5 I forward\r\n"), [SENT])
    yield Case("mail-354", plain(MAIL=GO_AHEAD), [DEFERRED], "354")
    yield Case("body-5xx", script(BODY=(NEVER, HANG)), [BOUNCED], "550 5.7.1 never", content=MEGABYTE)
    yield Case("body-4xx", script(BODY=(LATER, HANG)), [DEFERRED], "451 4.3.0 later", content=MEGABYTE)
    yield Case("body-reset", script(BODY=RESET), [DEFERRED], "4.4.2 lost connection", content=MEGABYTE)
    yield Case("body-hang", script(BODY=HANG), [HANGING], at="BODY", content=MEGABYTE)


def offers() -> Iterator[Case]:
    """What servers say of themselves, and how it is not so."""
    sync = b"554 5.5.0 SMTP synchronization error\r\n"
    yield Case("no-8bitmime", script(EHLO=offer("PIPELINING")), [SENT], content=PRIVATE)
    yield Case("size-too-small", script(EHLO=offer("SIZE 100")), [BOUNCED], "5.3.4 .*size .* limit 100 ")
    large = script(MAIL=b"552 5.3.4 too large\r\n", RCPT=NOBODY, DATA=NOBODY)
    yield Case("size-at-mail", large, [BOUNCED], "552 5.3.4 too large")
    yield Case("size-nonsense", script(EHLO=offer("SIZE lots", "8BITMIME=no", "")), [SENT])
    yield Case("size-enormous", script(EHLO=offer("SIZE " + "9" * 4000)), [SENT])
    yield Case("pipelining-one-by-one", script(MAIL=HANG), [HANGING], at="MAIL")
    yield Case("pipelining-at-once", Script(is_group_awaited=True), [SENT, SENT])
    yield Case("pipelining-punished", script(MAIL=(sync, DROP)), [BOUNCED], "554 5.5.0 SMTP sync")
    missing = script(RCPT=[OK, b""], DATA=(GO_AHEAD, DROP))
    words = "4.4.2 .* DATA command|354 Go ahead .in reply to RCPT TO"
    yield Case("pipelining-reply-missing", missing, [DEFERRED] * 2, words)
    extra = script(RCPT=OK * 2, DATA=(GO_AHEAD, HANG))
    yield Case("pipelining-reply-extra", extra, [DEFERRED], "4.5.0 .* no valid reply while sending DATA")
    yield Case("data-and-dot-at-once", script(DATA=GO_AHEAD + QUEUED), [DEFERRED], "4.5.0 .* message body")
    yield Case("nobody-but-data", script(RCPT=NEVER, DOT=NOBODY), [BOUNCED], "550 5.7.1 never", repeats=1)
    yield Case("nobody-but-data-taken", script(RCPT=NEVER), [BOUNCED], "550 5.7.1 never", repeats=1)


def second_messages() -> Iterator[Case]:
    """The connection that was kept is not what it was."""
    for kind, make in (("", plain), ("-piped", script)):
        yield _second(f"kept-closed{kind}", make(DOT=[(QUEUED, DROP), QUEUED]), [SENT])
        yield _second(f"kept-reset{kind}", make(DOT=[(QUEUED, RESET), QUEUED]), [SENT])
        yield _second(f"kept-421{kind}", make(DOT=[(QUEUED + BYE, DROP), QUEUED]), [SENT])
        yield _second(f"kept-closed-at-mail{kind}", make(MAIL=[OK, DROP, OK]), [SENT])
        yield _second(f"kept-reset-at-mail{kind}", make(MAIL=[OK, RESET, OK]), [SENT])
        yield _second(f"kept-421-at-mail{kind}", make(MAIL=[OK, (BYE, DROP), OK]), [SENT])
        yield _second(f"kept-4xx-at-mail{kind}", make(MAIL=[OK, TOO_MANY, OK], RCPT=[OK, OK]), [SENT])
        yield _second(f"kept-closed-at-rcpt{kind}", make(RCPT=[OK, DROP, OK]), [DEFERRED], "4.4.2 .*RCPT TO")
        yield _second(f"kept-hang{kind}", make(MAIL=[OK, HANG]), [HANGING], at="MAIL")
    yield _second("kept-one-too-many", script(DOT=[QUEUED + OK, QUEUED]), [SENT])


def slow_ones(later: asyncio.Event) -> Iterator[Case]:
    """Servers that go on when all others are through with theirs."""
    wait = Wait(later)
    for kind, make in (("", plain), ("-piped", script)):
        yield Case(f"slow-greeting{kind}", make(greeting=(wait, b"220 mx.test\r\n")), [SLOW], at="greeting")
        yield Case(f"slow-mail{kind}", make(MAIL=(wait, OK)), [SLOW, SLOW], at="MAIL")
        yield Case(f"slow-data{kind}", make(DATA=(b"354-Go\r\n", wait, b"354 on\r\n")), [SLOW], at="DATA")
        yield Case(f"slow-dot{kind}", make(DOT=(b"2", wait, QUEUED[1:])), [SLOW], at="DOT")


def silences() -> Iterator[Case]:
    """Servers that say nothing, or are gone, at one command."""
    for kind, make in (("", plain), ("-piped", script)):
        for verb, words in {"EHLO": "EHLO", "MAIL": "MAIL FROM", "RCPT": "RCPT TO", "DATA": "DATA"}.items():
            name = f"{verb.lower()}{kind}"
            yield Case(f"drop-at-{name}", make(**{verb: DROP}), [DEFERRED], f"4.4.2 lost connection.*{words}")
            yield Case(
                f"reset-at-{name}", make(**{verb: RESET}), [DEFERRED], f"4.4.2 lost connection.*{words}"
            )
            yield Case(f"hang-at-{name}", make(**{verb: HANG}), [HANGING], at=verb)


def secured(authority: Authority) -> Iterator[Case]:
    """TLS that does not work: without proof of the server's name mail goes in plain, with it mail waits."""
    good = authority.context("127.0.0.1")
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    old = authority.context("127.0.0.1", not_before=now - 2 * day, not_after=now - day)
    young = authority.context("127.0.0.1", not_before=now + day, not_after=now + 2 * day)
    contexts = {
        "self-signed": (authority.self_signed(), "self-signed"),
        "other-name": (authority.context("other.test"), "for another name: other.test"),
        "expired": (old, "has expired"),
        "not-yet-valid": (young, "is not valid before"),
    }
    offered = offer("PIPELINING", "STARTTLS")
    ready = b"220 2.0.0 Ready\r\n"
    broken: dict[str, tuple[Step, str]] = {
        "refused": (b"454 4.7.0 not now\r\n", "4.7.4 .*refused to start TLS: 454 4.7.0"),
        "dropped": (DROP, "4.4.2 lost connection"),
        "250": (b"250 2.0.0 Ok\r\n", "4.5.0 .* gave no valid reply"),
        "drop-after": ((ready, DROP), "4.7.5 .* lost during the handshake"),
        "garbage-after": ((ready, LISTEN, b"SSH-2.0-x\r\n", HANG), "4.7.5 .* what it sends is not TLS"),
        "dropped-within": ((ready, TLS, DROP), "4.4.2 lost connection"),
    }
    implicit = script(greeting=(TLS, b"220 mx.test ESMTP\r\n"))
    over_tls = partial(Case, tls="implicit", context=good, mended=implicit, mended_context=good)
    after = partial(Case, tls="starttls", context=good, mended=script(EHLO=offered), mended_context=good)
    for name, (step, words) in broken.items():
        acts = script(EHLO=offered, STARTTLS=step)
        yield Case(f"tls-{name}", acts, [SENT], context=good)
        yield after(f"tls-{name}-verified", acts, [DEFERRED], words)
    injected = script(EHLO=offered, STARTTLS=ready + OK)
    words = "4.5.0 .* it sent more than it was asked for"
    yield Case("tls-injected", injected, [DEFERRED], words, context=good, mended=script(EHLO=offered))
    yield after("tls-injected-verified", injected, [DEFERRED], words)
    yield after(
        "tls-not-offered-verified", script(), [DEFERRED], "4.7.4 TLS is required, but was not offered"
    )
    for name, (context, flaw) in contexts.items():
        words = f"4.7.5 .*{flaw}"
        yield Case(f"certificate-{name}", script(EHLO=offered), [SENT], context=context)
        yield after(f"certificate-{name}-starttls", script(EHLO=offered), [DEFERRED], words, context=context)
        yield over_tls(f"certificate-{name}-implicit", implicit, [DEFERRED], words, context=context)
    yield over_tls("implicit-drop", script(greeting=DROP), [DEFERRED], "4.7.5 ")
    yield over_tls("implicit-plain", script(), [DEFERRED], "4.7.5 .* not TLS")
    yield over_tls("implicit-hang", script(greeting=HANG), [HANGING], at="greeting")
    hanging = script(EHLO=offered, STARTTLS=(ready, HANG))
    yield after("starttls-hang", hanging, [HANGING], at="STARTTLS")
    yield Case("starttls-hang-unverified", hanging, [HANGING], at="STARTTLS", context=good)


def logins() -> Iterator[Case]:
    """Servers that do not let the account in."""
    offered = offer("PIPELINING", "AUTH PLAIN")
    welcome = b"235 2.7.0 welcome\r\n"
    steps: dict[str, tuple[Step, str]] = {
        "5xx": (b"535 5.7.8 wrong\r\n", "4.7.8 login refused: .*535 5.7.8 wrong"),
        "4xx": (b"454 4.7.0 later\r\n", "4.7.0 no login for now; .*454 4.7.0 later"),
        "drop": (DROP, "4.4.2 lost connection"),
        "garbage": (b"hello\r\n", "4.5.0 .* no valid reply"),
        "334": (b"334 \r\n", "4.5.0 .* no valid reply"),
    }
    case = partial(Case, password="s3cret", mended=script(EHLO=offered, AUTH=welcome))
    for name, (step, words) in steps.items():
        yield case(f"login-{name}", script(EHLO=offered, AUTH=step), [DEFERRED], words)
    yield case("login-hang", script(EHLO=offered, AUTH=HANG), [HANGING], at="AUTH")
    yield case("login-not-offered", script(), [DEFERRED], "4.7.0 no login at ")


def all_cases(authority: Authority, later: asyncio.Event) -> list[Case]:
    """Return the whole table."""
    groups = (greetings(), transactions(), offers(), second_messages(), slow_ones(later), silences())
    return [case for group in (*groups, secured(authority), logins()) for case in group]


def _bytes(data: bytes) -> Step:
    return tuple(bytes([byte]) for byte in data)


def _second(name: str, acts: Script, fates: list[Fate], words: str = "", at: str = "") -> Case:
    return Case(name, acts, fates, words, at, is_second=True)
