"""What a manifest says about the decoder, and about what stands before it."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import BadModel


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """Costs in 1/256 nat, at most a million; durations in frames of 20 ms; ``lag`` ≥ ``min_duration``."""

    switch: int = 1024
    pause: int = 256
    min_duration: int = 20
    lag: int = 50

    def __post_init__(self) -> None:
        if not (0 <= self.switch <= 1_000_000 and 0 <= self.pause <= 1_000_000):
            raise BadModel(f"Bad decoder costs {self.switch}, {self.pause}, expected 0 to 1000000")
        if not 1 <= self.min_duration <= self.lag <= 10_000:
            raise BadModel(
                f"Bad decoder durations {self.min_duration}, {self.lag}, expected 1 ≤ min_duration ≤ lag ≤ 10000"
            )


@dataclass(frozen=True, slots=True)
class VoiceSettings:
    """The mean log-probabilities where voices sound neutral, in the order of the labels; how many neutral frames of a
    voice count as much as that; and which of the labels neutral is."""

    neutral: tuple[float, ...]
    after: int
    column: int

    def __post_init__(self) -> None:
        if not all(-1000 <= value <= 0 for value in self.neutral):
            raise BadModel(f"Bad neutral {list(self.neutral)} of a voice, expected log-probabilities, -1000 to 0")
        if not 1 <= self.after <= 1_000_000:
            raise BadModel(f"Bad after {self.after} of a voice, expected 1 to 1000000 frames")
