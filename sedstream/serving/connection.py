"""One WebSocket connection of a client: it begins a call or goes on with one, reads requests and writes messages."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from ..audio.resample import Resampler
from ..errors import BadMessage, SedstreamError
from .call import Call
from .guarded import GuardedConnection
from .protocol import BROKE_PROTOCOL, DISPLACED, DONE, FAILED, FULL, IDLE, LEFT, REASONS, TOO_SLOW
from .requests import Request, Resume, Start
from .resume import Line

if TYPE_CHECKING:
    from .server import Server

log = logging.getLogger(__name__)


class Connection:
    """One connection. Whatever happens to it stays here; its call may outlive it."""

    def __init__(self, server: Server, socket: ServerConnection) -> None:
        assert isinstance(socket, GuardedConnection)
        assert socket.visit is not None  # let in at the handshake
        self._server = server
        self._socket = socket
        self._visit = socket.visit
        self._line = Line(self.cut, self._visit.token.name)
        self._code: int | None = None  # close with this code once everything was sent
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def run(self) -> None:
        """Serve the connection until it ends."""
        self._tasks = asyncio.create_task(self._write()), asyncio.create_task(self._read())
        try:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in self._tasks:
                task.cancel()
            for result in await asyncio.gather(*self._tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.error("a connection failed", exc_info=result, extra={"session": self._line.name})
                    self._code = FAILED
            if self._code == FAILED:
                await self._socket.close(FAILED, REASONS[FAILED])
            self._line.code = self._socket.told if self._code is None else self._code
            if self._code == DISPLACED:
                await self._socket.close(DISPLACED, REASONS[DISPLACED])
            elif self._gone:
                self._server.lines.drop(self._line)
            else:
                self._server.lines.hold(self._line)

    def cut(self, code: int) -> None:
        """End the connection now, whatever still waits to be sent."""
        self._code = code
        if code == TOO_SLOW:
            log.warning("session %s: the client does not read, closing", self._line.name)
            # The writer is stuck behind a full socket buffer: a close frame would wait for ever.
            self._socket.transport.abort()
        for task in self._tasks:
            task.cancel()

    @property
    def _gone(self) -> bool:
        """The connection ended so that its client will not come back."""
        ending = self._socket.protocol
        if self._line.call is None or self._code in (TOO_SLOW, BROKE_PROTOCOL, FAILED, FULL):
            return True
        if ending.close_rcvd is not None and ending.close_rcvd_then_sent:
            return ending.close_rcvd.code in (DONE, LEFT, 1005)
        if self._line.call.code in (DONE, LEFT):
            return ending.close_rcvd is not None  # a client that answers the close frame has read all before it
        return ending.close_sent is not None and ending.close_sent.code not in (LEFT, IDLE)

    async def _read(self) -> None:
        messages = aiter(self._socket)
        try:
            while self._code is None:
                waits = None if self._line.protocol.closing else self._server.idle_seconds
                async with asyncio.timeout(waits):
                    message = await anext(messages)
                await self._socket.metered(message)
                await self._take(message)
        except (StopAsyncIteration, ConnectionClosed):
            return
        except TimeoutError:
            self._finish(IDLE)
        await asyncio.Event().wait()  # the writer ends the connection once it has sent what is due

    async def _take(self, message: str | bytes) -> None:
        try:
            await self._obey(self._line.protocol.receive(message))
        except BadMessage as error:
            self._line.error(error.code, str(error), fatal=error.fatal)
            if error.fatal:
                self._finish(BROKE_PROTOCOL)
        except SedstreamError as error:
            self._line.error(error.code, str(error))
            self._finish(FULL if error.code == "full" else BROKE_PROTOCOL)

    async def _obey(self, request: Request) -> None:
        lines, line = self._server.lines, self._line
        if isinstance(request, Start):
            await lines.make_room(self._visit)
            await asyncio.to_thread(Resampler, request.rate)  # for an odd rate its table takes a while, and is kept
            line.call = Call(self._server, request, line.say, line.name)
            self._server.admission.began(self._socket)
            lines.add(line)
            line.say(lines.ready(line))
        elif isinstance(request, Resume):
            old, line = line, lines.find(request.token)
            line.resume(request.seq, lines.ready(line))
            if line.cut is not None:
                line.cut(DISPLACED)
            lines.attach(line, self.cut)
            self._server.admission.began(self._socket)
            self._line = line
            old.news.set()  # the writer must look again where it reads
        else:
            assert line.call is not None  # the protocol lets nothing else through before session.start
            await line.call.obey(request)

    def _finish(self, code: int) -> None:
        self._code = code
        self._line.news.set()

    async def _write(self) -> None:
        try:
            while True:
                line = self._line
                line.news.clear()
                while len(line.outbox) and line is self._line:
                    await self._socket.send(line.outbox.take())
                code = line.call.code if self._code is None and line.call is not None else self._code
                if code is not None and line is self._line and not len(line.outbox):
                    await self._socket.close(code, REASONS[code])
                    return
                await line.news.wait()
        except ConnectionClosed:
            pass
