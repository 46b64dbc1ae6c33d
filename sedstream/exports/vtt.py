"""WebVTT: a cue a segment, the emotion its text; a voice span where the channel has a role or is one of several."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from .naming import one_line, speakers

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".vtt"
BINARY = False


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in hours, minutes, seconds and milliseconds, exact to the frame."""
    names = speakers(diarization.tracks)
    spans = {channel: f"<v {_closed(_escaped(name))}>" if name else "" for channel, name in names.items()}
    file.write("WEBVTT\n")
    for row in diarization.rows():
        file.write(f"\n{_clock(row['start'])} --> {_clock(row['end'])}\n")
        file.write(f"{spans[row['channel']]}{_escaped(row['emotion'])}\n")


def _clock(seconds: float) -> str:
    """3671.5 -> ``01:01:11.500``."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}.{milliseconds:03d}"


def _escaped(text: str) -> str:
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _closed(name: str) -> str:
    """``name`` without a last hyphen that would make ``-->`` with the bracket behind it: an arrow is not allowed."""
    return f"{name[:-1]}&#45;" if name.endswith("-") else name
