"""The content of one message on its way from a session to where messages are kept."""

from __future__ import annotations

from typing import Protocol

from relay import events
from relay.mail.envelope import Client, Envelope, Recipient
from relay.mail.reply import Reply
from relay.reception import replies


class Sink(Protocol):
    """Takes the content of one message."""

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes, decoded, with CRLF line ends; returns when more can be taken."""

    async def finish(self) -> Reply:
        """Return the reply to the whole message; a positive one only once it is safe on disk."""

    async def abort(self) -> None:
        """Forget the message: the client vanished, or the content was refused."""


class Intake(Protocol):
    """Decides about messages and takes them in."""

    async def judge_sender(self, client: Client, reverse_path: str) -> Reply | None:
        """Return the refusal of a sender, None to accept."""

    async def judge_recipient(self, client: Client, reverse_path: str, recipient: Recipient) -> Reply | None:
        """Return the refusal of a recipient, None to accept."""

    def begin(self, client: Client, envelope: Envelope) -> Sink:
        """Return where the content of a message goes."""


class Upload:
    """Writes content into a sink until something is wrong with it: then all of it is dropped."""

    def __init__(self, sink: Sink, client: Client, limit: int) -> None:
        self._sink = sink
        self._client = client
        self._limit = limit
        self.size = 0
        """Bytes of content so far."""
        self.refusal: Reply | None = None
        """Why the message cannot be accepted any more."""

    async def write(self, content: bytes) -> None:
        """Take the next bytes of the content; once it is refused they are dropped."""
        if self.refusal or not content:
            return
        self.size += len(content)
        if self.size > self._limit:
            await self.drop(replies.too_big(self._limit))
            return
        try:
            await self._sink.write(content)
        except Exception as error:
            await self._fail(error)

    async def finish(self) -> Reply:
        """Return the reply to the whole message."""
        if self.refusal:
            return self.refusal
        try:
            return await self._sink.finish()
        except Exception as error:
            await self._fail(error)
            return replies.FAILED

    async def drop(self, refusal: Reply) -> None:
        """Forget the content, once, and refuse what comes of it."""
        if self.refusal:
            return
        self.refusal = refusal
        try:
            await self._sink.abort()
        except Exception as error:
            events.session_failed(self._client, error)

    async def _fail(self, error: Exception) -> None:
        events.session_failed(self._client, error)
        await self.drop(replies.FAILED)
