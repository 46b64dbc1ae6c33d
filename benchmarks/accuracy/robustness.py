"""The same recordings through lines, noise and losses."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from sedstream.audio.pcm import decode, encode
from sedstream.audio.resample import Resampler
from sedstream.grid import HOP
from sedstream.scoring import Eder

from .bench import Bench, errors, mean
from .cases import NEUTRAL, Array, Case, ticks
from .hearing import Line, tracks
from .tables import percent, table

PEAK = 0.1
"""-20 dB: from here, 20 dB up is full scale, and 20 dB down the loudest sample is 328 of 32768."""
LOSS = 0.1
OFFSET = 0.02
"""What a cheap sound card adds to each sample."""


def telephone(samples: Array) -> Array:
    """G.711 mu-law at 8 kHz, and back to 16 kHz as sedstream reads it; `[n]` -> `[n]`."""
    narrow = resample_poly(samples, 1, 2).astype(np.float32)
    resampler = Resampler(8000)
    wide = np.concatenate([resampler.push(decode(encode(narrow, "mulaw"), "mulaw")[:, 0]), resampler.flush()])
    return wide[: len(samples)]


def noisy(samples: Array, noise: NDArray[np.int16], decibels: float, rng: np.random.Generator) -> Array:
    """`noise`, from a random place on and repeated, added at a signal-to-noise ratio in dB, both over all samples."""
    start = int(rng.integers(len(noise)))
    heard = np.resize(np.roll(noise, -start), len(samples)).astype(np.float32) / 32768
    powers = float(np.mean(samples**2)), float(np.mean(heard**2))
    if not all(powers):
        return samples
    gain = np.sqrt(powers[0] / powers[1] * 10 ** (-decibels / 10))
    return (samples + gain * heard).astype(np.float32)


def level(samples: Array, decibels: float) -> Array:
    """The loudest sample at PEAK and `decibels` above, clipped at full scale and rounded to 16 bits."""
    peak = float(np.abs(samples).max())
    gained = samples * (PEAK * 10 ** (decibels / 20) / peak) if peak else samples
    return (np.clip(np.rint(gained * 32768), -32768, 32767) / 32768).astype(np.float32)


def offset(samples: Array) -> Array:
    """The loudest sample at PEAK, and OFFSET added."""
    return level(samples, 0) + np.float32(OFFSET)


def lossy(samples: Array, share: float, rng: np.random.Generator) -> Array:
    """Packets of 20 ms lost independently; zeros stand for them, as a session puts them there."""
    lost = np.repeat(rng.random(-(-len(samples) // HOP)) < share, HOP)[: len(samples)]
    return np.where(lost, np.float32(0), samples)


def lines(noises: Sequence[NDArray[np.int16]]) -> dict[str, Line]:
    """The conditions by name. What is random in them depends on the recording only: its noise is the same at each
    ratio."""

    def noise(case: Case, decibels: float) -> Array:
        rng = seeded(case)
        return noisy(case.samples(), noises[int(rng.integers(len(noises)))], decibels, rng)

    def lose(case: Case) -> Array:
        return lossy(case.samples(), LOSS, seeded(case))

    def gain(case: Case, decibels: float) -> Array:
        return level(case.samples(), decibels)

    mixed = {f"noise, {db} dB": partial(noise, decibels=float(db)) for db in (20, 10, 5)} if noises else {}
    levels = {
        name: partial(gain, decibels=float(db))
        for name, db in (("peak at -20 dB", 0), ("20 dB louder", 20), ("20 dB softer", -20))
    }
    return {
        "G.711, 8 kHz": lambda case: telephone(case.samples()),
        **mixed,
        **levels,
        "offset": lambda case: offset(case.samples()),
        "10 % packet loss": lose,
    }


def seeded(case: Case) -> np.random.Generator:
    """The same numbers for the same recording, in every run."""
    name = f"{case.speaker} {case.pattern} {case.number} {case.ends}"
    return np.random.default_rng(zlib.crc32(name.encode()))


def robustness(bench: Bench) -> str:
    """EDER of half of the files of the four patterns, through each line."""
    corpora = {
        name: [c for c in cases if c.number < max(1, bench.repeats // 2)] for name, cases in bench.cases().items()
    }
    rows = []
    base = float("nan")
    for name, line in {"clean": None, **lines(bench.material.corpora.noises)}.items():
        found = {
            corpus: errors(
                tracks(cases, [h.spans for h in bench.ear.cases(cases, bench.plan, name if line else "", line)])
            )
            for corpus, cases in corpora.items()
        }
        rates = [found[corpus].rate for corpus in corpora]
        macro = mean(rates)
        base = macro if line is None else base
        more = "" if line is None else f"{100 * (macro - base):+.1f}"
        alarms = percent(alarm(found, corpora))
        rows.append((name, f"**{percent(macro)}**", more, *map(percent, rates), alarms))
    columns = ("line", "macro EDER %", "more than clean", *corpora, "neutral false alarm %")
    return f"""Plan {bench.plan}; half of the files of the four patterns, the same ones in each row. Neutral false
alarm: share of the neutral time that is called an emotion, mean over corpora. The noise is what training mixes in too
(environment, noise, hold music): its voices are unheard, the noise is not. G.711: mu-law at the recording's own level.
±20 dB are against recordings whose loudest sample is 20 dB under full scale, rounded to 16 bits; the offset is a
constant of 2 % of full scale added to these. Lost packets are 20 ms each, independent of each other, and zeros stand
for them.

{table(columns, rows)}"""


def alarm(found: Mapping[str, Eder], corpora: Mapping[str, Sequence[Case]]) -> float:
    """Share of the neutral time in which an emotion is claimed, 0…1, mean over corpora."""
    shares: list[float | None] = []
    for corpus, cases in corpora.items():
        neutral = sum(
            ticks(len(part.samples))
            for case in cases
            for part, label in zip(case.parts, case.classes, strict=True)
            if label == NEUTRAL
        )
        shares.append(found[corpus].false_alarm / neutral if neutral else None)
    return mean(shares)
