"""The emotion diarization error rate and its four parts.

Wang, Ravanelli, Yacoubi: *Speech Emotion Diarization: Which Emotion Appears When?*, ASRU 2023, arXiv:2306.12991:
EDER = (false alarm + missed emotion + confusion + overlap) / duration.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .sheet import SECOND
from .sweep import Region


@dataclass(frozen=True, slots=True)
class Eder:
    """Time in error by kind, and the time scored, all in nanoseconds; sums of these are pooled (micro) results.

    With R and H the emotions (neutral is none) of reference and hypothesis at an instant, it counts once, as

    * nothing, when R = H;
    * ``false_alarm``, when R is empty: emotion where there is none;
    * ``missed``, when H lacks emotions of R and claims no wrong one: H is empty, or a proper part of R;
    * ``overlap``, when H holds all of R and further, wrong emotions beside;
    * ``confusion``, when H claims a wrong emotion in place of one of R.

    For R of at most one emotion these are the four cases of the paper. Every instant counts at most once, so that the
    rate lies in 0…1, and 1 - rate is the share of time that is entirely right: SpeechBrain's formula.
    """

    false_alarm: int = 0
    missed: int = 0
    confusion: int = 0
    overlap: int = 0
    total: int = 0

    def __add__(self, other: Eder) -> Eder:
        return Eder(
            self.false_alarm + other.false_alarm,
            self.missed + other.missed,
            self.confusion + other.confusion,
            self.overlap + other.overlap,
            self.total + other.total,
        )

    @property
    def error(self) -> int:
        """The four parts together, nanoseconds."""
        return self.false_alarm + self.missed + self.confusion + self.overlap

    @property
    def rate(self) -> float | None:
        """EDER, 0…1; None when nothing was scored."""
        return self.error / self.total if self.total else None

    def to_dict(self) -> dict[str, float | None]:
        """``eder`` and its parts as shares of the scored time, 0…1, None when nothing was; ``seconds`` scored."""
        shares = {name: getattr(self, name) for name in ("false_alarm", "missed", "confusion", "overlap")}
        parts = {name: part / self.total if self.total else None for name, part in shares.items()}
        return {"eder": self.rate, **parts, "seconds": self.total / SECOND}


def eder(regions: Iterable[Region]) -> Eder:
    """The errors in scored regions; see :class:`Eder` for what counts as which."""
    false_alarm = missed = confusion = overlap = total = 0
    for region in regions:
        reference, hypothesis = region.emotions
        length = region.length
        total += length
        if reference == hypothesis:
            continue
        if not reference:
            false_alarm += length
        elif hypothesis < reference:
            missed += length
        elif hypothesis > reference:
            overlap += length
        else:
            confusion += length
    return Eder(false_alarm, missed, confusion, overlap, total)


def mean(parts: Iterable[Eder]) -> float | None:
    """The macro average: every part weighs the same, however long; those where nothing was scored are left out."""
    rates = [part.rate for part in parts]
    known = [rate for rate in rates if rate is not None]
    return sum(known) / len(known) if known else None
