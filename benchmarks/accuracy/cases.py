"""What is scored: utterances of a split, and recordings made of them in which the emotion changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedstream.grid import HOP, RATE, frames_of
from sedstream.scoring.labels import EMOTIONS
from sedstream.scoring.sheet import SECOND, Span
from sedstream.scoring.tracks import Track
from sedstream.training.concatenations import PATTERNS
from sedstream.training.corpora import Corpora, Utterance, load, read_index, usable

LABELS = ("neutral", "happy", "sad", "angry")
NEUTRAL = 0
TWO = "emotion+another"
FEW = 4
"""Speakers of a corpus that are taken `repeats` times; of more speakers there are fewer files each."""
Ints = NDArray[np.int64]
Array = NDArray[np.float32]
Row = dict[str, str]


@dataclass(frozen=True, eq=False)
class Case:
    """One concatenation: utterances of one speaker one after another. `number` counts its repetitions."""

    corpus: str
    speaker: str
    pattern: str
    number: int
    parts: tuple[Utterance, ...]

    def samples(self) -> Array:
        """float32 `[n]` at 16 kHz."""
        return sound(self.parts)

    @cached_property
    def ends(self) -> list[int]:
        """Where each part ends, in samples."""
        return np.cumsum([len(part.samples) for part in self.parts]).tolist()

    @property
    def classes(self) -> list[int]:
        """Index in LABELS of each part."""
        return [LABELS.index(EMOTIONS[part.emotion]) for part in self.parts]

    @property
    def frames(self) -> int:
        return frames_of(self.ends[-1])

    @cached_property
    def truth(self) -> Ints:
        """Class of each frame `[T]`: of the part that holds its centre."""
        centres = np.minimum((np.arange(self.frames) + 0.5) * HOP, self.ends[-1] - 1)
        return np.array(self.classes)[np.searchsorted(self.ends, centres, side="right")]

    def track(self, spans: Iterable[Span]) -> Track:
        """The case beside an answer to it."""
        reference = tuple(
            Span(ticks(a), ticks(b), LABELS[c])
            for (a, b), c in zip(pairwise([0, *self.ends]), self.classes, strict=True)
        )
        duration = ticks(self.ends[-1])
        found = tuple(Span(s.start, min(s.end, duration), s.emotion) for s in spans if s.start < duration)
        said = "+".join(span.emotion for span in reference)
        name = f"{self.speaker}/{self.pattern}/{said}/{self.number}"
        return Track(name, "", self.speaker, duration, reference, found)


def sound(parts: Sequence[Utterance]) -> Array:
    """Utterances one after another, float32 `[n]`."""
    return np.concatenate([part.samples for part in parts]).astype(np.float32) / np.float32(32768)


def ticks(samples: int) -> int:
    """Samples at 16 kHz in nanoseconds."""
    return samples * (SECOND // RATE)


def spans(labels: Ints) -> list[Span]:
    """Classes per frame `[T]` as spans, neutral ones included."""
    bounds = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [Span(ticks(a * HOP), ticks(b * HOP), LABELS[labels[a]]) for a, b in pairwise(bounds) if b > a]


def by_voice(utterances: Sequence[Utterance]) -> dict[str, dict[str, list[Utterance]]]:
    """What each speaker says with each of LABELS; an empty list for what it does not say, where that is asked for."""
    voices: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
    for u in utterances:
        if u.emotion >= 0 and EMOTIONS[u.emotion] in LABELS:
            voices[u.speaker][EMOTIONS[u.emotion]].append(u)
    return voices


def concatenations(utterances: Sequence[Utterance], repeats: int, seed: int) -> list[Case]:
    """Every pattern for every speaker and emotion of one corpus, `repeats` times with utterances drawn at random.

    Those of SpeechBrain's recipe (neutral+emotion, emotion+neutral, neutral+emotion+neutral, emotion+emotion; one
    emotional span a file), and pairs of two different emotions. Where there are more than FEW speakers, each has fewer
    files, at least one of a kind.
    """
    voices = by_voice(utterances)
    repeats = max(1, min(repeats, round(repeats * FEW / max(1, len(voices)))))
    rng = np.random.default_rng(seed)
    found = []
    for speaker in sorted(voices):
        said = voices[speaker]
        emotions = [label for label in LABELS[1:] if said[label]]
        for pattern in (*PATTERNS, TWO):
            for emotion in emotions:
                others = [label for label in emotions if label != emotion]
                steps = {"neutral": "neutral", "emotion": emotion, "another": ""}
                for number in range(repeats):
                    if others:
                        steps["another"] = others[rng.integers(len(others))]
                    names = [steps[step] for step in pattern.split("+")]
                    if all(name and said[name] for name in names):
                        parts = tuple(said[name][rng.integers(len(said[name]))] for name in names)
                        found.append(Case(parts[0].corpus, speaker, pattern, number, parts))
    return found


class Material:
    """A data folder, read once."""

    def __init__(self, data: Path, store: Path) -> None:
        self.data = data.resolve()
        self.store = store
        self.cases = cache(self._cases)

    @cached_property
    def corpora(self) -> Corpora:
        return load(self.data, self.store)

    @cached_property
    def rows(self) -> list[tuple[Row, Utterance]]:
        """Each utterance with its row of the index."""
        rows = [row for row in read_index(self.data) if usable(row)]
        return list(zip(rows, self.corpora.utterances, strict=True))

    def names(self, split: str) -> list[str]:
        """The corpora that have two or more of LABELS in a split."""
        held: dict[str, set[str]] = defaultdict(set)
        for row, u in self.rows:
            if u.split == split and row["emotion"] in LABELS:
                held[u.corpus].add(row["emotion"])
        return [name for name, emotions in held.items() if len(emotions) > 1]

    def utterances(self, split: str, corpus: str) -> list[tuple[Row, Utterance]]:
        return [(row, u) for row, u in self.rows if u.corpus == corpus and u.split == split]

    def _cases(self, split: str, corpus: str, repeats: int, seed: int) -> list[Case]:
        return concatenations([u for _, u in self.utterances(split, corpus)], repeats, seed)
