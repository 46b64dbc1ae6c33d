"""Praat TextGrid, long text form: for each channel an interval tier of emotions and a point tier of arousal.

The intervals of silence are empty, as Praat's users mark it. The points stand in the middle of the 0.5 s that they are
the mean of; where there was no speech there is none. Tiers are called after the role: ``customer`` and
``customer arousal``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from ..events import Arousal
from ..grid import HOP, RATE, seconds
from .naming import one_line, voices

if TYPE_CHECKING:
    from ..events import Segment
    from ..offline import Diarization

SUFFIX = ".TextGrid"
BINARY = False


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in seconds, exact to the frame (to half a frame for the points)."""
    frames = max(1, round(diarization.duration * RATE / HOP))  # Praat reads no object without extent
    end = seconds(frames)
    file.write('File type = "ooTextFile"\nObject class = "TextGrid"\n\n')
    file.write(f"xmin = 0\nxmax = {end}\ntiers? <exists>\nsize = {2 * len(diarization.tracks)}\nitem []:\n")
    for number, (track, voice) in enumerate(zip(diarization.tracks, voices(diarization.tracks), strict=True)):
        intervals = list(_intervals(track.segments, frames))
        file.write(_head(2 * number + 1, "IntervalTier", voice, end))
        file.write(f"        intervals: size = {len(intervals)}\n")
        for place, (first, last, text) in enumerate(intervals, 1):
            file.write(f"        intervals [{place}]:\n            xmin = {seconds(first)}\n")
            file.write(f"            xmax = {seconds(last)}\n            text = {_quoted(text)}\n")
        points = [event for event in track.events if isinstance(event, Arousal) and event.arousal is not None]
        file.write(_head(2 * number + 2, "TextTier", f"{voice} arousal", end))
        file.write(f"        points: size = {len(points)}\n")
        for place, event in enumerate(points, 1):
            middle = round((event.start + event.end) * HOP / (2 * RATE), 4)
            file.write(f"        points [{place}]:\n            number = {middle}\n")
            file.write(f'            mark = "{event.arousal:.6f}"\n')


def _intervals(segments: Sequence[Segment], frames: int) -> Iterator[tuple[int, int, str]]:
    """Start, end and text of what fills the tier without a hole."""
    done = 0
    for segment in segments:
        if segment.start > done:
            yield done, segment.start, ""
        yield segment.start, segment.end, segment.label
        done = segment.end
    if done < frames:
        yield done, frames, ""


def _head(number: int, kind: str, name: str, end: float) -> str:
    head = f"    item [{number}]:\n        class = {_quoted(kind)}\n        name = {_quoted(name)}\n"
    return f"{head}        xmin = 0\n        xmax = {end}\n"


def _quoted(text: str) -> str:
    return '"' + one_line(text).replace('"', '""') + '"'
