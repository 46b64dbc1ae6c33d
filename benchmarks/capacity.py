"""Calls held in real time: ``python -m benchmarks capacity [--seconds 20] [--packet 0.02]``.

A server in a process of its own, callers in this one, both on the same machine: the generator's share is included. A
number of calls is held when the 99th percentile of the emission lag (from the packet that completes a block to the
message about it, through the socket) stays under one step of the model.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from sedstream.grid import seconds
from sedstream.manifest import find

from .callers import Caller, quantile, resident, server, speech
from .report import write

WARM = 2.0
"""Seconds at the start of a call that are not counted."""


@dataclass(frozen=True)
class Trial:
    """``lag``: 99th percentile over all callers, ``first``: of the first one, in seconds; ``memory`` in MiB;
    ``joined``, ``longest``: by how much the 99th percentile and the longest lag of the others grow while more join."""

    calls: int
    lag: float
    first: float
    memory: float
    callers: list[Caller]
    joined: float = 0.0
    longest: float = 0.0


async def trial(url: str, calls: int, options: argparse.Namespace, joining: int = 0) -> Trial:
    """So many calls for some seconds; in the second half, ``joining`` more come in, one after the other."""
    loop = asyncio.get_running_loop()
    audio = speech()
    began = loop.time()
    callers = [
        Caller(url, audio, 1.7 * n, options.seconds - n * 0.32 / calls, options.packet, pace=True) for n in range(calls)
    ]

    async def call(number: int) -> None:
        await asyncio.sleep(number * 0.32 / calls)  # spread over a step, as calls are
        await callers[number].run()

    joined: list[float] = []

    async def join(number: int) -> None:
        await asyncio.sleep(options.seconds * (0.5 + 0.4 * number / joining))
        joined.append(loop.time())
        await Caller(url, audio, 0.9 * number, 2.0, options.packet, pace=True).run()

    tasks = [*map(call, range(calls)), *map(join, range(joining))]
    memory = 0.0

    async def look() -> None:
        nonlocal memory
        await asyncio.sleep(options.seconds - 1)
        memory = await asyncio.to_thread(resident, url)

    await asyncio.gather(*tasks, look())
    counted = [[lag for when, lag in caller.lags if when - began > WARM] for caller in callers]
    everything = [lag for lags in counted for lag in lags]
    worst = longest = 0.0
    if joined:
        before = [lag for c in callers for when, lag in c.lags if began + WARM < when < joined[0]]
        after = [lag for c in callers for when, lag in c.lags if any(0 <= when - at < 0.64 for at in joined)]
        worst, longest = (quantile(after, q) - quantile(before, q) for q in (0.99, 1.0))
    return Trial(calls, quantile(everything, 0.99), quantile(counted[0], 0.99), memory, callers, worst, longest)


def search(url: str, step: float, options: argparse.Namespace) -> list[Trial]:
    """Trials of 1, 2, 4, … calls, and then between the last that was held and the first that was not."""
    trials: list[Trial] = []

    def held(calls: int) -> bool:
        trials.append(asyncio.run(trial(url, calls, options)))
        print(f"{calls} calls: p99 {trials[-1].lag * 1e3:.0f} ms, {trials[-1].memory:.0f} MiB", flush=True)
        return trials[-1].lag < step

    low, high = 0, 1
    while high <= options.most and held(high):
        low, high = high, 2 * high
    while low and high - low > max(1, low // 16) and high <= options.most:
        middle = (low + high) // 2
        low, high = (middle, high) if held(middle) else (low, middle)
    return trials


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks capacity", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each call (%(default)s)")
    parser.add_argument("--packet", type=float, default=0.02, help="seconds a packet (%(default)s)")
    parser.add_argument("--most", type=int, default=1024, help="calls that are tried at most (%(default)s)")
    parser.add_argument("--model", default="sedstream-base", help="name or folder (%(default)s)")
    options = parser.parse_args()
    step = seconds(find(options.model).plan("live").step)
    with server("--max-sessions", "100000", "--model", options.model) as url:
        trials = search(url, step, options)
        best = max((t for t in trials if t.lag < step), key=lambda t: t.calls, default=None)
        if best is None:
            raise SystemExit("failed: not even one call is held")
        half = asyncio.run(trial(url, max(1, best.calls // 2), options, joining=8))
    provisional = quantile([x for caller in half.callers for x in caller.provisional], 0.5)
    final = quantile([x for caller in half.callers for x in caller.final], 0.5)
    rows = "\n".join(
        f"| {t.calls} | {t.lag * 1e3:.0f} ms | {t.first * 1e3:.0f} ms | {t.memory:.0f} MiB |"
        for t in sorted(trials, key=lambda t: t.calls)
    )
    write(
        "Capacity",
        f"""
`{options.model}`, plan live, step {step:g} s; calls that speak all the time, mu-law 8 kHz in packets of
{options.packet * 1e3:.0f} ms, {options.seconds:.0f} s each, server and load generator on this machine.

| calls | emission lag p99, all | first call p99 | memory of the server |
|---|---|---|---|
{rows}

Held: **{best.calls}** calls. The first call's p99 grows by {(best.first - trials[0].first) * 1e3:.0f} ms from 1 call to
{best.calls}. At {half.calls} calls, from sound to event: provisional p50 {provisional:.2f} s, final p50 {final:.2f} s
after the boundary. While 8 more join, p99 of the others changes by {half.joined * 1e3:+.0f} ms, the longest lag by
{half.longest * 1e3:+.0f} ms.
""",
    )
