"""The arousal track: mean arousal and valence of the speech in every half second, whatever the segments are."""

from __future__ import annotations

from math import isnan
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

CADENCE = 25
"""Frames that one point covers: 0.5 s."""

Point: TypeAlias = tuple[int, int, float | None, float | None]
"""Start and end in frames, arousal and valence in 0…1; None where there is no speech, or they are not told."""


class Cadence:
    """Frames in order of time, points as they are complete. ``origin``: the number of the first frame."""

    def __init__(self, origin: int = 0) -> None:
        self._origin = origin
        self._frames = 0
        self._sums = np.zeros(3)  # arousal, valence, frames of speech in the current point

    def add(self, affect: NDArray[np.float32], speech: NDArray[np.bool_]) -> list[Point]:
        """Arousal and valence ``[n, 2]`` (NaN: not told) and speech flags ``[n]`` of the next frames; the points that
        they complete."""
        points = []
        for frame in range(len(speech)):
            if speech[frame]:
                self._sums += (affect[frame, 0], affect[frame, 1], 1)
            self._frames += 1
            if self._frames % CADENCE == 0:
                points.append(self._point())
        return points

    def close(self) -> list[Point]:
        """The end: the last point, shorter than the others, if frames are left for one."""
        return [self._point()] if self._frames % CADENCE else []

    def _point(self) -> Point:
        arousal, valence, frames = self._sums.tolist()
        self._sums[:] = 0
        start = self._origin + (self._frames - 1) // CADENCE * CADENCE
        end = self._origin + self._frames
        if not frames:
            return start, end, None, None
        return start, end, _mean(arousal, frames), _mean(valence, frames)


def _mean(total: float, frames: float) -> float | None:
    return None if isnan(total) else total / frames
