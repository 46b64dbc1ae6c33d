"""Batches of augmented windows with their targets, drawn by number: the same number gives the same batch anywhere."""

from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ..encoders.cached import BEFORE, BEHIND
from ..grid import HOP
from ..scoring.labels import EMOTIONS
from . import labelled
from .augment import augment
from .concatenations import Speakers, Targets, pieces, window
from .corpora import Corpora, load
from .rows import find_table

FRAMES = 384
"""Frames in a window: 7.68 s, a multiple of every chunk length that is trained."""
ROWS = 10
"""Windows in a batch; MANY where there are hundreds of hours to train with on a GPU, which needs as much to be busy."""
MANY = 96
RIGHT = 28
"""Look-ahead in frames that a frame must have to be trained: that of the slowest live plan."""


@dataclass(frozen=True)
class Source:
    """Where windows come from: a data folder, the folder for its decoded speech, a split, and corpora to leave out.

    `clean`: no augmentation. `labels`: the emotions, where the folder is a user's (labels.csv). `blind`: see
    `Speakers`.
    """

    data: Path
    store: Path
    split: str = "train"
    clean: bool = False
    without: tuple[str, ...] = ()
    labels: tuple[str, ...] = EMOTIONS
    blind: bool = False


class Batch(NamedTuple):
    """`heard` and, before augmentation, `clean`: samples float32 `[B, (BEFORE + T + BEHIND)·320]`; targets of the T
    frames between: emotion int64 `[B, T]`, affect float32 `[B, T, 2]`, weight float32 `[B, T]`, piece int16 `[B, T]`.
    """

    heard: Tensor
    clean: Tensor
    emotion: Tensor
    affect: Tensor
    weight: Tensor
    piece: Tensor


class Batches(Dataset[Batch]):
    """The batches `first` to `first + count` of a seed, of so many `rows`."""

    def __init__(self, source: Source, seed: int, count: int, first: int = 0, rows: int = ROWS) -> None:
        self.source, self.seed, self.count, self.first, self.rows = source, seed, count, first, rows

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, drawn anew."""
        voices, corpora = _read(replace(self.source, clean=False))
        rng = np.random.default_rng([self.seed, self.first + number])
        rows = [_row(self.source, voices, corpora, rng) for _ in range(self.rows)]
        heard, clean, emotion, affect, weight, piece = (torch.from_numpy(np.stack(c)) for c in zip(*rows, strict=True))
        return Batch(heard, clean, emotion.long(), affect, weight, piece)


def read(source: Source, workers: int = 0) -> Corpora:
    """What is in a source's folder: a user's labels, or the index of our corpora.

    Raises:
        BadInput: neither is there, or it cannot be read.
    """
    if find_table(source.data) is None:
        return load(source.data, source.store, workers=workers)
    return labelled.load(source.data, source.store, source.labels, workers=workers)


def speakers(source: Source, corpora: Corpora) -> Speakers:
    """The voices of a source's split, to draw from."""
    passages = [passage for passage in corpora.passages if passage[0].split == source.split]
    return Speakers(corpora.split(source.split, source.without), passages, source.blind)


@cache
def _read(source: Source) -> tuple[Speakers, Corpora]:
    corpora = read(source)
    return speakers(source, corpora), corpora


def cut(voices: Speakers, rng: np.random.Generator) -> tuple[NDArray[np.float32], Targets]:
    """A random window of a recording of random voices: samples `[(BEFORE + FRAMES + BEHIND)·320]`, and the targets of
    the FRAMES between."""
    frames = BEFORE + FRAMES + BEHIND
    parts = voices.recording(rng)
    while sum(len(p.utterance.samples) for p in parts) < 0.6 * frames * HOP:
        parts += pieces([p.utterance for p in parts], rng)
    samples, targets = window(parts, frames, RIGHT, rng)
    inner = slice(BEFORE, BEFORE + FRAMES)
    return samples, Targets(*(getattr(targets, field.name)[inner] for field in fields(targets)))


def _row(source: Source, voices: Speakers, corpora: Corpora, rng: np.random.Generator) -> tuple[NDArray[Any], ...]:
    clean, targets = cut(voices, rng)
    other = voices.draw(rng)[0][0].samples
    heard = clean if source.clean else augment(clean, corpora.noises, other, rng)
    affect = np.stack([targets.arousal, targets.valence], -1)
    return heard, clean, targets.emotion, affect, targets.weight, targets.piece
