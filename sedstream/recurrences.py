"""GRU and LSTM through a whole recording in one call, on a CPU core: torch's spend their time on a call for each step.

With i = W_i x + b_i of all frames at once, and s = W_h h + b_h of the state h before each,

    GRU:   r = σ(i_r + s_r),  z = σ(i_z + s_z),  n = tanh(i_n + r s_n),  h ← n + z (h - n)
    LSTM:  e, f, o = σ(i + s) of their parts,  c ← f c + e tanh(i_g + s_g),  h ← o tanh(c)

(Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014; Hochreiter & Schmidhuber, "Long
short-term memory", 1997, with Gers' forget gate; parts in torch's order: r z n, and e f g o). The numbers of one
session do not depend on others or on how it is cut, and differ from torch's by rounding alone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[np.float32]
TOGETHER = 4
"""Numbers of a state that are added to the sums in one pass: `_add` has as many terms."""
_ONE, _TWO, _HALF, _MOST = (np.float32(x) for x in (1, 2, 0.5, 120))
_LOG2_E = np.float32(1 / math.log(2))
_POWERS = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(7))
"""Of r in 2^r, by Taylor: for |r| ≤ 1/2 what is left out is less than float32 can tell."""


@compiled(fastmath={"contract"}, error_model="numpy")
def gru(inward: Array, across: Array, bias: Array, state: Array, out: Array) -> None:
    """i `[B, T, 3H]`, W_h transposed `[H, 3H]` and b_h `[3H]` -> the states `[B, T, H]` in `out`; `state` `[B, H]` is
    that before the first frame, and then that after the last one. H is a multiple of `TOGETHER`. All are contiguous."""
    rows, frames, wide = inward.shape
    hidden = wide // 3
    sums = np.empty((rows, wide), np.float32)
    doors = np.empty(2 * hidden, np.float32)
    scale = np.empty(2 * hidden, np.int32)
    for t in range(frames):
        for row in range(rows):
            sums[row] = bias
        _add(state, across, sums)
        for row in range(rows):
            told, said, held = inward[row, t], sums[row], state[row]
            for j in range(2 * hidden):
                doors[j] = told[j] + said[j]
            _sigmoid(doors, scale)
            new = said[2 * hidden :]
            for j in range(hidden):
                new[j] = _TWO * (told[2 * hidden + j] + doors[j] * new[j])
            _sigmoid(new, scale)
            for j in range(hidden):
                n = _TWO * new[j] - _ONE  # tanh(x) = 2 σ(2 x) - 1
                held[j] = n + doors[hidden + j] * (held[j] - n)
                out[row, t, j] = held[j]


@compiled(fastmath={"contract"}, error_model="numpy")
def lstm(inward: Array, across: Array, state: Array, cell: Array, out: Array) -> None:
    """i + b_h `[B, T, 4H]` and W_h transposed `[H, 4H]` -> the states `[B, T, H]` in `out`; `state` and `cell`
    `[B, H]` are those before the first frame, and then those after the last one. H as in `gru`."""
    rows, frames, wide = inward.shape
    hidden = wide // 4
    sums = np.empty((rows, wide), np.float32)
    scale = np.empty(wide, np.int32)
    for t in range(frames):
        for row in range(rows):
            sums[row] = inward[row, t]
        _add(state, across, sums)
        for row in range(rows):
            doors, held, kept = sums[row], state[row], cell[row]
            for j in range(2 * hidden, 3 * hidden):
                doors[j] *= _TWO
            _sigmoid(doors, scale)
            for j in range(hidden):
                new = _TWO * doors[2 * hidden + j] - _ONE
                kept[j] = doors[hidden + j] * kept[j] + doors[j] * new
                held[j] = _TWO * kept[j]
            _sigmoid(held, scale)
            for j in range(hidden):
                held[j] = doors[3 * hidden + j] * (_TWO * held[j] - _ONE)
                out[row, t, j] = held[j]


@compiled(fastmath={"contract"}, error_model="numpy")
def _add(state: Array, across: Array, sums: Array) -> None:
    """`sums` `[B, N]` += `state` `[B, H]` @ `across` `[H, N]`; what is read of `across` serves all rows."""
    for k in range(0, len(across), TOGETHER):
        first, second, third, fourth = across[k], across[k + 1], across[k + 2], across[k + 3]
        for row in range(len(sums)):
            total = sums[row]
            a, b, c, d = state[row, k], state[row, k + 1], state[row, k + 2], state[row, k + 3]
            for j in range(len(total)):
                total[j] += a * first[j] + b * second[j] + c * third[j] + d * fourth[j]


@compiled(fastmath={"contract"}, error_model="numpy")
def _sigmoid(x: Array, scale: NDArray[np.int32]) -> None:
    """x ← 1 / (1 + e^-x), many at once, as math.exp is not: e^-x = 2^(n + r), where n is whole, a float's exponent.
    `scale`: room for as many numbers."""
    one, p1, p2, p3, p4, p5, p6 = _POWERS
    for j in range(len(x)):
        y = min(max(-x[j] * _LOG2_E, -_MOST), _MOST)
        n = np.floor(y + _HALF)
        r = y - n
        scale[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
        x[j] = one + r * (p1 + r * (p2 + r * (p3 + r * (p4 + r * (p5 + r * p6)))))
    powers = scale.view(np.float32)
    for j in range(len(x)):
        x[j] = one / (one + x[j] * powers[j])
