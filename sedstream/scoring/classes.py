"""Per class: frames right and wrong (F1, recall), and which emotion was taken for which (seconds)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..grid import HOP, RATE
from .labels import NEUTRAL
from .sheet import SECOND
from .sweep import Region

FRAME = HOP * SECOND // RATE
"""20 ms, in nanoseconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """What there was (``reference``), what was claimed (``hypothesis``), and how many of the claims were ``right``."""

    right: int = 0
    reference: int = 0
    hypothesis: int = 0

    def __add__(self, other: Found) -> Found:
        return Found(self.right + other.right, self.reference + other.reference, self.hypothesis + other.hypothesis)

    @property
    def precision(self) -> float | None:
        """0…1; None when nothing was claimed."""
        return self.right / self.hypothesis if self.hypothesis else None

    @property
    def recall(self) -> float | None:
        """0…1; None when there was nothing."""
        return self.right / self.reference if self.reference else None

    @property
    def f1(self) -> float | None:
        """2·right / (reference + hypothesis), 0…1; None when there was nothing and nothing was claimed."""
        both = self.reference + self.hypothesis
        return 2 * self.right / both if both else None

    def to_dict(self) -> dict[str, float | int | None]:
        counts: dict[str, float | int | None] = {"right": self.right, "reference": self.reference}
        counts |= {"hypothesis": self.hypothesis, "precision": self.precision, "recall": self.recall, "f1": self.f1}
        return counts


@dataclass(slots=True)
class Frames:
    """20 ms frames by class. A frame *f* is scored, and has the labels that hold, at its centre, (f + ½)·20 ms.

    A frame without emotion is of class neutral; one with several emotions counts for each of them.
    """

    classes: dict[str, Found] = field(default_factory=dict)

    def count(self, regions: Iterable[Region]) -> None:
        """Add the frames of a track."""
        right: Counter[str] = Counter()
        reference: Counter[str] = Counter()
        hypothesis: Counter[str] = Counter()
        for region in regions:
            frames = _centres(region.end) - _centres(region.start)
            if not frames:
                continue
            left, claimed = (felt or {NEUTRAL} for felt in region.emotions)
            for tally, names in ((reference, left), (hypothesis, claimed), (right, left & claimed)):
                for name in names:
                    tally[name] += frames
        for name in {*reference, *hypothesis}:
            found = Found(right[name], reference[name], hypothesis[name])
            self.classes[name] = self.classes.get(name, Found()) + found

    @property
    def macro_f1(self) -> float | None:
        """Mean F1 of the classes that the reference or the hypothesis has; None without frames."""
        return _mean(found.f1 for found in self.classes.values())

    @property
    def micro_f1(self) -> float | None:
        """F1 of all classes together: the share of right frames where both sides have one label each."""
        return sum(self.classes.values(), Found()).f1

    @property
    def uar(self) -> float | None:
        """Unweighted average recall: the mean over the classes that the reference has; chance is 1 / their number."""
        return _mean(found.recall for found in self.classes.values())

    def to_dict(self) -> dict[str, object]:
        return {
            "macro_f1": self.macro_f1,
            "micro_f1": self.micro_f1,
            "uar": self.uar,
            "classes": {name: self.classes[name].to_dict() for name in sorted(self.classes)},
        }


def confusion(regions: Iterable[Region], into: dict[tuple[str, str], float]) -> None:
    """Add to ``into`` the seconds by (emotion of the reference, emotion of the hypothesis).

    Each emotion of the reference has its full time in its row: on the diagonal where the hypothesis has it too, else in
    equal shares under the wrong emotions claimed, or under neutral when there are none. A wrong emotion claimed beside
    nothing but right ones stands in the row of neutral.
    """
    for region in regions:
        reference, hypothesis = region.emotions
        seconds = region.length / SECOND
        pairs = [(name, name, seconds) for name in reference & hypothesis]
        missing, wrong = sorted(reference - hypothesis), sorted(hypothesis - reference)
        if missing:
            shared = wrong or [NEUTRAL]
            pairs += [(name, other, seconds / len(shared)) for name in missing for other in shared]
        elif wrong:
            pairs += [(NEUTRAL, other, seconds) for other in wrong]
        elif not reference:
            pairs = [(NEUTRAL, NEUTRAL, seconds)]
        for row, column, share in pairs:
            into[row, column] = into.get((row, column), 0.0) + share


def _centres(time: int) -> int:
    """How many frame centres lie before ``time``."""
    return max(0, -((FRAME // 2 - time) // FRAME))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
