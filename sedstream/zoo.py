"""Models by name: manifest, weights and network behind one call, ``blocks -> log-probabilities``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .encoders.heads import FrameHead
from .encoders.whisper import WhisperEncoder
from .errors import BadInput, BadModel
from .grid import HOP, Plan
from .manifest import DEFAULT, Manifest, find
from .speech.silero import Silero

FAMILIES: dict[str, type[nn.Module]] = {"whisper": WhisperEncoder}
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Batch sizes used on a GPU: fixed shapes, so that a row's numbers do not depend on how full the batch is."""

Array = NDArray[np.float32]
Spread: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to each of some things, in order of the things, wherever and whenever it likes."""


class Network(nn.Module):
    """Encoder and frame head: samples ``[B, W]`` -> logits ``[B, T, C]``, arousal and valence ``[B, T, 2]``."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        if manifest.family not in FAMILIES:
            raise BadModel(f"Bad family {manifest.family!r} of model {manifest.name!r}, expected {', '.join(FAMILIES)}")
        self.encoder = _build(manifest, "encoder", FAMILIES[manifest.family], manifest.encoder)
        self.head = _build(manifest, "head", FrameHead, {**manifest.head, "labels": len(manifest.labels)})

    def forward(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, affect = self.head(self.encoder(samples))
        return logits, affect


class Model:
    """A loaded model. Stateless: one instance serves any number of sessions, from one thread."""

    def __init__(self, manifest: Manifest, network: Network, device: torch.device) -> None:
        self.manifest = manifest
        self.device = device
        self.silero = Silero()
        self._network = network.to(device).eval()

    def __call__(self, blocks: Array, plan: Plan, spread: Spread = map) -> tuple[Array, Array]:
        """Blocks ``[B, plan.window·320]`` f32 -> log-probabilities ``[B, step, C]`` and arousal, valence ``[B,
        step, 2]`` f32.

        A row's answer does not depend on the other rows: on the CPU rows are computed one by one (a window is large
        enough to keep a core busy, and batched kernels round differently), on a GPU in batches of fixed sizes.
        ``spread``: ``map``, or that of a pool of threads started with :func:`one_core`, for the rows on a CPU.
        """
        if self.device.type == "cpu":
            answers = list(spread(lambda block: self._row(block, plan), blocks))
        else:
            answers = [
                self._bucket(part, plan)
                for part in np.array_split(blocks, range(BUCKETS[-1], len(blocks), BUCKETS[-1]))
            ]
        return np.concatenate([a[0] for a in answers]), np.concatenate([a[1] for a in answers])

    def _row(self, block: Array, plan: Plan) -> tuple[Array, Array]:
        # One core: threads that share a row wait for each other in busy loops, and where another program wants a core
        # too, a row takes ten times as long. Threads side by side, each with a row, are faster in any case.
        threads = torch.get_num_threads()
        if threads > 1:
            torch.set_num_threads(1)
        try:
            return self._answer(torch.from_numpy(block[None]), plan)
        finally:
            if threads > 1:
                torch.set_num_threads(threads)

    def _bucket(self, blocks: Array, plan: Plan) -> tuple[Array, Array]:
        size = next(size for size in BUCKETS if size >= len(blocks))
        full = torch.zeros(size, blocks.shape[1], pin_memory=True)
        full[: len(blocks)] = torch.from_numpy(blocks)
        scores, affect = self._answer(full.to(self.device, non_blocking=True), plan)
        return scores[: len(blocks)], affect[: len(blocks)]

    @torch.inference_mode()
    def _answer(self, samples: torch.Tensor, plan: Plan) -> tuple[Array, Array]:
        logits, affect = self._network(samples)
        answered = slice(plan.left, plan.left + plan.step)
        scores = torch.log_softmax(logits[:, answered] / self.manifest.temperature, dim=-1)
        return scores.float().cpu().numpy(), affect[:, answered].float().cpu().numpy()

    def warm(self, plan: Plan) -> None:
        """Run once on silence, so that the first session does not pay for the first call."""
        self(np.zeros((1, plan.window * HOP), np.float32), plan)


def one_core() -> None:
    """Start a thread of a pool with this: each has its own number of cores for a row, and it should be one."""
    torch.set_num_threads(1)


def load(model: str | Path | Manifest = DEFAULT, device: str = "cpu") -> Model:
    """A model by name, folder or manifest, ready to run. Raises ``BadModel``, and ``BadInput`` for an unusable
    device."""
    manifest = model if isinstance(model, Manifest) else find(model)
    where = _device(device)
    manifest.verify()
    network = Network(manifest)
    try:
        tensors = load_file(manifest.weights)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"Bad weights '{manifest.weights}', expected safetensors: {error}") from error
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadModel(f"Bad weights '{manifest.weights}', expected those of its manifest: {reason}") from error
    return Model(manifest, network, where)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadInput(f"Bad device {name!r}, expected cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"Bad device {name!r}, expected cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"Bad device {name!r}, expected cpu: there is no usable GPU on this machine")
    return device


def _build(manifest: Manifest, table: str, module: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    known = inspect.signature(module).parameters
    for key in arguments:
        if key not in known:
            raise BadModel(
                f"Bad key '{table}.{key}' in the manifest of {manifest.name!r}, expected one of {', '.join(known)}"
            )
    try:
        return module(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadModel(f"Bad table '{table}' in the manifest of {manifest.name!r}: {error}") from error
