"""WavLMs of the published shapes with random weights, and sessions that speak to a model all the time."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from sedstream.encoders.heads import LinearHead
from sedstream.encoders.networks import OverlappingNetwork
from sedstream.encoders.relay import Before
from sedstream.encoders.wav2vec import Wav2VecEncoder
from sedstream.grid import HOP, Plan
from sedstream.manifest import Manifest, find
from sedstream.zoo import Model

from .speed import DEMO

LARGE = {
    "width": 1024, "heads": 16, "layers": 24, "hidden": 4096, "outputs": [24], "relative": True, "norm": "layer",
    "first": True, "wave": "normalised", "together": True,
}  # fmt: skip
BASE_PLUS = {"width": 768, "heads": 12, "layers": 12, "hidden": 3072, "outputs": [12], "relative": True}
TINY = {
    "relative": True, "width": 64, "heads": 4, "layers": 2, "hidden": 96, "outputs": [2], "positions": 16, "groups": 4,
}  # fmt: skip
WINDOW = Plan(218, 24, 8)
"""5 s, every 0.48 s."""
TICKS = 20
"""Of which the second slowest stands for p99."""
LONGEST = 2**23
"""Samples of a row at most."""

Array = NDArray[np.float32]


def build(arguments: dict[str, Any], device: str, dtype: torch.dtype) -> Model:
    """A model of this shape with random weights, the same for the same shape."""
    torch.manual_seed(0)
    with torch.device(device):  # drawing 300 million numbers on a CPU takes longer than what is measured
        encoder = Wav2VecEncoder(**arguments)
        network = OverlappingNetwork(encoder, LinearHead(labels=4, features=encoder.features)).eval()
    if dtype != torch.float32:
        network.halve(dtype)
    return Model(manifest(), network, torch.device(device))


def manifest() -> Manifest:
    """That of SpeechBrain's model: labels, plans, decoder."""
    return replace(find("wavlm-large-sed"), plans={"live": WINDOW})


@cache
def clips() -> tuple[Array, int]:
    """Recorded speech, and its length before it begins again."""
    once = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in sorted(DEMO.glob("*.flac"))])
    return np.resize(once, len(once) + LONGEST), len(once)


def speech(count: int, samples: int, first: int = 0) -> list[Array]:
    """Recorded speech repeated for ever, another stretch of it for each row, from a sample on: ``[samples]`` each."""
    repeated, length = clips()
    starts = [(row * 977 + first) % length for row in range(count)]
    return [repeated[start : start + samples] for start in starts]


def ticks(model: Model, plan: Plan, count: int, times: int = TICKS) -> list[float]:
    """Seconds that a block of each of ``count`` sessions takes, again and again, model alone."""
    before = [Before()] * count
    took = []
    for number in range(times + 2):
        blocks = speech(count, plan.window * HOP, number * plan.step * HOP)
        began = time.perf_counter()
        _, _, memories = model(blocks, plan, before=before)
        took.append(time.perf_counter() - began)
        before = [Before(memory, True) for memory in memories]
    return took[2:]  # the first ones begin, choose kernels and capture


def forget() -> None:
    """Give the device's memory of models that nobody holds any more back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
