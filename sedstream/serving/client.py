"""The reference client: send audio, read messages; and a whole recording through a server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake, InvalidStatus, InvalidURI

from ..audio import pcm
from ..audio.files import Recording
from ..errors import BadInput, BadMessage, Unavailable
from .protocol import MAX_BINARY

Array = NDArray[np.float32]


class Client:
    """``async with Client(url, rate=8000, encoding="mulaw") as client``: ``send`` packets, iterate over messages.

    Keywords are the fields of ``session.start``. ``ready`` is the server's ``session.ready``. Messages are
    dictionaries as on the wire; the iteration ends after ``session.end``, an ``error`` of the server raises
    ``BadMessage`` with its code. Raises ``Unavailable`` when there is no server, it refuses, or the connection breaks.
    ``token``: what the server asks for. ``tls_ca``: PEM file of who signed the server's certificate, where the system
    does not know them.
    """

    def __init__(
        self,
        url: str,
        *,
        rate: int = 16_000,
        encoding: str = "s16le",
        channels: int = 1,
        mix: bool = False,
        roles: Sequence[str | None] | None = None,
        model: str | None = None,
        latency: float | str | None = None,
        labels: Sequence[str] | None = None,
        events: Sequence[str] | None = None,
        token: str | None = None,
        tls_ca: str | Path | None = None,
    ) -> None:
        audio = {"encoding": encoding, "rate": rate, "channels": channels, "mix": mix, "roles": roles}
        start = {
            "type": "session.start",
            "v": 1,
            "model": model,
            "latency": latency,
            "labels": labels,
            "events": events,
        }
        self._start: dict[str, Any] = {key: value for key, value in start.items() if value is not None}
        self._start["audio"] = {key: value for key, value in audio.items() if value is not None}
        self._url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._tls: dict[str, Any] = {} if tls_ca is None else {"ssl": _trusting(tls_ca)}
        self._encoding = encoding
        self._socket: ClientConnection | None = None
        self.ready: dict[str, Any] = {}

    async def __aenter__(self) -> Client:
        try:
            self._socket = await connect(
                self._url,
                additional_headers=self._headers,
                compression=None,
                proxy=None,
                ping_timeout=None,
                **self._tls,
            )
        except InvalidStatus as error:
            reason = bytes(error.response.body or b"").decode(errors="replace").strip()
            status = f"HTTP {error.response.status_code}"
            raise Unavailable(f"Bad server {self._url!r}, expected it to accept: {status}, {reason}") from error
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
            raise Unavailable(f"Bad server {self._url!r}, expected one that listens: {error}") from error
        try:
            await self._send(json.dumps(self._start))
            self.ready = await self._receive()
        except BaseException:
            await self._socket.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def send(self, audio: Array | bytes) -> None:
        """Bytes in the session's encoding, or samples f32 ``[n]`` or ``[n, channels]``. Waits while the server is
        busy."""
        data = audio if isinstance(audio, bytes) else pcm.encode(audio, self._encoding)
        await self._send(data)

    async def finalize(self) -> None:
        """Ask for everything sent so far to be made final; ``finalized`` follows."""
        await self._send('{"type":"finalize"}')

    async def close(self) -> None:
        """No more audio: the remaining messages and ``session.end`` follow."""
        await self._send('{"type":"close"}')

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        while True:
            message = await self._receive()
            yield message
            if message["type"] == "session.end":
                return

    async def _send(self, data: str | bytes) -> None:
        assert self._socket is not None
        try:
            await self._socket.send(data)
        except ConnectionClosed as error:
            raise _broken(error) from error

    async def _receive(self) -> dict[str, Any]:
        assert self._socket is not None
        try:
            message: dict[str, Any] = json.loads(await self._socket.recv())
        except ConnectionClosed as error:
            raise _broken(error) from error
        if message["type"] == "error":
            raise BadMessage(message["code"], message["message"])
        return message


def _trusting(path: str | Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise BadInput(f"Bad certificate authority '{path}', expected a PEM file: {error}") from error


def _broken(error: ConnectionClosed) -> Unavailable:
    close = error.rcvd
    reason = f"closed with {close.code} {close.reason}".strip() if close else "the connection broke"
    if isinstance(error, ConnectionClosedOK):
        reason = "the session is over"
    return Unavailable(f"Bad connection, expected a server that goes on: {reason}")


async def stream_recording(
    url: str,
    recording: Recording,
    *,
    packet: float = 0.1,
    speed: float = 1.0,
    split: bool = False,
    roles: Sequence[str] | None = None,
    model: str | None = None,
    latency: float | str | None = None,
    labels: Sequence[str] | None = None,
    token: str | None = None,
    tls_ca: str | Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Send ``recording`` to a server in packets of ``packet`` seconds and yield its messages, ``session.ready`` first.

    ``speed`` 1: as a live call; 0: as fast as the server takes it. The file's own rate and width go over the wire,
    so the server hears the same samples as ``sedstream.diarize`` reads.
    """
    size = max(1, round(packet * recording.rate))
    if size * recording.channels * pcm.SAMPLE_BYTES[recording.encoding] > MAX_BINARY:
        raise BadInput(f"Bad packet {packet} s, expected less than {MAX_BINARY} bytes")
    client = Client(
        url,
        rate=recording.rate,
        encoding=recording.encoding,
        channels=recording.channels,
        mix=recording.channels == 2 and not split,
        roles=roles,
        model=model,
        latency=latency,
        labels=labels,
        token=token,
        tls_ca=tls_ca,
    )

    broken: list[BadInput] = []

    async def send() -> None:
        loop = asyncio.get_running_loop()
        began, sent = loop.time(), 0
        try:
            for block in recording.blocks():
                for first in range(0, len(block), size):
                    part = block[first : first + size]
                    sent += len(part)
                    if speed:
                        # A live packet leaves when its last sample has been spoken.
                        await asyncio.sleep(began + sent / recording.rate / speed - loop.time())
                    await client.send(part)
                    if progress is not None:
                        progress(sent / recording.rate)
            await client.close()
        except BadInput as error:  # the file breaks off: end the connection, or the receiver would wait for ever
            broken.append(error)
            await client.__aexit__(None, None, None)

    async with client:
        yield client.ready
        sender = asyncio.create_task(send())
        try:
            async for message in client:
                yield message
        except Unavailable:
            if broken:
                raise broken[0] from None
            raise
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
