"""Calls of minutes: what a session learns of its voice is worth, and what it costs whoever is never neutral."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sedstream.grid import RATE
from sedstream.training.corpora import Utterance

from .bench import Bench, errors, mean
from .cases import LABELS, Case, by_voice
from .hearing import Ear, tracks
from .tables import percent, table

KINDS: Mapping[str, tuple[tuple[float, ...], int]] = {
    "mostly neutral": ((0.7, 0.1, 0.1, 0.1), 240),
    "all alike": ((0.25, 0.25, 0.25, 0.25), 240),
    **{f"{label} only": (tuple(float(label == other) for other in LABELS), 60) for label in LABELS},
}
"""The share of each of LABELS among the turns, and seconds."""
TURN = 3
"""Utterances of one emotion in a row, at most."""
VOICES = 6
"""Of a corpus, those with the most utterances,"""
LEAST = 12
"""of which each has so many,"""
SAID = 3
"""in so many of LABELS."""


def calls(utterances: Sequence[Utterance], shares: Sequence[float], seconds: int, kind: str) -> list[Case]:
    """A call of each voice that has enough to say, in random turns of one to TURN utterances of an emotion."""
    voices = by_voice(utterances)
    size = {speaker: sum(map(len, said.values())) for speaker, said in voices.items() if len(said) >= SAID}
    able = [speaker for speaker in sorted(size, key=lambda name: (-size[name], name)) if size[speaker] >= LEAST]
    found = []
    for speaker in able[:VOICES]:
        said = voices[speaker]
        known = np.array([share if said[label] else 0.0 for label, share in zip(LABELS, shares, strict=True)])
        if not known.any():
            continue
        rng = np.random.default_rng(zlib.crc32(f"{speaker} {kind}".encode()))
        parts: list[Utterance] = []
        while sum(len(part.samples) for part in parts) < seconds * RATE:
            turn = said[LABELS[rng.choice(len(LABELS), p=known / known.sum())]]
            parts += [turn[rng.integers(len(turn))] for _ in range(rng.integers(TURN) + 1)]
        found.append(Case(parts[0].corpus, speaker, kind, 0, tuple(parts)))
    return found


def voices(bench: Bench) -> str:
    """EDER in calls of each kind, as the model is and without what it learns of a voice."""
    bare = copy.copy(bench.ear.model)
    bare.manifest = replace(bare.manifest, voice=None)
    said = {name: [u for _, u in bench.material.utterances(bench.split, name)] for name in bench.names(bench.split)}
    rows = []
    for kind, (shares, seconds) in KINDS.items():
        found = [calls(utterances, shares, seconds, kind) for utterances in said.values()]
        for title, ear in ((kind, bench.ear), (f"{kind}, without", Ear(bare))):
            rates = [
                errors(tracks(cases, [h.spans for h in ear.cases(cases, bench.plan)])).rate if cases else None
                for cases in found
            ]
            rows.append((title, f"**{percent(mean(rates))}**", *map(percent, rates)))
    return f"""Plan {bench.plan}; one voice a call, its utterances in random turns of one to {TURN} of an emotion, up to
{VOICES} voices of a corpus. Mostly neutral: 7 turns of 10, 4 minutes; all alike: 4 minutes; only: a minute. "Without":
what neutral sounds like in a voice is not learned (`sedstream.decoding.voice`).

{table(("calls", "macro EDER %", *said), rows)}"""
