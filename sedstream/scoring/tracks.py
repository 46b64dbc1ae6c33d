"""Reference and hypothesis side by side: one track per recording and channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import BadInput
from .sheet import Recording, Span


@dataclass(frozen=True, slots=True)
class Track:
    """One timeline that is scored: [0, duration) nanoseconds of one channel of a recording.

    ``channel`` is empty where the recording has but one. ``speaker``: whom the per-speaker table counts it for.
    The spans lie inside the timeline, in order of their start, and may overlap.
    """

    file: str
    channel: str
    speaker: str
    duration: int
    reference: tuple[Span, ...]
    hypothesis: tuple[Span, ...]


def pair(reference: Mapping[str, Recording], hypothesis: Mapping[str, Recording]) -> list[Track]:
    """The tracks of both sides, in order of file and channel.

    Channels meet by role, else by speaker, else by channel: by the first that every span of both sides has. Where each
    side has one channel at most, known by number, it is the same one whatever the number. Where only the reference has
    a channel, the hypothesis found nothing there.

    The duration is the reference's, else the hypothesis's, else the last end of any span; what lies beyond it (the last
    frame of a hypothesis, by a little) is cut off.

    The speaker is the reference's column ``speaker``; without it, every track counts as a speaker of its own.

    Raises ``BadInput`` when the two sides are not about the same recordings or channels.
    """
    for here, there, side, other in (
        (reference, hypothesis, "reference", "hypothesis"),
        (hypothesis, reference, "hypothesis", "reference"),
    ):
        alone = sorted(set(here) - set(there))
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            raise BadInput(f"Bad {side} '{', '.join(alone[:5])}'{more}, expected recordings that the {other} has too")
    return [track for name in sorted(reference) for track in _tracks(reference[name], hypothesis[name])]


def _tracks(reference: Recording, hypothesis: Recording) -> Iterable[Track]:
    spans = (*reference.spans, *hypothesis.spans)
    duration = reference.duration
    if duration is None:
        known = hypothesis.duration
        ends = [span.end for span in (spans if known is None else reference.spans)]
        duration = max([known or 0, *ends])
    names = ("role", "speaker") if reference.spans and hypothesis.spans else ("role",)
    by = next((name for name in names if spans and all(getattr(span, name) for span in spans)), "channel")
    left, right = _channels(reference.spans, by), _channels(hypothesis.spans, by)
    if by == "channel" and len(left) <= 1 and len(right) <= 1:
        left, right = {"": list(reference.spans)}, {"": list(hypothesis.spans)}
    unknown = sorted(set(right) - set(left))
    if unknown and left:
        raise BadInput(
            f"Bad channel '{unknown[0]}' of '{reference.name}' in the hypothesis, expected one of the reference's: "
            f"{', '.join(sorted(left)) if any(left) else 'it has one, without a name'}"
        )
    for channel in sorted(set(left) | set(right)):
        own = left.get(channel, [])
        speaker = "+".join(sorted({span.speaker for span in own if span.speaker}))
        yield Track(
            reference.name,
            channel,
            speaker or "/".join(filter(None, (reference.name, channel))),
            duration,
            _cut(own, duration),
            _cut(right.get(channel, []), duration),
        )


def _channels(spans: Iterable[Span], by: str) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for span in spans:
        found.setdefault(getattr(span, by), []).append(span)
    return found


def _cut(spans: Iterable[Span], duration: int) -> tuple[Span, ...]:
    return tuple(
        span if span.end <= duration else replace(span, end=duration) for span in spans if span.start < duration
    )
