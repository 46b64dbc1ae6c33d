"""Who finds room: connections are refused at the handshake while the server is full or going away."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection

from .access import Refusal

if TYPE_CHECKING:
    from .server import Server

RETRY_SECONDS = 5
"""When a refused client should try again."""


class Admission:
    """Counts what is let in. Room is measured in streams, one for each channel that is analysed; what a client will ask
    for is unknown at its handshake, so the engine counts again when its call begins."""

    def __init__(self, server: Server) -> None:
        self.draining = False
        """No new calls: the server is going away."""
        self._server = server
        self._visitors: set[ServerConnection] = set()
        self._undecided: set[object] = set()  # those that have no call yet
        self._leaving: set[asyncio.Task[None]] = set()

    def admit(self, socket: ServerConnection) -> Refusal | None:
        """Let a connection in for a call, or say why not."""
        if refusal := self.refusal():
            return refusal
        self._visitors.add(socket)
        self._undecided.add(socket)
        task = asyncio.create_task(self._until_gone(socket))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return None

    def began(self, socket: object) -> None:
        """The call of a connection has begun, or goes on."""
        self._undecided.discard(socket)

    def refusal(self) -> Refusal | None:
        """Why no call can be let in, if none can. Those who were cut off and may come back must find the door open:
        their streams are counted when calls begin."""
        if not self.draining and not self._full(self._expected - self._lost):
            return None
        again = {"Retry-After": str(RETRY_SECONDS)}
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.state}: expected a server with room", again)

    @property
    def state(self) -> str:
        """``ready``, ``full`` or ``draining``: what a new call would find."""
        if self.draining:
            return "draining"
        return "full" if self._full(self._expected) else "ready"

    @property
    def ready(self) -> bool:
        """There is room for one more call."""
        return self.state == "ready"

    @property
    def visitors(self) -> int:
        """Connections that were let in and are still there."""
        return len(self._visitors)

    def _full(self, streams: int) -> bool:
        capacity = self._server.engine.capacity
        return capacity is not None and streams >= capacity

    @property
    def _expected(self) -> int:
        """Streams of all calls, and one for each client that has no call yet."""
        return self._server.engine.streams + len(self._undecided)

    @property
    def _lost(self) -> int:
        """Streams of the calls whose client was cut off."""
        away = {*(line.call for line in self._server.lines.away), *self._server.legs.away}
        return sum(len(call.session.streams) for call in self._server.sessions.values() if call in away)

    async def _until_gone(self, socket: ServerConnection) -> None:
        await socket.wait_closed()
        self._visitors.discard(socket)
        self._undecided.discard(socket)
