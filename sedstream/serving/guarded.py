"""A WebSocket that gives strangers little: a small head, a short time for it, and no more bytes than their token
may send; and that lets no client hold up the others, be its packets tiny or its window shut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Data, Subprotocol

from .access import SUBPROTOCOL, Visit
from .protocol import LEFT

MAX_HEAD = 16_384
"""Bytes of a request line and its headers together."""
HANDSHAKE_SECONDS = 5.0
"""How long a client may take for its request, and for TLS before it."""
MAX_WAITING = 200
"""Connections that may be there at a time without having been let in; one more ends the oldest, so that slow ones
cannot keep others out."""
SLICE = 2048
"""Bytes that are looked at in one turn of the event loop: a read may bring 32,000 packets of two bytes."""
IN_A_ROW = 32
"""Messages that are answered in one turn of the event loop."""
UNANSWERED_SECONDS = 0.01
"""Until another look at a connection whose request has no answer yet."""
UNTAKEN = 1 << 20
"""Bytes that may wait to be taken by a client before nothing more of it is looked at: each of its pings is answered at
once."""
READ_SECONDS = 30.0
"""How long a client may take nothing of what waits for it, before its connection is cut."""


class GuardedConnection(ServerConnection):
    """A server's connection whose request is bounded in size and time, each refusal answered in HTTP, and whose
    messages are `metered` as ``visit`` allows. ``waiting``: those of a server that nobody has let in yet."""

    def __init__(
        self, waiting: dict[GuardedConnection, None], protocol: ServerProtocol, *options: Any, **named: Any
    ) -> None:
        self._answering = _Answering(max_size=protocol.max_message_size, logger=protocol.logger)
        super().__init__(self._answering, *options, **named)
        self.visit: Visit | None = None
        """Whose session this is, once it was let in."""
        self._waiting = waiting
        self._head = b""
        self._arrived = bytearray()  # what was not looked at yet
        self._next: asyncio.Handle | None = None  # the turn that will look at some of it
        self._full = False  # messages wait: no more are wanted

    @property
    def told(self) -> int:
        """The close code that the client was sent, if this end closed the connection; otherwise the client left."""
        ending = self.protocol
        return LEFT if ending.close_sent is None or ending.close_rcvd_then_sent else ending.close_sent.code

    def let_in(self, visit: Visit) -> None:
        """Serve the client as ``visit``, which ends with the connection."""
        self.visit = visit
        self._waiting.pop(self, None)
        if self.protocol.state is State.CLOSED:  # its token came late, and it has gone meanwhile
            visit.end()

    def expect_reading(self) -> None:
        """Cut the connection, too, when the client's machine takes nothing for ``READ_SECONDS``. Whoever only listens
        is never idle, and of a network that went away nobody is told."""
        plain = self.transport.get_extra_info("socket")
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux knows it
        with suppress(OSError):  # it is gone already
            if option is not None:
                plain.setsockopt(socket.IPPROTO_TCP, option, round(READ_SECONDS * 1000))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.recv_messages.pause, self.recv_messages.resume = self._pause, self._resume
        self._waiting[self] = None
        if len(self._waiting) > MAX_WAITING:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            oldest._refuse(HTTPStatus.REQUEST_TIMEOUT, "expected a whole request sooner, others wait")
            oldest.transport.close()

    def data_received(self, data: bytes) -> None:
        self._arrived += data
        if self._next is None and not self._held:
            self._look()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._steer()

    def eof_received(self) -> None:
        self._drop()  # of a broken conversation the rest is not needed: who resumes is told what arrived
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._drop()
        self._waiting.pop(self, None)
        if self.visit is not None:
            self.visit.end()
        super().connection_lost(exc)

    async def drain(self) -> None:
        """As websockets does it, in a limited time: a shut window would hold the connection, and its place, for ever.
        Raises ``TimeoutError``, upon which websockets cuts the connection."""
        async with asyncio.timeout(READ_SECONDS):
            await super().drain()

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
        count = 0
        async for message in super().__aiter__():
            count += 1
            if count % IN_A_ROW == 0:
                await asyncio.sleep(0)
            yield message

    async def metered(self, message: Data) -> None:
        """Wait for as long as ``visit`` wants after a message. Who reads calls it: it is no time without a message."""
        if self.visit is not None and (delay := self.visit.wait(len(message), self.loop.time())):
            with suppress(TimeoutError):  # not asleep when the client goes
                await asyncio.wait_for(self.wait_closed(), delay)

    def _look(self) -> None:
        """Look at the head, or at one slice of what follows; at the next in the next turn."""
        self._next = None
        if self.request is not None and self.protocol.state is State.CONNECTING:
            # What comes behind a request is frames only if it is answered so.
            self._next = self.loop.call_later(UNANSWERED_SECONDS, self._look)
            return
        size = SLICE
        if self.request is None and not self.protocol.eof_sent:
            before = self._head[-3:]
            end = (before + self._arrived).find(b"\r\n\r\n")
            size = len(self._arrived) if end < 0 else end + 4 - len(before)
        part = bytes(self._arrived[:size])
        del self._arrived[:size]
        self._take(part)
        self._steer()

    def _take(self, data: bytes) -> None:
        if self.request is None and not self.protocol.eof_sent:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if (len(self._head) if end < 0 else end) > MAX_HEAD:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"expected a head of at most {MAX_HEAD} bytes")
                return
            self._answering.method = self._head.partition(b" ")[0]
        super().data_received(data)
        if self.request is not None:
            self._head = b""

    @property
    def _held(self) -> bool:
        """Nothing more is looked at for now."""
        return self._full or self.transport.get_write_buffer_size() > UNTAKEN

    def _pause(self) -> None:
        self._full = True
        self._steer()

    def _resume(self) -> None:
        self._full = False
        self._steer()

    def _steer(self) -> None:
        """Read from the network only when all that arrived was looked at."""
        if self._arrived and not self._held and self._next is None:
            self._next = self.loop.call_soon(self._look)
        if self._arrived or self._held:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _drop(self) -> None:
        self._arrived.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        if self.protocol.state is State.CONNECTING and not self.protocol.eof_sent:
            self._head = b""
            self.protocol.send_response(self.protocol.reject(status, reason + "\n"))
            self.send_data()


class _Answering(ServerProtocol):
    """Tells what is no HTTP request so, or has a body, and accepts the subprotocol that browsers offer beside their
    token."""

    method = b""
    """What the request began with."""

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in subprotocols else None

    def send_eof(self) -> None:
        if self.state is State.CONNECTING and isinstance(self.handshake_exc, InvalidMessage):
            self.writes.append(self._refusal(self.handshake_exc.__cause__).serialize())
        super().send_eof()

    def _refusal(self, cause: BaseException | None) -> Response:
        # The only two that websockets raises once it has read a whole head.
        if not isinstance(cause, NotImplementedError) and str(cause) != "unsupported request body":
            return self.reject(HTTPStatus.BAD_REQUEST, "expected a request of HTTP/1.1\n")
        if self.method == b"GET":
            return self.reject(HTTPStatus.BAD_REQUEST, "expected a request without a body\n")
        response = self.reject(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET\n")
        response.headers["Allow"] = "GET"
        return response
