"""Models by name: manifest, weights and network behind one call, ``blocks -> log-probabilities``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .cores import alone
from .encoders import speechbrain
from .encoders.batches import BUCKETS, FIRST, bucket, halving, less, shares
from .encoders.cached import CachedEncoder
from .encoders.heads import CachedHead, FrameHead, LinearHead
from .encoders.networks import CachedNetwork, Network, OverlappingNetwork, WindowedNetwork
from .encoders.relay import Before
from .encoders.slots import IDLE
from .encoders.transfers import Transfers
from .encoders.wav2vec import Wav2VecEncoder
from .encoders.whisper import WhisperEncoder
from .errors import BadInput, BadModel
from .grid import HOP, RATE, Plan
from .manifest import DEFAULT, File, Manifest, digest, find
from .precision import PRECISIONS, exact
from .ringed import RingedNetwork
from .speech.relay import Relay
from .speech.silero import Silero

FAMILIES: dict[tuple[str, str], tuple[type[nn.Module], type[nn.Module], type[Network]]] = {
    ("whisper", "windowed"): (WhisperEncoder, FrameHead, WindowedNetwork),
    ("whisper", "cached"): (CachedEncoder, CachedHead, CachedNetwork),
    ("wav2vec", "windowed"): (Wav2VecEncoder, FrameHead, OverlappingNetwork),
    ("speechbrain", "windowed"): (Wav2VecEncoder, LinearHead, OverlappingNetwork),
}
FORMATS: dict[str, Callable[[Manifest], Mapping[str, Tensor]]] = {
    "safetensors": lambda manifest: load_file(manifest.weights),
    "speechbrain": lambda manifest: speechbrain.load(manifest.folder, manifest.labels).tensors,
}
"""How weights are read: tensors named ``encoder.*`` and ``head.*``."""
SPEECHBRAIN = "wavlm-large-sed"
"""The model whose plans and decoder a SpeechBrain checkpoint gets that has no manifest."""
LARGEST = float(np.finfo(np.float32).max)
Array = NDArray[np.float32]
Spread: TypeAlias = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to each of some things, in order of the things, wherever and whenever it likes."""


class Model:
    """A loaded model. It remembers nothing itself: one instance serves any number of sessions, from one thread."""

    def __init__(self, manifest: Manifest, network: Network, device: torch.device) -> None:
        self.manifest = manifest
        self.device = device
        self.silero = Relay(Silero(device))
        self.network = network.to(device).eval()
        """What computes, on the device; its tensors are those of the weights."""
        self._transfers = Transfers(device)
        self._most = BUCKETS[-1]  # rows of a batch on a GPU: less than that since its memory did not hold more

    def __call__(
        self,
        blocks: Array | Sequence[Array],
        plan: Plan,
        spread: Spread = map,
        before: Sequence[Before] | None = None,
    ) -> tuple[Array, Array, list[Any]]:
        """Blocks ``[B, plan.window·320]`` f32, or B rows -> log-probabilities ``[B, step, C]``, arousal and valence
        ``[B, step, 2]`` f32 (NaN from a model that does not tell them), and what each session remembers now.

        For a whole plan blocks ``[B, n]`` of any length; the answer is as many frames as the encoder makes of them.

        A row's answer does not depend on the other rows: rows are computed in batches of fixed sizes, which for a plan
        on a CPU is one size, just large enough to keep a core busy. ``spread``: ``map``, or that of a pool of threads
        started with :func:`one_core`, for the batches on a CPU. ``before``: what each session remembers; None: all
        begin.
        """
        before = [Before()] * len(blocks) if before is None else before
        cpu = self.device.type == "cpu"
        # Those that begin cost an encoding more, for all of their batch: they go together.
        order = sorted(range(len(blocks)), key=lambda row: before[row].follows)
        if cpu or plan.whole:
            size = self.network.rows(plan) if cpu else 1
            parts = [order[n : n + size] for n in range(0, len(order), size)]
        else:
            frames = self.network.reads(plan, all(b.follows for b in before)) // HOP
            waiting = iter(order)
            parts = [list(islice(waiting, rows)) for rows in shares(len(order), self._most, FIRST // frames)]
        answers = (spread if cpu else map)(lambda rows: self._some(rows, blocks, before, plan), parts)
        scores, affect, memories = zip(*(answer for part in answers for answer in part), strict=True)
        self._transfers.wait()  # the one time that the host waits for all of a GPU's answers
        back = np.argsort(order)
        together = [memory for part in memories for memory in part]
        found = [np.concatenate([part.numpy() for part in answer])[back] for answer in (scores, affect)]
        return found[0], found[1], [together[n] for n in back]

    def rows(self, plan: Plan) -> int:
        """How many blocks of a plan cost a core no more than one: those that share a batch."""
        return self.network.rows(plan) if self.device.type == "cpu" else 1

    def _some(
        self, rows: Sequence[int], blocks: Array | Sequence[Array], before: Sequence[Before], plan: Plan
    ) -> list[tuple[Tensor, Tensor, list[Any]]]:
        """The answers for the rows of one batch, or of several where it does not fit in memory."""
        return halving(
            lambda some: self._part([blocks[n] for n in some], [before[n] for n in some], plan), rows, self._less
        )

    def _less(self, rows: int) -> None:
        """A batch of so many rows did not fit in memory."""
        if self.device.type == "cuda":
            self._most = less(rows)
            with torch.cuda.device(self.device):
                self.network.release()
                torch.cuda.empty_cache()

    def _part(self, blocks: Sequence[Array], before: Sequence[Before], plan: Plan) -> tuple[Tensor, Tensor, list[Any]]:
        if self.device.type != "cpu":
            with torch.cuda.device(self.device), exact():
                return self._batch(blocks, before, plan, bucket(len(blocks)))
        with alone():
            return self._batch(blocks, before, plan, self.network.rows(plan))

    @torch.inference_mode()
    def _batch(
        self, blocks: Sequence[Array], before: Sequence[Before], plan: Plan, size: int
    ) -> tuple[Tensor, Tensor, list[Any]]:
        """The answers on the host; from a GPU once all that is sent for has come."""
        rows = len(blocks)
        read = self.network.reads(plan, all(b.follows for b in before))
        samples = self._transfers.send([block[-read:] for block in blocks], size)
        logits, affect, memories = self.network(samples, plan, [*before, *[IDLE] * (size - rows)])
        scores = torch.log_softmax(logits[:rows] / self.manifest.temperature, dim=-1)
        return *self._transfers.fetch(scores, affect[:rows]), memories[:rows]

    def warm(self, plan: Plan, *, full: bool = False) -> None:
        """Run on silence, so that the first session does not pay for the first call. ``full``: a session that goes on
        too, and in every batch size that a GPU has, so that no later one pays for another size."""
        blank = np.zeros(RATE if plan.whole else plan.window * HOP, np.float32)
        sizes = BUCKETS if full and self.device.type != "cpu" and not plan.whole else BUCKETS[:1]
        for rows in sizes:
            before = [Before()] * rows
            for _ in range(1 + full):
                answers = self._some(range(rows), [blank] * rows, before, plan)
                before = [Before(memory, True) for *_, memories in answers for memory in memories]
            self._transfers.wait()


def load(
    model: str | Path | Manifest = DEFAULT, device: str = "cpu", precision: str = "auto", rings: bool = False
) -> Model:
    """A model by name, folder or manifest, ready to run; a folder may also be a SpeechBrain checkpoint's.

    ``precision``: ``float32``, ``bfloat16``, ``float16``, or ``auto``: 16 bits where the device is made for them and
    the family does not suffer. ``rings``: the samples of the sessions of a windowed model stay on the GPU, as 16 bits,
    and only new ones travel there. Raises ``BadModel``, and ``BadInput`` for an unusable device, precision, or use of
    rings.
    """
    if precision not in PRECISIONS:
        raise BadInput(f"Bad precision {precision!r}, expected {', '.join(PRECISIONS)}")
    manifest = model if isinstance(model, Manifest) else find_any(model)
    where = device_of(device)
    if precision == "float16" and where.type == "cpu":
        raise BadInput(f"Bad precision {precision!r} on a CPU, expected auto, float32 or bfloat16")
    if rings and (where.type == "cpu" or manifest.kind != "windowed"):
        raise BadInput(f"Bad rings for a {manifest.kind} model on {where.type}, expected a windowed one on cuda")
    manifest.verify()
    network = _network(manifest)
    if manifest.format not in FORMATS:
        raise BadModel(f"Bad format {manifest.format!r} of model {manifest.name!r}, expected {', '.join(FORMATS)}")
    try:
        tensors = FORMATS[manifest.format](manifest)
    except (SafetensorError, OSError) as error:
        raise BadModel(f"Bad weights '{manifest.weights}', expected safetensors: {error}") from error
    if broken := next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None):
        raise BadModel(f"Bad weights '{manifest.weights}', expected finite numbers: not so '{broken}'")
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BadModel(f"Bad weights '{manifest.weights}', expected those of its manifest: {reason}") from error
    if where.type == "cpu":
        if precision == "bfloat16" or (precision == "auto" and torch.cpu._is_avx512_bf16_supported()):
            network.shorten()
    elif precision != "float32":
        network.halve(PRECISIONS[precision])
    return Model(manifest, RingedNetwork(network) if rings else network, where)


def find_any(model: str | Path) -> Manifest:
    """The manifest of a model by name or folder; that of SpeechBrain's, about a folder that its recipe saved."""
    if not isinstance(model, (str, os.PathLike)):
        raise BadInput(f"Bad model {model!r}, expected its name or folder")
    folder = Path(model)
    if not os.path.isfile(folder / speechbrain.FILES[0]) or os.path.exists(folder / "manifest.toml"):
        return find(model)
    found = speechbrain.load(folder)
    files = tuple(File(path, digest(path)) for path in found.files)
    return replace(
        find(SPEECHBRAIN),
        folder=folder,
        name=folder.resolve().name,
        version="",
        licence="unknown",
        labels=found.labels,
        files=files,
        encoder=found.encoder,
        head=found.head,
    )


def device_of(name: str) -> torch.device:
    """The device of a name. Raises ``BadInput`` for one that is unknown or cannot be used here."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise BadInput(f"Bad device {name!r}, expected cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BadInput(f"Bad device {name!r}, expected cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"Bad device {name!r}, expected cpu: there is no usable GPU on this machine")
    return device


def _network(manifest: Manifest) -> Network:
    """The network of a manifest, not yet filled. Raises ``BadModel``."""
    known = {family for family, _ in FAMILIES}
    if manifest.family not in known:
        raise BadModel(f"Bad family {manifest.family!r} of model {manifest.name!r}, expected {', '.join(known)}")
    parts = FAMILIES.get((manifest.family, manifest.kind))
    if parts is None:
        kinds = ", ".join(kind for family, kind in FAMILIES if family == manifest.family)
        raise BadModel(f"Bad kind {manifest.kind!r} of model {manifest.name!r}, expected {kinds} for its family")
    encoder = _build(manifest, "encoder", parts[0], manifest.encoder)
    head = _build(manifest, "head", parts[1], {**manifest.head, "labels": len(manifest.labels)})
    network = parts[2](encoder, head)
    for name, plan in manifest.plans.items():
        network.check(name, plan)
    return network


def _build(manifest: Manifest, table: str, module: type[nn.Module], arguments: Mapping[str, Any]) -> nn.Module:
    known = inspect.signature(module).parameters
    for key in arguments:
        if key not in known:
            raise BadModel(
                f"Bad key '{table}.{key}' in the manifest of {manifest.name!r}, expected one of {', '.join(known)}"
            )
        kind = inspect.formatannotation(known[key].annotation).strip("'").rpartition(".")[2]
        if not _fits(arguments[key], kind):
            raise BadModel(
                f"Bad value {arguments[key]!r} of '{table}.{key}' in the manifest of {manifest.name!r}, expected {kind}"
            )
    try:
        return module(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadModel(f"Bad table '{table}' in the manifest of {manifest.name!r}: {error}") from error


def _fits(value: Any, kind: str) -> bool:
    """Whether a value of a manifest is what an argument's annotation says; those of nested lists are not looked at."""
    match kind:
        case "int" | "bool" | "str":
            return type(value).__name__ == kind
        case "float":
            return type(value) in (int, float) and abs(value) <= LARGEST
        case "Sequence[int]":
            return isinstance(value, list | tuple) and all(type(n) is int for n in value)
    return True
