"""WavLM's attention by SDPA, which is given a mask of gated biases, and by FlexAttention, which makes none:
``python -m benchmarks attention [--device cpu|cuda]``.

One layer's attention without its projections, random numbers, in the shapes of WavLM base and large in windows of 5 s
and of 13.6 s; float32 on one core of a CPU, bfloat16 on a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from sedstream.encoders.attention import compiled, masked, pairs

from .report import write

HEADS = {"base": 12, "large": 16}
WIDTH = 64
REACH = 800
FRAMES = (249, 679)
ROWS = {"cpu": 1, "cuda": 64}
PRECISION = {"cpu": torch.float32, "cuda": torch.bfloat16}
ALIKE = {torch.float32: 1e-5, torch.bfloat16: 0.03}
"""How far answers of about 1 may be apart."""


def milliseconds(function: Callable[[], Tensor]) -> float:
    """The median of what fits into two seconds, the device's work included."""
    timer = Timer("function()", globals={"function": function})
    return 1e3 * float(timer.blocked_autorange(min_run_time=2).median)


@torch.inference_mode()
def measure(heads: int, frames: int, device: str) -> tuple[float, float, float, float]:
    """Milliseconds by SDPA and by FlexAttention, seconds that the latter compiles, and how far the answers differ.

    Raises ``RuntimeError`` where nothing can compile."""
    rows, dtype = ROWS[device], PRECISION[device]
    torch.manual_seed(0)
    q, k, v = torch.randn(3, rows, heads, frames, WIDTH, device=device).to(dtype)
    gate = 2 * torch.rand(rows, heads, frames, device=device).to(dtype)
    table = torch.randn(heads, 2 * REACH + 1, device=device).to(dtype)
    bias, flex = pairs(table, frames), compiled()
    began = time.perf_counter()
    answer = flex(q, k, v, gate, 0, table).float().cpu()
    spent = time.perf_counter() - began
    apart = float((answer - masked(q, k, v, gate, 0, bias).float().cpu()).abs().max())
    if apart > ALIKE[dtype]:
        raise SystemExit(f"SDPA and FlexAttention differ by {apart:.1e}")
    by_mask = milliseconds(lambda: masked(q, k, v, gate, 0, bias))
    return by_mask, milliseconds(lambda: flex(q, k, v, gate, 0, table)), spent, apart


def lines(device: str) -> Iterator[str]:
    """The section, line by line."""
    torch.set_num_threads(1)  # before anything compiles: a kernel keeps the number
    name = torch.cuda.get_device_name() if device == "cuda" else "One core"
    yield f"{name}, {str(PRECISION[device]).removeprefix('torch.')}, {ROWS[device]} rows, a layer without projections."
    yield from ("", "| WavLM | frames | SDPA | FlexAttention | compiles for | differ by |", "|---|---|---|---|---|---|")
    ratios = []
    for shape, heads in HEADS.items():
        for frames in FRAMES:
            try:
                sdpa, flex, spent, apart = measure(heads, frames, device)
            except RuntimeError as error:
                reason = " ".join(str(error).split())[:160]
                yield f"| {shape} | {frames} | | not usable: {reason} | | |"
                continue
            ratios.append(sdpa / flex)
            yield f"| {shape} | {frames} | {sdpa:.2f} ms | {flex:.2f} ms | {spent:.0f} s | {apart:.0e} |"
    if ratios:
        how = f"{min(ratios):.2f} to {max(ratios):.2f} times as fast as SDPA"
        yield from ("", f"FlexAttention is {how}. sedstream uses it where `FLEX` of `encoders/wav2vec.py` says so.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks attention", description=__doc__)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=default, help="(%(default)s)")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device")
    write(f"WavLM's attention, {device}", "\n".join(lines(device)))
