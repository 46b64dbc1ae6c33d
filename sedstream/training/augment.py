"""What lines, rooms and neighbours do to a voice: noise, cross-talk, hold music, echo, tone, telephone band, lost
packets, level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import (  # type: ignore[import-untyped]
    butter,
    fftconvolve,
    lfilter,
    resample_poly,
    sosfilt,
)

from ..grid import HOP, RATE, frames_of

MU = 255.0
GAP = RATE * 3 // 10
"""Samples without a sound from which on something else may be heard there."""


def augment(
    samples: NDArray[np.float32],
    noises: Sequence[NDArray[np.int16]],
    other: NDArray[np.int16],
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """A window as another microphone, room or telephone would have given it; about a third stay as they are.

    Args:
        samples: float32 `[n]` at 16 kHz, full scale 1.
        noises: recordings to mix in, int16 at 16 kHz; may be empty.
        other: what another voice says meanwhile, int16 `[m]`.
        rng: source of every choice.
    """
    if rng.random() < 0.35:
        return samples
    if rng.random() < 0.30:
        samples = held(samples, other if rng.random() < 0.5 else _noise(noises, len(samples), rng), rng)
    if rng.random() < 0.10:
        samples = noisy(samples, np.resize(other, len(samples)).astype(np.float32), rng.uniform(8, 30))
    if rng.random() < 0.20:
        samples = echo(samples, rng)
    if rng.random() < 0.35:
        samples = tone(samples, rng)
    if rng.random() < 0.55:
        samples = noisy(samples, _noise(noises, len(samples), rng), rng.uniform(0, 30))
    if rng.random() < 0.35:
        samples = telephone(samples, rng)
    if rng.random() < 0.15:
        samples = lossy(samples, rng.uniform(0, 0.12), rng)
    return level(samples, rng.uniform(-20, 20))


def held(samples: NDArray[np.float32], sound: NDArray[Any], rng: np.random.Generator) -> NDArray[np.float32]:
    """`samples` whose gaps (digital silence of 0.3 s or more) are filled with `sound` `[m]`: hold music, or the other
    side of the line; it peaks 0 to 20 dB under the loudest of `samples`."""
    edges = np.flatnonzero(np.diff(samples == 0, prepend=False, append=False))
    peak = np.abs(sound).max(initial=0)
    if peak <= 0:
        return samples
    filled = samples.copy()
    gain = np.abs(samples).max() / peak * 10 ** (-rng.uniform(0, 20) / 20)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= GAP:
            filled[start:end] = gain * np.resize(sound, end - start)
    return filled


def lossy(samples: NDArray[np.float32], share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """`samples` with a `share` of the packets of 20 ms lost, in bursts of two on average: zeros, as a session hears
    them."""
    packets = frames_of(len(samples))
    # A chain of two states: half of what is lost is followed by a packet that is there (Gilbert, 1960).
    lost = np.zeros(packets, np.bool_)
    dice = rng.random(packets)
    enter = 0.5 * share / (1 - share)
    for n in range(1, packets):
        lost[n] = dice[n] < (0.5 if lost[n - 1] else enter)
    kept: NDArray[np.float32] = np.where(np.repeat(lost, HOP)[: len(samples)], np.float32(0), samples)
    return kept


def noisy(samples: NDArray[np.float32], noise: NDArray[np.float32], decibels: float) -> NDArray[np.float32]:
    """`samples` with `noise` float32 `[n]` added at a signal-to-noise ratio in dB, over what is not digital silence."""
    signal = np.mean(np.square(samples[samples != 0])) if samples.any() else 0.0
    power = np.mean(np.square(noise))
    if signal <= 0 or power <= 0:
        return samples
    gain = np.sqrt(signal / power * 10 ** (-decibels / 10))
    mixed: NDArray[np.float32] = (samples + gain * noise).astype(np.float32)
    return mixed


def telephone(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """`samples` through a telephone: 8 kHz, about 300 to 3400 Hz, G.711 mu-law."""
    edges = (rng.uniform(80, 320), rng.uniform(3200, 3700))
    narrow = resample_poly(sosfilt(butter(3, edges, "bandpass", fs=RATE, output="sos"), samples), 1, 2)
    peak = np.abs(narrow).max()
    if peak <= 0:
        return samples
    # A line is driven at -30 to -3 dB of full scale: G.711 is coarse only for what is soft.
    narrow = narrow * (10 ** (rng.uniform(-30, -3) / 20) / peak)
    code = np.round(np.sign(narrow) * np.log1p(MU * np.abs(narrow)) / np.log1p(MU) * 127) / 127
    line = np.sign(code) * np.expm1(np.abs(code) * np.log1p(MU)) / MU
    wide: NDArray[np.float32] = resample_poly(line, 2, 1)[: len(samples)].astype(np.float32)
    return wide


def tone(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """`samples` with a random tilt of the spectrum, a few dB an octave."""
    tilted: NDArray[np.float32] = lfilter([1, -rng.uniform(-0.6, 0.6)], [1], samples).astype(np.float32)
    return tilted


def echo(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """`samples` in a small room: noise decaying by 60 dB in 0.1 to 0.5 s, 3 to 20 dB under the direct sound."""
    decay = rng.uniform(0.1, 0.5)
    time = np.arange(int(decay * RATE)) / RATE
    tail = rng.normal(size=len(time)) * 10 ** (-3 * time / decay)
    tail *= 10 ** (-rng.uniform(3, 20) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    room: NDArray[np.float32] = fftconvolve(samples, tail)[: len(samples)].astype(np.float32)
    return room


def level(samples: NDArray[np.float32], decibels: float) -> NDArray[np.float32]:
    """`samples` at some dB above a peak of 0.15, clipped at full scale and rounded to 16 bits."""
    peak = np.abs(samples).max()
    if peak <= 0:
        return samples
    gained = samples * (10 ** (decibels / 20) * 0.15 / peak)
    rounded: NDArray[np.float32] = (np.round(np.clip(gained, -1, 1) * 32767) / 32768).astype(np.float32)
    return rounded


def _noise(noises: Sequence[NDArray[np.int16]], length: int, rng: np.random.Generator) -> NDArray[np.float32]:
    if not noises or rng.random() < 0.15:
        return rng.normal(size=length).astype(np.float32)
    noise = noises[int(rng.integers(len(noises)))]
    start = int(rng.integers(max(1, len(noise) - length)))
    return np.resize(noise[start : start + length], length).astype(np.float32) / np.float32(32768)
