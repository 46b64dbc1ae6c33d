"""What a manifest says about the decoder."""

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
