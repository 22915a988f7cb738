"""What the tutorial shows that its pages (docs/tutorial.md) do not go into, to the byte.

A message of Outlook Express 5 whose transfer was captured in May 2000, accents, a report that has no mailbox,
and the whole table of aliases.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.service import Service, deliveries
from tests.support.smtp_server import DROP, NO_PIPELINING, Script, ScriptedServer, Step

CAPTURED = (
    b"Message-ID: <005401bfc41b$7512ca30$0a00a8c0@maison.mrs>\r\n"
    b'From: "Christian CALECA" <christian.caleca@wanadoo.fr>\r\n'
    b"To: <eme13@enprovence.com>\r\n"
    b"Subject: test SMTP\r\n"
    b"Date: Mon, 22 May 2000 20:27:59 +0200\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain;\r\n"
    b'\tcharset="iso-8859-1"\r\n'
    b"Content-Transfer-Encoding: 7bit\r\n"
    b"X-Priority: 3\r\n"
    b"X-MSMail-Priority: Normal\r\n"
    b"X-Mailer: Microsoft Outlook Express 5.00.2919.6600\r\n"
    b"X-MimeOLE: Produced By Microsoft MimeOLE V5.00.2919.6600\r\n"
    b"\r\n"
    b"sniff\r\n"
    b"\r\n"
)
"""What Outlook Express sent, as the captured frames show it behind the Received: header of the gateway."""

CAPTURED_REPLIES = Script(
    b"220 mail.monaco.net ESMTP Sendmail Pro-8.9.3/Pro-8.9.3; Mon, 22 May 2000 20:28:12 +0200\r\n",
    {
        "EHLO": (
            b"250-mail.monaco.net Hello IDENT:postfix@ca-ol-marseille-6-80.abo.wanadoo.fr [62.161.101.80],"
            b" pleased to meet you\r\n"
            b"250-EXPN\r\n250-VERB\r\n250-8BITMIME\r\n250-SIZE 10000000\r\n"
            b"250-DSN\r\n250-ONEX\r\n250-XUSR\r\n250 HELP\r\n"
        ),
        "MAIL": b"250 <christian.caleca@wanadoo.fr>... Sender ok\r\n",
        "RCPT": b"250 <eme13@enprovence.com>... Recipient ok\r\n",
        "DATA": b'354 Enter mail, end with "." on a line by itself\r\n',
        "DOT": b"250 UAA24841 Message accepted for delivery\r\n",
        "QUIT": (b"221 mail.monaco.net closing connection\r\n", DROP),
    },
)

ACCENTS = (
    b"Message-ID: <000f01bfbb12$01b8f5a0$0a00a8c0@maison.mrs>\r\n"
    b'From: "Christian CALECA" <%(sender)s>\r\n'
    b"To: <%(recipient)s>\r\n"
    b"Subject: Test messagerie ISO\r\n"
    b"Date: Thu, 11 May 2000 08:28:22 +0200\r\n"
    b"MIME-Version: 1.0\r\n"
    b"Content-Type: text/plain;\r\n"
    b'\tcharset="iso-8859-1"\r\n'
    b"Content-Transfer-Encoding: 8bit\r\n"
    b"X-Priority: 3\r\n"
    b"X-MSMail-Priority: Normal\r\n"
    b"X-Mailer: Microsoft Outlook Express 5.00.2919.6600\r\n"
    b"X-MimeOLE: Produced By Microsoft MimeOLE V5.00.2919.6600\r\n"
    b"\r\n"
    b'Codage en "texte brut" codage ISO.\r\n'
    b"Accents:\r\n"
    b"\xe9\xe0\xe7\xe8\xee\xf9\r\n"
    b"\r\n"
)
"""The tutorial's message in iso-8859-1, sent as it is ("aucun codage"); it does not show the Message-ID."""

GATEWAY_NAME = 'hostname = "gateway1.maison.mrs"'
STRIP_TRACE = "[[header_checks]]\npattern = '^Received:*'\naction = 'IGNORE'"
REAL_SENDERS = '[sender_canonical]\nroot = "christian.caleca@free.fr"\nchris = "christian.caleca@free.fr"'


def accents(sender: str, recipient: str) -> bytes:
    return ACCENTS % {b"sender": sender.encode(), b"recipient": recipient.encode()}


def relayhost(server: ScriptedServer) -> str:
    return f'relayhost = "[127.0.0.1]:{server.port}"\n'


async def send_like_outlook_express(
    relay: Service, sender: str, recipients: list[str], content: bytes, *, greeting: str = "HELO"
) -> str:
    """Speak as Outlook Express 5 does: a name without a domain, a space before each address, step by step."""
    async with relay.client() as peer:
        assert (await peer.ask(f"{greeting} chris")).startswith("250")
        assert (await peer.ask(f"MAIL FROM: <{sender}>")).startswith("250 ")
        for recipient in recipients:
            assert (await peer.ask(f"RCPT TO: <{recipient}>")).startswith("250 ")
        assert (await peer.ask("DATA")).startswith("354 ")
        peer.send(content + b".\r\n")
        reply = await peer.reply()
        assert (await peer.ask("QUIT")).startswith("221 ")
        assert await peer.reply() == ""
        return reply


async def test_the_captured_message_goes_out_as_the_tutorial_shows_it(tmp_path: Path) -> None:
    async with ScriptedServer(CAPTURED_REPLIES) as monaco:
        async with Service(tmp_path, f"{GATEWAY_NAME}\n{relayhost(monaco)}") as relay:
            reply = await send_like_outlook_express(
                relay, "christian.caleca@wanadoo.fr", ["eme13@enprovence.com"], CAPTURED
            )
            assert reply.startswith("250 2.0.0 Ok: queued as ")
            await relay.logged(r"to=<eme13@enprovence.com>, .*status=sent \(250 UAA24841 Message accepted")
        [delivery] = deliveries(monaco)
        assert delivery.without_trace == CAPTURED
        trace = delivery.content.removesuffix(CAPTURED).decode()
        assert re.fullmatch(
            r"Received: from chris \(localhost \[127\.0\.0\.1\]\)\r\n"
            r"\tby gateway1\.maison\.mrs \(relay\) with SMTP id \w+\r\n"
            r"\tfor <eme13@enprovence\.com>; \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}\r\n",
            trace,
        )
        size = len(delivery.content)
        assert monaco.sessions[0].commands == [
            b"EHLO gateway1.maison.mrs",
            b"MAIL FROM:<christian.caleca@wanadoo.fr> SIZE=%d" % size,
            b"RCPT TO:<eme13@enprovence.com> ORCPT=rfc822;eme13@enprovence.com",
            b"DATA",
            b"QUIT",
        ]


async def test_accents_arrive_as_they_were_sent_with_the_sender_made_real_and_the_trace_gone(
    tmp_path: Path,
) -> None:
    async with ScriptedServer() as free:
        toml = f"{relayhost(free)}{REAL_SENDERS}\n{STRIP_TRACE}"
        async with Service(tmp_path, toml) as relay:
            for greeting in ("HELO", "EHLO"):
                content = accents("chris@gw1.maison.mrs", "eme13@enprovence.com")
                await send_like_outlook_express(
                    relay, "chris@gw1.maison.mrs", ["eme13@enprovence.com"], content, greeting=greeting
                )
            await relay.logged("status=sent", 2)
        real = accents("christian.caleca@free.fr", "eme13@enprovence.com")
        for delivery in deliveries(free):
            assert delivery.reverse_path == "christian.caleca@free.fr"
            assert delivery.content == real
        assert len(deliveries(free)) == 2


async def test_an_old_server_that_takes_seven_bits_gets_the_accents_encoded(tmp_path: Path) -> None:
    async with ScriptedServer(Script(steps={"EHLO": b"250 mx.test\r\n"})) as old:
        async with Service(tmp_path, relayhost(old)) as relay:
            sender, recipient = "christian.caleca@wanadoo.fr", "chris@gateway2.maison.mrs"
            await send_like_outlook_express(relay, sender, [recipient], accents(sender, recipient))
            await relay.logged("status=sent")
        [delivery] = deliveries(old)
        assert b"Content-Transfer-Encoding: quoted-printable\r\n" in delivery.header
        assert delivery.content.endswith(b"Accents:\r\n=E9=E0=E7=E8=EE=F9\r\n\r\n")


UNKNOWN_SENDER = b"553 sorry, your envelope sender domain must exist (#5.7.1)\r\n"
TO_OUTSIDE = b"To: christian.caleca@free.fr\r\nSubject: test distant\r\n\r\nre re coucou\r\n"


def refuse_unknown_senders(line: bytes) -> Step:
    return UNKNOWN_SENDER if b"maison.mrs>" in line else b"250 Ok\r\n"


PARTICULAR = Script(steps={"EHLO": NO_PIPELINING, "MAIL": refuse_unknown_senders})


async def test_a_bounce_that_has_no_mailbox_reaches_the_postmaster(tmp_path: Path) -> None:
    async with ScriptedServer(PARTICULAR) as free:
        toml = f'{relayhost(free)}postmaster = "christian.caleca@free.fr"'
        async with Service(tmp_path, toml) as relay:
            await relay.send(TO_OUTSIDE, "eme13@enprovence.com", sender="chris@gw1.maison.mrs")
            await relay.logged(r"to=<christian.caleca@free.fr>, .*status=sent")
            await relay.emptied()
        [told] = deliveries(free)
        assert (told.reverse_path, told.recipients) == ("", ("christian.caleca@free.fr",))
        assert b"553 sorry, your envelope sender domain must exist (#5.7.1)" in told.content
        assert b"re re coucou" in told.content


HOUSE = """
hostname = "gateway2.maison.mrs"
[local]
users = ["chris"]
maildir = "mail/{user}"
"""
ALIASES = """
[aliases]
# Basic system aliases -- these MUST be present.
MAILER-DAEMON = "postmaster"
postmaster = "root"
# General redirections for pseudo accounts.
bin = "root"
daemon = "root"
games = "root"
ingres = "root"
nobody = "root"
system = "root"
toor = "root"
uucp = "root"
# Well-known aliases.
manager = "root"
dumper = "root"
operator = "root"
# trap decode to catch security attacks
decode = "root"
# Person who should get root's mail
root = "chris"
"""
"""The tutorial's /etc/postfix/aliases, in the form of relay.toml."""

NAMES = [
    *("MAILER-DAEMON", "postmaster", "bin", "daemon", "games", "ingres", "nobody", "system", "toor", "uucp"),
    *("manager", "dumper", "operator", "decode", "root"),
]


def maildir(folder: Path, user: str = "chris") -> list[str]:
    """Return the messages in a mailbox."""
    return [path.read_text() for path in sorted((folder / "mail" / user / "new").iterdir())]


async def test_the_table_of_aliases_sends_all_who_are_no_persons_to_chris(tmp_path: Path) -> None:
    async with Service(tmp_path, HOUSE + ALIASES) as relay:
        for name in NAMES:
            reply = await relay.send(b"Subject: redirect\r\n\r\n", f"{name}@gateway2.maison.mrs", sender=name)
            assert reply.startswith("250 2.0.0 Ok: queued as ")
        await relay.logged(
            r"to=<chris@gateway2\.maison\.mrs>, orig_to=<[^>]*>, relay=maildir, .*status=sent", len(NAMES)
        )
        assert (await relay.send(b"", "personne@gateway2.maison.mrs")).startswith("550 5.1.1 ")
    originals = {message.partition("X-Original-To: ")[2].partition("\n")[0] for message in maildir(tmp_path)}
    assert originals == {f"{name}@gateway2.maison.mrs" for name in NAMES}
