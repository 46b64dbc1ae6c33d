"""eGeMAPS and a support vector machine on windows of 2 s: what openSMILE users do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedstream.grid import HOP, RATE

from .cases import Array, Case, Ints

WINDOW, STEP = 100, 50
"""Frames of a window (2 s), and between two of them (1 s)."""
COSTS = (1.0, 10.0)
Functionals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Windows:
    """Functionals `[n, 88]` of windows, and the class `[n]` that each has in most of its frames."""

    functionals: Functionals
    classes: Ints


class Acoustics:
    """openSMILE's eGeMAPSv02 functionals (Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set", 2016)."""

    def __init__(self) -> None:
        import opensmile

        level = opensmile.FeatureLevel.Functionals
        self._smile = opensmile.Smile(feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=level)

    def windows(self, samples: Array) -> Functionals:
        """Samples float32 `[n]` -> functionals of its windows `[ceil(T / STEP), 88]`; the last ones are shorter."""
        starts = range(0, max(1, len(samples) - HOP), STEP * HOP)
        rows = []
        for start in starts:
            # Of half a second and more: less has no functionals.
            part = samples[max(0, min(start, len(samples) - RATE // 2)) :][: WINDOW * HOP]
            rows.append(self._smile.process_signal(part, RATE).to_numpy()[0])
        return np.nan_to_num(np.array(rows, np.float64))

    def sheet(self, cases: Sequence[Case]) -> Windows:
        """The windows of concatenations with their classes."""
        functionals, classes = [], []
        for case in cases:
            rows = self.windows(case.samples())
            functionals.append(rows)
            for n in range(len(rows)):
                classes.append(np.bincount(case.truth[n * STEP :][:WINDOW]).argmax())
        return Windows(np.concatenate(functionals), np.array(classes))


def machine(train: Sequence[Windows], valid: Sequence[Windows]) -> Any:
    """A scaled SVM with radial kernel, its cost chosen on valid by the share of windows that are right."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y = (np.concatenate([getattr(w, name) for w in train]) for name in ("functionals", "classes"))
    found = []
    for cost in COSTS:
        model = make_pipeline(StandardScaler(), SVC(C=cost)).fit(x, y)
        right = np.mean([(model.predict(w.functionals) == w.classes).mean() for w in valid])
        found.append((right, -cost, model))
    return max(found, key=lambda row: row[:2])[2]


def classes(model: Any, functionals: Functionals, frames: int) -> Ints:
    """Class of each frame `[T]`: that of the window whose middle is nearest."""
    answers = model.predict(functionals)
    middles = np.arange(len(answers)) * STEP + WINDOW // 2
    nearest = np.abs(np.arange(frames)[:, None] - middles).argmin(1)
    found: Ints = answers[nearest]
    return found
