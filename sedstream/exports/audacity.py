"""Audacity label track: start, end and label between tabs, a line a segment, for File > Import > Labels.

One track holds all channels, so where a recording has roles or several channels the label begins with whose it is:
``customer: angry``.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from .naming import one_line, speakers

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".txt"
BINARY = False


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in seconds with six digits, as Audacity writes them."""
    names = speakers(diarization.tracks)
    owners = {channel: f"{name}: " if name else "" for channel, name in names.items()}
    for row in diarization.rows():
        file.write(f"{row['start']:.6f}\t{row['end']:.6f}\t{owners[row['channel']]}{one_line(row['emotion'])}\n")
