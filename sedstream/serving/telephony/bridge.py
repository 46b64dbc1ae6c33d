"""Mounts a dialect on a socket: frames in, what the dialect answers out, and the call between them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

from ...errors import BadMessage, SedstreamError, Unavailable
from ..access import Visit
from ..outbox import LIMIT
from ..protocol import BROKE_PROTOCOL, DONE, FAILED, FULL, IDLE, LEFT, REASONS, TOO_SLOW
from ..resume import LOST
from .call import Audio, Begin, Dialect, Finish, Gap
from .leg import Leg, Legs

PATIENCE = 30.0
"""Seconds that a connection may be open before a call begins on it."""
FAREWELL = 5.0
"""Seconds that a platform has to close a session that failed, before the connection is closed on it."""
GONE = (LEFT, IDLE, TOO_SLOW)
"""Close codes of connections that end without their call having been ended, or having failed."""
MAX_REASON = 123
"""Bytes of UTF-8 that a close frame holds beside its code."""

log = logging.getLogger(__name__)


class Socket(Protocol):
    """What a bridge needs of a connection; a `GuardedConnection` is one. ``told``: the close code of its end."""

    @property
    def told(self) -> int: ...

    def __aiter__(self) -> AsyncIterator[str | bytes]: ...

    async def metered(self, message: Any) -> None: ...

    async def send(self, message: Any) -> None: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Bridge:
    """One connection of a platform. ``lasting``: the platform answers before it closes, and when the connection breaks
    it comes back, with the token of ``visit``. ``idle``: seconds without a message after which nobody is there.
    ``let_in``: asked with the token of the call's ``Begin``, says why not."""

    def __init__(
        self,
        socket: Socket,
        dialect: Dialect,
        legs: Legs,
        *,
        lasting: bool = False,
        visit: Visit | None = None,
        idle: float | None = None,
        let_in: Callable[[str | None], SedstreamError | None] | None = None,
    ) -> None:
        self._socket = socket
        self._dialect = dialect
        self._legs = legs
        self._lasting = lasting
        self._visit = visit
        self._idle = idle
        self._let_in = let_in
        self._leg: Leg | None = None
        self._stream = "not begun"
        self._finishing = False
        self._fault: tuple[int, str] | None = None  # the first error, as the close code and reason that tell it
        self._out: deque[str | bytes] = deque()
        self._news = asyncio.Event()
        self._end: tuple[int, str] | None = None  # close with this once everything is sent

    async def run(self) -> None:
        """Serve the connection until it ends; whatever happens to it stays here."""
        tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._give_up)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()
            broken = [r for r in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(r, Exception)]
            for error in broken:
                log.error("call %s: the bridge failed", self._stream, exc_info=error)
            if self._leg is not None:
                code = FAILED if broken else self._told
                if self._lasting and not self._finishing and code in GONE:
                    self._legs.park(self._stream, self._leg, code)
                else:
                    self._leg.leave("closed" if code == DONE else LOST if code in GONE else "error", code)
            if broken:
                await self._socket.close(FAILED, REASONS[FAILED])

    @property
    def _told(self) -> int:
        """The close code by which the connection ended, or would have if the platform had not closed it before."""
        found = self._fault or self._end
        return self._socket.told if found is None else found[0]

    async def _read(self) -> None:
        messages = aiter(self._socket)
        try:
            while True:
                async with asyncio.timeout(self._idle):
                    message = await anext(messages)
                await self._socket.metered(message)
                try:
                    for command in self._dialect.receive(message):
                        await self._obey(command)
                except SedstreamError as error:
                    self._complain(error)
                self._flush()
        except TimeoutError:
            self._close(*(self._fault or (IDLE, REASONS[IDLE])))
        except (StopAsyncIteration, ConnectionClosed):
            if self._fault is None:
                return
        await asyncio.Event().wait()  # the writer ends the connection once it has sent what is due

    async def _obey(self, command: Begin | Audio | Gap | Finish) -> None:
        if self._fault is not None:
            return
        if isinstance(command, Begin):
            if self._let_in is not None and (refused := self._let_in(command.token)) is not None:
                raise refused
            self._leg = self._legs.take(command, self._visit)
            self._legs.began(self._socket)
            self._stream = command.stream
            self._leg.tell = self._tell
            self._dialect.begun(self._leg.position)
            self._flush()
        elif self._leg is not None:
            match command:
                case Audio(channel, samples):
                    await self._leg.write(channel, samples)
                case Gap(channel, samples):
                    await self._leg.lose(channel, samples)
                case Finish():
                    self._finishing = True
                    await self._leg.finish()
                    self._dialect.finished()
                    if not self._lasting:
                        self._close(DONE, "")
        elif isinstance(command, Finish):  # before there was a call
            self._close(DONE, "")

    def _tell(self, message: dict[str, Any]) -> None:
        """What the call has to say, on the event loop."""
        if message["type"] == "error":
            self._complain(Unavailable(message["message"]))
        elif message["type"] == "session.end" and not self._finishing:
            self._leave()
        elif self._fault is None:
            self._dialect.tell(message)
            self._flush()

    def _leave(self) -> None:
        """The call was ended from here: the server goes away."""
        self._finishing = True
        self._dialect.finished()
        self._flush()
        asyncio.get_running_loop().call_later(
            FAREWELL if self._lasting else 0, self._close, LEFT, "the server goes away"
        )

    def _complain(self, error: SedstreamError) -> None:
        told = error if isinstance(error, BadMessage) else BadMessage(error.code, str(error))
        if self._fault is None:  # what comes behind it is not understood either
            log.log(logging.WARNING if told.fatal else logging.INFO, "call %s: %s", self._stream, told)
        if not told.fatal:
            return
        if self._fault is not None:  # it was asked to close, and sent something else that is wrong
            self._close(*self._fault)
            return
        code = FULL if error.code == "full" else FAILED if isinstance(error, Unavailable) else BROKE_PROTOCOL
        self._fault = code, f"{told.code}: {told}".encode()[:MAX_REASON].decode(errors="ignore")
        self._dialect.fail(told)
        self._flush()
        asyncio.get_running_loop().call_later(FAREWELL if self._lasting else 0, self._close, *self._fault)

    def _give_up(self) -> None:
        if self._leg is None:
            self._close(BROKE_PROTOCOL, "expected a call sooner")

    def _flush(self) -> None:
        self._out.extend(self._dialect.take())
        self._news.set()
        if len(self._out) > LIMIT:
            log.warning("call %s: the platform does not read, closing", self._stream)
            self._out.clear()
            self._close(TOO_SLOW, "reads too slowly")

    def _close(self, code: int, reason: str) -> None:
        if self._end is None:
            self._end = code, reason
            self._news.set()

    async def _write(self) -> None:
        try:
            while True:
                self._news.clear()
                while self._out:
                    await self._socket.send(self._out.popleft())
                if self._end is not None:
                    await self._socket.close(*self._end)
                    return
                await self._news.wait()
        except ConnectionClosed:
            pass
