"""Mounts a dialect on a socket: frames in, what the dialect answers out, and the call on the engine between them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

from ...errors import BadMessage, SedstreamError, Unavailable
from ..outbox import LIMIT
from .bridged import Call
from .call import Audio, Begin, Dialect, Finish, Gap

LINGER = 30.0
"""Seconds that a call waits for its platform to connect again."""
FAREWELL = 5.0
"""Seconds that a platform has to close a session that failed, before the connection is closed on it."""

log = logging.getLogger(__name__)


class Socket(Protocol):
    """What a bridge needs of a connection; a WebSocket of `websockets` is one."""

    def __aiter__(self) -> AsyncIterator[str | bytes]: ...

    async def send(self, message: Any) -> None: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Calls:
    """The calls of one server by the platform's name of their stream: one that lost its connection can be continued."""

    def __init__(self, open_call: Callable[[Begin], Call]) -> None:
        self._open = open_call
        self._lost: dict[str, Call] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, begin: Begin) -> Call:
        """The call that ``begin`` goes on from, if it still waits; otherwise a new one. Raises ``SedstreamError``."""
        for stream in reversed(begin.continues):
            call = self._lost.get(stream)
            if call is not None and (call.begin.roles, call.begin.rate) == (begin.roles, begin.rate):
                del self._lost[stream]
                return call
        return self._open(begin)

    def park(self, stream: str, call: Call) -> None:
        """A connection broke: the call goes on if it is continued within ``LINGER`` seconds, and ends if not."""
        self._lost[stream] = call
        task = asyncio.create_task(self._expire(stream, call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self, stream: str, call: Call) -> None:
        await asyncio.sleep(LINGER)
        if self._lost.get(stream) is call:
            del self._lost[stream]
            call.close("lost")


class Bridge:
    """One connection of a platform. ``lasting``: the platform comes back when the connection breaks."""

    def __init__(self, socket: Socket, dialect: Dialect, calls: Calls, *, lasting: bool = False) -> None:
        self._socket = socket
        self._dialect = dialect
        self._calls = calls
        self._lasting = lasting
        self._call: Call | None = None
        self._begin: Begin | None = None
        self._finishing = False
        self._failed = False
        self._out: deque[str | bytes] = deque()
        self._news = asyncio.Event()
        self._code: tuple[int, str] | None = None  # close with this once everything is sent

    async def run(self) -> None:
        """Serve the connection until it ends; whatever happens to it stays here."""
        tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._call is not None and self._begin is not None:
                self._call.tell = None
                if self._lasting and not self._finishing and not self._failed:
                    self._calls.park(self._begin.stream, self._call)
                else:
                    self._call.close("error" if self._failed else "closed")
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("a bridged connection failed", exc_info=result)

    async def _read(self) -> None:
        try:
            async for message in self._socket:
                try:
                    for command in self._dialect.receive(message):
                        await self._obey(command)
                except SedstreamError as error:
                    self._complain(error)
                self._flush()
            if not self._failed:
                return
        except ConnectionClosed:
            return
        await asyncio.Event().wait()  # the writer ends the connection once it has sent what is due

    async def _obey(self, command: Begin | Audio | Gap | Finish) -> None:
        if isinstance(command, Begin):
            self._begin = command
            self._call = self._calls.take(command)
            self._call.tell = self._tell
            self._dialect.begun(max(self._call.positions))
            self._flush()
            return
        if self._failed or self._call is None:
            return
        match command:
            case Audio(channel, samples):
                await self._call.write(channel, samples)
            case Gap(channel, samples):
                await self._call.lose(channel, samples)
            case Finish():
                await self._finish(self._call)
        if self._call.error is not None:
            self._complain(self._call.error)

    async def _finish(self, call: Call) -> None:
        self._finishing = True
        call.close()
        await call.over.wait()
        self._dialect.finished()
        self._flush()
        if not self._lasting:
            self._end(1000, "")

    def _tell(self, message: dict[str, Any]) -> None:
        """What the call has to say, on the event loop."""
        if not self._failed:
            self._dialect.tell(message)
            self._flush()

    def _complain(self, error: SedstreamError) -> None:
        told = error if isinstance(error, BadMessage) else BadMessage(error.code, str(error))
        name = self._begin.stream if self._begin else "not begun"
        if not told.fatal:
            log.info("call %s: %s", name, told)
            return
        log.warning("call %s: %s", name, told)
        code = 1011 if isinstance(error, Unavailable) else 1008
        reason = f"{told.code}: {told}".encode()[:120].decode(errors="ignore")
        if self._failed:  # it was asked to close, and sent something else that is wrong
            self._end(code, reason)
            return
        self._failed = True
        if self._call is not None:
            self._call.close("error")
        self._dialect.fail(told)
        self._flush()
        delay = FAREWELL if self._lasting else 0
        asyncio.get_running_loop().call_later(delay, self._end, code, reason)

    def _flush(self) -> None:
        self._out.extend(self._dialect.take())
        self._news.set()
        if len(self._out) > LIMIT:
            log.warning("a platform does not read, closing")
            self._out.clear()
            self._end(1008, "reads too slowly")

    def _end(self, code: int, reason: str) -> None:
        if self._code is None:
            self._code = code, reason
            self._news.set()

    async def _write(self) -> None:
        try:
            while True:
                while self._out:
                    await self._socket.send(self._out.popleft())
                if self._code is not None:
                    await self._socket.close(*self._code)
                    return
                self._news.clear()
                await self._news.wait()
        except ConnectionClosed:
            pass


class Stream:
    """A TCP connection as a ``Socket``. Raises nothing when it breaks: the bytes just end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._reader.read(1 << 14):
                yield data
        except OSError:
            pass

    async def send(self, message: bytes) -> None:
        self._writer.write(message)
        await self._writer.drain()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._writer.close()
