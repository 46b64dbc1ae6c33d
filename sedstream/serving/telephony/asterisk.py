"""A TCP port for Asterisk AudioSocket, beside the WebSocket server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from ...errors import BadInput, Unavailable
from ..addresses import expect_port, is_loopback
from ..protocol import DONE
from ..server import Server
from .audiosocket import AudioSocket
from .bridge import Bridge


class Asterisk:
    """``async with Asterisk(server, host, port) as asterisk``: AudioSocket on a TCP port of its own; 0 takes a free
    one (see ``port``).

    Raises ``Unavailable`` when the port is taken, and ``BadInput`` for one that is none, or a host beyond loopback
    unless ``insecure``: the protocol has no place for a token.
    """

    def __init__(self, server: Server, host: str, port: int, *, insecure: bool = False) -> None:
        if not insecure and not is_loopback(host):
            raise BadInput(f"Bad AudioSocket host {host!r}, expected a loopback address: anybody could come in")
        expect_port(port)
        self._server = server
        self._host = host
        self.port = port
        self._listening: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Asterisk:
        try:
            self._listening = await asyncio.start_server(self._accept, self._host, self.port)
        except OSError as error:
            raise Unavailable(f"Bad address {self._host}:{self.port}, expected a free one: {error.strerror}") from error
        self.port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listening is not None
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(_Stream(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: _Stream) -> None:
        try:
            await Bridge(stream, AudioSocket(), self._server.legs, idle=self._server.idle_seconds).run()
        finally:
            await stream.close()


class _Stream:
    """A TCP connection as a ``Socket``. Raises nothing when it breaks: the bytes just end."""

    told = DONE
    """Asterisk hangs up by closing the connection, too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while data := await self._reader.read(1 << 14):
                yield data
        except OSError:
            pass

    async def metered(self, message: bytes) -> None:
        """At once: there are no tokens here."""

    async def send(self, message: bytes) -> None:
        self._writer.write(message)
        await self._writer.drain()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self._writer.close()
