"""What the CUDA front-end gains: ``python -m benchmarks native``.

The windows of many sessions, 5 s normalised (WavLM's) every half second: cut and normalised by the host's NumPy and
copied as float32, as without rings; out of int16 rings by the twin in torch; and by ``native/front.cu``. The two on
rings are timed with the copy of the half second that is new, each in a CUDA graph.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from sedstream.front import EPSILON, LIBRARY, Rings

from .report import write

WINDOW, STEP, CAPACITY = 80_000, 8_000, 96_000
"""Samples."""


def measured(work: Callable[[], object], repeats: int = 20) -> float:
    """Milliseconds, the median of ``repeats``, the device's work included."""
    times = []
    for _ in range(repeats + 3):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times[3:]))


def on_host(sessions: int) -> float:
    """Without rings: everything on the host, then one pinned copy of float32."""
    heard = np.random.default_rng(0).integers(-(2**15), 2**15, (sessions, WINDOW)).astype(np.float32) / 32768
    staging = torch.empty(sessions, WINDOW, pin_memory=True)
    device = torch.empty(sessions, WINDOW, device="cuda")

    def work() -> None:
        np.copyto(staging.numpy(), heard)
        device.copy_(staging, non_blocking=True)
        torch.nn.functional.layer_norm(device, (WINDOW,), eps=EPSILON)

    return measured(work)


def on_rings(sessions: int, native: bool) -> float:
    """New samples in, windows out, captured once and replayed."""
    rings = Rings(sessions, CAPACITY, device="cuda")
    staging = torch.randint(-(2**15), 2**15, (sessions, STEP), dtype=torch.int16).pin_memory()
    packets = torch.empty(sessions, STEP, dtype=torch.int16, device="cuda")
    slots = torch.arange(sessions, device="cuda")
    ends = torch.full((sessions,), WINDOW, device="cuda")

    def tick() -> torch.Tensor:
        packets.copy_(staging, non_blocking=True)
        rings.write(slots, ends, packets)
        ends.add_(STEP)
        return rings.windows(slots, ends, WINDOW, normalise=True, native=native)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        tick()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tick()
    return measured(graph.replay)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks native", description=__doc__)
    parser.add_argument("--sessions", type=int, nargs="+", default=[64, 800, 3000], help="(default: %(default)s)")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    if not LIBRARY.is_file():
        raise SystemExit("needs the CUDA part: CUDA_HOME=/usr/local/cuda pip install --no-build-isolation -e .")
    rows = []
    for sessions in options.sessions:
        host, twin, native = on_host(sessions), on_rings(sessions, False), on_rings(sessions, True)
        rows.append(f"| {sessions} | {host:.2f} ms | {twin:.2f} ms | {native:.2f} ms | {twin / native:.1f} |")
    write(
        "Native front-end",
        f"{torch.cuda.get_device_name()}\n\n"
        "| sessions, windows of 5 s | host, NumPy and copy | rings, torch | rings, native | native against torch |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows),
    )
