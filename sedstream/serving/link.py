"""A client's link to a server: one task that reads, one that sends the tape, and a new connection when one breaks."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake, InvalidStatus, InvalidURI

from ..errors import BadInput, BadMessage, SedstreamError, Unavailable
from .protocol import FULL, IDLE, LEFT
from .tape import Tape, Timeline

FIRST_DELAY, MAX_DELAY = 0.1, 5.0
"""Seconds before the second attempt to connect again, doubled each time, and at most; random below that."""
PATIENCE = 60.0
"""Seconds after which a server that cannot be reached is given up."""
UNREAD = 10_000
"""Messages that may wait for the program before no more are read, unless it waits itself to send."""
ALIVE = 30.0
"""Seconds without an answer to a ping after which a connection that can be made again counts as broken."""


class Link:
    """``start``: the fields of ``session.start``, read whenever a session begins; ``options``: of ``connect``.
    ``lasting``: resume the session when the connection breaks, and begin a new one when it is gone."""

    def __init__(
        self, url: str, options: Mapping[str, Any], start: Mapping[str, Any], tape: Tape, rate: int, *, lasting: bool
    ) -> None:
        self._url, self._options, self._start = url, options, start
        self._tape, self._timeline = tape, Timeline(rate)
        self._lasting = lasting
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._unread: deque[dict[str, Any]] = deque()
        self._failure: SedstreamError | None = None  # why nothing more will come
        self._moved = asyncio.Condition()  # something was read, sent or put on the tape
        self._seq = -1
        self.ready: dict[str, Any] = {}

    async def open(self) -> None:
        """Connect and begin a session. Raises ``Unavailable``, ``BadMessage``."""
        socket = await self._connect()
        try:
            await self._enter(socket, anew=True)
        except BaseException:
            await socket.close()
            raise
        self._task = asyncio.create_task(self._run(socket))

    def expect_open(self) -> None:
        """Raises ``BadInput`` where nobody opened the link: to wait for it would be for ever."""
        if self._task is None:
            raise BadInput("Bad client, expected one that is connected: async with Client(…) as client")

    async def close(self) -> None:
        """Leave, whatever is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._failure = self._failure or _closed()
        if self._socket is not None:
            await self._socket.close()

    async def flush(self) -> None:
        """Wait until the tape is sent, and not too much of it is under way. Raises what ended the link."""
        await self._tell()
        async with self._moved:
            await self._moved.wait_for(lambda: self._failure or not (self._tape.unsent or self._tape.full))
        if self._tape.unsent and self._failure is not None:
            raise self._failure

    async def receive(self) -> dict[str, Any]:
        """The next message, its times on the link's timeline. Raises what ended the link once all were taken."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._unread or self._failure)
            self._moved.notify_all()
        if self._unread:
            return self._unread.popleft()
        assert self._failure is not None
        raise self._failure

    async def _run(self, socket: ClientConnection) -> None:
        try:
            while True:
                writer = asyncio.create_task(self._write(socket))
                try:
                    anew = await self._read(socket)
                finally:
                    writer.cancel()
                    await asyncio.gather(writer, return_exceptions=True)
                    await socket.close()
                socket = await self._restore(anew)
        except SedstreamError as error:
            self._failure = error
        except _OverError:
            self._failure = Unavailable("Bad connection, expected a server that goes on: the session is over")
        finally:  # whoever waits must not wait for ever
            self._failure = self._failure or _closed()
            await self._tell()

    async def _write(self, socket: ClientConnection) -> None:
        tape = self._tape
        with suppress(ConnectionClosed):  # whoever reads finds out why
            while True:
                async with self._moved:
                    await self._moved.wait_for(lambda: tape.unsent)
                while tape.unsent:
                    await socket.send(tape.unsent[0])
                    tape.unsent.popleft()
                await self._tell()

    async def _read(self, socket: ClientConnection) -> bool:
        """Read until the connection ends; whether a new session must begin. Raises when nothing more will come."""
        while True:
            try:
                message = self._parse(await socket.recv())
            except ConnectionClosed as error:
                if not (self._lasting and _may_resume(error)):
                    raise _broken(error) from error
                if gone := self.ready["resume"] is None:
                    self._begin_at(max(self._tape.start, self._timeline.settled))
                return gone
            ended = message["type"] == "session.end"
            if ended and self._cut_short(message):
                self._begin_at(self._timeline.base + message["received"])
                return True
            if self._timeline.place(message):
                self._unread.append(message)
            if "received" in message and self._lasting:
                self._tape.acknowledge(self._timeline.base + message["received"], self._timeline.settled)
            await self._tell()
            if ended:
                raise _OverError
            async with self._moved:
                # Whoever sends first and reads later is told of by what is read that there is room to send more.
                await self._moved.wait_for(lambda: len(self._unread) < UNREAD or self._tape.full)

    def _cut_short(self, end: Mapping[str, Any]) -> bool:
        """The server ended the session, because it shuts down, before everything was sent."""
        whole = self._tape.closed and self._timeline.base + end["received"] == self._tape.end
        return self._lasting and end["reason"] == "shutdown" and not whole

    async def _restore(self, anew: bool) -> ClientConnection:
        """A new connection that goes on with the session, or with a new one. Raises ``Unavailable`` in the end."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        delay = FIRST_DELAY
        while True:
            try:
                socket = await self._connect()
                try:
                    await self._enter(socket, anew)
                    return socket
                except BaseException:
                    await socket.close()
                    raise
            except BadMessage as error:
                if error.code == "unknown_session" and not anew:
                    self._begin_at(max(self._tape.start, self._timeline.settled))
                    anew = True
                elif error.code != "full":
                    raise
            except Unavailable as error:
                if error.code != Unavailable.code or asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(random.uniform(0.5, 1.0) * delay)
            delay = min(MAX_DELAY, 2 * delay)

    async def _connect(self) -> ClientConnection:
        try:
            return await connect(
                self._url,
                compression=None,
                proxy=None,
                ping_interval=ALIVE / 3,
                ping_timeout=ALIVE if self._lasting else None,
                close_timeout=2,
                **self._options,
            )
        except InvalidStatus as error:
            reason = bytes(error.response.body or b"").decode(errors="replace").strip()
            status = error.response.status_code
            raised = Unavailable(f"Bad server {self._url!r}, expected it to accept: HTTP {status}, {reason}")
            if status < 500 and status != 429:
                raised.code = "refused"  # and would be again
            raise raised from error
        # ValueError: a port past 65,535, half an IPv6 address, a host name that can be none
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError, EOFError, ValueError) as error:
            raise Unavailable(f"Bad server {self._url!r}, expected one that listens: {error}") from error

    async def _enter(self, socket: ClientConnection, anew: bool) -> None:
        """Begin a session or go on with one."""
        if anew:
            request: Mapping[str, Any] = self._start
        else:
            resume = {"token": self.ready["resume"]["token"], "seq": self._seq}
            request = {"type": "session.start", "v": 1, "resume": resume}
        try:
            await socket.send(json.dumps(request))
            ready = self._parse(said := await socket.recv())
            if ready["type"] != "session.ready":
                raise self._foreign(said)
        except ConnectionClosed as error:
            raise _broken(error) from error
        first = self._socket is None
        self._socket, self.ready = socket, ready
        if anew:
            self._timeline.begin(ready["analysed"])
        if anew and not first:
            self._unread.append(ready)
        if not first:
            self._tape.rewind(self._timeline.base + ready["received"], anew=anew)
        await self._tell()

    def _begin_at(self, sample: int) -> None:
        self._timeline.base = sample
        self._seq = -1

    def _parse(self, text: str | bytes) -> dict[str, Any]:
        """A message. Raises ``BadMessage`` for an ``error`` that ends the session, ``Unavailable`` for what is none of
        sedstream's."""
        try:
            message: dict[str, Any] = json.loads(text)
            failed = message["type"] == "error" and message.get("fatal", True)
            error = BadMessage(message["code"], message["message"]) if failed else None
            self._seq = message["seq"]
        except (ValueError, KeyError, TypeError) as cause:
            raise self._foreign(text) from cause
        if error is not None:
            raise error
        return message

    def _foreign(self, text: str | bytes) -> Unavailable:
        raised = Unavailable(f"Bad server {self._url!r}, expected one of sedstream: it said {text[:80]!r}")
        raised.code = "refused"  # and would say it again
        return raised

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()


class _OverError(Exception):
    """The session is complete."""


def _closed() -> Unavailable:
    return Unavailable("Bad connection, expected one that was not closed")


def _may_resume(error: ConnectionClosed) -> bool:
    return error.rcvd is None or error.rcvd.code in (LEFT, IDLE, FULL, 1012)


def _broken(error: ConnectionClosed) -> Unavailable:
    close = error.rcvd
    reason = f"closed with {close.code} {close.reason}".strip() if close else "the connection broke"
    if isinstance(error, ConnectionClosedOK):
        reason = "the session is over"
    return Unavailable(f"Bad connection, expected a server that goes on: {reason}")
