"""Many hours at once: ``python -m benchmarks soak [--hours 24] [--calls 50]``.

So much audio goes through so many calls as fast as the server takes it. Memory must not grow after the first tenth, the
queues must not, and ``seq`` and the segments' numbers must have no holes (the callers end with an error where they do).
"""

from __future__ import annotations

import argparse
import asyncio
import time

from sedstream.grid import seconds
from sedstream.manifest import find

from .callers import Caller, quantile, scrape, server, speech
from .report import write

PARTS = 10


async def soak(url: str, options: argparse.Namespace) -> tuple[list[Caller], list[tuple[float, float, float]]]:
    """The callers, and what was seen of the server: part of the audio that is done, memory in MiB, longest queue."""
    audio = speech()
    total = options.hours * 3600
    each = total / options.calls
    callers = [Caller(url, audio, 1.7 * n, each, 0.5, pace=False) for n in range(options.calls)]
    running = asyncio.gather(*(caller.run() for caller in callers))
    looks = []
    step = options.step
    while not running.done():
        await asyncio.wait([running], timeout=1.0)
        seen = await asyncio.to_thread(scrape, url)
        done = seen["sedstream_tick_blocks_sum"] * step / total
        memory = seen["process_resident_memory_bytes"] / 2**20
        looks.append((done, memory, seen["sedstream_queue_seconds_max"]))
        if int(done * 50) > int(looks[-2][0] * 50 if len(looks) > 1 else 0):
            print(f"{done:.0%}: {memory:.1f} MiB", flush=True)
    await running
    return callers, looks


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0, help="of audio, over all calls (%(default)s)")
    parser.add_argument("--calls", type=int, default=50, help="at a time (%(default)s)")
    parser.add_argument("--model", default="sedstream-base", help="name or folder (%(default)s)")
    options = parser.parse_args()
    options.step = seconds(find(options.model).plan("live").step)
    began = time.perf_counter()
    with server("--max-sessions", "100000", "--max-speed", "1000000", "--model", options.model) as url:
        callers, looks = asyncio.run(soak(url, options))
    wall = time.perf_counter() - began
    rows, memories = [], []
    for part in range(PARTS):
        inside = [look for look in looks if part <= look[0] * PARTS < part + 1 or (part == PARTS - 1 and look[0] >= 1)]
        if not inside:
            raise SystemExit("failed: too short to look at every tenth, expected more --hours")
        memories.append(max(memory for _, memory, _ in inside))
        queue = quantile([queue for _, _, queue in inside], 0.5)
        rows.append(f"| {part + 1} | {memories[-1]:.1f} MiB | {queue:.2f} s |")
    answered = sum(caller.duration for caller in callers)
    growth = max(memories[1:]) / memories[0] - 1
    body = "\n".join(rows)
    write(
        "Soak",
        f"""
{answered / 3600:.1f} hours of speech through {options.calls} calls in {wall / 60:.1f} min ({answered / wall:.0f} times
real time, start of the server included); no hole in `seq` or in the numbers of segments.

| tenth | memory of the server, most | longest queue, median |
|---|---|---|
{body}

After the first tenth memory grows by {growth:+.1%}.
""",
    )
