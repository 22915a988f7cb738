"""Listening for clients that begin with a TLS handshake (RFC 8314 section 3.3)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from relay import events
from relay.mail.envelope import Client
from relay.reception.access import ClientLimits, plain_address
from relay.reception.session import Session
from relay.reception.shared import Listener, Shared
from relay.reception.tls import explain_failure

PAUSE_SECONDS = 1.0
"""How long nothing is accepted after that failed."""


class TlsServer:
    """Accepts connections, encrypts them and hands them to sessions.

    asyncio's own server would keep the certificate it began with, and tell nobody of a handshake that fails.
    """

    def __init__(
        self,
        sock: socket.socket,
        listener: Listener,
        shared: Shared,
        new_session: Callable[[], Session],
        handshake_seconds: float,
    ) -> None:
        self._sock = sock
        self._listener = listener
        self._shared = shared
        self._limits = ClientLimits(shared.limits.limits)
        self._new_session = new_session
        self._handshake_seconds = handshake_seconds
        self._loop = asyncio.get_running_loop()
        self._accepting = self._loop.create_task(self._accept())

    def close(self) -> None:
        """Accept no more connections; handshakes go on."""
        self._accepting.cancel()

    async def _accept(self) -> None:
        with self._sock:
            while True:
                try:
                    connection, peer = await self._loop.sock_accept(self._sock)
                except OSError as error:
                    events.warned(f"no connection can be accepted: {error.strerror}")
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                task = self._loop.create_task(self._welcome(connection, peer))
                self._shared.handshakes.add(task)
                task.add_done_callback(self._shared.handshakes.discard)

    async def _welcome(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        """Begin a session with a client. Handshakes are limited like sessions, beside them."""
        client = Client(plain_address(peer[0]))
        self._limits.limits = self._shared.limits.limits  # they may have changed
        refusal = self._limits.admit(client.address)
        if refusal:
            events.refused(client, "CONNECT", refusal)
            connection.close()
            return
        try:
            await self._loop.connect_accepted_socket(
                self._new_session,
                connection,
                ssl=self._listener.tls_context,
                ssl_handshake_timeout=self._handshake_seconds,
            )
        except OSError as error:
            events.handshake_failed(client, explain_failure(error))
        finally:
            self._limits.leave(client.address)
