"""Time cut where anything changes: exact regions of a track, no frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .labels import NEUTRAL
from .sheet import Span
from .tracks import Track

Emotions = frozenset[str]


@dataclass(frozen=True, slots=True)
class Region:
    """A scored stretch [start, end), nanoseconds, in which nothing changes on either side.

    ``reference``, ``hypothesis``: the spans that hold there, neutral ones included. ``emotions``: of reference and
    hypothesis; empty is neutral.
    """

    start: int
    end: int
    reference: tuple[Span, ...]
    hypothesis: tuple[Span, ...]
    emotions: tuple[Emotions, Emotions]

    @property
    def length(self) -> int:
        """Nanoseconds."""
        return self.end - self.start


def regions(track: Track, *, collar: int = 0, silence: bool = True) -> Iterator[Region]:
    """The scored regions of a track, in order of time.

    ``collar``, nanoseconds: less than so far before or after a boundary of the reference nothing is scored. Boundaries
    are the starts and ends of its segments, after segments of one label that touch or overlap are joined. As in NIST's
    md-eval, the zone is ``collar`` long on *each* side (the ``collar`` of pyannote.metrics is both sides together).

    ``silence`` true: all of [0, duration) is scored, and whatever carries no emotion (silence, unlabelled, neutral) is
    neutral, as in Wang et al. 2023 and SpeechBrain. False: time outside every segment of the reference (its neutral
    ones are segments too) is scored only where the hypothesis claims an emotion there, which is a false alarm; silence
    labelled as neutral is neither right nor wrong then, so that it cannot dilute a rate.
    """
    joined = join(track.reference)
    zones = [
        Span(max(0, at - collar), at + collar, "")
        for span in joined
        for at in (span.start, span.end)
        if collar and at - collar < track.duration
    ]
    for start, end, (reference, hypothesis, unscored) in sweep(
        track.duration, track.reference, track.hypothesis, zones
    ):
        felt = emotions(reference), emotions(hypothesis)
        if not unscored and (silence or reference or felt[1]):
            yield Region(start, end, reference, hypothesis, felt)


def sweep(duration: int, *layers: Sequence[Span]) -> Iterator[tuple[int, int, tuple[tuple[Span, ...], ...]]]:
    """[0, duration) cut at every start and end; with each piece, the spans of each layer that cover it."""
    changes: dict[int, list[tuple[int, int, bool]]] = {0: [], duration: []}
    for layer, spans in enumerate(layers):
        for number, span in enumerate(spans):
            changes.setdefault(span.start, []).append((layer, number, True))
            changes.setdefault(span.end, []).append((layer, number, False))
    active: list[dict[int, Span]] = [{} for _ in layers]
    times = sorted(changes)
    for start, end in itertools.pairwise(times):
        for layer, number, begins in changes[start]:
            if begins:
                active[layer][number] = layers[layer][number]
            else:
                del active[layer][number]
        if start < duration:
            yield start, min(end, duration), tuple(tuple(spans.values()) for spans in active)


def emotions(spans: Iterable[Span]) -> Emotions:
    """The emotions among the spans; neutral is none."""
    return frozenset([span.emotion for span in spans if span.emotion != NEUTRAL])


def join(spans: Iterable[Span]) -> list[Span]:
    """Spans of one label that touch or overlap as one, in order of start; of the fields only label and times count."""
    joined: list[Span] = []
    open_: dict[str, int] = {}
    for span in sorted(spans, key=lambda span: span.start):
        at = open_.get(span.emotion)
        if at is not None and span.start <= joined[at].end:
            joined[at] = replace(joined[at], end=max(joined[at].end, span.end))
        else:
            open_[span.emotion] = len(joined)
            joined.append(span)
    return joined


def runs(spans: Sequence[Span], duration: int) -> list[tuple[int, int, Emotions]]:
    """[0, duration) as maximal runs of the same emotions: start, end, emotions; silence and neutral are one."""
    found: list[tuple[int, int, Emotions]] = []
    for start, end, (held,) in sweep(duration, spans):
        felt = emotions(held)
        if found and found[-1][2] == felt:
            found[-1] = (found[-1][0], end, felt)
        else:
            found.append((start, end, felt))
    return found
