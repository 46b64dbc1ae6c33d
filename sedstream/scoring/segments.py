"""Segments and boundaries found: whether an emotion begins, ends and stays in one piece as it should.

EDER hardly sees fragmentation: one wrong frame in ten breaks three segments into eighty and costs a few points only.
These do. They look at whole recordings, whatever the collar, and know no silence: what is no emotion is background.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from .classes import Found
from .labels import NEUTRAL
from .sheet import SECOND, Span
from .sweep import join, runs
from .tracks import Track

ONSET = SECOND // 5
"""How far the start of a segment may be off: 200 ms."""
TOLERANCES = (0.25, 0.5)
"""How far a boundary may be off, seconds."""


def segments(track: Track) -> Found:
    """Emotional segments found, in segments.

    As in event-based sound event detection (Mesaros, Heittola, Virtanen: *Metrics for polyphonic sound event
    detection*, Applied Sciences 6, 2016): the label equal, the onset at most 200 ms off, the offset at most 200 ms or
    half the length of the reference segment off, whichever is more; one to one, as many pairs as possible. Segments of
    one label that touch or overlap are joined before; neutral ones are background and do not count.
    """
    reference = [span for span in join(track.reference) if span.emotion != NEUTRAL]
    hypothesis = [span for span in join(track.hypothesis) if span.emotion != NEUTRAL]
    starts = [span.start for span in hypothesis]
    candidates = []
    for span in reference:
        near = range(bisect_left(starts, span.start - ONSET), bisect_right(starts, span.start + ONSET))
        candidates.append([number for number in near if _fits(span, hypothesis[number])])
    return Found(matching(candidates), len(reference), len(hypothesis))


def boundaries(track: Track, tolerance: float) -> Found:
    """Boundaries found at most ``tolerance`` seconds off, one to one, in boundaries.

    A boundary is an instant at which the emotions change, whatever they are; the ends of the recording are none.
    """
    reference, hypothesis = (_changes(spans, track.duration) for spans in (track.reference, track.hypothesis))
    within = round(tolerance * SECOND)
    right = left = other = 0
    # With one tolerance for all, pairing the earliest with the earliest finds as many pairs as there can be.
    while left < len(reference) and other < len(hypothesis):
        apart = hypothesis[other] - reference[left]
        right += abs(apart) <= within
        left += apart >= -within
        other += apart <= within
    return Found(right, len(reference), len(hypothesis))


def fragments(spans: Sequence[Span], duration: int) -> int:
    """Into how many stretches of constant emotion the recording falls, neutral ones included; 0 when it is empty."""
    return len(runs(spans, duration)) if duration else 0


def matching(candidates: Sequence[Sequence[int]]) -> int:
    """The most pairs (i, j) with j in ``candidates[i]`` in which no i and no j occurs twice (augmenting paths)."""
    owner: dict[int, int] = {}
    mate: dict[int, int] = {}
    for root in range(len(candidates)):
        came: dict[int, int] = {}
        queue, free = [root], None
        for left in queue:
            for right in candidates[left]:
                if right not in came:
                    came[right] = left
                    if right not in owner:
                        free = right
                        break
                    queue.append(owner[right])
            if free is not None:
                break
        while free is not None:
            left = came[free]
            owner[free] = left
            mate[left], free = free, mate.get(left)
    return len(owner)


def _fits(reference: Span, hypothesis: Span) -> bool:
    tolerance = max(ONSET, (reference.end - reference.start) // 2)
    return reference.emotion == hypothesis.emotion and abs(reference.end - hypothesis.end) <= tolerance


def _changes(spans: Sequence[Span], duration: int) -> list[int]:
    return [start for start, _, _ in runs(spans, duration)[1:]]
