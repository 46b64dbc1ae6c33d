"""From two sides to one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import BadInput
from .agreement import Curves
from .annotations import read
from .classes import Found, Frames, confusion
from .eder import Eder, eder, mean
from .labels import NEUTRAL
from .report import Baseline, Fragments, Report, Result
from .segments import TOLERANCES, boundaries, fragments, segments
from .sheet import SECOND, Recording, Span, stem, ticks
from .sweep import regions
from .tracks import Track, pair

COLLARS = (0.0, 0.25)
"""Seconds; the report gives EDER for both, with and without silence, beside what was asked for."""


def score(
    reference: str | Path,
    hypothesis: str | Path,
    *,
    collar: float = 0.0,
    silence: bool = True,
    labels: Sequence[str] | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Report:
    """Compare a diarization with what is true: two files or folders, in any of the formats of :func:`read`.

    ``collar``: seconds around each boundary of the reference that are not scored, on each side. ``silence``: whether
    time without segments is scored, as neutral; see :func:`~sedstream.scoring.sweep.regions` for both. ``labels``: the
    emotions that may occur, by default the seven that sedstream knows; neutral is always one. ``mapping``: label in the
    files -> emotion, for either side, e.g. ``{"excited": "happy"}``. Recordings meet by name; two files of one each,
    of which one does not say whose it is, are about the same.

    Raises ``BadInput``: a path, line, span or label that cannot be used, or sides that are not about the same
    recordings.
    """
    _check(collar)
    truth = read(reference, labels=labels, mapping=mapping)
    claim = read(hypothesis, labels=labels, mapping=mapping)
    if len(truth) == len(claim) == 1 and (_nameless(reference, truth) or _nameless(hypothesis, claim)):
        claim = dict(zip(truth, claim.values(), strict=True))
    return compare(pair(truth, claim), collar=collar, silence=silence)


def compare(tracks: Sequence[Track], *, collar: float = 0.0, silence: bool = True) -> Report:
    """The report on ``tracks``; ``collar`` in seconds, both as in :func:`score`."""
    unscored = _check(collar)
    frames, matrix = Frames(), dict[tuple[str, str], float]()
    arousal, valence = Curves("arousal"), Curves("valence")
    errors: list[Eder] = []
    for track in tracks:
        scored = list(regions(track, collar=unscored, silence=silence))
        errors.append(eder(scored))
        frames.count(scored)
        confusion(scored, matrix)
        arousal.count(scored)
        valence.count(scored)
    files = _by((track.file for track in tracks), errors)
    duration = sum(track.duration for track in tracks)
    return Report(
        collar=unscored / SECOND,
        silence=silence,
        tracks=len(tracks),
        seconds=duration / SECOND,
        result=Result(sum(errors, Eder()), mean(files.values())),
        neutral=_baseline(NEUTRAL, tracks, unscored, silence),
        majority=_baseline(_majority(tracks, unscored, silence), tracks, unscored, silence),
        conditions={(width, quiet): _result(tracks, width, quiet) for width in COLLARS for quiet in (True, False)},
        files=files,
        speakers=_by((track.speaker for track in tracks), errors),
        frames=frames,
        segments=sum((segments(track) for track in tracks), Found()),
        boundaries={t: sum((boundaries(track, t) for track in tracks), Found()) for t in TOLERANCES},
        fragments=Fragments(
            sum(fragments(track.reference, track.duration) for track in tracks),
            sum(fragments(track.hypothesis, track.duration) for track in tracks),
            duration / SECOND / 60,
        ),
        ccc={"arousal": arousal.ccc, "valence": valence.ccc},
        confusion=matrix,
    )


def _nameless(path: str | Path, found: Mapping[str, Recording]) -> bool:
    """Whether an annotation does not say of which recording it is: then it is called as its own file."""
    return Path(path).is_file() and stem(Path(path).name) in found


def _check(collar: float) -> int:
    """The collar in nanoseconds."""
    found = None if isinstance(collar, str) else ticks(collar)
    if found is None or found < 0:
        raise BadInput(f"Bad collar '{collar}', expected seconds, 0 or more")
    return found


def _result(tracks: Sequence[Track], collar: float, silence: bool) -> Result:
    errors = [eder(regions(track, collar=_check(collar), silence=silence)) for track in tracks]
    return Result(sum(errors, Eder()), mean(_by((track.file for track in tracks), errors).values()))


def _baseline(label: str, tracks: Sequence[Track], collar: int, silence: bool) -> Baseline:
    """``label`` everywhere; without silence, wherever the reference has a segment."""
    frames = Frames()
    errors: list[Eder] = []
    for track in tracks:
        whole = (Span(0, track.duration, label),)
        spoken = tuple(Span(span.start, span.end, label) for span in track.reference)
        constant = replace(track, hypothesis=whole if silence else spoken)
        scored = list(regions(constant, collar=collar, silence=silence))
        errors.append(eder(scored))
        frames.count(scored)
    files = _by((track.file for track in tracks), errors)
    return Baseline(label, Result(sum(errors, Eder()), mean(files.values())), frames)


def _by(names: Iterable[str], errors: Iterable[Eder]) -> dict[str, Eder]:
    """Errors pooled by name."""
    found: dict[str, Eder] = {}
    for name, error in zip(names, errors, strict=True):
        found[name] = found.get(name, Eder()) + error
    return found


def _majority(tracks: Iterable[Track], collar: int, silence: bool) -> str:
    """The class with the most scored time in the reference."""
    held: Counter[str] = Counter()
    for track in tracks:
        for region in regions(replace(track, hypothesis=()), collar=collar, silence=silence):
            for emotion in region.emotions[0] or {NEUTRAL}:
                held[emotion] += region.length
    return min(held, key=lambda name: (-held[name], name), default=NEUTRAL)
