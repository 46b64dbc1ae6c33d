"""One client of the server: its protocol, its session on the engine, its outbox."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import TYPE_CHECKING, Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..engine import Delivery, Session
from ..errors import BadInput, BadMessage, BadModel, SedstreamError, Unavailable
from ..events import End
from ..grid import seconds
from ..manifest import Manifest
from .outbox import Outbox
from .protocol import Audio, Close, Finalize, ServerProtocol, Start

if TYPE_CHECKING:
    from .server import Server

MAX_QUEUED = 4.0
"""Seconds of unanswered audio past which a connection is not read until the engine has caught up (back-pressure)."""
FLOW_SECONDS = 2.0
"""How often a session is told its queue."""
TOO_SLOW = 4008
"""Close code: the client does not read what it is sent."""

log = logging.getLogger(__name__)


class Connection:
    """One client: its protocol, its session on the engine, its outbox."""

    def __init__(self, server: Server, socket: ServerConnection) -> None:
        self._server = server
        self._socket = socket
        self._protocol = ServerProtocol(uuid.uuid4().hex)
        self._outbox = Outbox()
        self._news = asyncio.Event()  # there is something to send, or nothing more will come
        self._room = asyncio.Event()  # the engine moved on
        self._session: Session | None = None
        self._ends: list[End] = []
        self._code: int | None = None  # close with this code once the outbox is empty
        self._flowed = 0.0

    async def run(self) -> None:
        """Serve the connection until it ends; whatever happens to it stays here."""
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        try:
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._session is not None:
                self._server.sessions.pop(self._session, None)
                self._session.abort()
            for task in (writer, reader):
                task.cancel()
            await asyncio.gather(writer, reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                try:
                    command = self._protocol.receive(message)
                    await self._obey(command)
                except BadMessage as error:
                    self._say(self._protocol.error(error.code, str(error)))
                    if error.fatal:
                        break
                except SedstreamError as error:
                    self._say(self._protocol.error(error.code, str(error)))
                    break
            else:
                return
            self._finish(1008)
            await asyncio.Event().wait()  # the writer ends the connection once it has sent what is due
        except ConnectionClosed:
            pass

    async def _obey(self, command: Start | Audio | Finalize | Close) -> None:
        if isinstance(command, Start):
            self._session = self._open(command)
            return
        session = self._session
        assert session is not None  # the protocol lets nothing else through before session.start
        match command:
            case Audio(samples):
                session.write(samples)
            case Finalize():
                session.flush()
            case Close():
                session.close()
        bound = MAX_QUEUED + session.streams[0].plan.latency  # what a block still lacks is nobody's delay
        while session.queued > bound and self._code is None:
            self._room.clear()
            await self._room.wait()

    def _open(self, start: Start) -> Session:
        manifest = self._server.model.manifest
        if start.model not in (None, manifest.name):
            raise BadModel(f"Bad model {start.model!r}, expected {manifest.name}")
        name = choose_plan(manifest, start.latency)
        split = start.channels > 1 and not start.mix
        session = self._server.engine.open(start.rate, start.channels, split=split, plan=name, labels=start.labels)
        self._server.sessions[session] = self
        stream = session.streams[0]
        latency = seconds(stream.plan.step + stream.plan.right)
        self._say(self._protocol.ready(model=manifest.name, plan=name, latency=latency, labels=stream.labels))
        return session

    def deliver(self, delivery: Delivery) -> None:
        """Event loop: what a tick had for this session."""
        labels = delivery.session.streams[0].labels
        for channel, event in delivery.events:
            if isinstance(event, End):
                self._ends.append(event)
            elif message := self._protocol.event(channel, event, labels):
                self._say(message)
        now = asyncio.get_running_loop().time()
        if now - self._flowed >= FLOW_SECONDS and self._protocol.start and "flow" in self._protocol.start.events:
            self._flowed = now
            self._say(self._protocol.flow(delivery.session.queued))
        if delivery.error is not None:
            self._say(self._protocol.error(delivery.error.code, str(delivery.error)))
            self._finish(1011 if isinstance(delivery.error, Unavailable) else 1008)
        elif delivery.done:
            self._say(self._protocol.end(self._ends, "closed"))
            self._finish(1000)
        self._room.set()

    def _say(self, message: dict[str, Any]) -> None:
        self._outbox.put(message)
        self._news.set()
        if self._outbox.full and self._code is None:
            log.warning("session %s: the client does not read, closing", self._protocol.session)
            self._finish(TOO_SLOW)

    def _finish(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._news.set()
            self._room.set()
            if code == TOO_SLOW:
                # The writer is stuck behind a full socket buffer: cut, or it would wait for ever.
                self._socket.transport.abort()

    async def _write(self) -> None:
        try:
            while True:
                while len(self._outbox):
                    await self._socket.send(self._protocol.send(self._outbox.take()))
                if self._code is not None:
                    await self._socket.close(self._code, _REASONS[self._code])
                    return
                self._news.clear()
                await self._news.wait()
        except ConnectionClosed:
            pass


_REASONS = {1000: "", 1008: "see the error message", 1011: "the model failed", TOO_SLOW: "client reads too slowly"}


def choose_plan(manifest: Manifest, latency: float | str | None) -> str:
    """A plan by name, or the slowest (most accurate) one within ``latency`` seconds. Raises ``BadInput`` when
    there is none."""
    if latency is None:
        return "live"
    if isinstance(latency, str):
        manifest.plan(latency)
        return latency
    fitting = [name for name, plan in manifest.plans.items() if plan.latency <= latency]
    if not fitting:
        least = min(plan.latency for plan in manifest.plans.values())
        raise BadInput(f"Bad latency {latency}, expected {least} s or more")
    return max(fitting, key=lambda name: manifest.plans[name].latency)
