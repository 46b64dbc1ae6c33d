"""CSV with audformat's names: a line a segment, as ``audformat.utils.read_csv`` and every spreadsheet read it.

``start``, ``end``: seconds. ``arousal``, ``valence``: means over the segment, 0…1. ``role``: empty where there is none.
``channel``: from 0. Names with line breaks, control characters or bytes that are not UTF-8 have them as escapes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from .naming import one_line

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".csv"
BINARY = False

COLUMNS = ("file", "start", "end", "emotion", "arousal", "valence", "role", "confidence", "channel")


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in seconds, exact to the frame; a recording without speech leaves the head alone."""
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows(diarization))


def flat_rows(diarization: Diarization) -> Iterator[dict[str, Any]]:
    """The rows of ``Diarization.rows`` with ``COLUMNS`` as keys."""
    for row in diarization.rows():
        names = {name: one_line(row[name] or "") or None for name in ("file", "emotion", "role")}
        means = {name: row[name]["mean"] for name in ("arousal", "valence")}
        flat = row | names | means
        yield {name: flat[name] for name in COLUMNS}
