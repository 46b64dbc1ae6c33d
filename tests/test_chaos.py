"""Connections that are cut at random bytes, clients that never read, a server that is drained and started again: every
final segment reaches its client exactly once, and is the one that an uninterrupted call would have had."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from wire import START

import sedstream
from sedstream.audio import pcm
from sedstream.errors import Unavailable
from sedstream.serving.client import Client
from sedstream.serving.operation import drain
from sedstream.serving.server import Server
from sedstream.zoo import Model

Array = NDArray[np.float32]
Finals = list[tuple[Any, ...]]
Messages = list[dict[str, Any]]
CLIENTS = 20


class Wire:
    """A TCP proxy that cuts each connection after a random number of bytes, in the middle of whatever goes by."""

    def __init__(self, seed: int) -> None:
        self.cuts = 0
        self.cutting = True
        self.port = 0
        """Of the server."""
        self._random = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = [self._random.randint(0, 1_000) if self._random.random() < 0.2 else self._random.randint(0, 120_000)]
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        ways = [self._pass(reader, there_writer, budget), self._pass(there_reader, writer, budget)]
        tasks = [asyncio.create_task(way) for way in ways]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in (writer, there_writer):
            if self._random.random() < 0.5:
                end.transport.abort()
            else:
                end.close()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, budget: list[int]) -> None:
        with suppress(OSError):
            while data := await source.read(4096):
                if self.cutting:
                    data = data[: budget[0]]
                    budget[0] -= len(data)
                sink.write(data)
                await sink.drain()
                if budget[0] <= 0:
                    self.cuts += 1
                    return


@asynccontextmanager
async def cut_wire(server: Server, seed: int) -> AsyncIterator[tuple[Wire, str]]:
    wire = Wire(seed)
    wire.port = port_of(server)
    listener = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    async with listener:
        yield wire, f"ws://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/stream"


def port_of(server: Server) -> int:
    return int(server.url.rsplit(":", 1)[1].split("/")[0])


async def call(
    url: str, audio: Array, pace: float, half_way: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """One whole call through a bad wire: every message that the program got."""
    while True:
        client = Client(url, reconnect=True)
        try:
            await client.__aenter__()
            break
        except Unavailable:  # a first connection is not made twice by itself
            await asyncio.sleep(0.02)
    messages = []

    async def send() -> None:
        for number, first in enumerate(range(0, len(audio), 1600)):
            await client.send(audio[first : first + 1600])
            await asyncio.sleep(pace)
            if number == len(audio) // 3200:
                half_way()
        await client.close()

    sender = asyncio.create_task(send())
    try:
        async for message in client:
            messages.append(message)
        await sender
    finally:
        sender.cancel()
        await client.__aexit__(None, None, None)
    return messages


def finals(messages: Messages) -> Finals:
    return [(m["start"], m["end"], m["emotion"], m["probs"]) for m in messages if m["type"] == "emotion.final"]


def offline(samples: Array, model: Model, shift: float = 0.0) -> Finals:
    """The final segments of a recording that begins ``shift`` seconds into the call."""
    rows = sedstream.diarize(samples, rate=16_000, model=model, plan="live").rows()
    return [(round(r["start"] + shift, 4), round(r["end"] + shift, 4), r["emotion"], r["probs"]) for r in rows]


async def never_read(server: Server, audio: Array) -> None:
    """A client that sends for as long as it can and reads nothing."""
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server), limit=64)
    writer.write(
        b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    start = json.dumps(START).encode()
    writer.write(bytes([0x81, 0x80 | 126]) + len(start).to_bytes(2, "big") + b"\0\0\0\0" + start)
    data = pcm.encode(audio[:16_000], "s16le")
    with suppress(OSError):
        while True:
            writer.write(bytes([0x82, 0x80 | 126]) + len(data).to_bytes(2, "big") + b"\0\0\0\0" + data)
            await writer.drain()
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def heard(speech: Array) -> Array:
    """Nine seconds as they arrive in 16 bits: a second of speech, 0.8 s of silence, and so on."""
    parts = [part for n in range(5) for part in (speech[n * 16_000 : (n + 1) * 16_000], np.zeros(12_800, np.float32))]
    return pcm.decode(pcm.encode(np.concatenate(parts), "s16le"), "s16le")[:, 0]


def test_cuts_at_random_bytes(model: Model, heard: Array) -> None:
    """Twenty calls at five times real time, each cut several times, beside a client that never reads."""
    expected = offline(heard, model)
    assert len(expected) > 2

    async def run() -> None:
        async with Server(model, port=0) as server, cut_wire(server, 1) as (wire, url):
            silent = asyncio.create_task(never_read(server, heard))
            calls = [asyncio.create_task(call(url, heard, 0.02)) for _ in range(CLIENTS)]
            for messages in await asyncio.wait_for(asyncio.gather(*calls), 300):
                assert finals(messages) == expected
                assert [m["type"] for m in messages].count("session.end") == 1
                assert not [m for m in messages if m["type"] in ("gap", "session.ready")]
            assert wire.cuts > 3 * CLIENTS, "or nothing was tested"
            silent.cancel()
            await asyncio.gather(silent, return_exceptions=True)

    asyncio.run(run())


def test_a_restart_among_cuts(model: Model, heard: Array) -> None:
    """The server is drained and started again while calls are going on and being cut. What came before stands; the
    rest is what a call has that begins there."""
    whole = offline(heard, model)

    async def run() -> list[Messages]:
        half = asyncio.Semaphore(0)
        first = Server(model, port=0)
        await first.__aenter__()
        async with cut_wire(first, 2) as (wire, url):
            calls = [asyncio.create_task(call(url, heard, 0.05, half.release)) for _ in range(4)]
            await half.acquire()
            await drain(first, 30)
            await first.__aexit__(None, None, None)
            async with Server(model, port=0) as second:
                wire.port = port_of(second)
                answers = await asyncio.wait_for(asyncio.gather(*calls), 300)
            assert wire.cuts > 4, "or nothing was tested"
            return answers

    for messages in asyncio.run(run()):
        kinds = [m["type"] for m in messages]
        assert kinds.count("session.end") == 1
        assert kinds.count("session.ready") == 1, "the new session's"
        begun = kinds.index("session.ready")
        shift = len(heard) - messages[-1]["received"]
        before, after = finals(messages[:begun]), finals(messages[begun:])
        assert shift < len(heard)
        # Either the old server made everything final that it had, or the client was away and went on from what it had.
        drained = offline(heard[:shift], model) if shift else []
        assert before in (drained, [final for final in whole if final[1] * 16_000 <= shift])
        assert after == offline(heard[shift:], model, shift / 16_000)
