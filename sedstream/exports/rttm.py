"""RTTM, NIST's rich transcription time marks: a SPEAKER line a segment, the emotion in the place of the name.

A SPKR-INFO line a channel comes first: it names the role of the channel, and tells a recording without speech from one
that was never read. Channels count from 1, as RTTM wants; the confidence is in its own field.

Fields end at white space. The file id is the recording's name without folder and extension, and in it, as in labels and
roles, white space, quotes and percent signs are percent-encoded as in addresses (``my call`` is ``my%20call``), so
``urllib.parse.unquote`` gives the name back. Samples without a file are called ``unnamed``.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from .naming import one_line

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".rttm"
BINARY = False

_MISSING = {"na", "n/a", "<na>", "nan", "null", "none"}
"""What readers built on pandas take for an empty field."""


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in seconds to 1 ms."""
    name = field(PurePath(diarization.file).stem or "unnamed")
    for track in diarization.tracks:
        role = field(track.role) if track.role else "<NA>"
        file.write(f"SPKR-INFO {name} {track.channel + 1} <NA> <NA> <NA> unknown {role} <NA> <NA>\n")
    for row in diarization.rows():
        times = f"{row['start']:.3f} {row['end'] - row['start']:.3f}"
        emotion = f"{field(row['emotion'])} {row['confidence']:.6f}"
        file.write(f"SPEAKER {name} {row['channel'] + 1} {times} <NA> <NA> {emotion} <NA>\n")


def field(text: str) -> str:
    """``text`` as one field: percent-encoded where it would end the field or be taken for an empty one."""
    text = one_line(text)
    first = f"%{ord(text[0]):02X}{text[1:]}" if text.lower() in _MISSING else None
    return first or "".join(quote(char, safe="") if char.isspace() or char in '%"' else char for char in text)
