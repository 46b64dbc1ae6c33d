"""Streaming resampler: any rate to 16 kHz with a fixed state, independent of how the samples are cut in packets.

Output sample *j* lies at input time p = j·M/L with L/M = 16000/rate in lowest terms. With i = ⌊p⌋ it is

    y[j] = Σ_k x[i - w + 1 + k] · h[phase, k],   k = 0 … 2w-1,   phase = (j·M) mod L,

where row ``phase`` of h samples a Kaiser-windowed sinc whose cut-off lies just under half the lower of both rates
(Smith, "Digital Audio Resampling"). Each output is one sum in a fixed order over the same 2w inputs, so packets cannot
change a bit of it. The look-ahead is w input samples: 3 ms at 8 kHz, 1.5 ms at 16 kHz and above.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import BadInput
from ..grid import RATE
from .pcm import Samples

MIN_RATE, MAX_RATE = 8_000, 192_000
ZEROS = 24
"""Zero crossings of the sinc on each side."""
ROLLOFF = 0.945
BETA = 9.0
"""Kaiser window shape: about 90 dB of stop-band attenuation."""
SLICE = 1024
"""Phases that are computed at a time: what it takes meanwhile is many times the table."""


@compiled()
def _filter(
    history: NDArray[np.float32], offset: int, first: int, up: int, down: int, table: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:  # fmt: skip
    taps = table.shape[1]
    for n in range(out.shape[0]):
        j = first + n
        start = (j * down) // up - offset
        phase = (j * down) % up
        total = 0.0
        for k in range(taps):
            total += history[start + k] * table[phase, k]
        out[n] = total


@lru_cache(16)  # 16,000 phases of a rate like 47,999 Hz are 9 MB that calls should share, and take their time
def _table(up: int, half: int, cutoff: float) -> NDArray[np.float32]:
    rows = np.empty((up, 2 * half), np.float32)
    for first in range(0, up, SLICE):
        phase = np.arange(first, min(first + SLICE, up))[:, None] / up
        # Tap k of a phase lies at distance (k - half + 1) - phase from the output, in input samples.
        distance = np.arange(2 * half) - (half - 1) - phase
        window = np.i0(BETA * np.sqrt(np.clip(1 - (distance / half) ** 2, 0, None))) / np.i0(BETA)
        table = cutoff * np.sinc(cutoff * distance) * window
        # Every phase passes a constant unchanged: no ripple at the phase rate.
        rows[first : first + SLICE] = table / table.sum(axis=1, keepdims=True)
    return rows


class Resampler:
    """One channel from ``rate`` Hz (8 000…192 000) to 16 kHz. Raises ``BadInput`` for another rate."""

    def __init__(self, rate: int) -> None:
        if not MIN_RATE <= rate <= MAX_RATE:
            raise BadInput(f"Bad sample rate {rate} Hz, expected {MIN_RATE} to {MAX_RATE}")
        common = gcd(RATE, rate)
        self._up, self._down = RATE // common, rate // common
        scale = min(1.0, RATE / rate)  # of the cut-off: below both Nyquist frequencies
        self._half = int(np.ceil(ZEROS / scale))
        self._same = rate == RATE
        self._table = np.empty((0, 0), np.float32)
        if not self._same:
            self._table = _table(self._up, self._half, ROLLOFF * scale)
        # Input sample i stands at history[i - self._origin]; before the first sample stands the same, for no step to
        # begin with.
        self._history = np.zeros(self._half - 1, np.float32)
        self._origin = 1 - self._half
        self._read = 0
        self._written = 0

    def push(self, samples: Samples) -> Samples:
        """Samples ``[n]`` f32 in, all outputs that they complete ``[m]`` f32 out."""
        if self._same:
            return samples
        if self._read == 0 and len(samples):
            self._history[:] = samples[0]
        self._history = np.concatenate([self._history, samples])
        self._read += len(samples)
        # Output j needs inputs up to ⌊j·M/L⌋ + half.
        ready = ((self._read - self._half) * self._up - 1) // self._down + 1
        return self._produce(ready)

    def flush(self) -> Samples:
        """The outputs that waited for look-ahead, with the last sample for what is behind the end: ⌈n·16000/rate⌉ in
        all."""
        if self._same:
            return np.empty(0, np.float32)
        self._history = np.pad(self._history, (0, self._half), mode="edge")
        return self._produce(-(-self._read * self._up // self._down))

    def _produce(self, ready: int) -> Samples:
        out = np.empty(max(0, ready - self._written), np.float32)
        if len(out):
            offset = self._origin + self._half - 1
            _filter(self._history, offset, self._written, self._up, self._down, self._table, out)
            self._written = ready
        keep = self._written * self._down // self._up - self._half + 1 - self._origin
        if keep > 0:
            self._history = self._history[keep:].copy()
            self._origin += keep
        return out
