"""What lines, rooms and neighbours do to a voice: noise, echo, tone, telephone band, level."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import (  # type: ignore[import-untyped]
    butter,
    fftconvolve,
    lfilter,
    resample_poly,
    sosfilt,
)

from ..grid import RATE

MU = 255.0


def augment(
    samples: NDArray[np.float32], noises: Sequence[NDArray[np.int16]], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A window as another microphone, room or telephone would have given it; about a third stay as they are.

    Args:
        samples: float32 `[n]` at 16 kHz, full scale 1.
        noises: recordings to mix in, int16 at 16 kHz; may be empty.
        rng: source of every choice.
    """
    if rng.random() < 0.35:
        return samples
    if rng.random() < 0.20:
        samples = echo(samples, rng)
    if rng.random() < 0.35:
        samples = tone(samples, rng)
    if rng.random() < 0.55:
        samples = noisy(samples, _noise(noises, len(samples), rng), rng.uniform(0, 30))
    if rng.random() < 0.35:
        samples = telephone(samples, rng)
    return level(samples, rng.uniform(-20, 20))


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
