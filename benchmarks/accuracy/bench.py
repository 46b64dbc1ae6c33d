"""What every section of the benchmark is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sedstream.scoring import Eder, eder
from sedstream.scoring.sweep import regions
from sedstream.scoring.tracks import Track

from .cases import TWO, Case, Material
from .hearing import Ear


@dataclass(frozen=True)
class Bench:
    """The material, the model and what was asked for.

    `split`: what is reported; choices are made on valid whatever it is. `left_out`: corpus -> folder of a model that
    was trained without it. `whisper`, and `whisper_small` if at hand: the encoders that the peers
    stand on. `hours`: of concatenated speech that a peer is trained with.
    """

    material: Material
    ear: Ear
    split: str
    plan: str
    repeats: int
    seed: int
    corpora: tuple[str, ...]
    left_out: Mapping[str, Path]
    whisper: Path
    whisper_small: Path | None
    hours: float
    device: str

    def names(self, split: str) -> list[str]:
        """The corpora that were asked for and have emotions to tell apart."""
        return [name for name in self.material.names(split) if not self.corpora or name in self.corpora]

    def cases(self, split: str | None = None) -> dict[str, list[Case]]:
        """The concatenations of SpeechBrain's four patterns, by corpus."""
        return {name: [c for c in cases if c.pattern != TWO] for name, cases in self.every(split).items()}

    def every(self, split: str | None = None) -> dict[str, list[Case]]:
        """All concatenations, those of two emotions too."""
        split = split or self.split
        found = {name: self.material.cases(split, name, self.repeats, self.seed) for name in self.names(split)}
        return {name: cases for name, cases in found.items() if cases}


def errors(tracks: list[Track]) -> Eder:
    """The errors of tracks, pooled; collar 0, silence scored as neutral."""
    return sum((eder(regions(track)) for track in tracks), Eder())


def mean(values: list[float | None]) -> float:
    """The mean of what is known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
