"""What came out, as numbers (``to_dict``) and as text (``table``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .classes import Found, Frames
from .eder import Eder, mean
from .labels import NEUTRAL
from .sheet import SECOND

SHOWN = 10
"""Speakers in the text: all of so many, else the worst and best halves of it."""
COLUMNS = 7
"""Emotions beside one another in the confusion table."""
WIDTH = 26
"""Of the first column."""


@dataclass(frozen=True, slots=True)
class Result:
    """``eder`` pooled over all files (micro), and the mean of the files' rates (``macro``), 0…1 or None."""

    eder: Eder
    macro: float | None

    def to_dict(self) -> dict[str, Any]:
        return {"micro": self.eder.to_dict(), "macro": self.macro}


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a hypothesis gets that says ``label`` everywhere."""

    label: str
    result: Result
    frames: Frames

    def to_dict(self) -> dict[str, Any]:
        rates = {"frame_macro_f1": self.frames.macro_f1, "uar": self.frames.uar}
        return {"label": self.label, **self.result.to_dict(), **rates}


@dataclass(frozen=True, slots=True)
class Fragments:
    """Stretches of constant emotion (neutral included) on either side, in ``minutes`` of recording."""

    reference: int
    hypothesis: int
    minutes: float

    def per_minute(self) -> tuple[float | None, float | None]:
        """Of reference and hypothesis; None for recordings without length."""
        if not self.minutes:
            return None, None
        return self.reference / self.minutes, self.hypothesis / self.minutes


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that :func:`~sedstream.scoring.score` finds. Rates are 0…1, times seconds; None is undefined.

    ``result``: at the ``collar`` and ``silence`` asked for, as are the baselines ``neutral`` and ``majority`` (the
    class that the reference has most of the time), ``files``, ``speakers``, ``frames``, ``ccc`` and ``confusion``.
    ``conditions``: by (collar, silence). ``boundaries``: by tolerance in seconds. ``confusion``: seconds by
    (reference, hypothesis).
    """

    collar: float
    silence: bool
    tracks: int
    seconds: float
    result: Result
    neutral: Baseline
    majority: Baseline
    conditions: Mapping[tuple[float, bool], Result]
    files: Mapping[str, Eder]
    speakers: Mapping[str, Eder]
    frames: Frames
    segments: Found
    boundaries: Mapping[float, Found]
    fragments: Fragments
    ccc: Mapping[str, float | None]
    confusion: Mapping[tuple[str, str], float]

    @property
    def eder(self) -> float | None:
        """Pooled over all recordings, 0…1."""
        return self.result.eder.rate

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and None, for JSON."""
        reference, hypothesis = self.fragments.per_minute()
        ranked = _ranked(self.speakers)
        return {
            "collar": self.collar,
            "silence": self.silence,
            "files": len(self.files),
            "tracks": self.tracks,
            "seconds": self.seconds,
            "eder": self.result.to_dict(),
            "baselines": {
                "all-neutral": self.neutral.to_dict(),
                "majority": self.majority.to_dict(),
            },
            "conditions": [
                {"collar": collar, "silence": silence, **result.to_dict()}
                for (collar, silence), result in self.conditions.items()
            ],
            "frames": self.frames.to_dict(),
            "segments": self.segments.to_dict(),
            "boundaries": {f"{tolerance:g}": found.to_dict() for tolerance, found in self.boundaries.items()},
            "fragments_per_minute": {"reference": reference, "hypothesis": hypothesis},
            "ccc": dict(self.ccc),
            "confusion": {
                row: {column: self.confusion.get((row, column), 0.0) for column in self._classes()}
                for row in self._classes()
            },
            "speakers": {
                "mean": mean(self.speakers.values()),
                "worst": ranked[0][0] if ranked else None,
                "best": ranked[-1][0] if ranked else None,
                "each": {name: found.to_dict() for name, found in self.speakers.items()},
            },
            "by_file": {name: found.to_dict() for name, found in self.files.items()},
        }

    def table(self) -> str:
        """Text of at most 100 columns; EDER and its parts in per cent of the scored time."""
        return "\n".join(line.rstrip() for line in self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        quiet = "silence counted as neutral" if self.silence else "without silence"
        yield f"{_many(len(self.files), 'file')}, {_many(self.tracks, 'track')}, {self.seconds:.1f} s"
        yield f"collar {self.collar:g} s, {quiet}"
        yield ""
        parts = ("false alarm", "missed", "confusion", "overlap", "scored s")
        yield f"{'EDER, %':<{WIDTH}}{'micro':>7}{'macro':>7}" + "".join(f"{name:>12}" for name in parts)
        rows = [("hypothesis", self.result), (f"all {self.neutral.label}", self.neutral.result)]
        rows.append((f"all {self.majority.label[:10]} (majority)", self.majority.result))
        for name, result in rows:
            found = result.eder
            cells = [found.false_alarm, found.missed, found.confusion, found.overlap]
            shares = [part / found.total if found.total else None for part in cells]
            yield (
                f"{name:<{WIDTH}}{_percent(found.rate):>7}{_percent(result.macro):>7}"
                + "".join(f"{_percent(share):>12}" for share in shares)
                + f"{found.total / SECOND:>12.2f}"
            )
        yield "micro: all time pooled; macro: mean over files, as SpeechBrain reports it"
        yield ""
        yield from self._condition_lines()
        yield ""
        yield from self._found_lines()
        yield ""
        reference, hypothesis = self.fragments.per_minute()
        yield f"{'fragments a minute':<{WIDTH}}reference {_number(reference)}, hypothesis {_number(hypothesis)}"
        known = [f"{name} {value:.3f}" for name, value in self.ccc.items() if value is not None]
        if known:
            yield f"{'CCC':<{WIDTH}}{', '.join(known)}"
        yield ""
        yield from self._confusion_lines()
        yield from self._speaker_lines()

    def _condition_lines(self) -> Iterator[str]:
        yield f"{'EDER, %':<{WIDTH}}{'with silence':>20}{'without silence':>20}"
        yield f"{'':<{WIDTH}}{'micro':>12}{'macro':>8}{'micro':>12}{'macro':>8}"
        for collar in dict.fromkeys(collar for collar, _ in self.conditions):
            both = [self.conditions[collar, silence] for silence in (True, False)]
            yield f"{f'collar {collar:g} s':<{WIDTH}}" + "".join(
                f"{_percent(result.eder.rate):>12}{_percent(result.macro):>8}" for result in both
            )

    def _found_lines(self) -> Iterator[str]:
        yield f"{'':<{WIDTH}}{'precision':>10}{'recall':>8}{'F1':>8}{'reference':>11}{'hypothesis':>12}"
        yield "frames of 20 ms"
        for name in self._classes():
            if name in self.frames.classes:
                yield _found(f"  {name}", self.frames.classes[name])
        yield (
            f"  macro F1 {_share(self.frames.macro_f1)}, micro F1 {_share(self.frames.micro_f1)}, "
            f"UAR {_share(self.frames.uar)} (all neutral: macro F1 {_share(self.neutral.frames.macro_f1)}, "
            f"UAR {_share(self.neutral.frames.uar)})"
        )
        yield _found("segments", self.segments)
        for tolerance, found in self.boundaries.items():
            yield _found(f"boundaries ± {tolerance:g} s", found)

    def _confusion_lines(self) -> Iterator[str]:
        classes = self._classes()
        for first in range(0, len(classes), COLUMNS):
            columns = classes[first : first + COLUMNS]
            yield f"{'confusion, s':<{WIDTH}}" + "".join(f"{name[:9]:>10}" for name in columns)
            for row in classes:
                cells = "".join(f"{self.confusion.get((row, column), 0.0):>10.2f}" for column in columns)
                yield f"  {row[: WIDTH - 3]:<{WIDTH - 2}}{cells}"
        yield "rows: reference; columns: hypothesis"
        yield ""

    def _speaker_lines(self) -> Iterator[str]:
        ranked = _ranked(self.speakers)
        yield f"{'speaker':<40}{'EDER, %':>10}{'scored s':>12}"
        yield f"{f'mean of {len(ranked)}':<40}{_percent(mean(self.speakers.values())):>10}"
        halves: Sequence[Sequence[tuple[str, Eder]]] = (ranked,)
        if len(ranked) > SHOWN:
            halves = (ranked[: SHOWN // 2], ranked[-SHOWN // 2 :])
        for number, half in enumerate(halves):
            if number:
                yield f"  … {len(ranked) - SHOWN} more …"
            for name, found in half:
                short = name if len(name) <= 37 else f"{name[:36]}…"
                yield f"  {short:<38}{_percent(found.rate):>10}{found.total / SECOND:>12.2f}"
        if len(ranked) > 1:
            yield "worst first"

    def _classes(self) -> list[str]:
        """The classes that occur, neutral first."""
        names = {name for pair in self.confusion for name in pair} - {NEUTRAL}
        return [NEUTRAL, *sorted(names)]


def _ranked(speakers: Mapping[str, Eder]) -> list[tuple[str, Eder]]:
    """The worst first; those with nothing scored are left out."""
    scored: Iterable[tuple[str, Eder]] = ((name, found) for name, found in speakers.items() if found.total)
    return sorted(scored, key=lambda item: (-(item[1].rate or 0.0), item[0]))


def _found(name: str, found: Found) -> str:
    cells = f"{_share(found.precision):>10}{_share(found.recall):>8}{_share(found.f1):>8}"
    return f"{name[:WIDTH]:<{WIDTH}}{cells}{found.reference:>11}{found.hypothesis:>12}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.2f}"


def _share(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
