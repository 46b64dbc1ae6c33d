"""One row a recording and channel: how long each emotion lasted, how arousal and valence ran, the longest anger.

Columns, times in seconds: ``file``, ``channel`` (from 0), ``role``, ``duration``, ``speech``, ``silence``;
``share_of_time_X`` and ``share_of_speech_X`` for each emotion X; ``arousal_mean``, ``arousal_peak``, ``arousal_slope``
(a minute) and the same of valence; ``longest_angry`` with its ``_start`` and ``_end``; ``changes``. Empty: undefined.
"""

from __future__ import annotations

import csv
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, TypeAlias

from ..events import Arousal, Segment
from ..grid import HOP, RATE, seconds
from .naming import one_line
from .parquet import REAL, TEXT, WHOLE, write_rows

if TYPE_CHECKING:
    from ..offline import Diarization, Track

Row: TypeAlias = dict[str, str | int | float | None]

ANGRY = "angry"
JOIN = 100
"""Frames (2 s): a pause in anger up to this long, silent or of another emotion, belongs to the episode."""
MINUTE = 60 * RATE / HOP
"""Frames."""


def rows(diarization: Diarization) -> Iterator[Row]:
    """One row a channel with the keys of ``columns(diarization.labels)``; shares, arousal and valence to 6 digits."""
    for track in diarization.tracks:
        yield _row(diarization, track)


def columns(labels: Sequence[str]) -> dict[str, str]:
    """Names of the columns in order, each with its type as ``write_rows`` of the Parquet module takes it."""
    shares = [f"share_of_{whole}_{label}" for whole in ("time", "speech") for label in labels]
    courses = [f"{name}_{figure}" for name in ("arousal", "valence") for figure in ("mean", "peak", "slope")]
    anger = ["longest_angry", "longest_angry_start", "longest_angry_end"]
    real = dict.fromkeys(["duration", "speech", "silence", *shares, *courses, *anger], REAL)
    return {"file": TEXT, "channel": WHOLE, "role": TEXT} | real | {"changes": WHOLE}


def write_csv(rows: Iterable[Mapping[str, object]], labels: Sequence[str], file: IO[str]) -> None:
    """The ``rows`` of any number of recordings diarized with ``labels``, to a file opened with ``newline=""``."""
    writer = csv.DictWriter(file, list(columns(labels)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_parquet(rows: Iterable[Mapping[str, object]], labels: Sequence[str], file: IO[bytes]) -> None:
    """The same as Parquet. Raises ``Unavailable`` without pyarrow."""
    write_rows(rows, columns(labels), file)


def longest_episode(segments: Sequence[Segment], label: str = ANGRY, join: int = JOIN) -> tuple[int, int] | None:
    """First and last (exclusive) frame of the longest episode of ``label``, the first of equals; None without any.

    An episode is a run of segments of ``label`` with gaps of at most ``join`` frames between one's end and the next
    one's start, whatever is in the gap; it lasts from its first segment's start to its last one's end, gaps included.
    """
    episodes: list[tuple[int, int]] = []
    for segment in segments:
        if segment.label != label:
            continue
        if episodes and segment.start - episodes[-1][1] <= join:
            episodes[-1] = (episodes[-1][0], segment.end)
        else:
            episodes.append((segment.start, segment.end))
    return max(episodes, key=lambda episode: episode[1] - episode[0], default=None)


def changes(segments: Sequence[Segment]) -> int:
    """How often a segment has another emotion than the one before it; silence between them is no change."""
    labels = [segment.label for segment in segments]
    return sum(before != after for before, after in itertools.pairwise(labels))


def slope(points: Sequence[tuple[float, float]]) -> float | None:
    """Least squares: what a line through ``points`` (frame, value) rises in a minute; None below two points.

    With x in minutes, Σ(x - x̄)(y - ȳ) / Σ(x - x̄)², the b that makes Σ(y - a - b·x)² least.
    """
    if len(points) < 2:
        return None
    x, y = [frame / MINUTE for frame, _ in points], [value for _, value in points]
    return statistics.linear_regression(x, y).slope


def _row(diarization: Diarization, track: Track) -> Row:
    segments = track.segments
    frames = round(diarization.duration * RATE / HOP)
    # Segments cover exactly the frames of speech, without overlap, so their lengths add up to the speech.
    lengths = dict.fromkeys(diarization.labels, 0)
    for segment in segments:
        lengths[segment.label] += segment.end - segment.start
    speech = sum(lengths.values())
    anger = longest_episode(segments)
    row: Row = {
        "file": one_line(diarization.file),
        "channel": track.channel,
        "role": one_line(track.role) if track.role else None,
        "duration": seconds(frames),
        "speech": seconds(speech),
        "silence": seconds(frames - speech),
    }
    row |= {f"share_of_time_{label}": _ratio(length, frames) for label, length in lengths.items()}
    row |= {f"share_of_speech_{label}": _ratio(length, speech) for label, length in lengths.items()}
    row |= _course("arousal", [(segment.arousal_mean, segment.end - segment.start) for segment in segments], track)
    row |= _course("valence", [(segment.valence_mean, segment.end - segment.start) for segment in segments], track)
    row |= {
        "longest_angry": seconds(anger[1] - anger[0]) if anger else 0.0 if ANGRY in diarization.labels else None,
        "longest_angry_start": seconds(anger[0]) if anger else None,
        "longest_angry_end": seconds(anger[1]) if anger else None,
        "changes": changes(segments),
    }
    return row


def _course(name: str, means: Sequence[tuple[float | None, int]], track: Track) -> Row:
    """Mean, peak and slope of ``arousal`` or ``valence``; ``means``: of each segment, with its length in frames.

    The mean is that of all frames of speech: a segment's mean is its frames' sum over its length, so the means weighted
    by the lengths give it back. The track's points are means of 0.5 s of which only part may be speech, so their plain
    mean would count little speech as much as a lot. The peak is the highest point of the track and the slope runs
    through its points, each in the middle of its span: half a second is the least that says anything about a mood.
    """
    told = [(mean, length) for mean, length in means if mean is not None]
    points = [
        ((event.start + event.end) / 2, value)
        for event in track.events
        if isinstance(event, Arousal) and (value := getattr(event, name)) is not None
    ]
    rise = slope(points)
    return {
        f"{name}_mean": _ratio(math.fsum(mean * length for mean, length in told), sum(length for _, length in told)),
        f"{name}_peak": round(max(value for _, value in points), 6) if points else None,
        f"{name}_slope": None if rise is None else round(rise, 6),
    }


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None
