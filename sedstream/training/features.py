"""Passes: batches of augmented windows, encoded once and kept on disk, so that an epoch costs only the head."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..encoders.whisper import WhisperEncoder
from ..grid import HOP
from .augment import augment
from .concatenations import Speakers, pieces, window
from .corpora import Corpora, load

BATCH = 4800
"""Frames in a batch, whatever the length of its windows."""


@dataclass(frozen=True)
class Recipe:
    """What the windows of a pass are made of.

    `lengths`: window lengths in frames, and the share of the frames that each gets; `right`: look-ahead in frames that
    a frame must have to be trained, about that of the live plan; `clean`: no augmentation; `corpora`: None for all.
    """

    data: Path
    store: Path
    lengths: tuple[tuple[int, float], ...] = ((150, 0.6), (300, 0.2), (680, 0.2))
    right: int = 14
    split: str = "train"
    clean: bool = False
    corpora: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """Features fp16 `[B, T, D]` and targets `[B, T]` of equally long windows."""

    features: Tensor
    emotion: Tensor
    affect: Tensor
    weight: Tensor


_corpora: dict[tuple[Path, str], tuple[Speakers, Corpora]] = {}


def draw(recipe: Recipe, seed: int, number: int) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Batch `number` of a pass: samples float32 `[B, T * 320]` and emotion, arousal, valence, weight `[B, T]` each."""
    key = (recipe.store, recipe.split)
    if key not in _corpora:
        corpora = load(recipe.data, recipe.store, corpora=recipe.corpora)
        _corpora[key] = Speakers(corpora.split(recipe.split)), corpora
    speakers, corpora = _corpora[key]
    rng = np.random.default_rng([seed, number])
    lengths, shares = zip(*recipe.lengths, strict=True)
    frames = int(rng.choice(lengths, p=np.array(shares) / sum(shares)))
    samples = np.empty((max(1, BATCH // frames), frames * HOP), np.float32)
    rows = []
    for row in samples:
        parts = pieces(speakers.pattern(rng), rng)
        while sum(len(p.utterance.samples) for p in parts) < 0.6 * frames * HOP:
            parts += pieces([p.utterance for p in parts], rng)
        cut, targets = window(parts, frames, recipe.right, rng)
        row[:] = cut if recipe.clean else augment(cut, corpora.noises, rng)
        rows.append((targets.emotion, targets.arousal, targets.valence, targets.weight))
    return samples, [np.stack(column).astype(np.float32) for column in zip(*rows, strict=True)]


class Pass(Dataset[Batch]):
    """Encoded batches in a folder: batch *n* is one file of features and one of targets."""

    def __init__(self, folder: Path, batches: int) -> None:
        self.folder = folder
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, read from disk."""
        features = torch.from_numpy(np.load(self.folder / f"{number:05}.features.npy", allow_pickle=False))
        return Batch(features, *self.targets(number))

    def targets(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Emotion int64 `[B, T]`, affect float32 `[B, T, 2]` and weight float32 `[B, T]` of a batch."""
        targets = torch.from_numpy(np.load(self.folder / f"{number:05}.targets.npy", allow_pickle=False))
        return targets[0].long(), targets[1:3].movedim(0, -1), targets[3]


def encode(
    encoder: WhisperEncoder, recipe: Recipe, folder: Path, batches: int, seed: int, *, workers: int = 2
) -> Iterator[int]:
    """Encode the batches of a pass that `folder` does not hold yet; yields how many are there, after each.

    The same recipe and seed give the same batches, however many workers (processes; 0: this one) share them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(batches) if not (folder / f"{n:05}.features.npy").is_file()]
    done = batches - len(missing)
    yield done
    if not missing:
        return
    job = partial(_encode, recipe, folder, seed)
    if workers:
        with ProcessPoolExecutor(workers, get_context("spawn"), _start, (encoder,)) as pool:
            for _ in pool.map(job, missing):
                done += 1
                yield done
    else:
        _encoder[:] = [encoder]
        for number in missing:
            job(number)
            done += 1
            yield done


_encoder: list[WhisperEncoder] = []


def _start(encoder: WhisperEncoder) -> None:
    torch.set_num_threads(1)
    _encoder[:] = [encoder]


def _encode(recipe: Recipe, folder: Path, seed: int, number: int) -> None:
    samples, targets = draw(recipe, seed, number)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        parts = [_encoder[0](torch.from_numpy(part)) for part in np.array_split(samples, max(1, len(samples) // 8))]
    np.save(folder / f"{number:05}.targets.npy", np.stack(targets))
    # Written last and by renaming: a pass that was interrupted goes on where it stopped.
    partial = folder / f"{number:05}.partial.npy"
    np.save(partial, torch.cat(parts).half().numpy())
    partial.rename(folder / f"{number:05}.features.npy")
