"""Ways from probabilities to labels. Each takes probabilities `[T, C]` and speech `[T]`, and gives classes `[T]`.

Where there is no speech they know nothing: probabilities are equal there for all, and the class is neutral afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from sedstream.decoding.decoder import Decoder, quantise
from sedstream.decoding.settings import DecoderSettings

from .cases import NEUTRAL, Array, Ints

Flags: TypeAlias = NDArray[np.bool_]
Method: TypeAlias = Callable[[Array, Flags], Ints]
FLOOR = 1e-9


def known(probs: Array, speech: Flags) -> Array:
    """Probabilities with equal ones where there is no speech."""
    return np.where(speech[:, None], probs, np.float32(1 / probs.shape[1])).astype(np.float32)


def spoken(labels: Ints, speech: Flags) -> Ints:
    return np.where(speech, labels, NEUTRAL)


def argmax(probs: Array, speech: Flags) -> Ints:
    """Each frame by itself, as SpeechBrain's recipe does."""
    return spoken(known(probs, speech).argmax(1), speech)


def median(probs: Array, speech: Flags, width: int) -> Ints:
    """The median of each class's probability over `width` frames."""
    smooth = median_filter(known(probs, speech), size=(width, 1), mode="nearest")
    return spoken(smooth.argmax(1), speech)


def variation(probs: Array, speech: Flags, weight: float) -> Ints:
    """Each class's probability made piecewise constant: total variation, exact."""
    tracks = known(probs, speech).astype(np.float64)
    return spoken(np.stack([flattest(tracks[:, c], weight) for c in range(tracks.shape[1])], 1).argmax(1), speech)


@njit(cache=True)
def flattest(y: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """The x `[n]` with the least ½·Σ(x - y)² + weight·Σ|x[t+1] - x[t]|.

    Its sums are the shortest path through the tube of half-width `weight` around the sums of y, tied at both ends
    (the taut string of Davies and Kovac, "Local extremes, runs, strings and multiresolution", 2001).
    """
    n = len(y)
    x = np.empty(n)
    total = np.zeros(n + 1)
    total[1:] = np.cumsum(y)
    at, height = 0, 0.0
    while at < n:
        low, high = -np.inf, np.inf
        low_end, high_end = at, at
        end = at + 1
        slope, stop, value = 0.0, n, total[n]
        while True:
            slack = 0.0 if end == n else weight
            under = (total[end] - slack - height) / (end - at)
            over = (total[end] + slack - height) / (end - at)
            if under > high:
                slope, stop, value = high, high_end, total[high_end] + weight
                break
            if over < low:
                slope, stop, value = low, low_end, total[low_end] - weight
                break
            if end == n:
                slope, stop, value = under, n, total[n]
                break
            if under >= low:
                low, low_end = under, end
            if over <= high:
                high, high_end = over, end
            end += 1
        x[at:stop] = slope
        at, height = stop, value
    return x


def hmm(probs: Array, speech: Flags, switch: float) -> Ints:
    """The most likely path of a hidden Markov model in which each change of class costs `switch` nats, found when
    everything has been heard."""
    logs = np.log(np.maximum(known(probs, speech).astype(np.float64), FLOOR))
    return spoken(viterbi(logs, switch), speech)


@njit(cache=True)
def viterbi(logs: NDArray[np.float64], switch: float) -> Ints:
    """The labels `[T]` with the greatest sum of `logs` `[T, C]` less `switch` for each change."""
    frames, classes = logs.shape
    came = np.zeros((frames, classes), np.int64)
    score = logs[0].copy()
    for t in range(1, frames):
        best = score.argmax()
        reached = score[best] - switch
        for c in range(classes):
            stays = score[c] >= reached
            came[t, c] = c if stays else best
            score[c] = (score[c] if stays else reached) + logs[t, c]
    path = np.empty(frames, np.int64)
    path[-1] = score.argmax()
    for t in range(frames - 1, 0, -1):
        path[t - 1] = came[t, path[t]]
    return path


def ours(probs: Array, speech: Flags, settings: DecoderSettings) -> Ints:
    """sedstream's decoder: what it has said is final after `settings.lag` frames."""
    decoder = Decoder(probs.shape[1], settings)
    logs = np.log(np.maximum(known(probs, speech), FLOOR))
    return spoken(np.concatenate([decoder.push(quantise(logs), speech), decoder.flush()]), speech)


def methods(settings: DecoderSettings) -> dict[str, dict[str, Method]]:
    """Name of the method -> its parameters as text -> the method with them; a dozen tries for each that has any."""
    switches = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
    weights = (0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
    widths = (5, 11, 17, 25, 35, 45, 55, 65, 75, 101, 125, 151)
    durations = [(nats, frames) for nats in (2, 4, 8, 16) for frames in (10, 20, 30)]
    tried = {
        f"switch {nats} nats, at least {frames * 20} ms": replace(
            settings, switch=nats * 256, min_duration=frames, lag=max(settings.lag, frames)
        )
        for nats, frames in durations
    }
    return {
        "argmax": {"": argmax},
        "median filter": {f"{width * 20} ms": partial(median, width=width) for width in widths},
        "total variation": {f"weight {weight}": partial(variation, weight=weight) for weight in weights},
        "HMM, Viterbi, offline": {f"switch {switch} nats": partial(hmm, switch=float(switch)) for switch in switches},
        "sedstream": {name: partial(ours, settings=some) for name, some in tried.items()},
        "sedstream, as in the manifest": {"": partial(ours, settings=settings)},
    }
