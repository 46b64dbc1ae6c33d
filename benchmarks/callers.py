"""A server in a process of its own and callers around it: real sockets, telephone audio, every message timed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from sedstream.audio import pcm

from .report import ROOT

RATE = 8_000
"""Callers speak over the telephone: mu-law, one byte a sample."""
LOOK_AHEAD = 24
"""Samples by which the resampler is behind."""


def speech() -> bytes:
    """The demonstration clips end to end, speech nearly all the time: the slowest case, for silence is not encoded."""
    clips = sorted((ROOT / "sedstream" / "demo").glob("*.flac"))
    samples = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in clips])
    return pcm.encode(samples[::2], "mulaw")


@contextmanager
def server(*arguments: str) -> Iterator[str]:
    """The URL of ``sedstream serve``, which is asked to stop at the end."""
    command = [sys.executable, "-m", "sedstream", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise SystemExit("failed: sedstream serve")
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait()


def scrape(url: str) -> dict[str, float]:
    """The values of ``/metrics`` that have no labels."""
    page = url.replace("ws://", "http://").replace("/v1/stream", "/metrics")
    with urllib.request.urlopen(page) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def resident(url: str) -> float:
    """Memory of the server's process in MiB."""
    return scrape(url)["process_resident_memory_bytes"] / 2**20


class Caller:
    """One call: sends ``seconds`` of the audio from ``offset`` on in packets of ``packet`` seconds, and checks what
    comes back. ``pace``: in real time; otherwise as fast as the server takes it."""

    def __init__(self, url: str, audio: bytes, offset: float, seconds: float, packet: float, *, pace: bool) -> None:
        self._url, self._audio, self._pace = url, audio, pace
        self._offset = round(offset * RATE)
        self._size = round(packet * RATE)
        self._packets = round(seconds / packet)
        self._began = 0.0
        self._sent: list[float] = []  # when each packet was
        self.lags: list[tuple[float, float]] = []
        """When a message came, and how long after the packet that completed what it tells."""
        self.provisional: list[float] = []
        """Seconds from the sound of each 20 ms of speech to the first message about it."""
        self.final: list[float] = []
        """Seconds from the end of each segment to the message that makes it final."""
        self._told = 0  # frames of 20 ms that some message was about
        self.queued: list[float] = []
        """What ``flow`` told."""
        self.duration = 0.0
        """Seconds of audio that the server answered."""

    async def run(self) -> None:
        """The whole call. Raises ``SystemExit`` for a hole in the numbering."""
        async with connect(self._url, compression=None, max_queue=None, ping_timeout=None) as socket:
            start = {"type": "session.start", "v": 1, "audio": {"encoding": "mulaw", "rate": RATE}}
            await socket.send(json.dumps(start))
            ready = json.loads(await socket.recv())
            if ready["type"] != "session.ready":
                raise SystemExit(f"failed: {ready}")
            sender = asyncio.create_task(self._send(socket))
            seq, segments, message = ready["seq"], 0, ready
            async for text in socket:
                now = asyncio.get_running_loop().time()
                message = json.loads(text)
                seq += 1
                if message["seq"] != seq:
                    raise SystemExit(f"failed: seq {message['seq']} after {seq - 1}")
                if message["type"] == "emotion.final":
                    if message["seg"] != segments:
                        raise SystemExit(f"failed: segment {message['seg']} after {segments - 1}")
                    segments += 1
                self._note(message, now)
            await sender
            if message["type"] != "session.end" or message["segments"] != segments:
                raise SystemExit(f"failed: the call ended with {message}")
            self.duration = message["duration"]

    async def _send(self, socket: Any) -> None:
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        for number in range(self._packets):
            if self._pace:
                # A live packet leaves when its last sample has been spoken.
                await asyncio.sleep(self._began + (number + 1) * self._size / RATE - loop.time())
                self._sent.append(loop.time())
            first = (self._offset + number * self._size) % (len(self._audio) - self._size)
            await socket.send(self._audio[first : first + self._size])
        await socket.send('{"type":"close"}')

    def _note(self, message: dict[str, Any], now: float) -> None:
        if message["type"] == "flow":
            self.queued.append(message["queued"])
        if not self._pace or "t_audio" not in message or message["type"] == "session.end":
            return
        packet = (round(message["t_audio"] * RATE) + LOOK_AHEAD - 1) // self._size
        if packet >= len(self._sent):  # told at the end of the call, without waiting for more
            return
        self.lags.append((now, now - self._sent[packet]))
        if message["type"] == "emotion.final":
            self.final.append(now - self._began - message["end"])
        elif message["type"] == "emotion.update":
            first, end = (round(message[name] * 50) for name in ("start", "end"))
            self.provisional += [now - self._began - (frame + 1) / 50 for frame in range(max(first, self._told), end)]
            self._told = max(self._told, end)


def quantile(values: list[float], q: float) -> float:
    """The ``q``-quantile, 0 ≤ q ≤ 1; 0.99 is the value that 99 of 100 do not exceed."""
    if not values:
        raise SystemExit("failed: nothing was heard, expected longer calls")
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]
