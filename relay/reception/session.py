"""One SMTP session: the dialogue with a client (RFC 5321), as lenient as Postfix where that is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from relay import events
from relay.mail import commands
from relay.mail.commands import Chunk, Mail
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.reply import Reply
from relay.reception import replies
from relay.reception.access import plain_address
from relay.reception.connection import LONGEST_LINE, READ_SIZE, ClientGoneError, HandshakeError
from relay.reception.content import ChunkReader, DotReader
from relay.reception.introduction import Introduction
from relay.reception.shared import Listener, SessionSettings, Shared
from relay.reception.upload import Intake, Upload

MOST_ERRORS = 20
"""Errors after which a session ends (postconf(5), smtpd_hard_error_limit)."""
COMMANDS_PER_TURN = 100
"""Commands that are answered before other sessions get their turn, where so many have arrived."""
MOST_IDLE_COMMANDS = 100
"""Commands that get no message sent, after which each counts as an error (smtpd_junk_command_limit)."""

_IDLE_COMMANDS = frozenset({"NOOP", "RSET", "VRFY", "ETRN", "HELO", "EHLO"})
_GROUPED_COMMANDS = frozenset({"MAIL", "RCPT", "RSET", "BDAT"})
"""Their replies may wait for those to the next commands that have arrived already (RFC 2920 section 3.2)."""
_FIXED_ANSWERS = {"NOOP": replies.OK, "QUIT": replies.GOODBYE}
_FAILED_LOGINS = (replies.LOGIN_FAILED, replies.LOGIN_BARRED)
"""They are logged where they are judged."""
_CLOSING_CODES = frozenset({221, 421, 521})


class Session(Introduction):
    """The session with one client."""

    def __init__(
        self,
        intake: Intake,
        settings: SessionSettings,
        listener: Listener,
        shared: Shared,
    ) -> None:
        super().__init__(settings, listener, shared)
        self._intake = intake
        self._is_stopping = False
        self._verb = "CONNECT"
        self._count = 0
        self._errors = 0
        self._idle_commands = 0
        self._sender = ""
        self._recipient = ""
        self._recipients: list[Recipient] = []
        self._upload: Upload | None = None
        self._chunks = ChunkReader()
        self._is_chunk_refused = False

    async def wait_ended(self) -> None:
        """Return when nothing is done for the client any more."""
        assert self._handler_coroutine
        await asyncio.wait([self._handler_coroutine])

    def configure(self, intake: Intake, settings: SessionSettings) -> None:
        """Follow a changed configuration from the next command on."""
        self._intake = intake
        self._settings = settings

    def stop(self) -> None:
        """Send the client away: at once while it is idle, else when its message is through."""
        self._is_stopping = True
        if self._is_in_handshake:
            self.abort()
        elif self._is_waiting and self._upload is None:
            self._hang_up(replies.SHUTTING_DOWN)

    async def _handle_client(self) -> None:
        peer = self._writer.get_extra_info("peername")
        if not peer:
            self.abort()  # the client left before it was greeted
            return
        address = plain_address(peer[0])
        self._client = Client(address)
        refusal = replies.SHUTTING_DOWN if self._shared.is_closing else self._shared.limits.admit(address)
        if refusal:
            events.refused(self._client, "CONNECT", refusal)
            self._hang_up(refusal)
            return
        self._shared.sessions.add(self)
        self._begin_recognition()
        events.connected(self._client)
        if self._is_encrypted:
            self._log_tls()
        try:
            await self._converse()
            events.disconnected(self._client, self._count)
        except ClientGoneError:
            events.lost(self._client, self._verb)
        except HandshakeError as error:
            events.handshake_failed(self._client, str(error))
        except asyncio.CancelledError:
            events.lost(self._client, self._verb)
            raise
        except Exception as error:
            events.session_failed(self._client, error)
            self._hang_up(replies.FAILED)
        finally:
            self._writer.close()
            await self._drop_upload(replies.FAILED)
            self._shared.limits.leave(address)
            self._shared.sessions.discard(self)

    async def _converse(self) -> None:
        reply = Reply(220, "", f"{self._settings.hostname} ESMTP relay")
        self._say(reply)
        while reply.code not in _CLOSING_CODES:
            reply = await self._answer(await self._read_line())
            self._say(reply)
            self._keep_account(reply)
            if self._count % COMMANDS_PER_TURN == 0:
                await asyncio.sleep(0)
            farewell = self._find_farewell()
            if farewell and reply.code not in _CLOSING_CODES:
                reply = farewell
                self._say(reply)
            if self._verb not in _GROUPED_COMMANDS:
                await self._flush()
            if reply is replies.START_TLS:
                await self._secure()
        await self._flush()

    async def _answer(self, line: bytes) -> Reply:
        self._count += 1
        self._recognise()
        self._verb = "UNKNOWN"
        self._sender = self._mail.reverse_path if self._mail else ""
        self._recipient = ""
        if len(line) > LONGEST_LINE:
            return replies.LINE_TOO_LONG
        try:
            line.decode()
        except UnicodeDecodeError:
            return replies.NOT_UTF8 if line[:1].isalpha() else replies.FOREIGN
        verb, argument = commands.split_command(line)
        if not verb:
            return replies.EMPTY_LINE
        answer = self._ANSWERS.get(verb)
        if answer is None and verb not in _FIXED_ANSWERS:
            return replies.FOREIGN if commands.is_foreign(verb) else replies.UNKNOWN_COMMAND
        self._verb = verb
        if answer is None:
            return _FIXED_ANSWERS[verb]
        try:
            return await answer(self, argument)
        except ClientGoneError:
            raise
        except Exception as error:
            events.session_failed(self._client, error)
            return replies.FAILED

    def _keep_account(self, reply: Reply) -> None:
        """Count what must not go on for ever, and log what was refused."""
        if self._verb in _IDLE_COMMANDS:
            self._idle_commands += 1
            self._errors += self._idle_commands > MOST_IDLE_COMMANDS
        if reply.code >= 400 or reply is replies.FOREIGN:
            self._errors += reply is not replies.TOO_MANY_RECIPIENTS
            if reply not in _FAILED_LOGINS:
                events.refused(self._client, self._verb, reply, self._sender, self._recipient)

    def _find_farewell(self) -> Reply | None:
        """Return why the session ends after this command, None where it goes on."""
        if self._errors >= MOST_ERRORS:
            return replies.TOO_MANY_ERRORS
        return replies.SHUTTING_DOWN if self._is_stopping and self._upload is None else None

    async def _answer_mail(self, argument: bytes) -> Reply:
        if self._mail:
            return replies.NESTED_MAIL
        if self._is_chunk_refused:
            return replies.MAIL_AFTER_CHUNK
        if self._listener.listen.auth == "required" and not self._is_logged_in:
            return replies.LOGIN_NEEDED
        mail = commands.parse_mail(argument)
        if isinstance(mail, Reply):
            return mail
        self._sender = mail.reverse_path
        if mail.size > self._settings.message_size:
            return replies.too_big(self._settings.message_size)
        refusal = self._shared.limits.refuse_message(self._account, self.loop.time())
        refusal = refusal or await self._intake.judge_sender(self._client, mail.reverse_path)
        if refusal:
            return refusal
        self._mail = mail
        return replies.SENDER_OK

    async def _answer_rcpt(self, argument: bytes) -> Reply:
        if self._mail is None:
            return replies.NO_SENDER
        if self._upload or self._is_chunk_refused:
            return replies.RECIPIENT_AFTER_CHUNK
        recipient = commands.parse_rcpt(argument, is_smtputf8=self._mail.is_smtputf8)
        if isinstance(recipient, Reply):
            return recipient
        self._recipient = recipient.address
        if len(self._recipients) >= self._settings.recipients:
            return replies.TOO_MANY_RECIPIENTS
        refusal = await self._intake.judge_recipient(self._client, self._mail.reverse_path, recipient)
        if refusal:
            return refusal
        self._recipients.append(recipient)
        return replies.RECIPIENT_OK

    async def _answer_data(self, argument: bytes) -> Reply:
        if self._upload or self._is_chunk_refused:
            return replies.DATA_AFTER_CHUNK
        if self._mail is None:
            return replies.NO_RECIPIENT
        if not self._recipients:
            return replies.NO_VALID_RECIPIENT
        if argument:
            return replies.NO_ARGUMENT
        upload = self._upload = await self._begin(self._mail)
        self._say(replies.START_CONTENT)
        reader = DotReader()
        while not reader.is_complete:
            await upload.write(reader.feed(await self._read_content()))
        self._input[:0] = reader.rest
        return await self._finish(upload)

    async def _answer_bdat(self, argument: bytes) -> Reply:
        chunk = commands.parse_bdat(argument)
        if isinstance(chunk, Reply):
            return chunk
        refusal = await self._open_chunk(chunk)
        missing = chunk.size
        while missing:
            data = await self._read_content(min(missing, READ_SIZE))
            missing -= len(data)
            if self._upload and not refusal:
                await self._upload.write(self._chunks.feed(data))
        if self._upload and not refusal:
            if chunk.is_last:
                await self._upload.write(self._chunks.finish())
                return await self._finish(self._upload)
            refusal = self._upload.refusal
        if chunk.is_last:
            await self._reset()
        elif refusal:
            await self._drop_upload(refusal)
            self._is_chunk_refused = True
        return refusal or Reply(250, "2.0.0", f"Ok: {chunk.size} bytes")

    async def _open_chunk(self, chunk: Chunk) -> Reply | None:
        """Return the refusal of a chunk, None where there is an upload that it can go to."""
        if self._is_chunk_refused:
            return replies.CHUNK_DROPPED
        if not chunk.size and not chunk.is_last:
            return replies.NULL_CHUNK
        if self._mail is None:
            return replies.NO_RECIPIENT
        if not self._recipients:
            return replies.NO_VALID_RECIPIENT
        if self._upload is None:
            try:
                self._upload = await self._begin(self._mail)
            except Exception as error:
                events.session_failed(self._client, error)
                return replies.FAILED
        if self._upload.size + chunk.size > self._settings.message_size:
            return replies.too_big(self._settings.message_size)
        return None

    async def _begin(self, mail: Mail) -> Upload:
        await self._end_recognition()
        client = self._describe_client(is_smtputf8=mail.is_smtputf8)
        envelope = Envelope(
            mail.reverse_path,
            tuple(self._recipients),
            given_reverse_path=mail.reverse_path,
            ret=mail.ret,
            envid=mail.envid,
            is_8bitmime=mail.is_8bitmime,
            is_smtputf8=mail.is_smtputf8,
        )
        self._shared.limits.count_message(self._account, self.loop.time())
        return Upload(self._intake.begin(client, envelope), client, self._settings.message_size)

    async def _finish(self, upload: Upload) -> Reply:
        """Return the reply to a message that has come whole."""
        self._verb = "END-OF-MESSAGE"
        self._upload = None
        reply = await upload.finish()
        if reply.is_positive:
            self._errors = self._idle_commands = 0
        await self._reset()
        return reply

    async def _answer_rset(self, argument: bytes) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        await self._reset()
        return replies.OK

    async def _answer_vrfy(self, argument: bytes) -> Reply:
        recipient = commands.parse_vrfy(argument)
        if isinstance(recipient, Reply):
            return recipient
        self._recipient = recipient.address
        return await self._intake.judge_recipient(self._client, "", recipient) or replies.NOT_VERIFIED

    async def _answer_etrn(self, argument: bytes) -> Reply:
        return commands.answer_etrn(argument)

    async def _reset(self) -> None:
        await self._drop_upload(replies.CHUNK_DROPPED)
        await super()._reset()
        self._recipients = []
        self._chunks = ChunkReader()
        self._is_chunk_refused = False

    async def _drop_upload(self, refusal: Reply) -> None:
        if self._upload:
            await self._upload.drop(refusal)
            self._upload = None

    _ANSWERS: ClassVar[dict[str, Callable[[Session, bytes], Awaitable[Reply]]]] = {
        **Introduction.ANSWERS,
        "MAIL": _answer_mail,
        "RCPT": _answer_rcpt,
        "DATA": _answer_data,
        "BDAT": _answer_bdat,
        "RSET": _answer_rset,
        "VRFY": _answer_vrfy,
        "ETRN": _answer_etrn,
    }
