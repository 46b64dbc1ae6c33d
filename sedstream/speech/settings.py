"""What a manifest says about voice activity."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BadModel


@dataclass(frozen=True, slots=True)
class VadSettings:
    """Probabilities in 0…1, durations in frames of 20 ms."""

    threshold: float = 0.5
    release: float = 0.35
    min_speech: int = 12
    min_silence: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.release <= self.threshold < 1:
            raise BadModel(f"Bad VAD thresholds {self.threshold}, {self.release}, expected 0 < release ≤ threshold < 1")
        if not (1 <= self.min_speech <= 10_000 and 1 <= self.min_silence <= 10_000):
            raise BadModel(f"Bad VAD durations {self.min_speech}, {self.min_silence}, expected 1 to 10000 frames")
