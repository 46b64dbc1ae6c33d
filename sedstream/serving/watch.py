"""``/v1/watch``: follow the messages of all sessions, or of one (``?session=…``), whatever brings their audio.

A follower first gets ``session.ready`` of every call that is going on, then each message as it is said, numbered in
its own ``seq``; resume tokens are not among them. One that does not read is cut; nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from .guarded import GuardedConnection
from .outbox import LIMIT, Letter, Outbox

if TYPE_CHECKING:
    from .server import Server

EACH = 16
"""Messages that may wait for a follower for each call that goes on, besides those that may wait for anybody: all calls
may have something to say at once, as when they are drained."""


class Hub:
    """Passes the messages of all calls on to those who follow them."""

    def __init__(self) -> None:
        self._watchers: set[Watcher] = set()
        self._going_on: dict[str, Mapping[str, Any]] = {}

    def publish(self, message: Mapping[str, Any]) -> None:
        """Event loop: a message of a call, with its ``type`` and ``session``."""
        if message["type"] == "session.ready":
            self._going_on[message["session"]] = message
        elif message["type"] == "session.updated" and message["session"] in self._going_on:
            told = {key: message[key] for key in ("events", "alerts")}
            self._going_on[message["session"]] = {**self._going_on[message["session"]], **told}
        elif message["type"] == "session.end":
            self._going_on.pop(message["session"], None)
        if self._watchers:
            letter = Letter.of(message)
            for watcher in list(self._watchers):
                watcher.put(letter)

    @property
    def calls(self) -> int:
        """How many calls go on."""
        return len(self._going_on)

    def join(self, watcher: Watcher) -> None:
        """``watcher`` gets what goes on, and everything from now on."""
        for message in self._going_on.values():
            watcher.put(Letter.of(message))
        self._watchers.add(watcher)

    def leave(self, watcher: Watcher) -> None:
        """``watcher`` gets nothing more."""
        self._watchers.discard(watcher)


class Watcher:
    """One follower."""

    def __init__(self, server: Server, socket: ServerConnection) -> None:
        assert socket.request is not None
        assert isinstance(socket, GuardedConnection)
        self._hub = server.hub
        self._socket = socket
        asked = parse_qs(urlsplit(socket.request.path).query, keep_blank_values=True)
        self._session = asked.get("session", [None])[0]  # an empty one is no call's, not everybody's
        self._outbox = Outbox(kept=0)
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Serve the follower until it goes; what it sends is not looked at."""
        self._socket.expect_reading()
        self._hub.join(self)
        writer = asyncio.create_task(self._write())
        try:
            async for message in self._socket:
                await self._socket.metered(message)
        except ConnectionClosed:
            pass
        finally:
            self._hub.leave(self)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def put(self, letter: Letter) -> None:
        """A message of any call."""
        if self._session in (None, letter.session):
            self._outbox.limit = max(self._outbox.limit, LIMIT + EACH * self._hub.calls)
            self._outbox.put(letter)
            self._news.set()
            if self._outbox.full:
                self._hub.leave(self)
                self._socket.transport.abort()

    async def _write(self) -> None:
        try:
            while True:
                self._news.clear()
                while len(self._outbox):
                    await self._socket.send(self._outbox.take())
                await self._news.wait()
        except ConnectionClosed:
            pass
