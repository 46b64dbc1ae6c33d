"""Annotations from files and folders, whatever the format."""

from __future__ import annotations

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import BadInput
from . import formats
from .labels import vocabulary
from .sheet import SUFFIXES, Recording, Sheet, stem
from .textgrid import textgrid

READERS = {
    ".jsonl": formats.lines,
    ".csv": formats.table,
    ".rttm": formats.rttm,
    ".textgrid": textgrid,
    ".json": formats.zed,
}
ZED = "ZED.json"
SUMMARY = "summary.csv"
ACCOUNTS = frozenset({"run.jsonl", SUMMARY, "errors.csv"})
"""What ``sedstream diarize --out`` writes about a folder beside its annotations."""


def read(
    path: str | Path, *, labels: Sequence[str] | None = None, mapping: Mapping[str, str] | None = None
) -> dict[str, Recording]:
    """The annotations in a file or folder, by name of recording.

    A file is RTTM (``SPEAKER file channel onset duration <NA> <NA> emotion <NA> <NA>``), CSV (columns ``start, end,
    emotion``; also ``file, channel, role, speaker, arousal, valence, duration``), JSONL (rows of ``sedstream
    diarize``), Praat's TextGrid (a tier a channel) or JSON in ZED's layout (see ``formats.zed``).

    A folder is ZED's (it holds ``ZED.json``), or holds files of these formats, at any depth; where several formats lie
    side by side, one is read, in the order of ``READERS``. The ``summary.csv`` of ``sedstream diarize`` tells how long
    the recordings are. A file without segments is a recording of that name in which nothing is felt. Files of the same
    name in different folders are different recordings, which are called by their folder too.

    ``labels``, ``mapping``: see :func:`~sedstream.scoring.labels.vocabulary`. Raises ``BadInput`` that names file and
    line.
    """
    source = Path(path)
    sheet = Sheet(vocabulary(labels, mapping))
    files = _files(source)
    called = Counter(stem(file.name) for file in files)
    for file in files:
        reader = READERS.get(file.suffix.lower())
        if reader is None:
            raise BadInput(f"Bad file '{file}', expected one of {', '.join(SUFFIXES)}")
        place = "" if called[stem(file.name)] == 1 else file.parent.relative_to(source).as_posix()
        sheet.turn(str(file), "" if place == "." else place)
        reader(file, _text(file), sheet)
    if source.is_dir() and (source / SUMMARY).is_file():
        sheet.lengths(formats.summary(_text(source / SUMMARY)))
    return sheet.recordings()


def _files(source: Path) -> list[Path]:
    if not os.path.exists(source):
        raise BadInput(f"Bad path '{source}', expected a file or folder that exists")
    if not os.path.isdir(source):
        return [source]
    if os.path.isfile(source / ZED):
        return [source / ZED]

    def unreadable(error: OSError) -> None:
        raise BadInput(f"Bad folder '{error.filename}', expected one that can be read: {error.strerror}") from error

    inside: list[Path] = []
    for place, _, names in os.walk(source, onerror=unreadable):
        inside += [Path(place, name) for name in names if not name.startswith(".")]
    inside.sort()
    for suffix in READERS:
        found = [p for p in inside if p.suffix.lower() == suffix and (p.parent != source or p.name not in ACCOUNTS)]
        if found:
            return found
    raise BadInput(f"Bad folder '{source}', expected at least one file of {', '.join(READERS)} in it")


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
        # Praat saves what is not ASCII as UTF-16, and says so in the first two bytes.
        return data.decode("utf-16" if data.startswith((BOM_UTF16_BE, BOM_UTF16_LE)) else "utf-8-sig")
    except OSError as error:
        raise BadInput(f"Bad file '{file}', expected one that can be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadInput(f"Bad file '{file}', expected {error.encoding.upper()}, which line {line} is not") from error
