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
        self._leaving: set[asyncio.Task[None]] = set()

    def admit(self, socket: ServerConnection) -> Refusal | None:
        """Let a connection in for a call, or say why not."""
        if refusal := self.refusal():
            return refusal
        self._visitors.add(socket)
        task = asyncio.create_task(self._until_gone(socket))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return None

    def refusal(self) -> Refusal | None:
        """Why no call can be let in, if none can."""
        if self.ready:
            return None
        again = {"Retry-After": str(RETRY_SECONDS)}
        return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{self.state}: expected a server with room", again)

    @property
    def state(self) -> str:
        """``ready``, ``full`` or ``draining``."""
        if self.draining:
            return "draining"
        capacity = self._server.engine.capacity
        return "full" if capacity is not None and self._expected >= capacity else "ready"

    @property
    def ready(self) -> bool:
        """There is room for one more call."""
        return self.state == "ready"

    @property
    def visitors(self) -> int:
        """Connections that were let in and are still there."""
        return len(self._visitors)

    @property
    def _expected(self) -> int:
        """Streams of the calls that have a client, and one for each client that has no call yet. Those who were cut off
        and may come back must find the door open; their streams are counted when calls begin."""
        calls = set(self._server.sessions.values())
        away = self._server.lines.away
        lost = sum(len(line.call.session.streams) for line in away if line.call in calls)
        attached = len(calls) - sum(line.call in calls for line in away)
        return self._server.engine.streams - lost + max(0, len(self._visitors) - attached)

    async def _until_gone(self, socket: ServerConnection) -> None:
        await socket.wait_closed()
        self._visitors.discard(socket)
