"""What neutral sounds like in this voice, on this line, and emotion told against it.

Most voices that a model meets it has never heard. One sounds sad to it and another angry while both are neutral, by the
same amount in frame after frame, and an hour of such a call is an hour of false alarms. But most frames of a call are
neutral, and so tell the amount. With z_t the log-probabilities `[C]` of frame t, p_t that of neutral, 0…1, and m
the mean of z where voices in general sound neutral, a frame is told as

    log softmax(z_t - d_t),    d_t = Σ p_τ (z_τ - m) / (k + Σ p_τ)    over the frames of speech τ < t

the most likely offset of the voice if p_τ says how much of frame τ is neutral, and if before anything is heard k frames
say that there is none (maximum a posteriori adaptation of a mean: Gauvain & Lee, "Maximum a posteriori estimation for
multivariate Gaussian mixture observations of Markov chains", 1994). A voice that is angry all the time has few such
frames and mostly stays angry; one that is softly sad all the time becomes its own neutral in part.

Nothing older than two periods counts: two sums begin anew by turns, and the older one answers, as in
`sedstream.encoders.relay`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from .settings import VoiceSettings

PERIOD = 3072
"""Frames, 61 s: two of the VAD's periods."""

Array = NDArray[np.float32]


@compiled()
def adapt(
    scores: Array, speech: NDArray[np.bool_], first: int, sums: NDArray[np.float64], usual: NDArray[np.float64],
    neutral: int, after: int, period: int, out: Array,
) -> None:  # fmt: skip
    """Write to ``out`` the log-probabilities ``[n, C]`` of frames ``first``… less the offset of the voice; ``sums``
    ``[2, C + 1]``, the older first: of the offsets weighted, and of the weights."""
    count, classes = scores.shape
    for n in range(count):
        t = first + n
        if t > 0 and t % period == 0:
            sums[0] = sums[1]
            sums[1] = 0
        if not speech[n]:
            out[n] = scores[n]
            continue
        found = scores[n] - sums[0, :classes] / (after + sums[0, classes])
        most = found.max()
        out[n] = found - (most + np.log(np.exp(found - most).sum()))
        weight = np.exp(np.float64(scores[n, neutral]))
        for turn in range(2):
            sums[turn, classes] += weight
            for c in range(classes):
                sums[turn, c] += weight * (scores[n, c] - usual[c])


class Voice:
    """The offset of one session's voice."""

    def __init__(self, settings: VoiceSettings) -> None:
        self._settings = settings
        self._usual = np.array(settings.neutral)
        self._sums = np.zeros((2, len(self._usual) + 1))
        self._next = 0

    def __call__(self, scores: Array, speech: NDArray[np.bool_]) -> Array:
        """Log-probabilities float32 ``[n, C]`` and speech flags ``[n]`` of the next frames -> log-probabilities,
        those of frames without speech as they are."""
        out = np.empty_like(scores)
        neutral, after = self._settings.column, self._settings.after
        adapt(scores, speech, self._next, self._sums, self._usual, neutral, after, PERIOD, out)
        self._next += len(scores)
        return out
