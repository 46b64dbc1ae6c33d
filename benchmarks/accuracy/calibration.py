"""Whether probabilities mean what they say."""

from __future__ import annotations

import numpy as np

from .bench import Bench, mean
from .cases import LABELS, Array, Case, Ints
from .hearing import Heard
from .measures import ece, reliability, tempered
from .tables import percent, table

EDGES = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def spoken(cases: list[Case], heard: list[Heard]) -> tuple[Array, Ints]:
    """Probabilities `[n, C]` and classes `[n]` of all frames of speech."""
    probs = np.concatenate([h.probs[h.speech] for h in heard])
    return probs, np.concatenate([c.truth[h.speech] for c, h in zip(cases, heard, strict=True)])


def segments(cases: list[Case], heard: list[Heard]) -> list[tuple[float, float, int]]:
    """Confidence, share of right frames, and number of frames of every segment."""
    found = []
    for case, answer in zip(cases, heard, strict=True):
        for segment in answer.segments:
            right = case.truth[segment.start : segment.end] == LABELS.index(segment.label)
            found.append((segment.confidence, float(right.mean()), len(right)))
    return found


def calibration(bench: Bench) -> str:
    """ECE of frames before and after the temperature; the error of segments by their confidence."""
    temperature = bench.ear.model.manifest.temperature
    rows, all_probs, all_truth = [], [], []
    found: list[tuple[float, float, int]] = []
    for name, cases in bench.cases().items():
        heard = bench.ear.cases(cases, bench.plan)
        probs, truth = spoken(cases, heard)
        all_probs.append(probs)
        all_truth.append(truth)
        rows.append((name, str(len(truth)), ece(tempered(probs, temperature), truth), ece(probs, truth)))
        found += segments(cases, heard)
    probs, truth = np.concatenate(all_probs), np.concatenate(all_truth)
    macro = [mean([row[n] for row in rows]) for n in (2, 3)]
    rows.append(("**mean over corpora**", "", *macro))
    rows.append(("**all frames**", str(len(truth)), ece(tempered(probs, temperature), truth), ece(probs, truth)))
    cells = [(name, count, percent(before), f"**{percent(after)}**") for name, count, before, after in rows]
    sure, right, frames = zip(*found, strict=True)
    bins = reliability(sure, right, EDGES, frames)
    shown = [
        (f"{b.low:.1f} to {b.high:.1f}", f"{b.weight / 3000:.1f}", percent(b.confidence), percent(1 - b.right))
        for b in bins
    ]
    return f"""Frames of speech of the four patterns, plan {bench.plan}, probabilities of {", ".join(LABELS)}; expected
calibration error of the most likely class, 15 bins. Before: the temperature of {temperature:g} undone.

{table(("ECE of frames", "frames", "before %", "after %"), cells)}

{table(("confidence of the segment", "minutes", "mean confidence %", "time with another label %"), shown)}"""
