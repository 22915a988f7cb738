"""What the tutorial shows that this relay grew out of (Christian Caleca's), done with the relay.

Messages, dialogues, rules and addresses are the tutorial's: a message of Outlook Express 5 whose transfer was
captured in May 2000, a session typed by hand, the bounce of a sender that the Internet does not know and its
cure, header checks, a route for aol.com, and what its author wished for in vain.
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


async def test_a_session_typed_by_hand_needs_no_greeting(tmp_path: Path) -> None:
    async with ScriptedServer() as monaco:
        async with Service(tmp_path, relayhost(monaco)) as relay:
            async with relay.client() as telnet:
                assert (await telnet.ask("MAIL FROM: <christian.caleca@wanadoo.fr>")).startswith("250 ")
                assert (await telnet.ask("RCPT TO: <eme13@enprovence.com>")).startswith("250 ")
                assert (await telnet.ask("DATA")).startswith("354 ")
                telnet.send(b"le texte du message\r\n\r\n.\r\n")
                assert (await telnet.reply()).startswith("250 ")
                assert (await telnet.ask("QUIT")).startswith("221 ")
            await relay.logged("status=sent")
        [delivery] = deliveries(monaco)
        assert delivery.reverse_path == "christian.caleca@wanadoo.fr"
        assert delivery.recipients == ("eme13@enprovence.com",)
        assert re.fullmatch(
            rb"Message-Id: <\d{14}\.\w+@gw1\.maison\.mrs>\r\n"
            rb"Date: [^\r]+\r\n"
            rb"From: christian\.caleca@wanadoo\.fr\r\n"
            rb"\r\n"
            rb"le texte du message\r\n\r\n",
            delivery.without_trace,
        )


UNKNOWN_SENDER = b"553 sorry, your envelope sender domain must exist (#5.7.1)\r\n"
TO_OUTSIDE = b"To: christian.caleca@free.fr\r\nSubject: test distant\r\n\r\nre re coucou\r\n"


def refuse_unknown_senders(line: bytes) -> Step:
    return UNKNOWN_SENDER if b"maison.mrs>" in line else b"250 Ok\r\n"


PARTICULAR = Script(steps={"EHLO": NO_PIPELINING, "MAIL": refuse_unknown_senders})


async def test_the_bounce_for_an_unknown_sender_domain_reaches_the_mailbox_of_the_sender(
    tmp_path: Path,
) -> None:
    async with ScriptedServer(PARTICULAR) as free, ScriptedServer() as mailboxes:
        toml = (
            f"{relayhost(free)}[transport]\n"
            f'"gw1.maison.mrs" = {{ via = "[127.0.0.1]:{mailboxes.port}", internal = true }}'
        )
        async with Service(tmp_path, toml) as relay:
            await relay.send(TO_OUTSIDE, "christian.caleca@free.fr", sender="chris@gw1.maison.mrs")
            await relay.logged(
                r"to=<christian.caleca@free.fr>, .*status=bounced .*553 sorry, your envelope sender domain"
            )
            await relay.logged(r"to=<chris@gw1.maison.mrs>, .*status=sent")
            await relay.emptied()
        [bounce] = deliveries(mailboxes)
        assert (bounce.reverse_path, bounce.recipients) == ("", ("chris@gw1.maison.mrs",))
        assert b"\r\nTo: chris@gw1.maison.mrs\r\n" in bounce.header
        for words in (
            b"Final-Recipient: rfc822; christian.caleca@free.fr\r\n",
            b"Action: failed\r\n",
            b"553 sorry, your envelope sender domain must exist (#5.7.1)",
            b"\r\nSubject: test distant\r\n",
            b"\r\nre re coucou\r\n",
        ):
            assert words in bounce.content
        assert deliveries(free) == []


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


async def test_a_real_sender_is_the_cure(tmp_path: Path) -> None:
    async with ScriptedServer(PARTICULAR) as free:
        async with Service(tmp_path, relayhost(free) + REAL_SENDERS) as relay:
            for sender in ("chris", "root", "root@gw1.maison.mrs"):
                await relay.send(TO_OUTSIDE, "eme13@enprovence.com", sender=sender)
            await relay.logged("status=sent", 3)
        assert [delivery.reverse_path for delivery in deliveries(free)] == ["christian.caleca@free.fr"] * 3
        for delivery in deliveries(free):
            assert b"\r\nFrom: christian.caleca@free.fr\r\n" in delivery.header


async def test_mail_for_aol_goes_by_the_provider_and_all_other_mail_does_not(tmp_path: Path) -> None:
    async with ScriptedServer() as wanadoo, ScriptedServer() as direct:
        names = ("aol.com", ".aol.com", "aol.fr", ".aol.fr")
        toml = relayhost(direct) + "\n".join(
            [
                "[smarthost.wanadoo]",
                'host = "127.0.0.1"',
                f"port = {wanadoo.port}",
                'tls = "none"',
                "[transport]",
                *(f'"{name}" = "wanadoo"' for name in names),
            ]
        )
        async with Service(tmp_path, toml) as relay:
            recipients = [
                "a@aol.com",
                "b@mail.aol.com",
                "c@AOL.FR",
                "d@x.y.aol.fr",
                "e@notaol.com",
                "f@free.fr",
            ]
            await send_like_outlook_express(relay, "christian.caleca@wanadoo.fr", recipients, CAPTURED)
            await relay.logged("status=sent", 6)
        [provided], [sent] = deliveries(wanadoo), deliveries(direct)
        assert provided.recipients == ("a@aol.com", "b@mail.aol.com", "c@AOL.FR", "d@x.y.aol.fr")
        assert sent.recipients == ("e@notaol.com", "f@free.fr")
        assert provided.without_trace == sent.without_trace == CAPTURED


async def test_every_trace_of_the_way_so_far_is_stripped(tmp_path: Path) -> None:
    earlier = (
        b"Received: from chris (chris.maison.mrs [192.168.0.10])\r\n"
        b"\tby gateway1.maison.mrs (Postfix) with SMTP id 2A1821029A\r\n"
        b"\tfor <eme13@enprovence.com>; Mon, 22 May 2000 20:28:05 +0200 (CEST)\r\n"
    )
    async with ScriptedServer() as monaco:
        async with Service(tmp_path, f"{relayhost(monaco)}{STRIP_TRACE}") as relay:
            await relay.send(earlier + CAPTURED, "eme13@enprovence.com")
            await relay.logged("status=sent")
        [delivery] = deliveries(monaco)
        assert delivery.content == CAPTURED


async def test_a_header_that_is_to_be_rejected_is_and_its_client_is_told(tmp_path: Path) -> None:
    reject = "[[header_checks]]\npattern = '^from: * chose@public\\.com$'\naction = 'REJECT'"
    async with ScriptedServer() as monaco, Service(tmp_path, relayhost(monaco) + reject) as relay:
        refused = await relay.send(b"From: chose@public.com\r\n\r\n", "eme13@enprovence.com")
        assert refused.startswith("550 5.7.1 ")
        await relay.logged(r"\w+: reject: header From from localhost\[127\.0\.0\.1\]; from=")
        accepted = await relay.send(b"From: quelquechose@public.com\r\n\r\n", "eme13@enprovence.com")
        assert accepted.startswith("250 ")
        await relay.logged("status=sent")
        assert len(deliveries(monaco)) == 1


async def test_a_header_that_is_to_be_logged_is_and_the_message_goes_on(tmp_path: Path) -> None:
    warn = "[[header_checks]]\npattern = '^Subject: .*SMTP'\naction = 'WARN'"
    async with ScriptedServer() as monaco, Service(tmp_path, relayhost(monaco) + warn) as relay:
        await relay.send(CAPTURED, "eme13@enprovence.com")
        await relay.logged(
            r"warning: \w+: warn: header Subject: test SMTP from localhost\[127\.0\.0\.1\]; from="
        )
        await relay.logged("status=sent")
        [delivery] = deliveries(monaco)
        assert delivery.without_trace == CAPTURED


async def test_the_copy_for_outside_has_the_real_sender_and_the_one_for_inside_does_not(
    tmp_path: Path,
) -> None:
    async with ScriptedServer() as inside, ScriptedServer() as outside:
        toml = (
            f"{relayhost(outside)}{REAL_SENDERS}\n[transport]\n"
            f'"maison.mrs" = {{ via = "[127.0.0.1]:{inside.port}", internal = true }}\n'
            "[[header_checks]]\npattern = '^Received:'\naction = 'IGNORE'\nscope = 'external'"
        )
        async with Service(tmp_path, toml) as relay:
            content = accents("chris@gw1.maison.mrs", "root@maison.mrs")
            recipients = ["root@maison.mrs", "eme13@enprovence.com"]
            await send_like_outlook_express(relay, "chris@gw1.maison.mrs", recipients, content)
            await relay.logged("status=sent", 2)
        [internal], [external] = deliveries(inside), deliveries(outside)
        assert (internal.reverse_path, internal.recipients) == ("chris@gw1.maison.mrs", ("root@maison.mrs",))
        assert internal.without_trace == content
        assert external.reverse_path == "christian.caleca@free.fr"
        assert external.recipients == ("eme13@enprovence.com",)
        assert external.content == accents("christian.caleca@free.fr", "root@maison.mrs")
