"""What a session says: frozen events in integer time, and the one form in which they leave (wire, JSON lines).

Positions are frames of 20 ms from the start of the session, ends exclusive. ``at`` is the number of samples that the
session had to read before it could say so: the same for the same samples, whatever the packets, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .grid import RATE, seconds


@dataclass(frozen=True, slots=True)
class Segment:
    """One emotion from ``start`` to ``end``; everything else are means over its frames.

    ``probs``: mean probability per class, in the order of the session's labels. ``confidence``: that of ``label``.
    ``entropy``: of ``probs``, in nats. ``arousal``, ``valence``: 0…1, None from a model that does not tell them.
    """

    start: int
    end: int
    label: str
    confidence: float
    probs: tuple[float, ...]
    entropy: float
    arousal_mean: float | None
    arousal_peak: float | None
    valence_mean: float | None

    @property
    def extent(self) -> tuple[int, int, str]:
        """What it is told to be, without the means, which change with each frame."""
        return self.start, self.end, self.label


@dataclass(frozen=True, slots=True)
class SpeechStart:
    """Speech begins with ``frame``."""

    frame: int
    at: int


@dataclass(frozen=True, slots=True)
class SpeechEnd:
    """Speech ends before ``frame``."""

    frame: int
    at: int


@dataclass(frozen=True, slots=True)
class Update:
    """A provisional segment. It replaces everything provisional from its ``start`` on."""

    number: int
    revision: int
    segment: Segment
    at: int


@dataclass(frozen=True, slots=True)
class Final:
    """A segment that will never be revised."""

    number: int
    revision: int
    segment: Segment
    at: int


@dataclass(frozen=True, slots=True)
class Arousal:
    """Mean arousal and valence (0…1) of the speech in [start, end); None where there is no speech, or the model does
    not tell them."""

    start: int
    end: int
    arousal: float | None
    valence: float | None
    at: int


@dataclass(frozen=True, slots=True)
class Gap:
    """``samples`` samples from ``sample`` on were lost and stand as zeros."""

    sample: int
    samples: int
    at: int


@dataclass(frozen=True, slots=True)
class Flushed:
    """Everything before ``frame`` is final, as was asked; the session goes on there."""

    frame: int
    at: int


@dataclass(frozen=True, slots=True)
class End:
    """The session is complete: ``frames`` frames in all, ``speech`` of them speech, ``segments`` segments,
    ``lost`` samples."""

    frames: int
    speech: int
    segments: int
    lost: int
    at: int


Event: TypeAlias = SpeechStart | SpeechEnd | Update | Final | Arousal | Gap | Flushed | End


def segment_fields(segment: Segment, labels: Sequence[str]) -> dict[str, Any]:
    """A segment with the wire's names: seconds rounded to 0.1 ms, scores to 6 digits."""
    return {
        "start": seconds(segment.start),
        "end": seconds(segment.end),
        "emotion": segment.label,
        "confidence": round(segment.confidence, 6),
        "probs": {label: round(p, 6) for label, p in zip(labels, segment.probs, strict=True)},
        "entropy": round(segment.entropy, 6),
        "arousal": {"mean": _rounded(segment.arousal_mean), "peak": _rounded(segment.arousal_peak)},
        "valence": {"mean": _rounded(segment.valence_mean)},
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


def to_wire(event: Event, labels: Sequence[str]) -> dict[str, Any]:
    """``type`` and the fields of an event, times in seconds; the server adds v, session, seq, channel and role."""
    t_audio = round(event.at / RATE, 4)
    match event:
        case SpeechStart():
            fields: dict[str, Any] = {"type": "speech.start", "start": seconds(event.frame)}
        case SpeechEnd():
            fields = {"type": "speech.end", "end": seconds(event.frame)}
        case Update() | Final():
            kind = "emotion.final" if isinstance(event, Final) else "emotion.update"
            fields = {"type": kind, "seg": event.number, "rev": event.revision}
            fields |= segment_fields(event.segment, labels)
        case Arousal():
            fields = {"type": "arousal", "start": seconds(event.start), "end": seconds(event.end)}
            for name in ("arousal", "valence"):
                fields[name] = _rounded(getattr(event, name))
        case Gap():
            fields = {"type": "gap", "start": round(event.sample / RATE, 4)}
            fields["end"] = round((event.sample + event.samples) / RATE, 4)
        case Flushed():
            fields = {"type": "finalized", "end": seconds(event.frame)}
        case End():
            fields = {"type": "session.end", "duration": seconds(event.frames), "speech": seconds(event.speech)}
            fields |= {"segments": event.segments, "lost": round(event.lost / RATE, 4)}
    return fields | {"t_audio": t_audio}
