"""JSON lines: exactly the rows of ``Diarization.rows``, one a line."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from ..offline import Diarization

SUFFIX = ".jsonl"
BINARY = False


def write(diarization: Diarization, file: IO[str]) -> None:
    """Times in seconds, exact to the frame."""
    for row in diarization.rows():
        line = json.dumps(row, ensure_ascii=False)
        if not _is_utf8(line):  # a file name of bytes that are not UTF-8: JSON's own escapes keep them
            line = json.dumps(row)
        file.write(line + "\n")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
