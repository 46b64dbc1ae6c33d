"""A recording that comes faster than real time is slowed and told so, and what is on the wire is not deflated."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import connect
from wire import CLOSE, START, check, everything

from sedstream.audio import pcm
from sedstream.serving.call import FLOW_SECONDS, MAX_QUEUED
from sedstream.serving.server import Server
from sedstream.zoo import Model

SPEED = 5.0
SECONDS = 15


def test_a_fast_recording_waits_in_a_bounded_queue(model: Model, speech: NDArray[np.float32]) -> None:
    """``flow`` tells the queue at least every so much audio, it stays under its bound, and ``max_speed`` holds."""
    samples = np.resize(speech, SECONDS * 16_000)
    packets = [pcm.encode(samples[n : n + 8_000], "s16le") for n in range(0, len(samples), 8_000)]

    async def run() -> tuple[list[dict[str, Any]], float]:
        async with Server(model, port=0, max_speed=SPEED) as server, connect(server.url, compression=None) as socket:
            await socket.send(json.dumps(START))
            ready = check(json.loads(await socket.recv()))
            began = asyncio.get_running_loop().time()
            for frame in (*packets, json.dumps(CLOSE)):
                await socket.send(frame)
            messages = []
            async for text in socket:
                messages.append(check(json.loads(text)))
            return [ready, *messages], asyncio.get_running_loop().time() - began

    messages, took = asyncio.run(run())
    assert took > 0.8 * SECONDS / SPEED
    flows = [message for message in messages if message["type"] == "flow"]
    received = [0, *(flow["received"] for flow in flows), messages[-1]["received"]]
    assert received[-1] == len(samples)
    assert received == sorted(received)
    longest = max(flow["queued"] for flow in flows)
    # The packet past the bound was taken too: it was there before anybody could know.
    assert MAX_QUEUED - FLOW_SECONDS < longest <= MAX_QUEUED + messages[0]["latency"] + 0.5
    assert messages[-1]["duration"] == SECONDS


def test_nothing_is_deflated(model: Model) -> None:
    """Audio does not compress, and a compressor per connection costs memory: the client's offer is not taken."""

    async def run() -> None:
        async with Server(model, port=0) as server, connect(server.url, compression="deflate") as socket:
            assert socket.request is not None
            assert "permessage-deflate" in socket.request.headers["Sec-WebSocket-Extensions"]
            assert socket.response is not None
            assert "Sec-WebSocket-Extensions" not in socket.response.headers
            await socket.send(json.dumps(START))
            await socket.send(json.dumps(CLOSE))
            messages, code = await everything(socket)
            assert (messages[-1]["type"], code) == ("session.end", 1000)

    asyncio.run(run())
