"""The reference client: send audio, read messages; and a whole recording through a server."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from numpy.typing import ArrayLike

from ..audio import pcm
from ..audio.files import Recording
from ..errors import BadInput, Unavailable
from .link import Link
from .protocol import MAX_BINARY
from .tape import CLOSE, CONTINUE, FINALIZE, PAUSE, Tape


class Client:
    """``async with Client(url, rate=8000, encoding="mulaw") as client``: ``send`` packets, iterate over messages.

    Keywords are the fields of ``session.start``. ``ready`` is the server's ``session.ready``. Messages are
    dictionaries as on the wire; the iteration ends after ``session.end``, an ``error`` of the server that is ``fatal``
    raises ``BadMessage`` with its code. Raises ``Unavailable`` when there is no server, it refuses, or the connection
    breaks. ``token``: what the server asks for. ``tls_ca``: PEM file of who signed the server's certificate, where the
    system does not know them.

    With ``reconnect`` a broken connection is made again and its session resumed: every final segment comes exactly
    once. Where the session is gone (the server was restarted) a new one begins: its ``session.ready`` is among the
    messages, whose times go on counting from the first sample ever sent. Raises ``Unavailable`` after a minute of
    trying.
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
        alerts: Sequence[Mapping[str, Any]] | None = None,
        token: str | None = None,
        tls_ca: str | Path | None = None,
        reconnect: bool = False,
    ) -> None:
        audio = {"encoding": encoding, "rate": rate, "channels": channels, "mix": mix, "roles": roles}
        start = {"type": "session.start", "v": 1, "model": model, "latency": latency, "labels": labels}
        self._start: dict[str, Any] = {key: value for key, value in start.items() if value is not None}
        self._start["audio"] = {key: value for key, value in audio.items() if value is not None}
        self._encoding = encoding
        self._flow = reconnect  # by these messages the tape knows what has arrived, whatever the caller wants
        self._hidden: set[str] = set()
        self._configure(events, alerts)
        options: dict[str, Any] = {} if tls_ca is None else {"ssl": _trusting(tls_ca)}
        if token is not None:
            options["additional_headers"] = {"Authorization": f"Bearer {_clean(token)}"}
        self._frame = pcm.SAMPLE_BYTES.get(encoding, 1) * channels  # bytes of a sample of all channels
        self._tape = Tape(self._frame, rate, lasting=reconnect)
        self._link = Link(url, options, self._start, self._tape, rate, lasting=reconnect)

    @property
    def ready(self) -> dict[str, Any]:
        """The last ``session.ready``."""
        return self._link.ready

    async def __aenter__(self) -> Client:
        await self._link.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._link.close()

    async def send(self, audio: bytes | bytearray | memoryview | ArrayLike) -> None:
        """Whole samples of all channels: bytes in the session's encoding, or an array ``[n, channels]``, of one channel
        also ``[n]``, floats in -1…1 or int16; as many as there are. Waits while the server is busy, or away. Raises
        ``BadInput`` for another shape, or what is no sound."""
        self._link.expect_open()
        if isinstance(audio, (bytes, bytearray, memoryview)):
            data = bytes(audio)
            if len(data) % self._frame:
                raise BadInput(f"Bad audio packet of {len(data)} bytes, expected a multiple of {self._frame}")
        else:
            data = pcm.encode(self._samples(audio), self._encoding)
        self._tape.audio(data)
        await self._link.flush()

    async def discarded(self, samples: int) -> None:
        """Tell that so many samples of each channel are lost: a gap takes their place."""
        self._link.expect_open()
        self._tape.discarded(samples)
        await self._link.flush()

    async def pause(self) -> None:
        """What is sent from here on is neither analysed nor kept, on either side: a gap takes its place."""
        await self._ask(PAUSE)

    async def resume(self) -> None:
        """The end of a pause."""
        await self._ask(CONTINUE)

    async def update(
        self, *, events: Sequence[str] | None = None, alerts: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """Other events or alert rules from now on; ``session.updated`` follows."""
        await self._ask(json.dumps({"type": "session.update"} | self._configure(events, alerts)))

    async def finalize(self) -> None:
        """Ask for everything sent so far to be made final; ``finalized`` follows."""
        await self._ask(FINALIZE)

    async def close(self) -> None:
        """No more audio: the remaining messages and ``session.end`` follow."""
        await self._ask(CLOSE)

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        self._link.expect_open()
        while True:
            message = await self._link.receive()
            if message["type"] not in self._hidden:
                yield message
            if message["type"] == "session.end":
                return

    def _samples(self, audio: ArrayLike) -> pcm.Samples:
        samples = pcm.as_floats(audio)
        channels = self._start["audio"]["channels"]
        if samples.shape[1:] != (channels,) and not (samples.ndim == channels == 1):
            wanted = "[n] or [n, 1]" if channels == 1 else f"[n, {channels}]"
            raise BadInput(f"Bad samples of shape {samples.shape}, expected {wanted}")
        pcm.check(samples)
        return samples

    async def _ask(self, text: str) -> None:
        self._link.expect_open()
        self._tape.request(text)
        await self._link.flush()

    def _configure(self, events: Sequence[str] | None, alerts: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        """Fields of ``session.start`` and ``session.update``; a session that begins later begins with the latest."""
        if events is not None:
            self._hidden = {"flow"} if self._flow and "flow" not in events else set()
            events = [*events, *self._hidden]
        fields = {"events": events, "alerts": alerts}
        given = {key: list(value) for key, value in fields.items() if value is not None}
        self._start |= given
        return given


def _clean(token: str) -> str:
    """A token that fits in a header: the error of one that does not would show it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadInput("Bad token, expected one line of printable ASCII characters without blanks")
    return token


def _trusting(path: str | Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise BadInput(f"Bad certificate authority '{path}', expected a PEM file: {error}") from error


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
    reconnect: bool = False,
    progress: Callable[[float], None] | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Send ``recording`` to a server in packets of ``packet`` seconds and yield its messages, ``session.ready`` first.

    ``speed`` 1: as a live call; 0: as fast as the server takes it. The file's own rate and width go over the wire,
    so the server hears the same samples as ``sedstream.diarize`` reads. Raises ``Unavailable`` where the server goes
    away before it has all of them.
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
        reconnect=reconnect,
    )

    broken: list[BadInput] = []
    whole: list[int] = []  # samples, once all are sent

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
            whole.append(sent)
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
                if message["type"] == "session.end" and not reconnect and whole != [message["received"]]:
                    lasted = message["received"] / recording.rate
                    raise Unavailable(f"Bad server '{url}', expected one that goes on: it ended after {lasted:.2f} s")
        except Unavailable:
            if broken:
                raise broken[0] from None
            raise
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
