"""Live sessions in one process, without sockets: ``python -m benchmarks sessions [--ticks 200]``.

All sessions speak all the time and have a block ready at once, which is the worst moment: a tick answers all of them.
The number of sessions is what it can be for the 99th percentile of the tick to stay under a step, in which the next
blocks come. What a session holds are the arrays and tensors behind its `Stream`, pickled: they are all there is of it.
"""

from __future__ import annotations

import argparse
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import sedstream
from sedstream import cores
from sedstream.grid import HOP, seconds
from sedstream.loop import tick
from sedstream.stream import Stream
from sedstream.zoo import Model

from .callers import quantile
from .report import write
from .speed import peer
from .wavlm import speech

FEW = 20
"""Sessions by which the number grows."""
WARM = 24
"""Ticks that are not counted: no memory begins anew before it is this old."""


def ticks(model: Model, count: int, number: int, pool: ThreadPoolExecutor) -> tuple[list[float], list[Stream]]:
    """Seconds of each of ``number`` ticks of ``count`` sessions, and the sessions then."""
    streams = [Stream(model.manifest, "live") for _ in range(count)]
    plan = streams[0].plan
    took = []
    for stream, samples in zip(streams, speech(count, plan.right * HOP), strict=True):
        stream.write(samples)
    for at in range(WARM + number):
        new = speech(count, plan.step * HOP, (plan.right + at * plan.step) * HOP)
        for stream, samples in zip(streams, new, strict=True):
            stream.write(samples)
            stream.events()
        began = time.perf_counter()
        while tick(model, streams, pool.map):
            pass
        took.append(time.perf_counter() - began)
    return took[WARM:], streams


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sessions", description=__doc__)
    parser.add_argument("--ticks", type=int, default=200, help="that are counted (%(default)s)")
    parser.add_argument("--model", default="sedstream-base", help="name or folder (%(default)s)")
    options = parser.parse_args()
    model = sedstream.load(options.model)
    step = seconds(model.manifest.plan("live").step)
    rows, held = [], 0
    with ThreadPoolExecutor(cores.count(), initializer=cores.one_core) as pool:
        count = FEW
        while True:
            took, streams = ticks(model, count, options.ticks, pool)
            worst = quantile(took, 0.99)
            rows.append(f"| {count} | {quantile(took, 0.5) * 1e3:.0f} ms | {worst * 1e3:.0f} ms |")
            print(rows[-1], flush=True)
            if worst >= step:
                break
            held, state = count, max(len(pickle.dumps(stream, 5)) for stream in streams)
            count += FEW
    if not held:
        raise SystemExit(f"failed: not even {count} sessions are held")
    other = peer()
    fewer = held / other
    write(
        "Live sessions",
        f"""
`{options.model}`, plan live, step {step:g} s, one process, no sockets; all sessions speak all the time, and each tick
answers a block of all of them.

| sessions | tick, p50 | p99 |
|---|---|---|
{chr(10).join(rows)}

Held: **{held}** sessions. A session holds at most {state / 2**20:.2f} MiB. In the same run the peer of the first table
(WavLM-large, whole files of 27 s) goes {other:.1f} times real time: it keeps up with {fewer:.0f} times fewer calls.
""",
    )
