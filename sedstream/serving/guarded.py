"""A WebSocket that gives strangers little: a small head, a short time for it, and no more bytes than their token
may send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Data, Subprotocol

from .access import SUBPROTOCOL, Visit

MAX_HEAD = 16_384
"""Bytes of a request line and its headers together."""
HANDSHAKE_SECONDS = 5.0
"""How long a client may take for its request, and for TLS before it."""
MAX_WAITING = 200
"""Connections that may be there at a time without having been let in; one more ends the oldest, so that slow ones
cannot keep others out."""


class GuardedConnection(ServerConnection):
    """A server's connection whose request is bounded in size and time, each refusal answered in HTTP, and whose
    messages come no faster than ``visit`` allows. ``waiting``: those of a server that nobody has let in yet."""

    def __init__(
        self, waiting: dict[GuardedConnection, None], protocol: ServerProtocol, *options: Any, **named: Any
    ) -> None:
        super().__init__(_Answering(max_size=protocol.max_message_size, logger=protocol.logger), *options, **named)
        self.visit: Visit | None = None
        """Whose session this is, once it was let in."""
        self._waiting = waiting
        self._head = b""

    def let_in(self, visit: Visit) -> None:
        """Serve the client as ``visit``, which ends with the connection."""
        self.visit = visit
        self._waiting.pop(self, None)
        if self.protocol.state is State.CLOSED:  # its token came late, and it has gone meanwhile
            visit.end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._waiting[self] = None
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest._refuse(HTTPStatus.REQUEST_TIMEOUT, "expected a whole request sooner, others wait")
            oldest.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.request is None and not self.protocol.eof_sent:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if (len(self._head) if end < 0 else end) > MAX_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected a head of at most {MAX_HEAD} bytes")
                return
        super().data_received(data)
        if self.request is not None:
            self._head = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.pop(self, None)
        if self.visit is not None:
            self.visit.end()
        super().connection_lost(exc)

    async def handshake(self, *options: Any, **named: Any) -> None:
        """As websockets does it, in a limited time: HTTP 408 when that is over."""
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await super().handshake(*options, **named)
        except TimeoutError:
            if self.request is None:
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"expected a whole request in {HANDSHAKE_SECONDS:.0f} s")
                self.transport.close()
                await self.wait_closed()
            raise

    async def __aiter__(self) -> AsyncIterator[Data]:
        async for message in super().__aiter__():
            if self.visit is not None and (delay := self.visit.wait(len(message), self.loop.time())):
                with suppress(TimeoutError):  # not asleep when the client goes
                    await asyncio.wait_for(self.wait_closed(), delay)
            yield message

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        if self.protocol.state is State.CONNECTING and not self.protocol.eof_sent:
            self._head = b""
            self.protocol.send_response(self.protocol.reject(status, reason + "\n"))
            self.send_data()


class _Answering(ServerProtocol):
    """Tells what is no HTTP request so, and accepts the subprotocol that browsers offer beside their token."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in subprotocols else None

    def send_eof(self) -> None:
        if self.state is State.CONNECTING and isinstance(self.handshake_exc, InvalidMessage):
            self.writes.append(self.reject(HTTPStatus.BAD_REQUEST, "expected a request of HTTP/1.1\n").serialize())
        super().send_eof()
