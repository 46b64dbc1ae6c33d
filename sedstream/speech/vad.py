"""Speech or silence per frame, from Silero's probabilities: hysteresis and minimum durations, in integers.

Silence turns to speech where the probability reaches ``threshold`` and does not fall under ``release`` for
``min_speech`` frames; speech turns to silence where it falls under ``release`` and does not reach ``threshold``
for ``min_silence`` frames (Silero's own rule, with the minimum asked before the decision instead of after). Both
changes are dated back to where they began, so the decision about a frame comes at most max(min_speech,
min_silence) frames late.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..grid import HOP
from .settings import VadSettings
from .silero import CHUNK


def chunk_of_frame(frame: int) -> int:
    """The 32 ms chunk in which the middle of a 20 ms frame lies."""
    return (frame * HOP + HOP // 2) // CHUNK


def chunks_for(frames: int) -> int:
    """Chunks that must be heard before ``frames`` frames have a probability."""
    return chunk_of_frame(frames - 1) + 1 if frames else 0


class Segmenter:
    """Probabilities in, decided frames out. The frames of a session are numbered from 0."""

    def __init__(self, settings: VadSettings) -> None:
        self._settings = settings
        self._chunks: list[float] = []  # probabilities whose frames have not all been read
        self._first_chunk = 0
        self._frame = 0  # next frame to read
        self._speech = False
        self._since: int | None = None  # where a change that is not yet certain began
        self.decided = 0
        """Frames [0, decided) are certain."""

    def hear(self, probabilities: NDArray[np.float32], frames: int | None = None) -> NDArray[np.bool_]:
        """Probabilities ``[n]`` of the next chunks; speech flags ``[m]`` of the frames that they decide.

        ``frames``: the session ends after so many frames, and all of them are decided now: what has not lasted
        long enough to be a change is none.
        """
        self._chunks.extend(probabilities.tolist())
        flags: list[bool] = []
        while (chunk := chunk_of_frame(self._frame) - self._first_chunk) < len(self._chunks):
            if self._frame == frames:
                break
            self._read(self._chunks[chunk], flags)
        if frames is not None:
            flags += [self._speech] * (frames - self.decided)
            self.decided = frames
        done = min(chunk_of_frame(self._frame) - self._first_chunk, len(self._chunks))
        del self._chunks[:done]
        self._first_chunk += done
        return np.array(flags, np.bool_)

    def _read(self, probability: float, flags: list[bool]) -> None:
        limits = self._settings
        frame = self._frame
        self._frame += 1
        if self._speech:
            if probability >= limits.threshold:
                self._since = None
            elif probability < limits.release and self._since is None:
                self._since = frame
            needed = limits.min_silence
        else:
            if probability < limits.release:
                self._since = None
            elif probability >= limits.threshold and self._since is None:
                self._since = frame
            needed = limits.min_speech
        certain = self._frame if self._since is None else self._since
        flags += [self._speech] * (certain - self.decided)
        self.decided = max(self.decided, certain)
        if self._since is not None and self._frame - self._since >= needed:
            self._speech = not self._speech
            self._since = None
            flags += [self._speech] * (self._frame - self.decided)
            self.decided = self._frame
