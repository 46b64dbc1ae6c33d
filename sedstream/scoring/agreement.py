"""How well two curves agree: the concordance correlation coefficient of arousal and of valence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .sheet import SECOND, Span
from .sweep import Region


def ccc(reference: ArrayLike, hypothesis: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """The concordance correlation coefficient, -1…1, of two arrays ``[n]`` on the same scale.

    2·cov / (var + var' + (mean - mean')²) (Lin: *A concordance correlation coefficient to evaluate reproducibility*,
    Biometrics 45, 1989), with population variances; ``weights`` ``[n]``, ≥ 0, here seconds. None when it is undefined:
    no value, or both constant and equal.
    """
    x, y = np.asarray(reference, np.float64), np.asarray(hypothesis, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not w.sum() > 0:
        return None
    w = w / w.sum()
    x_mean, y_mean = float(w @ x), float(w @ y)
    spread = float(w @ (x - x_mean) ** 2 + w @ (y - y_mean) ** 2) + (x_mean - y_mean) ** 2
    return 2 * float(w @ ((x - x_mean) * (y - y_mean))) / spread if spread > 0 else None


class Curves:
    """Arousal or valence of both sides, over the scored time in which both give it; overlapping values are averaged."""

    def __init__(self, name: Literal["arousal", "valence"]) -> None:
        self._name = name
        self._rows: list[tuple[float, float, float]] = []

    def count(self, regions: Iterable[Region]) -> None:
        """Add a track."""
        for region in regions:
            x, y = self._value(region.reference), self._value(region.hypothesis)
            if x is not None and y is not None:
                self._rows.append((x, y, region.length / SECOND))

    @property
    def ccc(self) -> float | None:
        """Weighted by time, over all that was counted; None when it is undefined."""
        if not self._rows:
            return None
        x, y, seconds = np.asarray(self._rows).T
        return ccc(x, y, seconds)

    def _value(self, spans: Iterable[Span]) -> float | None:
        values = [value for span in spans if (value := getattr(span, self._name)) is not None]
        return sum(values) / len(values) if values else None
