"""Soft speech made louder for the VAD, which hears levels: the emotion model does not.

Silero misses part of the speech in recordings whose peaks lie far under -20 dB of full scale. What softer recordings
cost is among the lines of `python -m benchmarks accuracy --only robustness`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..grid import RATE
from .silero import CHUNK, CONTEXT

SOFT = 0.1
"""Peaks under this (-20 dB of full scale) are lifted to it,"""
MOST = 10.0
"""but by 20 dB at most."""
FIRST = 0.03
"""The peak that is expected before anything is heard."""
FADE = 0.5
"""How fast a peak is forgotten, in dB a second: not while the other side of the line speaks, whose echo is soft. After
80 s at the latest: one of full scale has then fallen so far that it no longer changes how much is lifted."""


class Level:
    """The loudest sample of a session so far, at most full scale, and what it does to the next ones."""

    def __init__(self) -> None:
        self._peak = FIRST

    def __call__(self, chunks: NDArray[np.float32]) -> NDArray[np.float32]:
        """The next chunks f32 ``[n, CONTEXT + CHUNK]``, each less its mean (a cheap sound card adds a constant, which
        Silero hears) and times a gain of 1 to MOST, which follows from it and those before it, however they are cut."""
        chunks = chunks - chunks.mean(1, keepdims=True)
        fall = 10 ** (-FADE * CHUNK / RATE / 20)
        gains = np.empty((len(chunks), 1), np.float32)
        for n, peak in enumerate(np.abs(chunks[:, CONTEXT:]).max(1, initial=0).tolist()):
            self._peak = max(self._peak * fall, min(1.0, peak))
            gains[n] = min(MOST, max(1.0, SOFT / self._peak)) if self._peak else 1.0
        return chunks * gains
