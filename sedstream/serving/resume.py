"""What stands between a call and its client: messages to send, messages sent, and the connection of the moment. It
outlives the connection, so that a client that was cut off can go on."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from typing import Any

from ..errors import BadMessage
from .access import Visit
from .call import Call
from .outbox import Letter, Outbox
from .protocol import IDLE, LEFT, TOO_SLOW, ServerProtocol, error

LOST = "lost"
"""Why a call ended whose client did not come back."""


class Line:
    """One client's line. ``cut``: how to end its connection of the moment with a close code; None: it has none.
    ``owner``: the name of the token that began it."""

    def __init__(self, cut: Callable[[int], None] | None, owner: str) -> None:
        self.owner = owner
        self.name = uuid.uuid4().hex
        self.token = secrets.token_urlsafe(24)
        self.protocol = ServerProtocol()
        self.call: Call | None = None
        self.outbox = Outbox()
        self.news = asyncio.Event()
        """There is something to send, or nothing more will come."""
        self.cut = cut
        self.code = LEFT
        """What its last client was told when the connection ended."""

    def say(self, message: dict[str, Any]) -> None:
        """Send a message, or keep it for the next connection; a client that reads too slowly is given up."""
        self.outbox.put(Letter.of(message))
        self.news.set()
        if self.outbox.full:
            if self.call is not None:
                self.call.give_up(TOO_SLOW)
            if self.cut is not None:
                self.cut(TOO_SLOW)

    def error(self, code: str, text: str, *, fatal: bool = True) -> None:
        """Say an ``error``; without ``fatal`` the session goes on."""
        self.say(error(code, text, fatal=fatal) | {"session": self.name})

    def resume(self, seq: int, ready: dict[str, Any]) -> None:
        """Send again what was sent after message ``seq``, ``ready`` before all else. Raises ``BadMessage``."""
        self.outbox.rewind(seq)
        self.outbox.put_first(Letter.of(ready))
        self.news.set()


class Lines:
    """The lines of a server by their tokens. One without a connection is kept for ``seconds``, then its call ends."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._lines: dict[str, Line] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        """Lines that wait for their client."""
        return len(self._waiting)

    @property
    def away(self) -> list[Line]:
        """Those that wait for their client."""
        return [self._lines[token] for token in self._waiting]

    def add(self, line: Line) -> None:
        """The line's call has begun: its token is known from now on."""
        self._lines[line.token] = line

    async def make_room(self, visit: Visit) -> None:
        """Drop what waits of a token that has as many sessions as it may, the oldest first, and wait until its place is
        free: or whoever begins and breaks off, over and over, would have all the places of a server."""
        while waiting := [line for line in self.away if line.owner == visit.token.name]:
            if not visit.crowded(len(waiting)):
                return
            self.drop(waiting[0])
            if (call := waiting[0].call) is not None:
                await call.over()

    def find(self, token: str) -> Line:
        """The line of a token. Raises ``BadMessage``: the client must start anew."""
        line = self._lines.get(token)
        if line is None or line.call is None or line.call.code == TOO_SLOW:
            raise BadMessage("unknown_session", "Bad resume token, expected that of a session that goes on")
        return line

    def ready(self, line: Line) -> dict[str, Any]:
        """``session.ready`` with what a client needs to resume."""
        assert line.call is not None
        resume = {"token": line.token, "seconds": self.seconds} if self.seconds else None
        return line.call.ready() | {"resume": resume}

    def attach(self, line: Line, cut: Callable[[int], None]) -> None:
        """The line has a connection."""
        line.cut = cut
        if timer := self._waiting.pop(line.token, None):
            timer.cancel()

    def hold(self, line: Line) -> None:
        """The line has lost its connection."""
        line.cut = None
        if self.seconds and line.token in self._lines:
            self._waiting[line.token] = asyncio.get_running_loop().call_later(self.seconds, self.drop, line)
        else:
            self.drop(line)

    def drop(self, line: Line) -> None:
        """The line's client will not come back. Those who follow its call get the finals of what was heard, unless an
        error ended the connection."""
        line.cut = None
        self._lines.pop(line.token, None)
        if timer := self._waiting.pop(line.token, None):
            timer.cancel()
        if line.call is None:
            return
        if line.code in (LEFT, IDLE):
            line.call.end(LOST, line.code)
        else:
            line.call.abort(line.code)

    def close(self) -> None:
        """Drop all."""
        for line in list(self._lines.values()):
            self.drop(line)
