"""How many calls this machine holds: ticks of growing numbers of streams, timed, all of them speaking all the time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import cores
from .audio.files import open_recording
from .grid import HOP, RATE, seconds
from .loop import tick
from .stream import Stream
from .zoo import Model

SHARE = 0.6
"""Of a step: what the blocks of all streams may take. The rest is for sockets, resampling, and calls that catch up."""
LEAST = 4
"""Streams that are let in on any machine: two two-sided calls."""
MOST = 4096
"""Streams that are tried at most."""
TICKS = 3
"""Of which the slowest counts: a block of silence costs next to nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """``streams`` streams: one block of each takes ``seconds``, and ``step`` seconds are there for it."""

    streams: int
    seconds: float
    step: float

    @property
    def share(self) -> float:
        """Of the time that there is."""
        return self.seconds / self.step


def warm(model: Model) -> None:
    """Run all of it once, with speech, so that the first call does not wait for what is compiled or loaded late."""
    speech = _speech()
    for name, plan in model.manifest.plans.items():
        if plan.whole:
            continue
        model.warm(plan, full=True)
        stream = Stream(model.manifest, name)
        stream.write(speech[: (plan.window + plan.step) * HOP])
        stream.close()
        while tick(model, [stream]):
            stream.events()


def measure(model: Model, plan: str = "live", up_to: float = SHARE) -> Iterator[Load]:
    """Loads of 1, 2, 4, … streams until one takes more than the share ``up_to`` of a step. Raises ``BadModel`` for an
    unknown plan, ``BadInput`` for a whole one."""
    chosen = Stream(model.manifest, plan).plan
    speech = _speech()
    step = chosen.step * HOP
    streams: list[Stream] = []
    positions: list[int] = []
    count, share = 1, 0.0
    with ThreadPoolExecutor(cores.count(), "sedstream-row", initializer=cores.one_core) as pool:
        while count <= MOST and share <= up_to:
            while len(streams) < count:
                stream = Stream(model.manifest, plan)
                stream.write(_part(speech, 0, chosen.span(0)[1] - step))
                positions.append(chosen.span(0)[1] - step)
                streams.append(stream)
            took = []
            for _ in range(1 + TICKS):
                for n, stream in enumerate(streams):
                    stream.write(_part(speech, positions[n], step))
                    positions[n] += step
                began = time.perf_counter()
                tick(model, streams, pool.map)
                took.append(time.perf_counter() - began)
                for stream in streams:
                    stream.events()
            load = Load(count, max(took[1:]), seconds(chosen.step))
            yield load
            count, share = 2 * count, load.share


def capacity(loads: Iterable[Load], share: float = SHARE) -> int:
    """Streams whose blocks take ``share`` of the time, between the loads that were measured; ``LEAST`` or more."""
    below: Load | None = None
    for load in loads:
        if load.share > share:
            if below is None or load.seconds <= below.seconds:
                return LEAST
            part = (share * load.step - below.seconds) / (load.seconds - below.seconds)
            return max(LEAST, int(below.streams + part * (load.streams - below.streams)))
        below = load
    return LEAST if below is None else max(LEAST, below.streams)


def table(loads: Iterable[Load]) -> Iterator[str]:
    """The sizing table, line by line, while it is measured; at its end the capacity."""
    yield f"{'streams':>7}  {'a block of each':>15}  {'of a step':>9}  {'x real time':>11}"
    kept = []
    for load in loads:
        kept.append(load)
        speed = load.streams / load.share
        yield f"{load.streams:>7}  {load.seconds * 1e3:>12.1f} ms  {load.share:>9.1%}  {speed:>11.0f}"
    yield f"holds {capacity(kept)} one-channel calls that speak all the time (--max-sessions {capacity(kept)})"


def _speech() -> NDArray[np.float32]:
    """Read speech at 16 kHz, nearly without a pause."""
    recording = open_recording(Path(str(files("sedstream") / "demo" / "austen-1.flac")))
    samples = np.concatenate(list(recording.blocks()))
    return samples[RATE:, 0]


def _part(samples: NDArray[np.float32], first: int, count: int) -> NDArray[np.float32]:
    """``count`` samples from ``first`` on of the samples repeated for ever."""
    return samples[np.arange(first, first + count) % len(samples)]
