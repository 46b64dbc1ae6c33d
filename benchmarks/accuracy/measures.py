"""Measures that `sedstream.scoring` does not have: calibration, and how well a number puts things in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import mannwhitneyu, spearmanr

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Answers with a confidence in [low, high): how many (or how long), mean confidence, share that is right."""

    low: float
    high: float
    weight: float
    confidence: float
    right: float


def reliability(
    confidence: ArrayLike, right: ArrayLike, edges: Sequence[float], weights: ArrayLike | None = None
) -> list[Bin]:
    """Bins of answers `[n]` by confidence 0…1; the last one has its upper end in it, empty ones are left out.

    `right`: 0…1, the share of each answer that is right; `weights`: how much each counts.
    """
    sure, good = np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    count = np.ones_like(sure) if weights is None else np.asarray(weights, np.float64)
    place = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, len(edges) - 2)
    bins = []
    for n in range(len(edges) - 1):
        held = place == n
        weight = float(count[held].sum())
        if weight:
            means = [float(count[held] @ values[held]) / weight for values in (sure, good)]
            bins.append(Bin(edges[n], edges[n + 1], weight, *means))
    return bins


def ece(probs: ArrayLike, truth: ArrayLike) -> float:
    """Expected calibration error, 0…1, of probabilities `[n, C]` of classes `[n]`: top label, 15 equal bins.

    Guo, Pleiss, Sun, Weinberger: *On Calibration of Modern Neural Networks*, ICML 2017.
    """
    p = np.asarray(probs, np.float64)
    bins = reliability(p.max(1), p.argmax(1) == np.asarray(truth), np.linspace(0, 1, BINS + 1).tolist())
    total = sum(b.weight for b in bins)
    return sum(b.weight * abs(b.confidence - b.right) for b in bins) / total


def tempered(probs: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Probabilities `[n, C]` with the logits of a softmax multiplied by `temperature`: what they were before the
    division by it."""
    logs = temperature * np.log(np.maximum(probs.astype(np.float64), 1e-30))
    powers = np.exp(logs - logs.max(1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return result


def auc(high: ArrayLike, low: ArrayLike) -> float:
    """Area under the ROC curve: how often one of `high` `[n]` exceeds one of `low` `[m]`, ties half."""
    above, below = np.asarray(high), np.asarray(low)
    return float(mannwhitneyu(above, below).statistic) / (len(above) * len(below))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, -1…1, of two arrays `[n]`."""
    return float(spearmanr(x, y).statistic)


def uar(truth: ArrayLike, answer: ArrayLike) -> float:
    """Unweighted average recall, 0…1, over the classes that `truth` `[n]` has."""
    real, claimed = np.asarray(truth), np.asarray(answer)
    return float(np.mean([(claimed[real == name] == name).mean() for name in np.unique(real)]))
